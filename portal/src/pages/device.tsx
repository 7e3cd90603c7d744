import { Alert, Anchor, Button, Stack, Tabs, Text, Title } from "@mantine/core";
import { IconChevronLeft, IconLifebuoy, IconPlayerPause, IconTerminal2 } from "@tabler/icons-react";
import { queryOptions, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { ApiError, api, ask, type Device, type GatewayEvent, type Schemas, type Session } from "../api/client";
import { deviceQuery, meQuery, queryClient, quietly } from "../api/queries";
import { t } from "../strings";
import { rememberClick } from "../terminal/open";
import { CopyBox, CopyButton } from "../ui/copy";
import { Confirm } from "../ui/dialogs";
import { Facts, Page, Panel } from "../ui/page";
import { Problem } from "../ui/problem";
import { useRight } from "../ui/rights";
import { Dot, nothing, Tag } from "../ui/status";
import { type Column, Pager, Table } from "../ui/table";
import { Time } from "../ui/time";
import { done } from "../ui/toast";
import { bytes } from "../ui/units";
import { oneOf, sizeOf, textOf, useUrlState } from "../ui/urlState";
import classes from "./device.module.css";
import { DeviceForm, useDeviceActs } from "./deviceActs";
import { HowToConnect } from "./deviceConnect";
import { calling, noTerminal, portOf, systemOf, toneOf } from "./deviceParts";
import listClasses from "./devices.module.css";

const tabs = ["overview", "connect", "tunnels", "sessions", "events", "settings"] as const;
type Tab = (typeof tabs)[number];

export function DevicePage() {
	const { id = "" } = useParams({ strict: false }) as { id?: string };
	const device = useQuery({ ...deviceQuery(id), refetchInterval: quietly });
	if (device.error instanceof ApiError && device.error.status === 404) {
		return (
			<Page title={t.device.gone.title} lead={t.device.gone.text} above={<Back />}>
				<div>
					<Button component={Link} to="/devices" variant="default">
						{t.device.back}
					</Button>
				</div>
			</Page>
		);
	}
	if (!device.data) {
		return (
			<Page title={t.device.title} above={<Back />}>
				{device.error ? (
					<Problem error={device.error} onRetry={() => void device.refetch()} />
				) : (
					<Panel>
						<Facts facts={skeletonFacts} />
					</Panel>
				)}
			</Page>
		);
	}
	return <Known key={id} device={device.data} error={device.error} />;
}

const skeletonFacts = [t.device.facts.status, t.device.facts.group, t.device.facts.system, t.device.facts.version].map(
	(name) => [name, undefined] as const,
);

function Back() {
	return (
		<Link to="/devices" className={classes.back ?? ""}>
			<IconChevronLeft size={15} aria-hidden />
			{t.device.back}
		</Link>
	);
}

function Known({ device: d, error }: { device: Device; error: unknown }) {
	const [url, setUrl] = useUrlState();
	const navigate = useNavigate();
	const mayWrite = useRight("devices:write");
	const maySessions = useRight("sessions:read");
	const mayEvents = useRight("events:read");
	const tab: Tab = oneOf(url.tab, tabs) ?? "overview";
	const { start, dialogs } = useDeviceActs(() => void navigate({ to: "/devices" }));
	const why = noTerminal(d);
	const list = useRef<HTMLDivElement>(null);
	// Where the tabs don't fit, the chosen one is scrolled into sight, and nothing else.
	// biome-ignore lint/correctness/useExhaustiveDependencies: another tab is what it is about
	useEffect(() => {
		const box = list.current;
		const chosen = box?.querySelector<HTMLElement>("[aria-selected=true]");
		if (box && chosen) box.scrollLeft = chosen.offsetLeft - (box.clientWidth - chosen.offsetWidth) / 2;
	}, [tab]);
	const shown = tabs.filter((x) => (x !== "sessions" || maySessions) && (x !== "events" || mayEvents));
	const go = (next: Tab) => setUrl({ tab: next === "overview" ? undefined : next, cursor: undefined });
	const panel: Record<Tab, () => ReactNode> = {
		overview: () => <Overview device={d} />,
		connect: () => (
			<Panel title={t.device.tabs.connect}>
				<HowToConnect device={d} />
			</Panel>
		),
		tunnels: () => <Tunnels device={d} onConnect={(port) => setUrl({ tab: "connect", port })} />,
		sessions: () => <SessionsNow device={d} />,
		events: () => <Events device={d} />,
		settings: () => <Settings device={d} mayWrite={mayWrite} onAct={(act) => start(act, d)} />,
	};
	return (
		<Page
			title={calling(d)}
			above={<Back />}
			lead={
				<span className={classes.lead}>
					<span className={listClasses.device}>
						<Dot tone={toneOf[d.status]} />
						{t.devices.status[d.status]}
						{!d.online && d.last_seen_at && <Time at={d.last_seen_at} />}
					</span>
					{d.display_name && d.display_name !== d.name && <span className="mono">{d.name}</span>}
					<Link to="/devices" search={{ group: d.group }} className={listClasses.groupLink ?? ""}>
						<Tag>{d.group}</Tag>
					</Link>
				</span>
			}
			actions={
				<>
					<Button variant="default" onClick={() => go("connect")}>
						{t.device.tabs.connect}
					</Button>
					<Button
						component="a"
						{...(why
							? { "aria-disabled": true, "data-disabled": true, role: "link", tabIndex: 0, title: why }
							: {
									href: `/terminal/${d.id}`,
									target: "_blank",
									rel: "noopener",
									onClick: () => rememberClick(d.id),
								})}
						leftSection={<IconTerminal2 size={16} />}
					>
						{t.device.terminal}
					</Button>
				</>
			}
		>
			<Problem error={error} />
			{d.status === "quarantined" && (
				<Alert color="red" variant="light" icon={<IconLifebuoy size={18} />} title={t.device.quarantine.title}>
					<Stack gap="sm">
						{d.quarantine_reason && <Text size="sm">{d.quarantine_reason}</Text>}
						<Text size="sm">{t.device.quarantine.explain}</Text>
						<Text size="sm">
							{t.device.quarantine.since} <Time at={d.quarantined_at} absolute />
						</Text>
						{mayWrite && (
							<div>
								<Button size="xs" variant="default" onClick={() => start("release", d)}>
									{t.device.quarantine.release}
								</Button>
							</div>
						)}
					</Stack>
				</Alert>
			)}
			{d.status === "disabled" && (
				<Alert color="yellow" variant="light" icon={<IconPlayerPause size={18} />} title={t.device.disabled.title}>
					<Stack gap="sm">
						<Text size="sm">{t.device.disabled.explain}</Text>
						{mayWrite && (
							<div>
								<Button size="xs" variant="default" onClick={() => start("enable", d)}>
									{t.device.disabled.enable}
								</Button>
							</div>
						)}
					</Stack>
				</Alert>
			)}
			<Tabs value={tab} onChange={(v) => go(oneOf(v, tabs) ?? "overview")} keepMounted={false}>
				<Tabs.List ref={list} aria-label={t.device.tabsLabel} className={classes.tabs ?? ""}>
					{shown.map((x) => (
						<Tabs.Tab key={x} value={x}>
							{t.device.tabs[x]}
						</Tabs.Tab>
					))}
				</Tabs.List>
				{shown.map((x) => (
					<Tabs.Panel key={x} value={x} className={classes.stack ?? ""}>
						{x === tab && panel[x]()}
					</Tabs.Panel>
				))}
			</Tabs>
			{dialogs}
		</Page>
	);
}

/** A value that is often needed elsewhere. */
function Copied({ text, what }: { text: string; what: string }) {
	return (
		<span className={classes.value}>
			<span className="mono">{text}</span>
			<CopyButton text={text} what={what} />
		</span>
	);
}

function Overview({ device: d }: { device: Device }) {
	const me = useQuery(meQuery).data;
	const f = t.device.facts;
	const k = t.device.keys;
	return (
		<>
			<Panel title={f.title}>
				<Facts
					facts={[
						[f.name, <Copied key="name" text={d.name} what={f.name} />],
						[f.displayName, d.display_name || nothing],
						[f.group, d.group],
						[f.lastSeen, d.online ? t.common.now : <Time key="seen" at={d.last_seen_at} />],
						[f.address, d.remote_addr ? <Copied key="addr" text={d.remote_addr} what={f.address} /> : nothing],
						[
							f.localAddrs,
							d.local_addrs?.length ? (
								<span key="local" className="mono">
									{d.local_addrs.join(", ")}
								</span>
							) : (
								nothing
							),
						],
						[f.hostname, d.hostname || nothing],
						[f.system, systemOf(d)],
						[f.kernel, d.kernel || nothing],
						[f.version, d.version || nothing],
						[f.created, <Time key="created" at={d.created_at} absolute />],
						[
							f.createdBy,
							me?.user.id === d.created_by ? (
								f.you(me.user.email)
							) : (
								<span key="by" className="mono">
									{d.created_by}
								</span>
							),
						],
						[
							f.token,
							d.token_id ? (
								<Anchor
									key="token"
									inherit
									className="mono"
									renderRoot={(p) => <Link to="/tokens" search={{ state: "all", open: d.token_id }} {...p} />}
								>
									{d.token_id}
								</Anchor>
							) : (
								f.preRegistered
							),
						],
						[f.id, <Copied key="id" text={d.id} what={f.id} />],
					]}
				/>
			</Panel>
			<Panel title={k.title}>
				<Facts
					wide
					facts={[
						[k.fingerprint, <Copied key="fp" text={d.fingerprint} what={k.fingerprint} />],
						[k.since, <Time key="since" at={d.key_since} absolute />],
						[k.hostKey, d.ssh_host_key ? <Copied key="hk" text={d.ssh_host_key} what={k.hostKey} /> : k.noHostKey],
					]}
				/>
			</Panel>
		</>
	);
}

function Tunnels({ device: d, onConnect }: { device: Device; onConnect: (port: number) => void }) {
	const w = t.device.tunnels;
	const columns: Column<Schemas["Tunnel"]>[] = [
		{
			id: "destination",
			title: w.destination,
			cell: (u) => <span className={`mono ${classes.message}`}>{u.destination}</span>,
		},
		{ id: "port", title: w.port, from: "md", cell: (u) => portOf(u) || nothing },
		{ id: "server", title: w.server, from: "md", cell: (u) => (u.ssh ? w.builtIn : w.other) },
		{
			id: "connect",
			title: t.common.rows.actions,
			quietTitle: true,
			align: "right",
			cell: (u) =>
				portOf(u) > 0 && (
					<Button size="compact-sm" variant="default" onClick={() => onConnect(portOf(u))}>
						{w.connect}
					</Button>
				),
		},
	];
	return (
		<Panel flush>
			<Table
				label={w.label}
				columns={columns}
				rows={d.tunnels}
				id={(u) => u.destination}
				empty={
					<div className={listClasses.none}>
						<Title order={2}>{w.none.title}</Title>
						<p>{w.none.text}</p>
						<CopyBox text="socketxp connect tcp://localhost:22 --enable-ssh" what={t.devices.adding.copy.connect} />
					</div>
				}
			/>
		</Panel>
	);
}

const sessionsNowQuery = (device: string) =>
	queryOptions({
		queryKey: ["sessions", "list", { device_id: device, live: "true", limit: 200 }],
		queryFn: ({ signal }) =>
			ask(api.GET("/api/v1/sessions", { params: { query: { device_id: device, live: "true", limit: 200 } }, signal })),
	});

function SessionsNow({ device: d }: { device: Device }) {
	const w = t.device.sessions;
	const me = useQuery(meQuery).data;
	const mayEnd = useRight("sessions:write");
	const sessions = useQuery({
		...sessionsNowQuery(d.id),
		// What has gone through is counted as it goes; no event tells of it.
		refetchInterval: (q) => (q.state.data?.items.length ? 5000 : false),
	});
	const [ending, setEnding] = useState<Session | undefined>();
	const [opened, setOpened] = useState(false);
	const columns: Column<Session>[] = [
		{ id: "from", title: w.from, cell: (s) => <span className="mono">{s.remote_addr}</span> },
		{
			id: "user",
			title: w.user,
			from: "md",
			cell: (s) =>
				me?.user.id === s.user_id ? t.device.facts.you(me.user.email) : <span className="mono">{s.user_id}</span>,
		},
		{ id: "destination", title: w.destination, from: "md", cell: (s) => <span className="mono">{s.destination}</span> },
		{ id: "started", title: w.started, cell: (s) => <Time at={s.started_at} /> },
		{
			id: "traffic",
			title: w.traffic,
			from: "lg",
			cell: (s) => (
				<span className="numbers">
					{bytes(s.bytes_up)} / {bytes(s.bytes_down)}
				</span>
			),
		},
		{
			id: "end",
			title: t.common.rows.actions,
			quietTitle: true,
			align: "right",
			cell: (s) =>
				mayEnd && (
					<Button
						size="compact-sm"
						variant="default"
						aria-label={w.endLabel(s.remote_addr)}
						onClick={() => {
							setEnding(s);
							setOpened(true);
						}}
					>
						{w.end}
					</Button>
				),
		},
	];
	return (
		<>
			<Panel flush>
				<Table
					label={w.label}
					columns={columns}
					rows={sessions.data?.items}
					id={(s) => s.id}
					error={sessions.error}
					onRetry={() => void sessions.refetch()}
					empty={
						<div className={listClasses.none}>
							<Title order={2}>{w.none.title}</Title>
							<p>{w.none.text}</p>
						</div>
					}
				/>
			</Panel>
			<div>
				<Button
					component={Link}
					{...({ to: "/sessions", search: { state: "all", device: d.id } } as object)}
					variant="default"
				>
					{w.past}
				</Button>
			</div>
			<Confirm
				title={w.ending.title}
				button={w.ending.button}
				opened={opened}
				onClose={() => setOpened(false)}
				act={async () => {
					if (!ending) return;
					await ask(api.POST("/api/v1/sessions/{id}/end", { params: { path: { id: ending.id } } }));
					done(w.ending.done);
					void queryClient.invalidateQueries({ queryKey: ["sessions"] });
				}}
			>
				<Text size="sm">{w.ending.text}</Text>
			</Confirm>
		</>
	);
}

const deviceEventsQuery = (device: string, limit: number, cursor: string | undefined) =>
	queryOptions({
		queryKey: ["events", "list", { device_id: device, limit, cursor }],
		queryFn: ({ signal }) =>
			ask(
				api.GET("/api/v1/events", {
					params: { query: { device_id: device, limit, ...(cursor ? { cursor } : {}) } },
					signal,
				}),
			),
		placeholderData: (before) => before,
	});

function Events({ device: d }: { device: Device }) {
	const w = t.device.events;
	const [url, setUrl] = useUrlState();
	const limit = sizeOf(url.size);
	const cursor = textOf(url.cursor);
	const events = useQuery(deviceEventsQuery(d.id, limit, cursor));
	const columns: Column<GatewayEvent>[] = [
		{
			id: "at",
			title: w.at,
			width: "1px",
			cell: (e) => (
				<span className={classes.when}>
					<Time at={e.at} />
				</span>
			),
		},
		{ id: "message", title: w.message, cell: (e) => <span className={classes.message}>{e.message}</span> },
		{ id: "type", title: w.type, from: "md", cell: (e) => <Tag>{e.type}</Tag> },
	];
	return (
		<Panel flush>
			<Table
				label={w.label}
				columns={columns}
				rows={events.data?.items}
				id={(e) => e.id}
				error={events.error}
				onRetry={() => void events.refetch()}
				stale={events.isPlaceholderData}
				empty={
					<div className={listClasses.none}>
						<Title order={2}>{w.none.title}</Title>
						<p>{w.none.text}</p>
					</div>
				}
			/>
			<Pager
				cursor={cursor}
				nextCursor={events.data?.next_cursor}
				onGo={(c) => setUrl({ cursor: c })}
				size={limit}
				onSize={(n) => setUrl({ size: n, cursor: undefined })}
			/>
		</Panel>
	);
}

function Settings({
	device: d,
	mayWrite,
	onAct,
}: {
	device: Device;
	mayWrite: boolean;
	onAct: (act: "disable" | "enable" | "delete") => void;
}) {
	const w = t.device.settings;
	if (!mayWrite) return <Text>{w.readOnly}</Text>;
	const disabled = d.status === "disabled";
	const sw = disabled ? w.enable : w.disable;
	return (
		<>
			<Panel title={w.edit}>
				<div className={classes.narrowForm}>
					<DeviceForm key={d.id} device={d} onDone={() => {}} />
				</div>
			</Panel>
			<Panel title={w.danger} danger>
				<div className={classes.dangerRow}>
					<div>
						<strong>{sw.title}</strong>
						<p>{sw.text}</p>
					</div>
					<Button variant="default" onClick={() => onAct(disabled ? "enable" : "disable")}>
						{disabled ? t.devices.enable : t.devices.disable}
					</Button>
				</div>
				<div className={classes.dangerRow}>
					<div>
						<strong>{w.delete.title}</strong>
						<p>{w.delete.text}</p>
					</div>
					<Button color="red" variant="light" onClick={() => onAct("delete")}>
						{t.devices.delete}
					</Button>
				</div>
			</Panel>
		</>
	);
}
