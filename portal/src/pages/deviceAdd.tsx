import { Button, Group, Loader, NumberInput, SegmentedControl, Select, Stack, TextInput } from "@mantine/core";
import { IconCheck, IconPlugConnected, IconTerminal2 } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type FormEvent, type ReactNode, useState } from "react";
import { api, ask, type Device, type Schemas } from "../api/client";
import { devicesQuery } from "../api/queries";
import { t } from "../strings";
import { rememberClick } from "../terminal/open";
import { CopyBox } from "../ui/copy";
import { Problem } from "../ui/problem";
import { Time, useNow } from "../ui/time";
import { useAct } from "../ui/useAct";
import classes from "./deviceAdd.module.css";
import { addCommands, buildCommand, type Platform, platforms, processors } from "./deviceCommands";
import { calling, GroupInput, isDeviceName, isLabel } from "./deviceParts";

const words = t.devices.adding;

interface Chosen {
	group: string;
	name: string;
	seconds: number;
	uses: number;
	builtIn: boolean;
}

/**
 * Adds a device: makes a registration token when it is asked to, shows what to type on
 * the device, and waits until it has appeared. The token is in this component's memory
 * alone.
 */
export function AddDevice({
	group = "default",
	onMade,
	onClose,
}: {
	group?: string;
	onMade?: () => void;
	onClose: () => void;
}) {
	const [chosen, setChosen] = useState<Chosen>({ group, name: "", seconds: 3600, uses: 1, builtIn: true });
	const [made, setMade] = useState<Schemas["CreatedToken"] | undefined>();
	if (!made) {
		return (
			<ChooseForm
				chosen={chosen}
				onMade={(c, token) => {
					setChosen(c);
					setMade(token);
					onMade?.();
				}}
			/>
		);
	}
	return (
		<Commands
			key={made.id}
			chosen={chosen}
			token={made}
			onAnother={() => {
				setChosen((c) => ({ ...c, name: "" }));
				setMade(undefined);
			}}
			onClose={onClose}
		/>
	);
}

function ChooseForm({
	chosen,
	onMade,
}: {
	chosen: Chosen;
	onMade: (c: Chosen, token: Schemas["CreatedToken"]) => void;
}) {
	const [c, set] = useState(chosen);
	const [wrong, setWrong] = useState<{ group?: string; name?: string }>({});
	const { busy, error, setError, run } = useAct();
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		const group = c.group.trim();
		const name = c.uses === 1 ? c.name.trim() : "";
		const found = {
			...(isLabel(group) ? {} : { group: t.devices.editor.labelRule }),
			...(name === "" || isDeviceName(name) ? {} : { name: t.devices.editor.labelRule }),
		};
		setWrong(found);
		setError(undefined);
		if (Object.keys(found).length > 0) return;
		await run(async () => {
			const token = await ask(
				api.POST("/api/v1/tokens", {
					body: {
						kind: "registration",
						name: words.tokenName(group),
						expires_in: c.seconds,
						max_uses: c.uses,
						scope: { group },
					},
				}),
			);
			onMade({ ...c, group, name }, token);
		});
	};
	return (
		<form onSubmit={submit} noValidate>
			<Stack gap="lg">
				<div className={classes.fields}>
					<GroupInput
						label={words.group}
						description={words.groupHelp}
						value={c.group}
						onChange={(group) => set({ ...c, group })}
						error={wrong.group}
						data-autofocus
					/>
					<Select
						label={words.expiry}
						description={words.expiryHelp}
						data={Object.entries(words.expiries).map(([value, label]) => ({ value, label }))}
						value={String(c.seconds)}
						onChange={(v) => v && set({ ...c, seconds: Number(v) })}
					/>
					<NumberInput
						label={words.uses}
						description={words.usesHelp}
						min={1}
						max={10_000}
						clampBehavior="strict"
						allowDecimal={false}
						allowNegative={false}
						value={c.uses}
						onChange={(v) => set({ ...c, uses: Math.max(1, Number(v) || 1) })}
					/>
					{c.uses === 1 && (
						<TextInput
							label={words.name}
							description={words.nameHelp}
							placeholder={t.common.optional}
							value={c.name}
							onChange={(e) => set({ ...c, name: e.currentTarget.value })}
							error={wrong.name}
							maxLength={63}
							spellCheck={false}
							autoComplete="off"
						/>
					)}
				</div>
				<Problem error={error} />
				<Group>
					<Button type="submit" loading={busy}>
						{words.make}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}

