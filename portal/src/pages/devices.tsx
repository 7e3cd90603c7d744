import { ActionIcon, Autocomplete, Button, Drawer, Menu, Select, Text, Title } from "@mantine/core";
import { useLocalStorage } from "@mantine/hooks";
import {
	IconCopy,
	IconDotsVertical,
	IconEdit,
	IconExternalLink,
	IconFilterOff,
	IconLifebuoy,
	IconPlayerPause,
	IconPlayerPlay,
	IconPlus,
	IconTrash,
} from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { memo, useLayoutEffect, useMemo, useRef, useState } from "react";
import { ApiError, type Device } from "../api/client";
import { type DeviceFilter, devicesQuery, groupsQuery, quietly } from "../api/queries";
import { t } from "../strings";
import { Page, Panel } from "../ui/page";
import { useRight } from "../ui/rights";
import { SearchBox } from "../ui/searchBox";
import { Dot, nothing, Tag } from "../ui/status";
import { type Column, ColumnMenu, Pager, Table } from "../ui/table";
import { Time } from "../ui/time";
import { done, failed } from "../ui/toast";
import { oneOf, sizeOf, textOf, useUrlState } from "../ui/urlState";
import { type DeviceAct, EditDevice, useDeviceActs } from "./deviceActs";
import { AddDevice } from "./deviceAdd";
import { type BulkAct, BulkBar, BulkDialog } from "./deviceBulk";
import { calling, systemOf, TerminalIcon, toneOf, tunnelLabel } from "./deviceParts";
import classes from "./devices.module.css";

const statuses = ["online", "offline", "disabled", "quarantined"] as const;
const sorts = [
	"name",
	"-name",
	"group",
	"-group",
	"created_at",
	"-created_at",
	"last_seen_at",
	"-last_seen_at",
] as const;

