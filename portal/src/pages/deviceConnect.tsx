import { Button, Group, SegmentedControl, Select, Stack, Tabs, Text, TextInput } from "@mantine/core";
import { useOs } from "@mantine/hooks";
import { IconKey } from "@tabler/icons-react";
import { useState } from "react";
import { api, ask, type Device, type Schemas } from "../api/client";
import { queryClient } from "../api/queries";
import { t } from "../strings";
import { CopyBox } from "../ui/copy";
import { Problem } from "../ui/problem";
import { useRight } from "../ui/rights";
import { Time, useNow } from "../ui/time";
import { done } from "../ui/toast";
import { oneOf, textOf, useUrlState } from "../ui/urlState";
import { useAct } from "../ui/useAct";
import classes from "./device.module.css";
import { reachCommands, type Shell, tokenLine } from "./deviceCommands";
import { portOf, speaksSsh, tunnelLabel } from "./deviceParts";

const words = t.device.connect;
const sshWays = ["ssh", "scp", "putty", "port"] as const;

/** Ready commands to reach a device. A token is made when somebody asks for it, and is in this component's memory alone. */
export function HowToConnect({ device: d }: { device: Device }) {
	const [url, setUrl] = useUrlState();
	const os = useOs();
	const mayMake = useRight("tokens:write");
	const [shell, setShell] = useState<Shell | undefined>();
	const [user, setUser] = useState("root");
	const [token, setToken] = useState<(Schemas["CreatedToken"] & { port: number }) | undefined>();
	const { busy, error, setError, run } = useAct();
	const now = useNow();

	const tunnels = d.tunnels.filter((u) => portOf(u) > 0);
	const asked = Number(textOf(url.port));
	const tunnel = tunnels.find((u) => portOf(u) === asked) ?? tunnels.find(speaksSsh) ?? tunnels[0];
	if (!tunnel) {
		return (
			<Stack gap="sm">
				<Text size="sm">{words.none}</Text>
				<CopyBox text="socketxp connect tcp://localhost:22" what={words.copy(words.ways.ssh.title)} />
			</Stack>
		);
	}
	const port = portOf(tunnel);
	const ssh = speaksSsh(tunnel);
	const way = (ssh && oneOf(url.way, sshWays)) || (ssh ? "ssh" : "port");
	const kind = shell ?? (os === "windows" ? "powershell" : "posix");
	const userOk = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/.test(user);
	const c = reachCommands(d.name, port, ssh, userOk ? user : "user");
	const good = token && token.port === port && new Date(token.expires_at).getTime() > now;

	const make = async () => {
		await run(async () => {
			const made = await ask(
				api.POST("/api/v1/tokens", {
					body: {
						kind: "access",
						name: words.tokenName(d.name, port).slice(0, 128),
						expires_in: 3600,
						scope: { devices: [d.id], ports: [port] },
					},
				}),
			);
			setToken({ ...made, port });
		});
	};
	const revoke = async () => {
		if (!token) return;
		try {
			await ask(api.POST("/api/v1/tokens/{id}/revoke", { params: { path: { id: token.id } } }));
			setToken(undefined);
			done(words.revoked);
			void queryClient.invalidateQueries({ queryKey: ["tokens"] });
		} catch (e) {
			setError(e);
		}
	};

	return (
		<Stack gap="lg">
			<Text size="sm">
				{words.lead} {words.agent}
			</Text>
			{!d.online && (
				<Text size="sm" c="dimmed">
					{words.offline}
				</Text>
			)}
			<div className={classes.choices}>
				{tunnels.length > 1 && (
					<Select
						label={words.port}
						data={tunnels.map((u) => ({ value: String(portOf(u)), label: tunnelLabel(u) }))}
						value={String(port)}
						onChange={(v) => setUrl({ port: Number(v) }, true)}
						w={220}
					/>
				)}
				{ssh && (
					<TextInput
						label={words.user}
						description={words.userHelp}
						value={user}
						onChange={(e) => setUser(e.currentTarget.value)}
						error={userOk ? undefined : words.userWrong}
						maxLength={64}
						spellCheck={false}
						autoComplete="off"
						w={300}
					/>
				)}
				<div>
					<Text size="sm" fw={500} mb={4} id="your-shell">
						{words.shell}
					</Text>
					<SegmentedControl
						aria-labelledby="your-shell"
						data={(["posix", "powershell"] as const).map((s) => ({ value: s, label: words.shells[s] }))}
						value={kind}
						onChange={(v) => setShell(v as Shell)}
					/>
				</div>
			</div>
			<Problem error={error} />
			{!mayMake ? (
				<Text size="sm">{words.noRight}</Text>
			) : !good ? (
				<Group gap="sm">
					<Button leftSection={<IconKey size={16} />} loading={busy} onClick={make}>
						{token ? words.again : words.make}
					</Button>
					{token && token.port === port && <Text size="sm">{words.expired}</Text>}
				</Group>
			) : (
				<div className={classes.commands}>
					<p>{words.first}</p>
					<CopyBox text={tokenLine(kind, token.token)} what={words.copyToken} />
					<Group gap="xs" justify="space-between">
						<Text size="xs" c="dimmed">
							{words.made} <Time at={token.expires_at} absolute />
						</Text>
						<Button size="compact-xs" variant="subtle" color="gray" onClick={revoke}>
							{words.revoke}
						</Button>
					</Group>
				</div>
			)}
			{(good || !mayMake) && (
				<Tabs
					value={way}
					onChange={(v) => setUrl({ way: v === "ssh" ? undefined : (v ?? undefined) }, true)}
					keepMounted={false}
				>
					<Tabs.List aria-label={words.waysLabel} className={classes.tabs ?? ""}>
						{(ssh ? sshWays : (["port"] as const)).map((w) => (
							<Tabs.Tab key={w} value={w}>
								{words.ways[w].title}
							</Tabs.Tab>
						))}
					</Tabs.List>
					{ssh && (
						<>
							<Tabs.Panel value="ssh">
								<div className={classes.commands}>
									<p>{words.ways.ssh.text}</p>
									<CopyBox text={c.ssh} what={words.copy(words.ways.ssh.title)} />
								</div>
							</Tabs.Panel>
							<Tabs.Panel value="scp">
								<div className={classes.commands}>
									<p>{words.ways.scp.text}</p>
									<CopyBox text={c.config} what={words.copy("ssh-config")} />
									<p>{words.ways.scp.after}</p>
									{c.scp.map((line) => (
										<CopyBox key={line} text={line} what={words.copy(line.split(" ")[0] ?? "")} />
									))}
								</div>
							</Tabs.Panel>
							<Tabs.Panel value="putty">
								<div className={classes.commands}>
									<p>{words.ways.putty.text}</p>
									<CopyBox text={c.slave} what={words.copy(words.ways.port.title)} wrap />
									<p>{words.ways.putty.putty}</p>
									<CopyBox text={c.putty} what={words.copy("PuTTY")} />
									<p>{words.ways.putty.fileZilla}</p>
									<CopyBox text={c.fileZilla} what={words.copy("FileZilla")} />
								</div>
							</Tabs.Panel>
						</>
					)}
					<Tabs.Panel value="port">
						<div className={classes.commands}>
							<p>{words.ways.port.text}</p>
							<CopyBox text={c.slave} what={words.copy(words.ways.port.title)} wrap />
							{ssh ? (
								<>
									<p>{words.ways.port.ssh}</p>
									<CopyBox text={c.local} what={words.copy("ssh")} />
									<CopyBox text={c.localScp} what={words.copy("scp")} />
								</>
							) : (
								<p>{words.ways.port.other(c.localPort)}</p>
							)}
						</div>
					</Tabs.Panel>
				</Tabs>
			)}
		</Stack>
	);
}