function Commands({
	chosen,
	token,
	onAnother,
	onClose,
}: {
	chosen: Chosen;
	token: Schemas["CreatedToken"];
	onAnother: () => void;
	onClose: () => void;
}) {
	const [platform, setPlatform] = useState<Platform>("linux");
	const [processor, setProcessor] = useState("amd64");
	const [builtIn, setBuiltIn] = useState(chosen.builtIn);
	const now = useNow();
	// The events of devices make this stale: what was registered last is among the newest.
	const newest = useQuery({ ...devicesQuery({ sort: "-created_at", limit: 100 }), refetchInterval: 15_000 });
	const came = newest.data?.items.filter((d) => d.token_id === token.id) ?? [];
	const online = came.filter((d) => d.online);
	const enough = came.length >= token.max_uses;
	const expired = new Date(token.expires_at).getTime() <= now;
	const { register, connect } = addCommands(platform, { ...chosen, token: token.token, builtIn });
	const cpus = processors[platform];
	return (
		<Stack gap="lg">
			<div aria-live="polite">
				<Stack gap="sm">
					{came.slice(0, 5).map((d) => (
						<Came key={d.id} device={d} />
					))}
					{token.max_uses > 1 && came.length > 0 && <span>{words.waitingMore(came.length, token.max_uses)}</span>}
					{!enough &&
						(expired ? (
							<Problem error={new Error(words.expired)} onRetry={onAnother} />
						) : (
							<div className={classes.wait}>
								<Loader size="sm" type="dots" aria-hidden />
								{words.waiting}
							</div>
						))}
				</Stack>
			</div>
			<SegmentedControl
				className={classes.choice ?? ""}
				aria-label={words.platform}
				data={platforms.map((p) => ({ value: p, label: words.platforms[p] }))}
				value={platform}
				onChange={(p) => {
					setPlatform(p as Platform);
					setProcessor(processors[p as Platform][0] ?? "amd64");
				}}
			/>
			<Step n={1} title={words.steps.get} done={came.length > 0}>
				<p>{words.get.text}</p>
				<Group align="flex-end" gap="xs" wrap="nowrap">
					<Select
						aria-label={words.get.processor}
						data={[...cpus]}
						value={processor}
						onChange={(v) => v && setProcessor(v)}
						w={112}
						size="xs"
					/>
				</Group>
				<CopyBox text={buildCommand(platform, processor)} what={words.copy.build} />
				<p>{words.get.copy[platform]}</p>
			</Step>
			<Step n={2} title={words.steps.register} done={enough}>
				<p>{words.registerText[platform]}</p>
				<CopyBox text={register} what={words.copy.register} wrap />
				<p>
					{words.good(token.max_uses)} <Time at={token.expires_at} absolute />. {words.secret}
				</p>
			</Step>
			<Step n={3} title={words.steps.connect} done={online.length > 0}>
				{platform === "windows" ? (
					<p>{words.windowsSsh}</p>
				) : (
					<>
						<SegmentedControl
							className={classes.choice ?? ""}
							size="xs"
							aria-label={words.ssh}
							data={[
								{ value: "builtIn", label: words.sshBuiltIn },
								{ value: "sshd", label: words.sshd },
							]}
							value={builtIn ? "builtIn" : "sshd"}
							onChange={(v) => setBuiltIn(v === "builtIn")}
						/>
						<p>
							{words.sshHelp[builtIn ? "builtIn" : "sshd"]} {platform === "docker" && builtIn && words.dockerSsh}
						</p>
					</>
				)}
				<CopyBox text={connect} what={words.copy.connect} wrap />
				{platform !== "docker" && <p>{words.keepRunning}</p>}
			</Step>
			<Group gap="xs">
				<Button variant="default" onClick={onAnother}>
					{words.another}
				</Button>
				<Button variant="subtle" color="gray" onClick={onClose}>
					{words.close}
				</Button>
			</Group>
		</Stack>
	);
}

function Step({ n, title, done, children }: { n: number; title: string; done: boolean; children: ReactNode }) {
	return (
		<section className={classes.step} aria-label={title}>
			<span className={classes.number} data-done={done || undefined} aria-hidden>
				{done ? <IconCheck size={14} /> : n}
			</span>
			<div className={classes.body}>
				<strong>{title}</strong>
				{children}
			</div>
		</section>
	);
}

/** A device that has come. */
function Came({ device: d }: { device: Device }) {
	const name = calling(d);
	return (
		<div className={classes.came} data-waiting={!d.online || undefined}>
			<span className={classes.mark} data-waiting={!d.online || undefined} aria-hidden>
				{d.online ? <IconCheck size={20} stroke={2.5} /> : <IconPlugConnected size={20} />}
			</span>
			<div className={classes.cameWords}>
				<strong>{d.online ? words.online(name) : words.registered(name)}</strong>
				<p>{d.online ? words.onlineText : words.registeredText}</p>
			</div>
			<Group gap="xs">
				{d.online && (
					<Button
						component="a"
						href={`/terminal/${d.id}`}
						onClick={() => rememberClick(d.id)}
						target="_blank"
						rel="noopener"
						leftSection={<IconTerminal2 size={16} />}
					>
						{words.openTerminal}
					</Button>
				)}
				<Button variant="default" component={Link} {...({ to: "/devices/$id", params: { id: d.id } } as object)}>
					{words.openDevice}
				</Button>
			</Group>
		</div>
	);
}
