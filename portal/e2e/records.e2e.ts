import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import {
	Connection,
	type Device,
	echo,
	everyLookOfThis,
	expectAccessible,
	expectQuiet,
	finish,
	Gateway,
	person,
	shot,
	signIn,
	slave,
	sql,
	stopAll,
	until,
} from "./harness";

let g: Gateway;
let port: number;
let pump: Device;
beforeAll(async () => {
	g = await Gateway.start();
	port = await echo();
	pump = await g.device("pump-7", { connect: [`tcp://localhost:${port}`] });
});
afterEach(expectQuiet);
afterAll(stopAll);

const row = (page: Page, text: string) => page.getByRole("row").filter({ hasText: text });

/** Somebody connected to the pump, and the text that what is typed comes back. */
async function visit(name: string): Promise<Connection> {
	const token = await g.token("access", name);
	const { port: local } = await slave(
		g,
		`socketxp connect tcp://localhost:3000 --iot-slave --peer-device-name pump-7 --peer-device-port ${port} --authtoken "${token}"`,
	);
	const c = new Connection(local);
	expect(await c.answers(`hello from ${name}`)).toBe(true);
	return c;
}

test("a session that is ended by hand is cut", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/sessions");
	await page.getByText("Nobody is connected").waitFor();
	await everyLookOfThis(page, "sessions-none");

	const c = await visit("night shift");
	// Nobody has reloaded the page.
	await row(page, "pump-7").getByText("Live").waitFor();
	await row(page, "pump-7").getByRole("link", { name: "night shift" }).waitFor();
	await everyLookOfThis(page, "sessions");
	await page.setViewportSize({ width: 1440, height: 900 });

	await page.getByRole("button", { name: "End the session to pump-7" }).click();
	const dialog = page.getByRole("dialog", { name: "End this session?" });
	await shot(page, "sessions-end");
	await expectAccessible(page, "the question before a session is ended");
	await dialog.getByRole("button", { name: "Cancel" }).click();
	await dialog.waitFor({ state: "hidden" });
	expect(await c.answers("still there")).toBe(true);
	await page.getByRole("button", { name: "End the session to pump-7" }).click();
	await dialog.getByRole("button", { name: "End session" }).click();
	await until("the connection is cut", () => c.closed);
	await page.getByText("Nobody is connected").waitFor();

	await page.getByRole("radiogroup", { name: "State" }).getByText("Past").click();
	await row(page, "pump-7").getByText("Ended by hand").waitFor();
	await page.getByRole("combobox", { name: "Token" }).click();
	await page.getByRole("option", { name: "for pump-7" }).click();
	await page.getByText("No such sessions").waitFor();
	await page.goBack();
	await row(page, "pump-7").waitFor();
});

test("events come by themselves, and never under one's eyes", async () => {
	for (let i = 0; i < 30; i++) await g.token("registration", `token ${i}`);
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/events");
	await row(page, "token 29").waitFor();
	await g.token("registration", "while at the top");
	await row(page, "while at the top").waitFor();
	await everyLookOfThis(page, "events");
	await page.setViewportSize({ width: 1440, height: 600 });

	await page.mouse.wheel(0, 600);
	await until("the page is scrolled", () => page.evaluate(() => scrollY > 300));
	const seen = row(page, "token 20");
	const before = await seen.boundingBox();
	await g.token("registration", "while further down");
	const fresh = page.getByRole("button", { name: "1 new event" });
	await fresh.waitFor();
	expect(await seen.boundingBox()).toEqual(before);
	expect(await row(page, "while further down").count()).toBe(0);
	await shot(page, "events-fresh");
	await expectAccessible(page, "events that are held back");
	await fresh.click();
	await row(page, "while further down").waitFor();
	await fresh.waitFor({ state: "hidden" });

	await page.getByRole("button", { name: "Next page" }).click();
	await page.waitForURL("**/events?cursor=**");
	await row(page, "token 0 ").waitFor();
	await page.goBack();
	await row(page, "while further down").waitFor();

	await page.getByRole("combobox", { name: "Type" }).click();
	await page.getByRole("option", { name: "Device registered" }).click();
	await page.waitForURL("**/events?type=device.registered");
	await row(page, "token 29").waitFor({ state: "hidden" });
	expect(await page.getByRole("row").count()).toBe(2); // the head, and pump-7
	await page.getByRole("combobox", { name: "Device" }).fill("pump");
	await page.getByRole("option", { name: "pump-7" }).click();
	await page.waitForURL(`**/events?type=device.registered&device=${pump.id}`);
});

