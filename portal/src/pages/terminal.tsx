import {
	ActionIcon,
	Button,
	Group,
	Popover,
	Select,
	Skeleton,
	Slider,
	Switch,
	Text,
	Tooltip,
	UnstyledButton,
	VisuallyHidden,
} from "@mantine/core";
import {
	IconArrowLeft,
	IconFolder,
	IconKeyboard,
	IconLayoutColumns,
	IconLayoutRows,
	IconPlus,
	IconSearch,
	IconSettings,
	IconX,
} from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useCallback, useEffect, useRef, useState } from "react";
import { api, ask, type Device } from "../api/client";
import { follow } from "../api/live";
import { deviceQuery } from "../api/queries";
import { t } from "../strings";
import { usualRequest } from "../terminal/connect";
import { Files } from "../terminal/files";
import {
	addTab,
	closePane,
	closeTab,
	currentTab,
	focusPane,
	type Layout,
	maxPanes,
	nextPane,
	restore,
	save,
	setPane,
	split,
	start,
} from "../terminal/layout";
import { takeClick } from "../terminal/open";
import { Pane, type PaneHandle } from "../terminal/pane";
import classes from "../terminal/terminal.module.css";
import {
	clampFont,
	fontSizes,
	loadSettings,
	type Settings,
	saveSettings,
	type ThemeName,
	themeNames,
} from "../terminal/themes";
import { useTransfers } from "../terminal/transfers";
import { IconButton } from "../ui/iconButton";
import { Lone } from "../ui/lone";
import { useTitle } from "../ui/page";
import { Problem } from "../ui/problem";
import { Dot } from "../ui/status";

/** Terminals of one device in a tab of the browser's own. */
export function TerminalPage() {
	const { id } = useParams({ from: "/signed-in/terminal/$id" });
	// A device that was away for less than 5 s is in no event: whoever waits for it asks.
	const device = useQuery({
		...deviceQuery(id),
		refetchInterval: (q) => (q.state.data?.status === "online" ? false : 2000),
	});
	useEffect(() => follow(), []);
	const alive = useQuery({
		queryKey: ["terminals", "at-start", id],
		queryFn: async () => (await ask(api.GET("/api/v1/terminals"))).items.filter((x) => x.device_id === id),
		staleTime: Number.POSITIVE_INFINITY,
		gcTime: 0,
		retry: 1,
	});
	if (device.error || alive.error) {
		return (
			<Lone>
				<Problem
					error={device.error ?? alive.error}
					onRetry={() => void Promise.all([device.refetch(), alive.refetch()])}
				/>
			</Lone>
		);
	}
	if (!device.data || !alive.data) {
		return (
			<div className={classes.page} aria-busy>
				<div className={classes.toolbar}>
					<Skeleton height={14} width={180} />
				</div>
			</div>
		);
	}
	return <Terminals key={id} device={device.data} alive={new Set(alive.data.map((x) => x.id))} />;
}

const storageKey = (device: string) => `socketxp-terminals-${device}`;