export function DevicesPage() {
	const [url, setUrl] = useUrlState();
	const navigate = useNavigate();
	const mayWrite = useRight("devices:write");
	const mayAdd = useRight("tokens:write");
	const search = textOf(url.search, 128);
	const status = oneOf(url.status, statuses);
	const group = textOf(url.group, 63);
	const version = textOf(url.version, 256);
	const sort = oneOf(url.sort, sorts) ?? "name";
	const limit = sizeOf(url.size);
	const cursor = textOf(url.cursor);
	const filtered = search !== undefined || status !== undefined || group !== undefined || version !== undefined;
	const filter: DeviceFilter = {
		...(search ? { search } : {}),
		...(status ? { status } : {}),
		...(group ? { group } : {}),
		...(version ? { version } : {}),
		sort,
		limit,
		...(cursor ? { cursor } : {}),
	};
	const list = useQuery({ ...devicesQuery(filter), refetchInterval: quietly });
	const page = list.data;
	// Another filter or order begins with the first page.
	const change = (patch: Record<string, unknown>, replace = false) => setUrl({ ...patch, cursor: undefined }, replace);
	const clear = () => change({ search: undefined, status: undefined, group: undefined, version: undefined });

	const [selected, setSelected] = useState<ReadonlyMap<string, Device>>(new Map());
	const ids = useMemo(() => new Set(selected.keys()), [selected]);
	const select = (next: ReadonlySet<string>) => {
		const known = new Map([...selected, ...(page?.items ?? []).map((d) => [d.id, d] as const)]);
		setSelected(new Map([...next].flatMap((id) => (known.get(id) ? [[id, known.get(id) as Device]] : []))));
	};
	const [bulk, setBulk] = useState<{ act: BulkAct; devices: readonly Device[] } | undefined>();
	const { start, dialogs } = useDeviceActs();
	const [hidden, setHidden] = useHiddenColumns();
	const adding = url.add === true || url.add === 1;
	// The page of the first device goes on while it comes, though the list has it then.
	const [started, setStarted] = useState(false);
	const none = page !== undefined && page.total === 0 && !filtered && !cursor;
	const first = (none || started) && !adding;

	const open = (id: string) => void navigate({ to: "/devices/$id", params: { id } });
	const columns = useColumns({
		mayWrite,
		onEdit: (d) => setUrl({ edit: d.id }),
		onAct: start,
		onOpen: open,
	});
	return (
		<Page
			title={t.devices.title}
			actions={
				mayAdd && (
					<Button
						leftSection={<IconPlus size={16} />}
						onClick={() => setUrl({ add: 1 })}
						{...(first ? { variant: "default" } : {})}
					>
						{t.devices.add}
					</Button>
				)
			}
		>
			{first && (
				<Panel>
					<Title order={2} mb={4}>
						{t.devices.first.title}
					</Title>
					<Text c="dimmed" maw={620} mb="lg">
						{mayAdd ? t.devices.first.text : t.devices.first.readOnly}
					</Text>
					{mayAdd && (
						<AddDevice
							{...(group ? { group } : {})}
							onMade={() => setStarted(true)}
							onClose={() => setStarted(false)}
						/>
					)}
				</Panel>
			)}
			{!none && (
				<>
					<search className={classes.toolbar}>
						<div className={classes.search}>
							<SearchBox
								label={t.devices.search}
								value={search ?? ""}
								onSearch={(text) => change({ search: text || undefined }, true)}
							/>
						</div>
						<Select
							className={classes.filter ?? ""}
							aria-label={t.devices.filters.status}
							placeholder={t.devices.filters.anyStatus}
							data={statuses.map((s) => ({ value: s, label: t.devices.status[s] }))}
							value={status ?? null}
							onChange={(v) => change({ status: v ?? undefined })}
							clearable
							clearButtonProps={{ "aria-label": t.devices.filters.clearOne(t.devices.filters.status) }}
						/>
						<GroupFilter group={group} onChange={(v) => change({ group: v })} />
						<VersionFilter version={version} seen={page?.items ?? []} onChange={(v) => change({ version: v })} />
						{filtered && (
							<Button variant="subtle" color="gray" leftSection={<IconFilterOff size={16} />} onClick={clear}>
								{t.devices.filters.clear}
							</Button>
						)}
						<ColumnMenu columns={columns} hidden={hidden} onChange={setHidden} />
					</search>
					<Panel flush>
						<Table
							label={t.devices.title}
							columns={columns}
							hidden={hidden}
							rows={page?.items}
							id={(d) => d.id}
							name={calling}
							error={list.error}
							onRetry={() =>
								// What is wrong with a link does not get better by asking again.
								list.error instanceof ApiError && list.error.code === "invalid" ? clear() : void list.refetch()
							}
							stale={list.isPlaceholderData}
							sort={sort}
							onSort={(s) => change({ sort: s === "name" ? undefined : s })}
							{...(mayWrite ? { selection: { ids, set: select } } : {})}
							onRowClick={(d) => open(d.id)}
							empty={
								<div className={classes.none}>
									<Title order={2}>{t.devices.none.title}</Title>
									<p>{t.devices.none.text}</p>
									<Button variant="default" onClick={clear}>
										{t.devices.filters.clear}
									</Button>
								</div>
							}
						/>
						<Pager
							summary={page && t.common.rows.total(page.total, page.total_or_more ?? false, t.devices.one)}
							cursor={cursor}
							nextCursor={page?.next_cursor}
							onGo={(c) => {
								setUrl({ cursor: c });
								scrollTo({ top: 0 });
							}}
							size={limit}
							onSize={(n) => change({ size: n })}
						/>
					</Panel>
				</>
			)}
			{selected.size > 0 && (
				<BulkBar
					count={selected.size}
					onAct={(act) => setBulk({ act, devices: [...selected.values()] })}
					onClear={() => setSelected(new Map())}
				/>
			)}
			<BulkDialog
				act={bulk?.act}
				devices={bulk?.devices ?? []}
				onClose={() => setBulk(undefined)}
				onDone={(finished) =>
					setSelected((old) => {
						const next = new Map(old);
						for (const id of finished) next.delete(id);
						return next;
					})
				}
			/>
			<EditDevice id={textOf(url.edit, 100)} onClose={() => setUrl({ edit: undefined })} />
			{dialogs}
			<Drawer
				opened={adding && mayAdd}
				onClose={() => setUrl({ add: undefined })}
				position="right"
				size="xl"
				title={<Text fw={600}>{t.devices.adding.title}</Text>}
				closeButtonProps={{ "aria-label": t.common.close }}
			>
				<AddDevice {...(group ? { group } : {})} onClose={() => setUrl({ add: undefined })} />
			</Drawer>
		</Page>
	);
}

const hiddenAtFirst = ["created", "hostname", "id"];

/** Which columns are hidden, kept in this browser. */
function useHiddenColumns(): [ReadonlySet<string>, (hidden: ReadonlySet<string>) => void] {
	const [kept, keep] = useLocalStorage<string[]>({
		key: "socketxp-devices-hidden",
		defaultValue: hiddenAtFirst,
		getInitialValueInEffect: false,
		deserialize: (text) => {
			try {
				const v: unknown = JSON.parse(text ?? "");
				if (Array.isArray(v)) return v.filter((x) => typeof x === "string");
			} catch {
				// Something else wrote it.
			}
			return hiddenAtFirst;
		},
	});
	return [useMemo(() => new Set(kept), [kept]), (hidden) => keep([...hidden])];
}