test("the audit is verified, exported, and harmless in a spreadsheet", async () => {
	await g.token("registration", '=HYPERLINK("https://evil.example","open")');
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/audit?action=token.create");
	const record = row(page, "=HYPERLINK");
	await record.getByRole("button", { name: /^Show record/ }).click();
	await page.getByText("Hash of the record before").waitFor();
	await everyLookOfThis(page, "audit");
	await page.setViewportSize({ width: 1440, height: 900 });
	await page.getByRole("combobox", { name: "Who" }).click();
	await page.getByRole("option", { name: "pump-7" }).click();
	await page.getByText("No such records").waitFor();

	await page.goto("/audit");
	await page.getByRole("button", { name: "Verify chain" }).click();
	await page.getByText(/^The chain holds: \d+ records/).waitFor();
	await shot(page, "audit-verified");
	await expectAccessible(page, "a chain that holds");

	const save = async (what: string) => {
		await page.getByRole("button", { name: "Export" }).click();
		const [file] = await Promise.all([
			page.waitForEvent("download"),
			page.getByRole("menuitem", { name: what }).click(),
		]);
		const path = join(g.dir, file.suggestedFilename());
		await file.saveAs(path);
		return path;
	};
	const jsonl = await save("JSON lines");
	expect(await finish("socketxp", ["audit", "verify", jsonl])).toContain("The chain holds");
	const csv = readFileSync(await save("CSV"), "utf8");
	expect(csv).toContain(`,"'=HYPERLINK(""https://evil.example"",""open"")",`);
	expect(csv.split("\r\n")[0]).toBe(
		"seq,at,action,reason,actor_kind,user_id,device_id,credential_id,remote_addr,object_kind,object_id,object_name,detail,prev,hash",
	);
	const lines = readFileSync(jsonl, "utf8").trim().split("\n").length;
	expect(csv.trim().split("\r\n").length - 1).toBe(lines);
});

test("a changed audit record is found", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	sql(g, "UPDATE audit SET detail = 'nothing to see here' WHERE action = 'device.register'");
	await page.goto("/audit");
	await page.getByRole("button", { name: "Verify chain" }).click();
	await page.getByText(/^The chain is broken after \d+ good record/).waitFor();
	await page.getByText(/Audit record \d+ was changed/).waitFor();
	await shot(page, "audit-broken");
	await expectAccessible(page, "a chain that is broken");
});

test("account", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/account");
	await page.getByText("1 of 10,000").waitFor();
	await page.getByText("Admitted, for 7 days at most").waitFor();
	await everyLookOfThis(page, "account");
});

test("a changed password ends the sign-ins elsewhere, and one can be ended by hand", async () => {
	const here = await person(g);
	const there = await person(g);
	const third = await person(g);
	await signIn(g, here.page);
	await signIn(g, there.page);
	const { page } = here;
	await page.goto("/profile");
	await page.getByText("Owner: may do everything in this account").waitFor();
	await page.getByText("Chrome on Linux").first().waitFor();
	await everyLookOfThis(page, "profile");
	await page.setViewportSize({ width: 1440, height: 900 });

	await signIn(g, third.page);
	await page.reload();
	await page
		.getByRole("button", { name: /^End the sign-in of Chrome on Linux/ })
		.first()
		.waitFor();
	// The newest but this one: the third.
	const list = (await g.ask("GET", "/api/v1/me/signins")).body.items;
	expect(list.length).toBeGreaterThan(3);
	await page
		.getByRole("button", { name: /^End the sign-in of Chrome/ })
		.first()
		.click();
	await page.getByText("That browser is signed out.").waitFor();
	expect((await g.ask("GET", "/api/v1/me/signins")).body.items).toHaveLength(list.length - 1);

	const next = "correct horse battery";
	await page.getByLabel("Current password").fill("not the password");
	await page.getByLabel("New password").fill("short");
	await page.getByRole("button", { name: "Change password" }).click();
	await page.getByText("The password is too short.").waitFor();
	await page.getByLabel("New password").fill(next);
	await page.getByRole("button", { name: "Change password" }).click();
	await page.getByText("The password is wrong.").waitFor();
	await page.getByLabel("Current password").fill(g.password);
	await page.getByRole("button", { name: "Change password" }).click();
	await page.getByText("Your password was changed.").waitFor();

	// The other browser finds out at once, without a click.
	await there.page.getByRole("dialog", { name: "Your session ended" }).waitFor();
	expect((await g.ask("GET", "/api/v1/me")).status).toBe(401);
	expect(await page.evaluate(async () => (await fetch("/api/v1/me")).status)).toBe(200);

	await page.getByRole("button", { name: "Sign out everywhere" }).click();
	const dialog = page.getByRole("dialog", { name: "Sign out everywhere?" });
	await dialog.getByRole("button", { name: "Sign out everywhere" }).click();
	await page.waitForURL("**/signin");
});