function Terminals({ device, alive }: { device: Device; alive: ReadonlySet<string> }) {
	const name = device.display_name || device.name;
	const [layout, setLayout] = useState<Layout>(
		() => restore(sessionStorage.getItem(storageKey(device.id)), alive) ?? start(),
	);
	const [clicked] = useState(() => takeClick(device.id));
	const [settings, setSettingsState] = useState<Settings>(loadSettings);
	const [files, setFiles] = useState(false);
	const [dropped, setDropped] = useState<File[]>([]);
	const [dragging, setDragging] = useState(false);
	const [open, setOpen] = useState<ReadonlySet<string>>(new Set());
	const panes = useRef(new Map<string, PaneHandle>());
	const toolbar = useRef<HTMLElement>(null);
	const tab = currentTab(layout);
	const activePane = tab?.panes.find((p) => p.key === tab.active);
	/** The person has said that a terminal is wanted: by a click in the portal, before a reload, or here. */
	const [asked, setAsked] = useState(() => clicked || layout.tabs.some((x) => x.panes.some((p) => p.terminalId)));
	const { transfers, carry } = useTransfers();
	useTitle(activePane?.title ? `${activePane.title} · ${name}` : t.terminal.title(name));

	useEffect(() => {
		sessionStorage.setItem(storageKey(device.id), save(layout));
	}, [device.id, layout]);

	const setSettings = useCallback((change: (s: Settings) => Settings) => {
		setSettingsState((s) => {
			const next = change(s);
			saveSettings(next);
			return next;
		});
	}, []);

	const end = (key: string) => panes.current.get(key)?.end();
	const closeTabAndEnd = (key: string) => {
		for (const p of layout.tabs.find((x) => x.key === key)?.panes ?? []) end(p.key);
		setLayout((l) => closeTab(l, key));
	};
	const closePaneAndEnd = (key: string) => {
		end(key);
		setLayout((l) => closePane(l, key));
	};

	/** The page's own keys; all others go to the device. */
	const onKey = useCallback(
		(e: KeyboardEvent): boolean => {
			const act = (f: () => void) => {
				e.preventDefault();
				if (e.type === "keydown") f();
				return true;
			};
			if (e.key === "F6") return act(() => toolbar.current?.querySelector<HTMLElement>("button")?.focus());
			if (e.altKey && !e.ctrlKey && !e.shiftKey && /^Digit[1-9]$/.test(e.code)) {
				const n = Number(e.code.slice(5)) - 1;
				return act(() => setLayout((l) => ({ ...l, current: l.tabs[n]?.key ?? l.current })));
			}
			if (!e.ctrlKey || !e.shiftKey) return false;
			switch (e.code) {
				case "KeyF":
					return act(() => {
						const key = activeKey.current;
						if (key) panes.current.get(key)?.find();
					});
				case "KeyE":
					return act(() => setLayout((l) => split(l, false)));
				case "KeyO":
					return act(() => setLayout((l) => split(l, true)));
				case "KeyY":
					return act(() => setLayout(addTab));
				case "ArrowLeft":
				case "ArrowUp":
					return act(() => setLayout((l) => nextPane(l, -1)));
				case "ArrowRight":
				case "ArrowDown":
					return act(() => setLayout((l) => nextPane(l, 1)));
				case "Equal":
				case "NumpadAdd":
					return act(() => setSettings((s) => ({ ...s, fontSize: clampFont(s.fontSize + 1) })));
				case "Minus":
				case "NumpadSubtract":
					return act(() => setSettings((s) => ({ ...s, fontSize: clampFont(s.fontSize - 1) })));
			}
			return false;
		},
		[setSettings],
	);
	const activeKey = useRef<string | undefined>(undefined);
	activeKey.current = tab?.active;

	const tone = device.status === "online" ? "good" : device.status === "offline" ? "off" : "bad";
	const fileTerminal = activePane?.terminalId && open.has(activePane.key) ? activePane.terminalId : undefined;
	return (
		<div className={classes.page}>
			<section className={classes.toolbar} ref={toolbar} aria-label={t.terminal.toolbar}>
				<VisuallyHidden component="h1">{t.terminal.title(name)}</VisuallyHidden>
				<Tooltip label={t.terminal.back}>
					<Link to="/devices/$id" params={{ id: device.id }} className={classes.device}>
						<IconArrowLeft size={16} aria-label={t.terminal.back} />
						<Dot tone={tone} />
						<span className="truncate">{name}</span>
					</Link>
				</Tooltip>
				<nav className={classes.tabs} aria-label={t.terminal.tabs}>
					{layout.tabs.map((x, n) => {
						const pane = x.panes.find((p) => p.key === x.active) ?? x.panes[0];
						const title = pane?.title || `${n + 1}`;
						return (
							<span key={x.key} className={classes.tab} data-current={x.key === tab?.key || undefined}>
								<UnstyledButton
									className={`truncate ${classes.tabName}`}
									aria-current={x.key === tab?.key ? "true" : undefined}
									title={title}
									onClick={() => setLayout((l) => ({ ...l, current: x.key }))}
								>
									{title}
								</UnstyledButton>
								<ActionIcon
									size={22}
									variant="transparent"
									color="gray"
									aria-label={t.terminal.closeTab(title)}
									onClick={() => closeTabAndEnd(x.key)}
								>
									<IconX size={13} />
								</ActionIcon>
							</span>
						);
					})}
					<IconButton size={32} label={t.terminal.newTab} onClick={() => setLayout(addTab)}>
						<IconPlus size={17} />
					</IconButton>
				</nav>
				<div className={classes.tools}>
					<IconButton
						size={32}
						label={t.terminal.splitRight}
						onClick={() => setLayout((l) => split(l, false))}
						disabled={(tab?.panes.length ?? 0) >= maxPanes}
					>
						<IconLayoutColumns size={17} />
					</IconButton>
					<IconButton
						size={32}
						label={t.terminal.splitDown}
						onClick={() => setLayout((l) => split(l, true))}
						disabled={(tab?.panes.length ?? 0) >= maxPanes}
					>
						<IconLayoutRows size={17} />
					</IconButton>
					<IconButton
						size={32}
						label={t.terminal.find}
						onClick={() => activePane && panes.current.get(activePane.key)?.find()}
						disabled={!activePane?.terminalId}
					>
						<IconSearch size={17} />
					</IconButton>
					<IconButton size={32} label={t.terminal.files} onClick={() => setFiles((f) => !f)} pressed={files}>
						<IconFolder size={17} />
					</IconButton>
					<SettingsMenu settings={settings} onChange={setSettings} />
					<KeysMenu />
				</div>
			</section>
			<main
				className={classes.body}
				onDragOver={(e) => {
					if (!e.dataTransfer.types.includes("Files")) return;
					e.preventDefault();
					setDragging(true);
				}}
				onDragLeave={(e) => {
					if (!e.currentTarget.contains(e.relatedTarget as Node | null)) setDragging(false);
				}}
				onDrop={(e) => {
					e.preventDefault();
					setDragging(false);
					const list = [...e.dataTransfer.files];
					if (list.length > 0 && fileTerminal) {
						setFiles(true);
						setDropped(list);
					}
				}}
			>
				{layout.tabs.map((x) => (
					<div key={x.key} className={classes.panes} data-down={x.down || undefined} hidden={x.key !== tab?.key}>
						{x.panes.map((p) => (
							<div key={p.key} className={classes.slot} data-many={x.panes.length > 1 || undefined}>
								<Pane
									ref={(h) => {
										if (h) panes.current.set(p.key, h);
										else panes.current.delete(p.key);
									}}
									device={device}
									terminalId={p.terminalId}
									start={p.terminalId || !asked ? undefined : usualRequest(device)}
									byLink={!asked}
									settings={settings}
									active={x.key === tab?.key && p.key === x.active}
									onOpened={(id) => {
										if (id) setAsked(true);
										setLayout((l) => setPane(l, p.key, { terminalId: id }));
									}}
									onTitle={(title) => setLayout((l) => setPane(l, p.key, { title }))}
									onFocus={() => setLayout((l) => (currentTab(l)?.active === p.key ? l : focusPane(l, p.key)))}
									onKey={onKey}
									onOpenState={(isOpen) =>
										setOpen((o) => {
											if (o.has(p.key) === isOpen) return o;
											const next = new Set(o);
											if (isOpen) next.add(p.key);
											else next.delete(p.key);
											return next;
										})
									}
								/>
								{x.panes.length > 1 && (
									<ActionIcon
										className={classes.closePane ?? ""}
										size={24}
										variant="default"
										aria-label={t.terminal.closePane}
										onClick={() => closePaneAndEnd(p.key)}
									>
										<IconX size={14} />
									</ActionIcon>
								)}
							</div>
						))}
					</div>
				))}
				{dragging && <div className={classes.dropNow}>{t.terminal.filesDropNow(name)}</div>}
				{files && (
					<Files
						key={fileTerminal}
						terminalId={fileTerminal}
						transfers={transfers}
						carry={carry}
						dropped={dropped}
						onTaken={() => setDropped([])}
						onClose={() => setFiles(false)}
					/>
				)}
			</main>
		</div>
	);
}

