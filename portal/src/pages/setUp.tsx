import { Button, Skeleton, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, ask } from "../api/client";
import { gatewayQuery, meQuery, queryClient } from "../api/queries";
import { forgetFragment, useFragment } from "../fragment";
import { t } from "../strings";
import { AccountForm } from "../ui/accountForm";
import { CopyBox } from "../ui/copy";
import { Lone } from "../ui/lone";
import { useTitle } from "../ui/page";
import { Problem } from "../ui/problem";
import { done } from "../ui/toast";

/** The first owner, by the one-time link that the gateway has printed. */
export function SetUpPage() {
	useTitle(t.setUp.title);
	const navigate = useNavigate();
	const secret = useFragment();
	const [leaving, setLeaving] = useState(false);
	const gateway = useQuery({ ...gatewayQuery, staleTime: 0 });
	if (gateway.error) {
		return (
			<Lone>
				<Problem error={gateway.error} onRetry={() => void gateway.refetch()} />
			</Lone>
		);
	}
	if (!gateway.data) {
		return (
			<Lone>
				<Stack gap="md" role="status" aria-label={t.setUp.loading}>
					<Skeleton height={24} width="60%" />
					<Skeleton height={36} />
					<Skeleton height={36} />
				</Stack>
			</Lone>
		);
	}
	if (gateway.data.set_up && !leaving) {
		return (
			<Lone>
				<Stack gap="md">
					<Title order={1}>{t.setUp.already.title}</Title>
					<Text c="dimmed">{t.setUp.already.text}</Text>
					<Button component={Link} to="/signin">
						{t.setUp.already.signIn}
					</Button>
				</Stack>
			</Lone>
		);
	}
	if (!secret && !leaving) {
		return (
			<Lone wide>
				<Stack gap="md">
					<Title order={1}>{t.setUp.noSecret.title}</Title>
					<Text c="dimmed">{t.setUp.noSecret.text}</Text>
					<Text c="dimmed">{t.setUp.noSecret.or}</Text>
					<CopyBox text={t.setUp.noSecret.command} what={t.setUp.noSecret.what} />
				</Stack>
			</Lone>
		);
	}
	return (
		<Lone>
			<Stack gap="lg">
				<div>
					<Title order={1}>{t.setUp.title}</Title>
					<Text c="dimmed">{t.setUp.lead}</Text>
				</div>
				<AccountForm
					button={t.setUp.submit}
					make={async (a) => {
						const me = await ask(api.POST("/api/v1/setup", { body: { secret, ...a } }));
						setLeaving(true);
						forgetFragment();
						queryClient.setQueryData(gatewayQuery.queryKey, { ...gateway.data, set_up: true });
						queryClient.setQueryData(meQuery.queryKey, me);
						done(t.setUp.done);
						await navigate({ to: "/devices", replace: true });
					}}
				/>
			</Stack>
		</Lone>
	);
}
