import { Anchor, Button, PasswordInput, Stack, Text, TextInput, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useRouter } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { api, ask, type Me } from "../api/client";
import { gatewayQuery, meQuery, queryClient } from "../api/queries";
import { t } from "../strings";
import { Lone } from "../ui/lone";
import { useTitle } from "../ui/page";
import { Problem } from "../ui/problem";
import { useAct } from "../ui/useAct";

/** Only a path of this portal: what a link says must not lead elsewhere after the sign-in. */
export function isOwnPath(path: unknown): path is string {
	return (
		typeof path === "string" && /^\/(?![/\\])/.test(path) && new URL(path, location.origin).origin === location.origin
	);
}

export function SignInPage() {
	useTitle(t.signIn.title);
	const router = useRouter();
	const navigate = useNavigate();
	const { next } = (router.state.matches.at(-1)?.search ?? {}) as { next?: unknown };
	const gateway = useQuery(gatewayQuery).data;
	if (gateway && !gateway.set_up) {
		return (
			<Lone>
				<Stack gap="xs">
					<Title order={1}>{t.signIn.notSetUp.title}</Title>
					<Text c="dimmed">{t.signIn.notSetUp.text}</Text>
				</Stack>
			</Lone>
		);
	}
	return (
		<Lone>
			<Stack gap="lg">
				<div>
					<Title order={1}>{t.signIn.title}</Title>
					<Text c="dimmed">{t.signIn.lead}</Text>
				</div>
				<SignInForm
					onDone={async (me) => {
						queryClient.clear();
						queryClient.setQueryData(meQuery.queryKey, me);
						if (isOwnPath(next)) router.history.push(next);
						else await navigate({ to: "/devices" });
					}}
				/>
				{gateway?.sign_up && (
					<Text size="sm" c="dimmed">
						{t.signIn.noAccount}{" "}
						<Anchor component={Link} to="/signup" size="sm" underline="always">
							{t.signIn.signUp}
						</Anchor>
					</Text>
				)}
				<Text size="xs" c="dimmed">
					{t.signIn.forgot}
				</Text>
			</Stack>
		</Lone>
	);
}

/** Email address and password. onDone gets who is signed in now. */
export function SignInForm({ email: fixed, onDone }: { email?: string; onDone: (me: Me) => void | Promise<void> }) {
	const [email, setEmail] = useState(fixed ?? "");
	const [password, setPassword] = useState("");
	const { busy, error, run } = useAct();
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		await run(async () => {
			await onDone(await ask(api.POST("/api/v1/signin", { body: { email: email.trim(), password } })));
		});
	};
	return (
		<form onSubmit={submit}>
			<Stack gap="md">
				<TextInput
					label={t.signIn.email}
					type="email"
					name="email"
					autoComplete="username"
					required
					maxLength={254}
					value={email}
					readOnly={fixed !== undefined}
					onChange={(e) => setEmail(e.currentTarget.value)}
					{...(fixed === undefined ? { "data-autofocus": true, autoFocus: true } : {})}
				/>
				<PasswordInput
					label={t.signIn.password}
					name="password"
					autoComplete="current-password"
					required
					maxLength={1024}
					value={password}
					onChange={(e) => setPassword(e.currentTarget.value)}
					{...(fixed !== undefined ? { "data-autofocus": true } : {})}
				/>
				<Problem error={error} />
				<Button type="submit" loading={busy} fullWidth>
					{t.signIn.submit}
				</Button>
			</Stack>
		</form>
	);
}
