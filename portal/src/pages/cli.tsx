import { Alert, Anchor, Button, Group, Skeleton, Stack, Text, TextInput, Title } from "@mantine/core";
import { IconAlertTriangle, IconCircleCheck, IconCircleX } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { ApiError, api, ask, type Me, type Schemas } from "../api/client";
import { meQuery, queryClient } from "../api/queries";
import { forgetFragment, useFragment } from "../fragment";
import { t } from "../strings";
import { Lone } from "../ui/lone";
import { useTitle } from "../ui/page";
import { Problem } from "../ui/problem";
import { local, Time } from "../ui/time";
import classes from "./cli.module.css";
import { SignInForm } from "./signIn";

type Asked = Schemas["PendingAuthorization"];

/**
 * Confirms the sign-in of a command line. Opening it, with or without a code in the
 * link, changes nothing: only a click on Approve or Deny does.
 */
export function CliPage() {
	useTitle(t.cli.title);
	const me = useQuery({ ...meQuery, retry: false });
	const [ended, setEnded] = useState(false);
	let content: ReactNode;
	if (me.data) content = <Confirm me={me.data} onEnded={() => setEnded(true)} />;
	else if (me.error && !(me.error instanceof ApiError && me.error.status === 401))
		content = <Problem error={me.error} onRetry={() => void me.refetch()} />;
	// Also while it is asked again: what is typed there must stay.
	else if (me.isFetched || ended) content = <SignInFirst ended={ended} onDone={() => setEnded(false)} />;
	else {
		content = (
			<Stack gap="md" role="status" aria-label={t.cli.loading}>
				<Skeleton height={20} width="50%" />
				<Skeleton height={36} />
			</Stack>
		);
	}
	return (
		<Lone wide>
			<Stack gap="lg">
				<div>
					<Title order={1}>{t.cli.title}</Title>
					<Text c="dimmed">{t.cli.lead}</Text>
				</div>
				{content}
			</Stack>
		</Lone>
	);
}

function SignInFirst({ ended, onDone }: { ended: boolean; onDone: () => void }) {
	return (
		<Stack gap="md">
			{ended && <Problem error={new Error(t.cli.ended)} />}
			<Title order={2}>{t.cli.signIn}</Title>
			<SignInForm
				onDone={(me) => {
					// What is kept of who was signed in before is not theirs.
					queryClient.removeQueries({ predicate: (q) => q.queryKey[0] !== meQuery.queryKey[0] });
					queryClient.setQueryData(meQuery.queryKey, me);
					onDone();
				}}
			/>
		</Stack>
	);
}

type View = { name: "enter" } | { name: "ask"; asked: Asked } | { name: "done"; approved: boolean; machine: string };

