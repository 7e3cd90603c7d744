import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Device, everyLook, expectAccessible, expectQuiet, Gateway, Line, shot, stopAll, until } from "./harness";
import { reader, run, screen, sees } from "./terminal";

let g: Gateway;
let pi: Device;
beforeAll(async () => {
	g = await Gateway.start();
	pi = await g.device("pi");
});
afterEach(expectQuiet);
afterAll(stopAll);

/** Opens the terminal as the icon does, and waits for its prompt. */
async function openByClick(page: Page, device = pi): Promise<void> {
	await page.goto("/devices");
	await page.evaluate((id) => {
		localStorage.setItem("socketxp-terminal-clicked", JSON.stringify({ id, at: Date.now() }));
	}, device.id);
	await page.goto(`/terminal/${device.id}`);
	await page.locator(".xterm-accessibility-tree").waitFor();
	await sees(page, /[$#] ?$/m);
}

test("a click is a shell; uname -a is answered by the device", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await run(page, "uname -a; tty", /Linux .*\n(.*\n)*\/dev\/pts\/\d+/);
	await shot(page, "terminal-open");
	await expectAccessible(page, "terminal");
	// It is in the list of sessions, and its size is that of the window.
	const live = (await g.ask("GET", "/api/v1/sessions?live=true")).body.items;
	expect(live.some((s: { device_id: string }) => s.device_id === pi.id)).toBe(true);
	const before = await size(page);
	await page.setViewportSize({ width: 900, height: 500 });
	await until("the size changed", async () => (await size(page)) !== before);
	await run(page, "exit 3", "");
	await page.getByText("The shell ended with status 3.").waitFor();
	await page.getByRole("button", { name: "Connect again" }).click();
	await sees(page, /[$#] ?$/m);
});

async function size(page: Page): Promise<string> {
	const mark = `s${Math.floor(Math.random() * 1e6)}`;
	await run(page, `clear; echo ${mark}=$(stty size | tr ' ' x)=`, new RegExp(`${mark}=\\d+x\\d+=`));
	return new RegExp(`${mark}=(\\d+x\\d+)=`).exec(await screen(page))?.[1] ?? "";
}

test("W-19 a link alone opens nothing", async () => {
	const { page } = await reader(g);
	const before = (await g.ask("GET", `/api/v1/sessions?device_id=${pi.id}`)).body.items.length;
	await page.goto(`/terminal/${pi.id}`);
	await page.getByText("Nothing is opened before you say so.").waitFor();
	await shot(page, "terminal-asks");
	await expectAccessible(page, "the question before a terminal");
	expect((await g.ask("GET", `/api/v1/sessions?device_id=${pi.id}`)).body.items.length).toBe(before);
	await page.getByRole("button", { name: "Connect" }).click();
	await sees(page, /[$#] ?$/m);
});

test("a reload loses neither the shell nor what it has written", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await run(page, "kept=$((40+2)); seq 1 50", /^50$/m);
	await page.reload();
	await sees(page, /^50$/m);
	await run(page, "echo kept=$kept", "kept=42");
});

test("tabs, panes, find and sizes by keyboard alone", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await run(page, "echo first; seq 100 120", /^120$/m);
	await page.keyboard.press("Control+Shift+KeyE");
	await page.locator(".xterm-accessibility-tree").nth(1).waitFor();
	await sees(page, /[$#] ?$/m, 1);
	await run(page, "echo second", /^second$/m, 1);
	await shot(page, "terminal-split");
	await page.keyboard.press("Control+Shift+ArrowLeft");
	await page.keyboard.type("echo back\n");
	await sees(page, /^back$/m, 0);
	await page.keyboard.press("Control+Shift+KeyF");
	await page.getByRole("textbox", { name: "Find in the terminal" }).fill("11");
	await page.getByText(/of \d+/).waitFor();
	await shot(page, "terminal-find");
	await page.keyboard.press("Escape");
	// Larger text leaves room for fewer columns.
	const before = await size(page);
	await page.keyboard.press("Control+Shift+Equal");
	await until("the text is larger", async () => (await size(page)) !== before);
	await page.keyboard.press("Control+Shift+Minus");
	await page.keyboard.press("F6");
	expect(await page.evaluate(() => document.activeElement?.tagName)).toBe("BUTTON");
	await expectAccessible(page, "a terminal in two panes");
});

test("what a device writes does nothing outside of its screen (W-12)", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await page.evaluate(() => navigator.clipboard.writeText("untouched"));
	await run(page, "printf '\\033]0;<img src=x onerror=alert(1)>%0300d\\007' 7; echo titled", /^titled$/m);
	await until("the title is text, and short", async () =>
		(await page.title()).startsWith("<img src=x onerror=alert(1)>"),
	);
	expect((await page.title()).length).toBeLessThan(300);
	await run(
		page,
		"printf '\\033]52;c;aGFja2Vk\\007'; printf '\\033[21t'; printf '\\033P$qm\\033\\\\'; echo asked",
		/^asked$/m,
	);
	expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("untouched");
	// What was asked back would stand at the prompt by now.
	await run(page, "echo clean", /[$#] echo clean\nclean/);
	// Two links in the first row: the first is none, the second one is asked about.
	const columns = Number((await size(page)).split("x")[1]);
	await run(
		page,
		"clear; printf '\\033]8;;javascript:alert(1)\\007bad\\033]8;;\\007 \\033]8;;https://example.com/x\\007good\\033]8;;\\007\\n'; echo linked",
		/^bad good\nlinked$/m,
	);
	const box = await page.locator(".xterm-screen").boundingBox();
	if (!box) throw new Error("no screen");
	const click = async (column: number) => {
		const x = box.x + ((column + 0.5) * box.width) / columns;
		await page.mouse.move(x - 2, box.y + 9);
		await page.mouse.move(x, box.y + 9);
		await page.mouse.click(x, box.y + 9);
	};
	const dialog = page.getByRole("dialog", { name: "Open this link?" });
	await click(1);
	await click(5);
	await dialog.waitFor();
	expect(await dialog.getByRole("link").getAttribute("href")).toBe("https://example.com/x");
	await shot(page, "terminal-link");
	await dialog.getByRole("button", { name: "Cancel" }).click();
	await dialog.waitFor({ state: "hidden" });
	await run(
		page,
		"printf '\\033c\\033[1000000;1000000H\\033[%s' $(seq -s';' 1 5000)m; printf '\\033]0;'; head -c 3000000 /dev/zero | tr '\\0' x; printf '\\007'; echo; echo alive",
		/^alive$/m,
	);
});

test("W-13 a device draws on its screen alone, and no password of the portal is asked for there", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await run(
		page,
		"clear; printf '\\033[?1049h\\033[9999;9999H\\033[1;1H\\033[-5;-5H'; for i in $(seq 200); do printf 'Session ended. Portal password: \\033[41m          \\033[0m'; done; printf '\\033[?1003h'; echo drawn",
		"drawn",
	);
	await shot(page, "terminal-fake-page");
	// Each control of the bar is still what is at its place, and nothing asks for a password.
	for (const button of await page.getByRole("region", { name: "Terminal", exact: true }).getByRole("button").all()) {
		const onTop = await button.evaluate((b) => {
			const r = b.getBoundingClientRect();
			const at = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);
			return at !== null && (b.contains(at) || at.contains(b));
		});
		expect(onTop).toBe(true);
	}
	const inside = await page.locator(".xterm").evaluate((x) => {
		const bar = document.querySelector("section")?.getBoundingClientRect();
		const screen = x.getBoundingClientRect();
		return {
			overlap: bar ? screen.top < bar.bottom : true,
			passwords: document.querySelectorAll("input[type=password]").length,
		};
	});
	expect(inside).toEqual({ overlap: false, passwords: 0 });
});

test("several lines are pasted only after a look at them", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await page.evaluate(() => navigator.clipboard.writeText("echo one\necho two\n"));
	await page.locator(".xterm-helper-textarea").focus();
	await page.keyboard.press("Control+Shift+KeyV");
	const dialog = page.getByRole("dialog", { name: "Paste several lines?" });
	await dialog.waitFor();
	await shot(page, "terminal-paste");
	await expectAccessible(page, "the question before a paste");
	await dialog.getByRole("button", { name: "Cancel" }).click();
	await dialog.waitFor({ state: "hidden" });
	await run(page, "echo none yet", /^none yet$/m);
	expect(await screen(page)).not.toMatch(/^one$/m);
	await page.keyboard.press("Control+Shift+KeyV");
	await dialog.getByRole("button", { name: "Paste", exact: true }).click();
	await page.keyboard.press("Enter");
	await sees(page, /^two$/m);
	// What is marked is copied.
	await page.evaluate(() => navigator.clipboard.writeText(""));
	await run(page, "clear; echo marked", /^marked$/m);
	const box = await page.locator(".xterm-screen").boundingBox();
	if (!box) throw new Error("no screen");
	await page.mouse.dblclick(box.x + 20, box.y + 8);
	await page.keyboard.press("Control+Shift+KeyC");
	await until(
		"it is in the clipboard",
		async () => (await page.evaluate(() => navigator.clipboard.readText())).trim() === "marked",
	);
});

test("30 s without a network lose nothing", async () => {
	const line = new Line();
	const far = await Gateway.start({ line });
	const device = await far.device("far");
	const { page } = await reader(far);
	await openByClick(page, device);
	await run(page, "kept=$((40+2)); (sleep 10; echo written meanwhile) &", /\[1\]/);
	line.cut();
	await page.getByText(/The connection was lost\. Reconnecting/).waitFor();
	await shot(page, "terminal-reconnecting");
	await page.waitForTimeout(30_000); // the case itself: a drop of 30 s
	line.mend();
	await sees(page, /written meanwhile$/m);
	await run(page, "echo kept=$kept", "kept=42");
}, 120_000);

test("10 MB of output leave the page awake", async () => {
	const { page } = await reader(g);
	await openByClick(page);
	await page.evaluate(() => {
		const w = window as { longest?: number; ticks?: number };
		w.longest = 0;
		w.ticks = 0;
		let last = performance.now();
		setInterval(() => {
			const now = performance.now();
			w.longest = Math.max(w.longest ?? 0, now - last);
			w.ticks = (w.ticks ?? 0) + 1;
			last = now;
		}, 16);
	});
	const started = Date.now();
	await run(
		page,
		"clear; yes 0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ | head -c 10000000 | cat; echo; echo all of it",
		/^all of it$/m,
	);
	const took = (Date.now() - started) / 1000;
	const { longest, ticks } = await page.evaluate(() => {
		const { longest, ticks } = window as { longest?: number; ticks?: number };
		return { longest, ticks };
	});
	expect(ticks, `no beat of the page in ${took} s; the longest wait was ${longest} ms`).toBeGreaterThan(10);
});

test("L-01 who signs out elsewhere has no terminal any more", async () => {
	const here = await reader(g);
	await openByClick(here.page);
	await run(here.page, "echo noted", /^noted$/m);
	const list = (await g.ask("GET", "/api/v1/me/signins")).body.items as {
		id: string;
		current: boolean;
		user_agent: string;
	}[];
	for (const s of list.filter((s) => !s.current)) await g.ask("DELETE", `/api/v1/me/signins/${s.id}`);
	const since = Date.now();
	await here.page
		.getByText(/session ended|no more|signed out/i)
		.first()
		.waitFor({ timeout: 8000 });
	expect(Date.now() - since).toBeLessThan(5000);
	await shot(here.page, "terminal-signed-out");
});

test("every look of the terminal", async () => {
	await everyLook(g, "terminal", `/terminal/${pi.id}`, (page) =>
		page.getByRole("button", { name: "Connect" }).waitFor(),
	);
});

test("a device that is offline says so, and connects when it is back", async () => {
	const { page } = await reader(g);
	await pi.stop();
	await page.goto(`/terminal/${pi.id}`);
	await page.getByText("Waiting for the device to come online…").waitFor();
	expect(await page.getByRole("button", { name: "Connect" }).isDisabled()).toBe(true);
	await pi.go();
	await page.getByRole("button", { name: "Connect" }).click();
	await sees(page, /[$#] ?$/m);
});