function SettingsMenu({
	settings,
	onChange,
}: {
	settings: Settings;
	onChange: (f: (s: Settings) => Settings) => void;
}) {
	return (
		<Popover position="bottom-end" shadow="md" radius="md" trapFocus withRoles>
			<Popover.Target>
				<Tooltip label={t.terminal.settings}>
					<ActionIcon variant="subtle" color="gray" size={32} aria-label={t.terminal.settings}>
						<IconSettings size={17} />
					</ActionIcon>
				</Tooltip>
			</Popover.Target>
			<Popover.Dropdown aria-label={t.terminal.settings}>
				<Text size="sm" fw={500} mb={4} id="font-size">
					{t.terminal.fontSize}
				</Text>
				<Group gap="xs" wrap="nowrap" mb="md">
					<Button
						size="compact-sm"
						variant="default"
						aria-label={t.terminal.smaller}
						onClick={() => onChange((s) => ({ ...s, fontSize: clampFont(s.fontSize - 1) }))}
					>
						A−
					</Button>
					<Slider
						w={140}
						min={fontSizes.min}
						max={fontSizes.max}
						value={settings.fontSize}
						onChange={(v) => onChange((s) => ({ ...s, fontSize: clampFont(v) }))}
						thumbLabel={t.terminal.fontSize}
						label={(v) => `${v} px`}
					/>
					<Button
						size="compact-sm"
						variant="default"
						aria-label={t.terminal.larger}
						onClick={() => onChange((s) => ({ ...s, fontSize: clampFont(s.fontSize + 1) }))}
					>
						A+
					</Button>
				</Group>
				<Select
					label={t.terminal.theme}
					data={themeNames.map((n) => ({ value: n, label: t.terminal.themes[n] }))}
					value={settings.theme}
					onChange={(v) => onChange((s) => ({ ...s, theme: v as ThemeName }))}
					comboboxProps={{ withinPortal: false }}
					mb="md"
				/>
				<Switch
					label={t.terminal.screenReader}
					description={t.terminal.screenReaderHelp}
					checked={settings.screenReader}
					onChange={(e) => {
						const on = e.currentTarget.checked;
						onChange((s) => ({ ...s, screenReader: on }));
					}}
				/>
			</Popover.Dropdown>
		</Popover>
	);
}

function KeysMenu() {
	return (
		<Popover position="bottom-end" shadow="md" radius="md" trapFocus withRoles>
			<Popover.Target>
				<Tooltip label={t.terminal.keys}>
					<ActionIcon variant="subtle" color="gray" size={32} aria-label={t.terminal.keys}>
						<IconKeyboard size={17} />
					</ActionIcon>
				</Tooltip>
			</Popover.Target>
			<Popover.Dropdown aria-label={t.terminal.keys}>
				<dl className={classes.shortcuts}>
					{t.terminal.keyList.map(([keys, what]) => (
						<div key={keys} style={{ display: "contents" }}>
							<dt>{keys}</dt>
							<dd>{what}</dd>
						</div>
					))}
				</dl>
			</Popover.Dropdown>
		</Popover>
	);
}
