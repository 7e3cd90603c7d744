import { Anchor, Button, Group, PasswordInput, Skeleton, Stack, Text, useMantineColorScheme } from "@mantine/core";
import { IconCheck } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { api, ask, type Me, type Schemas } from "../api/client";
import { meQuery, queryClient, signInsQuery } from "../api/queries";
import { t } from "../strings";
import { Confirm } from "../ui/dialogs";
import { Choices } from "../ui/filters";
import { NewPassword, wrongPassword } from "../ui/newPassword";
import { Facts, Page, Panel } from "../ui/page";
import { Problem } from "../ui/problem";
import { signOut } from "../ui/shell";
import { Tag } from "../ui/status";
import { type Column, Table } from "../ui/table";
import { Time } from "../ui/time";
import { done, failed } from "../ui/toast";
import { useAct } from "../ui/useAct";
import { browserOf } from "../ui/userAgent";
import classes from "./profile.module.css";

const p = t.profile;

export function ProfilePage() {
	const me = useQuery(meQuery).data;
	return (
		<Page title={p.title}>
			<Panel title={p.you}>{me ? <Who me={me} /> : <Skeleton height={64} />}</Panel>
			<div className={classes.pair}>
				<Panel title={p.password.title}>{me && <PasswordForm email={me.user.email} />}</Panel>
				<div className={classes.column}>
					<Panel title={p.scheme}>
						<Scheme />
					</Panel>
					<Panel title={p.tokens.title}>
						<Stack gap="sm">
							<Text size="sm" c="dimmed">
								{p.tokens.text}
							</Text>
							<Group gap="md">
								<Anchor size="sm" renderRoot={(r) => <Link to="/tokens" search={{ kind: "api" }} {...r} />}>
									{p.tokens.link}
								</Anchor>
								<Anchor size="sm" renderRoot={(r) => <Link to="/tokens" search={{ kind: "api", new: "api" }} {...r} />}>
									{p.tokens.create}
								</Anchor>
							</Group>
						</Stack>
					</Panel>
				</div>
			</div>
			<SignIns />
		</Page>
	);
}

function Who({ me }: { me: Me }) {
	const role = t.roles[me.role];
	return (
		<Stack gap="lg">
			<Facts
				facts={[
					[p.email, me.user.email],
					...(me.user.name ? ([[p.name, me.user.name]] as const) : []),
					[p.account, me.account.name],
					[p.role, role ? `${role.name}: ${role.may}` : me.role],
					[p.until, <Time key="u" at={me.credential.expires_at} absolute />],
				]}
			/>
			<div>
				<Text size="sm" c="dimmed" mb={6}>
					{p.rights}
				</Text>
				<ul className={classes.rights}>
					{me.rights.map((r) => (
						<li key={r}>
							<IconCheck size={14} aria-hidden />
							{r in t.rights ? t.rights[r as keyof typeof t.rights] : r}
						</li>
					))}
				</ul>
			</div>
		</Stack>
	);
}

function PasswordForm({ email }: { email: string }) {
	const [current, setCurrent] = useState("");
	const [next, setNext] = useState("");
	const [wrong, setWrong] = useState<string>();
	const { busy, error, run } = useAct();
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		const why = wrongPassword(next, email);
		setWrong(why);
		if (why) return;
		await run(async () => {
			const me = await ask(api.PUT("/api/v1/me/password", { body: { current_password: current, new_password: next } }));
			queryClient.setQueryData(meQuery.queryKey, me);
			await queryClient.invalidateQueries({ queryKey: signInsQuery.queryKey });
			setCurrent("");
			setNext("");
			done(p.password.done);
		});
	};
	return (
		<form onSubmit={submit}>
			<Stack gap="md">
				<Text size="sm" c="dimmed">
					{p.password.lead}
				</Text>
				{/* For password managers, which keep it with the password. */}
				<input type="text" name="username" autoComplete="username" value={email} readOnly hidden />
				<PasswordInput
					label={p.password.current}
					visibilityToggleFocusable
					visibilityToggleButtonProps={{ "aria-label": t.password.show }}
					autoComplete="current-password"
					required
					maxLength={1024}
					value={current}
					onChange={(e) => setCurrent(e.currentTarget.value)}
				/>
				<NewPassword
					label={p.password.next}
					value={next}
					error={wrong}
					onChange={(v) => {
						setNext(v);
						setWrong(undefined);
					}}
				/>
				<Problem error={error} />
				<Group>
					<Button type="submit" loading={busy}>
						{p.password.submit}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}

function Scheme() {
	const { colorScheme, setColorScheme } = useMantineColorScheme({ keepTransitions: true }); // else by a style element without the nonce
	return (
		<Stack gap="xs" align="flex-start">
			<Choices
				label={t.shell.scheme}
				value={colorScheme}
				onChange={setColorScheme}
				words={[
					["auto", t.shell.schemes.auto],
					["light", t.shell.schemes.light],
					["dark", t.shell.schemes.dark],
				]}
			/>
			<Text size="xs" c="dimmed">
				{p.schemeText}
			</Text>
		</Stack>
	);
}

type SignIn = Schemas["SignIn"];

function SignIns() {
	const signIns = useQuery(signInsQuery);
	const [everywhere, setEverywhere] = useState(false);
	const s = p.signIns;
	const end = async (signIn: SignIn) => {
		await ask(api.DELETE("/api/v1/me/signins/{id}", { params: { path: { id: signIn.id } } }));
		await queryClient.invalidateQueries({ queryKey: signInsQuery.queryKey });
		done(s.done);
	};
	const columns: Column<SignIn>[] = [
		{
			id: "where",
			title: s.columns.where,
			cell: (r) => (
				<Group gap="xs" wrap="nowrap">
					<span title={r.user_agent}>{browserOf(r.user_agent)}</span>
					{r.current && <Tag tone="brand">{s.current}</Tag>}
				</Group>
			),
		},
		{ id: "from", title: s.columns.from, cell: (r) => <span className="mono">{r.remote_addr}</span> },
		{ id: "since", title: s.columns.since, from: "md", cell: (r) => <Time at={r.created_at} /> },
		{ id: "seen", title: s.columns.seen, from: "md", cell: (r) => <Time at={r.last_seen_at} /> },
		{ id: "until", title: s.columns.until, from: "md", cell: (r) => <Time at={r.expires_at} /> },
		{
			id: "actions",
			title: s.columns.actions,
			quietTitle: true,
			align: "right",
			cell: (r) =>
				!r.current && (
					<Button
						size="compact-sm"
						variant="default"
						aria-label={s.endName(browserOf(r.user_agent), r.remote_addr)}
						onClick={() => end(r).catch(failed)}
					>
						{s.end}
					</Button>
				),
		},
	];
	return (
		<Panel
			title={s.title}
			flush
			actions={
				<Button size="compact-sm" variant="default" onClick={() => setEverywhere(true)}>
					{s.everywhere}
				</Button>
			}
		>
			<Table
				label={s.table}
				columns={columns}
				rows={signIns.data}
				id={(r) => r.id}
				error={signIns.error}
				onRetry={() => signIns.refetch()}
			/>
			<Confirm
				title={s.everywhereTitle}
				button={s.everywhere}
				opened={everywhere}
				onClose={() => setEverywhere(false)}
				act={() => signOut(true)}
			>
				<Text size="sm">{s.everywhereText}</Text>
			</Confirm>
		</Panel>
	);
}
