import { Anchor, Button, Skeleton, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { ApiError, api, ask, type Me } from "../api/client";
import { gatewayQuery, meQuery, queryClient } from "../api/queries";
import { t } from "../strings";
import { AccountForm, type NewAccount } from "../ui/accountForm";
import { Lone } from "../ui/lone";
import { useTitle } from "../ui/page";
import { Problem } from "../ui/problem";
import { done } from "../ui/toast";

/**
 * Makes an account and signs its owner in. That the address was taken shows only
 * now, as the wrong password that it is.
 */
async function signUp({ account, email, password }: NewAccount): Promise<Me> {
	await ask(api.POST("/api/v1/signup", { body: { account, email, password } }));
	try {
		return await ask(api.POST("/api/v1/signin", { body: { email, password } }));
	} catch (e) {
		if (!(e instanceof ApiError) || e.status !== 401) throw e;
		throw new ApiError({ code: e.code, status: e.status, detail: t.signUp.taken, hint: t.signUp.takenHint });
	}
}

/** An account of one's own, where the gateway lets anybody make one. */
export function SignUpPage() {
	useTitle(t.signUp.title);
	const navigate = useNavigate();
	const gateway = useQuery(gatewayQuery);
	let content: ReactNode;
	if (gateway.error) content = <Problem error={gateway.error} onRetry={() => void gateway.refetch()} />;
	else if (!gateway.data) {
		content = (
			<Stack gap="md" role="status" aria-label={t.common.loading}>
				<Skeleton height={24} width="60%" />
				<Skeleton height={36} />
				<Skeleton height={36} />
			</Stack>
		);
	} else if (!gateway.data.sign_up) {
		content = (
			<Stack gap="md">
				<Title order={1}>{t.signUp.off.title}</Title>
				<Text c="dimmed">{t.signUp.off.text}</Text>
				<Button component={Link} to="/signin">
					{t.signUp.signIn}
				</Button>
			</Stack>
		);
	} else {
		content = (
			<Stack gap="lg">
				<div>
					<Title order={1}>{t.signUp.title}</Title>
					<Text c="dimmed">{t.signUp.lead}</Text>
				</div>
				<AccountForm
					button={t.signUp.submit}
					make={async (a) => {
						const me = await signUp(a);
						// What is kept of who was signed in before is not theirs.
						queryClient.removeQueries({ predicate: (q) => q.queryKey[0] !== gatewayQuery.queryKey[0] });
						queryClient.setQueryData(meQuery.queryKey, me);
						done(t.signUp.done);
						await navigate({ to: "/devices", replace: true });
					}}
				/>
				<Text size="sm" c="dimmed">
					{t.signUp.have}{" "}
					<Anchor component={Link} to="/signin" size="sm" underline="always">
						{t.signUp.signIn}
					</Anchor>
				</Text>
			</Stack>
		);
	}
	return <Lone>{content}</Lone>;
}
