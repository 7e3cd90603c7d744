import {
	Button,
	FileButton,
	Group,
	PasswordInput,
	SegmentedControl,
	Select,
	Stack,
	Text,
	Textarea,
	TextInput,
	Title,
} from "@mantine/core";
import { type FormEvent, useState } from "react";
import type { Device, Schemas } from "../api/client";
import { portOf } from "../pages/deviceParts";
import { t } from "../strings";
import { Problem } from "../ui/problem";
import { Status } from "../ui/status";

export type Request = Schemas["TerminalRequest"];
export type Method = NonNullable<Request["sign_in"]>["method"];

/** A published port that may speak SSH. */
export interface Server {
	port: number;
	builtIn: boolean;
}

/** Where a device may have an SSH server: what is built into the agent first, then port 22, then its other tunnels, as sshd may listen anywhere. */
function serversOf(device: Device): Server[] {
	const found = device.tunnels
		.filter((x) => x.destination.startsWith("tcp://") && portOf(x) > 0)
		.map((x) => ({ port: portOf(x), builtIn: x.ssh }));
	const rank = (s: Server) => (s.builtIn ? 0 : s.port === 22 ? 1 : 2);
	return found.sort((a, b) => rank(a) - rank(b) || a.port - b.port);
}

/** No private key is longer, in bytes. */
const maxKey = 16_384;

/** The ways to sign in to a server, the usual one first. */
const methodsOf = (server: Server | undefined): Method[] =>
	server?.builtIn ? ["grant"] : ["single-use-key", "password", "key"];

/** What the click on the icon alone can do: a server that asks for nothing. */
export function usualRequest(device: Device): Request | undefined {
	const server = serversOf(device)[0];
	return server?.builtIn
		? { port: server.port, user: "", columns: 80, rows: 24, sign_in: { method: "grant" } }
		: undefined;
}

/**
 * Asks for how to connect. It stands outside of any terminal, where no device can
 * draw, and never asks for the portal's own password (W-13).
 */
export function ConnectForm({
	device,
	error,
	busy,
	byLink,
	last,
	onConnect,
}: {
	device: Device;
	error: unknown;
	busy: boolean;
	/** The person came by a link, and not by a click in the portal. */
	byLink: boolean;
	last: Request | undefined;
	onConnect: (r: Request) => void;
}) {
	const servers = serversOf(device);
	const [port, setPort] = useState(last?.port ?? servers[0]?.port ?? 22);
	const server = servers.find((s) => s.port === port);
	const methods = methodsOf(server);
	const [chosen, setMethod] = useState<Method>(last?.sign_in?.method ?? methods[0] ?? "grant");
	const method = methods.includes(chosen) ? chosen : (methods[0] ?? "grant");
	const [user, setUser] = useState(last?.user ?? "");
	const [password, setPassword] = useState("");
	const [key, setKey] = useState("");
	const [tooLarge, setTooLarge] = useState(false);
	const [passphrase, setPassphrase] = useState("");
	const online = device.status === "online";
	const submit = (e: FormEvent) => {
		e.preventDefault();
		onConnect({
			port,
			user: user.trim(),
			columns: 80,
			rows: 24,
			sign_in: {
				method,
				...(method === "password" ? { password } : {}),
				...(method === "key" ? { key, ...(passphrase ? { passphrase } : {}) } : {}),
			},
		});
		setPassword("");
		setPassphrase("");
	};
	return (
		<form onSubmit={submit}>
			<Stack gap="md">
				<div>
					<Title order={2} size="h1">
						{t.terminal.connect.title(device.display_name || device.name)}
					</Title>
					{byLink && (
						<Text c="dimmed" size="sm">
							{t.terminal.connect.confirm}
						</Text>
					)}
				</div>
				{!online && (
					<Status tone="warn" pulse>
						{device.status === "disabled" ? t.terminal.disabled : t.terminal.connect.waiting}
					</Status>
				)}
				{servers.length > 0 ? (
					<Select
						label={t.terminal.connect.port}
						data={servers.map((s) => ({
							value: String(s.port),
							label: s.builtIn ? t.terminal.connect.builtIn(s.port) : t.terminal.connect.sshd(s.port),
						}))}
						value={String(port)}
						onChange={(v) => setPort(Number(v))}
					/>
				) : (
					<Text size="sm">{t.terminal.noSSH}</Text>
				)}
				{servers.length > 0 && methods.length > 1 && (
					<div>
						<Text component="label" size="sm" fw={500} id="method-label">
							{t.terminal.connect.method}
						</Text>
						<SegmentedControl
							fullWidth
							aria-labelledby="method-label"
							data={methods.map((m) => ({ value: m, label: t.terminal.connect.methods[m] }))}
							value={method}
							onChange={(v) => setMethod(v as Method)}
						/>
					</div>
				)}
				<Text size="xs" c="dimmed">
					{t.terminal.connect.help[method]}
				</Text>
				<TextInput
					label={t.terminal.connect.user}
					description={server?.builtIn ? t.terminal.connect.userBuiltIn : undefined}
					value={user}
					onChange={(e) => setUser(e.currentTarget.value)}
					required={!server?.builtIn}
					maxLength={64}
					autoComplete="off"
					autoCapitalize="none"
					spellCheck={false}
					data-autofocus
				/>
				{method === "password" && (
					<PasswordInput
						label={t.terminal.connect.password}
						value={password}
						onChange={(e) => setPassword(e.currentTarget.value)}
						required
						maxLength={1024}
						autoComplete="off"
					/>
				)}
				{method === "key" && (
					<>
						<Textarea
							label={t.terminal.connect.key}
							description={t.terminal.connect.keyHelp}
							value={key}
							onChange={(e) => setKey(e.currentTarget.value)}
							rows={5}
							required
							maxLength={maxKey}
							error={tooLarge ? t.terminal.connect.notAKey : undefined}
							spellCheck={false}
							autoComplete="off"
							classNames={{ input: "mono" }}
						/>
						<Group gap="xs">
							<FileButton
								onChange={async (f) => {
									if (!f) return;
									setTooLarge(f.size > maxKey);
									if (f.size <= maxKey) setKey(await f.text());
								}}
							>
								{(props) => (
									<Button {...props} size="compact-sm" variant="default">
										{t.terminal.connect.chooseFile}
									</Button>
								)}
							</FileButton>
						</Group>
						<PasswordInput
							label={t.terminal.connect.passphrase}
							value={passphrase}
							onChange={(e) => setPassphrase(e.currentTarget.value)}
							maxLength={1024}
							autoComplete="off"
						/>
					</>
				)}
				<Problem error={error} />
				<Button type="submit" loading={busy} disabled={!online || servers.length === 0}>
					{t.terminal.connect.submit}
				</Button>
				<Text size="xs" c="dimmed">
					{t.terminal.connect.seen} <span className="mono">socketxp ssh {device.name}</span>
				</Text>
			</Stack>
		</form>
	);
}