function GroupFilter({ group, onChange }: { group: string | undefined; onChange: (v: string | undefined) => void }) {
	const names = useQuery(groupsQuery).data?.map((g) => g.name) ?? [];
	return (
		<Select
			className={classes.filter ?? ""}
			aria-label={t.devices.filters.group}
			placeholder={t.devices.filters.anyGroup}
			// A link may name a group that is gone.
			data={group && !names.includes(group) ? [group, ...names] : names}
			value={group ?? null}
			onChange={(v) => onChange(v ?? undefined)}
			searchable
			limit={50}
			nothingFoundMessage={t.devices.filters.noGroup}
			clearable
			clearButtonProps={{ "aria-label": t.devices.filters.clearOne(t.devices.filters.group) }}
		/>
	);
}

/** Versions that were seen in lists since the page was loaded are offered; any other can be typed. */
const seenVersions = new Set<string>();

function VersionFilter({
	version,
	seen,
	onChange,
}: {
	version: string | undefined;
	seen: readonly Device[];
	onChange: (v: string | undefined) => void;
}) {
	for (const d of seen) if (d.version) seenVersions.add(d.version);
	const [typed, setTyped] = useState(version ?? "");
	const from = useRef(version);
	if (from.current !== version) {
		from.current = version;
		setTyped(version ?? "");
	}
	const choose = (v: string) => {
		const text = v.trim() || undefined;
		if (text !== version) onChange(text);
	};
	return (
		<Autocomplete
			className={classes.filter ?? ""}
			aria-label={t.devices.filters.version}
			placeholder={t.devices.filters.anyVersion}
			data={[...seenVersions].sort().reverse()}
			limit={30}
			value={typed}
			onChange={setTyped}
			onOptionSubmit={choose}
			onClear={() => choose("")}
			onBlur={() => choose(typed)}
			onKeyDown={(e) => {
				if (e.key === "Enter") choose(typed);
			}}
			clearable
			clearButtonProps={{ "aria-label": t.devices.filters.clearOne(t.devices.filters.version) }}
			maxLength={256}
			spellCheck={false}
			autoComplete="off"
		/>
	);
}

interface RowActs {
	mayWrite: boolean;
	onEdit: (d: Device) => void;
	onAct: (act: DeviceAct, d: Device) => void;
	onOpen: (id: string) => void;
}

function useColumns(acts: RowActs): readonly Column<Device>[] {
	const latest = useRef(acts);
	latest.current = acts;
	const { mayWrite } = acts;
	return useMemo(
		() => [
			{
				id: "name",
				title: t.devices.columns.name,
				sort: "name",
				fixed: true,
				cell: (d) => (
					<div className={classes.device}>
						<Dot tone={toneOf[d.status]} />
						<div className={classes.names}>
							<Link to="/devices/$id" params={{ id: d.id }} className={classes.name ?? ""} title={calling(d)}>
								{calling(d)}
							</Link>
							{d.display_name && d.display_name !== d.name && <span className={classes.second}>{d.name}</span>}
							<span className={`${classes.second} ${classes.onlyNarrow}`}>{t.devices.status[d.status]}</span>
						</div>
					</div>
				),
			},
			{
				id: "status",
				title: t.devices.columns.status,
				sort: "last_seen_at",
				from: "md",
				cell: (d) => <DeviceStatus device={d} />,
			},
			{
				id: "group",
				title: t.devices.columns.group,
				sort: "group",
				from: "md",
				cell: (d) => (
					<Link to="/devices" search={{ group: d.group }} className={classes.groupLink ?? ""}>
						<Tag>{d.group}</Tag>
					</Link>
				),
			},
			{
				id: "system",
				title: t.devices.columns.system,
				from: "lg",
				cell: (d) => <span className={classes.cut}>{systemOf(d)}</span>,
			},
			{
				id: "version",
				title: t.devices.columns.version,
				from: "lg",
				cell: (d) => <span className={classes.cut}>{d.version || nothing}</span>,
			},
			{
				id: "address",
				title: t.devices.columns.address,
				from: "lg",
				cell: (d) => (d.remote_addr ? <span className={`mono ${classes.cut}`}>{d.remote_addr}</span> : nothing),
			},
			{
				id: "tunnels",
				title: t.devices.columns.tunnels,
				from: "lg",
				cell: (d) =>
					d.tunnels.length === 0 ? (
						nothing
					) : (
						<span className={classes.tags} title={d.tunnels.map((u) => u.destination).join(", ")}>
							{d.tunnels.slice(0, 2).map((u) => (
								<Tag key={u.destination}>{tunnelLabel(u)}</Tag>
							))}
							{d.tunnels.length > 2 && <Tag>{t.devices.more(d.tunnels.length - 2)}</Tag>}
						</span>
					),
			},
			{
				id: "created",
				title: t.devices.columns.created,
				sort: "created_at",
				optional: true,
				from: "md",
				cell: (d) => <Time at={d.created_at} />,
			},
			{
				id: "hostname",
				title: t.devices.columns.hostname,
				optional: true,
				from: "md",
				cell: (d) => <span className={classes.cut}>{d.hostname || nothing}</span>,
			},
			{
				id: "id",
				title: t.devices.columns.id,
				optional: true,
				from: "md",
				cell: (d) => <span className={`mono ${classes.cut}`}>{d.id}</span>,
			},
			{
				id: "actions",
				title: t.devices.columns.actions,
				fixed: true,
				quietTitle: true,
				align: "right",
				width: "1px",
				sticky: true,
				cell: (d) => (
					<div className={classes.acts}>
						<TerminalIcon device={d} />
						<RowMenu device={d} mayWrite={mayWrite} acts={latest} />
					</div>
				),
			},
		],
		[mayWrite],
	);
}

