/** One terminal in a tab. The id is that of the terminal on the gateway, if there is one. */
export interface PaneState {
	key: string;
	terminalId: string | undefined;
	title: string;
}

export interface TabState {
	key: string;
	panes: PaneState[];
	/** Panes stand below each other. */
	down: boolean;
	/** Key of the pane that had the focus last. */
	active: string;
}

/** Every tab of the page. Each tab has a pane, and there is always a tab. */
export interface Layout {
	tabs: TabState[];
	current: string;
}

export const maxPanes = 4;

let made = 0;
const newKey = () => `p${++made}`;

export function newPane(terminalId?: string): PaneState {
	return { key: newKey(), terminalId, title: "" };
}

export function newTab(panes: PaneState[] = [newPane()], down = false): TabState {
	return { key: newKey(), panes, down, active: panes[0]?.key ?? "" };
}

export function start(): Layout {
	const tab = newTab();
	return { tabs: [tab], current: tab.key };
}

export const currentTab = (l: Layout): TabState | undefined => l.tabs.find((x) => x.key === l.current) ?? l.tabs[0];

export function addTab(l: Layout): Layout {
	const tab = newTab();
	return { tabs: [...l.tabs, tab], current: tab.key };
}

/** Divides the current tab, unless it has as many panes as one can read. */
export function split(l: Layout, down: boolean): Layout {
	const tab = currentTab(l);
	if (!tab || tab.panes.length >= maxPanes) return l;
	const pane = newPane();
	const at = tab.panes.findIndex((p) => p.key === tab.active) + 1;
	return withTab(l, {
		...tab,
		panes: tab.panes.toSpliced(at, 0, pane),
		down: tab.panes.length === 1 ? down : tab.down,
		active: pane.key,
	});
}

/** Takes a pane away, its tab with the last one, and begins anew after the last tab. */
export function closePane(l: Layout, key: string): Layout {
	const tab = l.tabs.find((x) => x.panes.some((p) => p.key === key));
	if (!tab) return l;
	if (tab.panes.length === 1) return closeTab(l, tab.key);
	const panes = tab.panes.filter((p) => p.key !== key);
	return withTab(l, { ...tab, panes, active: tab.active === key ? (panes[0]?.key ?? "") : tab.active });
}

export function closeTab(l: Layout, key: string): Layout {
	const at = l.tabs.findIndex((x) => x.key === key);
	const tabs = l.tabs.filter((x) => x.key !== key);
	const next = tabs[Math.min(at, tabs.length - 1)];
	if (!next) return start();
	return { tabs, current: l.current === key ? next.key : l.current };
}

export function setPane(l: Layout, key: string, more: Partial<PaneState>): Layout {
	return {
		...l,
		tabs: l.tabs.map((x) => ({ ...x, panes: x.panes.map((p) => (p.key === key ? { ...p, ...more } : p)) })),
	};
}

export function focusPane(l: Layout, key: string): Layout {
	const tab = l.tabs.find((x) => x.panes.some((p) => p.key === key));
	return tab ? { ...withTab(l, { ...tab, active: key }), current: tab.key } : l;
}

/** Goes to the pane beside the one with the focus. */
export function nextPane(l: Layout, by: 1 | -1): Layout {
	const tab = currentTab(l);
	if (!tab) return l;
	const at = tab.panes.findIndex((p) => p.key === tab.active);
	const next = tab.panes[(at + by + tab.panes.length) % tab.panes.length];
	return next ? focusPane(l, next.key) : l;
}

function withTab(l: Layout, tab: TabState): Layout {
	return { ...l, tabs: l.tabs.map((x) => (x.key === tab.key ? tab : x)) };
}

/** What outlives a reload: which terminals are where. */
export function save(l: Layout): string {
	return JSON.stringify(l.tabs.map((x) => ({ down: x.down, ids: x.panes.map((p) => p.terminalId).filter(Boolean) })));
}

/** The layout of before the reload, with those of its terminals that still live; undefined if there are none. */
export function restore(text: string | null, alive: ReadonlySet<string>): Layout | undefined {
	let saved: unknown;
	try {
		saved = JSON.parse(text ?? "null");
	} catch {
		return undefined;
	}
	if (!Array.isArray(saved)) return undefined;
	const tabs = saved.slice(0, 50).flatMap((x: { down?: unknown; ids?: unknown }) => {
		const ids = Array.isArray(x?.ids)
			? x.ids.filter((id): id is string => typeof id === "string" && alive.has(id))
			: [];
		return ids.length > 0
			? [
					newTab(
						ids.slice(0, maxPanes).map((id) => newPane(id)),
						x.down === true,
					),
				]
			: [];
	});
	const first = tabs[0];
	return first ? { tabs, current: first.key } : undefined;
}
