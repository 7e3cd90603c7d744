import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Device, expectAccessible, expectQuiet, Gateway, person, shot, signIn, stopAll } from "./harness";

let g: Gateway;
let pi: Device;
beforeAll(async () => {
	g = await Gateway.start();
	pi = await g.device("lobby-kiosk");
});
afterEach(expectQuiet);
afterAll(stopAll);

test("Ctrl-K jumps to a device, a page, and a device's terminal", async () => {
	const { page, context } = await person(g);
	await signIn(g, page);
	await page.getByText("lobby-kiosk").first().waitFor();
	await page.keyboard.press("Control+k");
	const field = page.getByPlaceholder("Device, page or action…");
	await field.waitFor();
	await page.getByText("lobby-kiosk").first().waitFor();
	await shot(page, "palette");
	await expectAccessible(page, "the palette");
	await field.fill("kiosk");
	await page.getByText("Open a terminal on lobby-kiosk").waitFor();
	await page.keyboard.press("Enter");
	await page.waitForURL(`**/devices/${pi.id}`);
	await page.keyboard.press("Control+k");
	await field.fill("audit");
	await page.getByRole("button", { name: "Audit" }).first().waitFor();
	await page.keyboard.press("Enter");
	await page.waitForURL("**/audit");
	await page.keyboard.press("Control+k");
	await field.fill("kiosk");
	const tab = context.waitForEvent("page");
	await page.getByText("Open a terminal on lobby-kiosk").click();
	const terminal = await tab;
	await terminal.locator(".xterm").waitFor(); // by a click in the portal: it asks nothing
	await terminal.close();
});

test("what is shown is said to be old while the gateway is away, and live again after", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.getByText("Live", { exact: true }).waitFor();
	await g.process.stop();
	await page.getByText("Reconnecting", { exact: true }).waitFor();
	await shot(page, "gateway-away");
	await g.serve();
	await page.getByText("Live", { exact: true }).waitFor();
});

test("the colour scheme is kept, and there before the first paint", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	const scheme = () => page.evaluate(() => document.documentElement.getAttribute("data-mantine-color-scheme"));
	expect(await scheme()).toBe("light");
	await page.getByRole("button", { name: /Signed in as/ }).click();
	await page.getByRole("menuitemradio", { name: "Dark" }).click();
	expect(await scheme()).toBe("dark");
	await page.addInitScript(() => {
		document.addEventListener("readystatechange", () => {
			(window as { early?: string | null }).early ??=
				document.documentElement.getAttribute("data-mantine-color-scheme");
		});
	});
	await page.reload();
	expect(await page.evaluate(() => (window as { early?: string | null }).early)).toBe("dark");
	expect(await scheme()).toBe("dark");
});

test("by keyboard: the first Tab leads past the menu", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/devices");
	await page.getByRole("heading", { level: 1 }).waitFor();
	await page.keyboard.press("Tab");
	expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Skip to the content");
	await page.keyboard.press("Enter");
	expect(await page.evaluate(() => document.activeElement?.id)).toBe("content");
});

test("a narrow screen has the menu in a drawer", async () => {
	const { page } = await person(g, { width: 390, height: 780 });
	await signIn(g, page);
	await page.getByRole("button", { name: "Menu" }).click();
	const menu = page.getByRole("dialog", { name: "Menu" });
	await menu.waitFor();
	await shot(page, "menu-narrow");
	await expectAccessible(page, "the menu on a narrow screen");
	await menu.getByRole("link", { name: "Auth tokens" }).click();
	await page.waitForURL("**/tokens**");
	await menu.waitFor({ state: "hidden" });
});

test("an address that is none says so", async () => {
	expect((await g.ask("GET", "/no/such/page")).status).toBe(404);
	const { page } = await person(g);
	await signIn(g, page);
	await page.evaluate(() => {
		history.pushState(null, "", "/no/such/page");
		dispatchEvent(new PopStateEvent("popstate"));
	});
	await page.getByRole("heading", { name: "There is no such page" }).waitFor();
	await page.getByRole("link", { name: "Go to your devices" }).click();
	await page.waitForURL("**/devices");
});

test("the first load has at most 300 KB of script, compressed, and no terminal in it", async () => {
	const { page } = await person(g);
	const scripts = new Set<string>();
	page.on("response", (r) => {
		if (r.url().endsWith(".js")) scripts.add(new URL(r.url()).pathname);
	});
	await signIn(g, page);
	await page.getByRole("heading", { level: 1 }).waitFor();
	const dist = resolve(import.meta.dirname, "../dist");
	let total = 0;
	for (const s of scripts) total += gzipSync(readFileSync(join(dist, s)), { level: 9 }).length;
	expect(total).toBeLessThan(300_000);
	const emulator = readdirSync(join(dist, "assets")).filter(
		(f) => f.endsWith(".js") && readFileSync(join(dist, "assets", f), "utf8").includes("xterm-helper-textarea"),
	);
	expect(emulator.length).toBeGreaterThan(0);
	for (const f of emulator) expect([...scripts]).not.toContain(`/assets/${f}`);
});