function Confirm({ me, onEnded }: { me: Me; onEnded: () => void }) {
	const linked = useFragment();
	const [view, setView] = useState<View>({ name: "enter" });
	const [code, setCode] = useState(linked);
	const [busy, setBusy] = useState("");
	const [error, setError] = useState<unknown>();

	/** Does what a button is for, once at a time, and says what went wrong. */
	const run = async (what: string, act: () => Promise<void>) => {
		setBusy(what);
		setError(undefined);
		try {
			await act();
		} catch (e) {
			if (e instanceof ApiError && e.status === 401) {
				onEnded();
				await queryClient.resetQueries({ queryKey: meQuery.queryKey });
			} else setError(e);
		} finally {
			setBusy("");
		}
	};
	const look = (userCode: string) =>
		run("look", async () => {
			const asked = await ask(api.POST("/api/v1/device-authorization/show", { body: { user_code: userCode } }));
			setView({ name: "ask", asked });
		});
	const decide = (asked: Asked, approve: boolean) =>
		run(approve ? "approve" : "deny", async () => {
			await ask(api.POST("/api/v1/device-authorization/confirm", { body: { user_code: asked.user_code, approve } }));
			forgetFragment();
			setView({ name: "done", approved: approve, machine: asked.host });
		});

	// The code of a link is looked up, which changes nothing, and never decided on.
	const lookUp = useRef(look);
	lookUp.current = look;
	useEffect(() => {
		if (!linked) return;
		setCode(linked);
		void lookUp.current(linked);
	}, [linked]);

	return (
		<Stack gap="lg">
			<Text size="sm" c="dimmed">
				{t.cli.you(me.user.name || me.user.email, me.account.name)}{" "}
				<Anchor
					component="button"
					size="sm"
					onClick={() =>
						run("out", async () => {
							await ask(api.POST("/api/v1/signout"));
							await queryClient.resetQueries({ queryKey: meQuery.queryKey });
						})
					}
				>
					{t.cli.notYou}
				</Anchor>
			</Text>
			<Problem error={error} />
			{view.name === "enter" && (
				<EnterCode code={code} onCode={setCode} busy={busy === "look"} onSubmit={() => look(code)} />
			)}
			{view.name === "ask" && (
				<Ask asked={view.asked} busy={busy} onDecide={(approve) => decide(view.asked, approve)} />
			)}
			{view.name === "done" && (
				<Stack gap="md">
					<Alert
						role="status"
						color={view.approved ? "green" : "gray"}
						variant="light"
						icon={view.approved ? <IconCircleCheck size={18} /> : <IconCircleX size={18} />}
						title={view.approved ? t.cli.approved(view.machine) : t.cli.denied(view.machine)}
					/>
					<Group>
						<Button
							variant="default"
							autoFocus
							onClick={() => {
								setCode("");
								setView({ name: "enter" });
							}}
						>
							{t.cli.again}
						</Button>
					</Group>
				</Stack>
			)}
		</Stack>
	);
}

function EnterCode({
	code,
	onCode,
	busy,
	onSubmit,
}: {
	code: string;
	onCode: (code: string) => void;
	busy: boolean;
	onSubmit: () => void;
}) {
	const submit = (e: FormEvent) => {
		e.preventDefault();
		onSubmit();
	};
	return (
		<form onSubmit={submit} autoComplete="off">
			<Stack gap="md">
				<TextInput
					label={t.cli.code}
					description={t.cli.codeHelp}
					placeholder={t.cli.codeExample}
					size="lg"
					classNames={{ input: classes.code ?? "" }}
					name="code"
					required
					autoFocus
					maxLength={24}
					autoComplete="off"
					autoCapitalize="characters"
					spellCheck={false}
					value={code}
					onChange={(e) => onCode(e.currentTarget.value)}
				/>
				<Button type="submit" loading={busy} fullWidth>
					{t.cli.submit}
				</Button>
			</Stack>
		</form>
	);
}

function Ask({ asked, busy, onDecide }: { asked: Asked; busy: string; onDecide: (approve: boolean) => void }) {
	const facts: [string, ReactNode][] = [
		[
			t.cli.ask.code,
			<span key="code" className={classes.shown}>
				{asked.user_code}
			</span>,
		],
		[t.cli.ask.machine, <bdi key="host">{asked.host}</bdi>],
		[t.cli.ask.address, asked.remote_addr],
		[t.cli.ask.asked, <Time key="asked" at={asked.created_at} />],
		[t.cli.ask.until, local(new Date(asked.token_expires_at))],
	];
	return (
		<section aria-labelledby="cli-ask">
			<Stack gap="md">
				<Title order={2} id="cli-ask">
					{t.cli.ask.title}
				</Title>
				<dl className={classes.facts}>
					{facts.map(([name, value]) => (
						<div key={name}>
							<dt>{name}</dt>
							<dd>{value}</dd>
						</div>
					))}
				</dl>
				<Text size="sm">{t.cli.ask.meaning}</Text>
				<Alert color="yellow" variant="light" icon={<IconAlertTriangle size={18} />}>
					<strong>{t.cli.ask.warning}</strong>
					{t.cli.ask.warningRest}
				</Alert>
				<Group gap="xs">
					<Button loading={busy === "approve"} disabled={busy !== ""} onClick={() => onDecide(true)}>
						{t.cli.ask.approve}
					</Button>
					<Button
						variant="default"
						autoFocus
						loading={busy === "deny"}
						disabled={busy !== ""}
						onClick={() => onDecide(false)}
					>
						{t.cli.ask.deny}
					</Button>
				</Group>
			</Stack>
		</section>
	);
}
