import { expect, test } from "vitest";
import {
	addTab,
	closePane,
	closeTab,
	currentTab,
	focusPane,
	maxPanes,
	nextPane,
	restore,
	save,
	setPane,
	split,
	start,
} from "./layout";

const ids = (l: ReturnType<typeof start>) => l.tabs.map((x) => x.panes.map((p) => p.terminalId));

test("a tab is divided until nobody could read it", () => {
	let l = start();
	for (let i = 0; i < 10; i++) l = split(l, false);
	expect(currentTab(l)?.panes).toHaveLength(maxPanes);
	expect(currentTab(l)?.active).toBe(currentTab(l)?.panes.at(-1)?.key);
});

test("the last pane takes its tab along, and the last tab leaves a new one", () => {
	let l = addTab(split(start(), true));
	expect(l.tabs).toHaveLength(2);
	l = closePane(l, l.tabs[1]?.panes[0]?.key ?? "");
	expect(l.tabs).toHaveLength(1);
	expect(l.current).toBe(l.tabs[0]?.key);
	for (const p of l.tabs[0]?.panes ?? []) l = closePane(l, p.key);
	expect(l.tabs).toHaveLength(1);
	expect(l.tabs[0]?.panes[0]?.terminalId).toBeUndefined();
	expect(closeTab(l, "nothing").tabs).toHaveLength(1);
});

test("the focus goes round", () => {
	let l = split(split(start(), false), false);
	const keys = currentTab(l)?.panes.map((p) => p.key) ?? [];
	l = focusPane(l, keys[0] ?? "");
	l = nextPane(l, -1);
	expect(currentTab(l)?.active).toBe(keys[2]);
	l = nextPane(l, 1);
	expect(currentTab(l)?.active).toBe(keys[0]);
});

test("a reload finds what still lives", () => {
	let l = addTab(split(start(), true));
	const keys = l.tabs.flatMap((x) => x.panes.map((p) => p.key));
	keys.forEach((k, i) => {
		l = setPane(l, k, { terminalId: `t${i}` });
	});
	const again = restore(save(l), new Set(["t0", "t1", "t2"]));
	expect(again && ids(again)).toEqual([["t0", "t1"], ["t2"]]);
	expect(again?.tabs[0]?.down).toBe(true);
	const some = restore(save(l), new Set(["t1"]));
	expect(some && ids(some)).toEqual([["t1"]]);
	expect(restore(save(l), new Set())).toBeUndefined();
});

test.each([null, "", "{", "7", '"x"', "[7]", '[{"ids":[7,null]}]', '[{"ids":"x"}]'])(
	"nothing is made of %s",
	(text) => {
		expect(restore(text, new Set(["x"]))).toBeUndefined();
	},
);