/** A word, and for who isn't there since when. */
function DeviceStatus({ device: d }: { device: Device }) {
	return (
		<span className={classes.two}>
			<span>{t.devices.status[d.status]}</span>
			{!d.online && (
				<span className={classes.second}>{d.last_seen_at ? <Time at={d.last_seen_at} /> : t.devices.neverSeen}</span>
			)}
		</span>
	);
}

const RowMenu = memo(function RowMenu({
	device: d,
	mayWrite,
	acts,
}: {
	device: Device;
	mayWrite: boolean;
	acts: { readonly current: RowActs };
}) {
	// A page has up to 200 of them: the menu itself is made at the first click.
	const [ready, setReady] = useState(false);
	const [opened, setOpened] = useState(false);
	const target = useRef<HTMLButtonElement>(null);
	useLayoutEffect(() => {
		if (!ready) return;
		target.current?.focus({ preventScroll: true }); // it goes back there when the menu closes
		setOpened(true);
	}, [ready]);
	const button = (onClick?: () => void) => (
		<ActionIcon
			ref={target}
			// The menu hears of Escape only when it has the focus, a moment after it is open.
			onKeyDown={(e) => e.key === "Escape" && setOpened(false)}
			variant="subtle"
			color="gray"
			size={30}
			aria-label={t.devices.menu(calling(d))}
			aria-haspopup="menu"
			{...(onClick ? { onClick } : {})}
		>
			<IconDotsVertical size={18} />
		</ActionIcon>
	);
	const menu = () => (
		<Menu opened={opened} onChange={setOpened}>
			<Menu.Target>{button()}</Menu.Target>
			<Menu.Dropdown>
				<Menu.Item leftSection={<IconExternalLink size={16} />} onClick={() => acts.current.onOpen(d.id)}>
					{t.devices.open}
				</Menu.Item>
				{mayWrite && (
					<Menu.Item leftSection={<IconEdit size={16} />} onClick={() => acts.current.onEdit(d)}>
						{t.devices.edit}
					</Menu.Item>
				)}
				<Menu.Item
					leftSection={<IconCopy size={16} />}
					onClick={() =>
						navigator.clipboard.writeText(d.id).then(
							() => done(t.devices.idCopied),
							() => failed(new Error(t.common.copyFailed)),
						)
					}
				>
					{t.devices.copyId}
				</Menu.Item>
				{mayWrite && (
					<>
						<Menu.Divider />
						{d.status === "quarantined" && (
							<Menu.Item leftSection={<IconLifebuoy size={16} />} onClick={() => acts.current.onAct("release", d)}>
								{t.devices.release}
							</Menu.Item>
						)}
						{d.status === "disabled" ? (
							<Menu.Item leftSection={<IconPlayerPlay size={16} />} onClick={() => acts.current.onAct("enable", d)}>
								{t.devices.enable}
							</Menu.Item>
						) : (
							<Menu.Item leftSection={<IconPlayerPause size={16} />} onClick={() => acts.current.onAct("disable", d)}>
								{t.devices.disable}
							</Menu.Item>
						)}
						<Menu.Item
							color="red"
							leftSection={<IconTrash size={16} />}
							onClick={() => acts.current.onAct("delete", d)}
						>
							{t.devices.delete}
						</Menu.Item>
					</>
				)}
			</Menu.Dropdown>
		</Menu>
	);
	return ready ? menu() : button(() => setReady(true));
});
