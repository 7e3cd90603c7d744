import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import {
	copied,
	type Device,
	everyLookOfThis,
	expectAccessible,
	expectQuiet,
	Gateway,
	owner,
	seed,
	shot,
	stopAll,
	typed,
	until,
} from "./harness";

let g: Gateway;
beforeAll(async () => {
	g = await Gateway.start();
});
afterEach(expectQuiet);
afterAll(stopAll);

let kiosk: Device;

test("the first device is added by the commands that the page shows", async () => {
	const { page } = await owner(g);
	await page.goto("/devices");
	await page.getByRole("heading", { name: "Add your first device" }).waitFor();
	await expectAccessible(page, "on-boarding");
	await page.getByRole("combobox", { name: "Group" }).fill("lobby");
	await page.getByRole("textbox", { name: "Device name" }).fill("Not A Name");
	await page.getByRole("button", { name: "Make the command" }).click();
	await page.getByText("1 to 63 of a–z, 0–9 and -").waitFor();
	await page.getByRole("textbox", { name: "Device name" }).fill("first");
	await page.getByRole("button", { name: "Make the command" }).click();

	const register = page.getByRole("region", { name: "Register the device" }).locator("pre");
	await page.getByText("Waiting for the device").waitFor();
	await expectAccessible(page, "the commands");
	await shot(page, "devices-commands");
	const login = (await register.textContent()) ?? "";
	expect(login).toMatch(/^socketxp login "\S+" --iot-device-group lobby --iot-device-name first$/);
	const dir = join(g.dir, "first");
	expect(await typed(login, dir).done).toContain("Login Succeeded.");
	await page.getByText("first is registered").waitFor();
	await shot(page, "devices-registered");

	const connect = (await page.getByRole("region", { name: "Connect it" }).locator("pre").textContent()) ?? "";
	expect(connect).toBe("socketxp connect tcp://localhost:22 --enable-ssh");
	const agent = typed(connect, dir);
	await page.getByText("first is online").waitFor();
	await shot(page, "devices-celebrated");
	await expectAccessible(page, "the device is there");
	const terminal = page.getByRole("link", { name: "Open its terminal" });
	expect(await terminal.getAttribute("target")).toBe("_blank");
	expect(await terminal.getAttribute("href")).toMatch(/^\/terminal\/[0-9a-f-]{36}$/);
	// The token is nowhere but on the page.
	const token = /"(\S+)"/.exec(login)?.[1] ?? "";
	expect(page.url()).not.toContain(token);
	expect(
		await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state])),
	).not.toContain(token);
	// It is in the table, and the page goes on by itself.
	await page.getByRole("link", { name: "first", exact: true }).waitFor();
	await page.getByRole("button", { name: "Add another" }).click();
	await page.getByRole("button", { name: "Make the command" }).waitFor();
	await agent.stop();
	await page.getByRole("row", { name: /first/ }).getByText("Offline").filter({ visible: true }).waitFor();
});

test("a name and a group that are edited are known to the agent", async () => {
	kiosk = await g.device("kiosk");
	const { page } = await owner(g);
	await page.goto("/devices");
	await page.getByRole("button", { name: "Actions for kiosk" }).click();
	await page.getByRole("menuitem", { name: "Edit…" }).click();
	const dialog = page.getByRole("dialog", { name: "Edit kiosk" });
	await dialog.getByLabel("Name", { exact: true }).fill("first");
	expect(page.url()).toContain(`edit=${kiosk.id}`);
	await dialog.getByRole("button", { name: "Save" }).click();
	await dialog.getByText("Another device has this name.").waitFor();
	await dialog.getByLabel("Name", { exact: true }).fill("gateway");
	await dialog.getByRole("button", { name: "Save" }).click();
	await dialog.getByText(/is reserved/).waitFor();
	await shot(page, "devices-edit-wrong");
	await dialog.getByLabel("Name", { exact: true }).fill("kiosk-2");
	await dialog.getByLabel("Display name").fill("Kiosk in the lobby");
	await dialog.getByLabel("Group").fill("lobby");
	await page.keyboard.press("Tab");
	await expectAccessible(page, "edit");
	await dialog.getByRole("button", { name: "Save" }).click();
	await page.getByRole("link", { name: "Kiosk in the lobby", exact: true }).waitFor();
	// The agent learns it when it connects next.
	await kiosk.stop();
	await kiosk.go();
	const status = await typed("socketxp status --json", kiosk.dir).done;
	expect(status).toContain('"kiosk-2"');
	expect(status).toContain('"lobby"');
});

test("what happens is seen at once, by everybody", async () => {
	const one = await owner(g);
	const other = await owner(g);
	for (const p of [one, other]) await p.page.goto("/devices");
	const row = other.page.getByRole("row", { name: /first/ });
	const says = (text: string) => row.getByText(text).filter({ visible: true }).waitFor();
	await says("Offline");
	await one.page.getByRole("button", { name: "Actions for first" }).click();
	await one.page.getByRole("menuitem", { name: "Disable…" }).click();
	await one.page.getByRole("dialog").getByRole("button", { name: "Disable" }).click();
	await says("Disabled");
	await other.page
		.getByRole("button", { name: /Open a terminal on first\. No terminal: the device is disabled/ })
		.waitFor();
	await one.page.getByRole("button", { name: "Actions for first" }).click();
	await one.page.getByRole("menuitem", { name: "Enable" }).click();
	await says("Offline");
	typed("socketxp connect tcp://localhost:22 --enable-ssh", join(g.dir, "first"));
	await says("Online");
	await row.getByRole("link", { name: "Open a terminal on first" }).waitFor();
});

test("the row menu by keyboard", async () => {
	const { page } = await owner(g);
	await page.goto("/devices");
	const button = page.getByRole("button", { name: "Actions for Kiosk in the lobby" });
	await button.focus();
	await page.keyboard.press("Enter");
	// The focus comes into the menu a moment after it is there.
	const choose = async (name: string) => {
		const item = page.getByRole("menuitem", { name });
		await item.waitFor();
		await until(`the focus is on ${name}`, async () => {
			if (!(await item.evaluate((e) => e === document.activeElement))) await page.keyboard.press("ArrowDown");
			return item.evaluate((e) => e === document.activeElement);
		});
		await page.keyboard.press("Enter");
	};
	await choose("Copy id");
	await page.getByText("The id was copied").waitFor();
	expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(kiosk.id);
	await until("the focus is back", () => button.evaluate((b) => b === document.activeElement));
	await page.keyboard.press("Enter");
	await page.getByRole("menuitem", { name: "Open" }).waitFor();
	await until("the focus is in the menu", () =>
		page.evaluate(() => document.activeElement?.closest("[role=menu]") !== null),
	);
	await page.keyboard.press("Escape");
	await until("the focus is back", () => button.evaluate((b) => b === document.activeElement));
	await page.keyboard.press("Enter");
	await choose("Open");
	await page.waitForURL(`**/devices/${kiosk.id}`);
});

test("a table's state is in its address", async () => {
	for (const [name, group] of [
		["meter-1", "meters"],
		["meter-2", "meters"],
		["meter-3", "meters"],
	]) {
		const r = await g.ask("POST", "/api/v1/devices", { name, display_name: "", group });
		expect(r.status, JSON.stringify(r.body)).toBe(201);
	}
	const { page } = await owner(g);
	await page.goto("/devices");
	const search = page.getByRole("searchbox", { name: /Search/ });
	await search.pressSequentially("meter-");
	await page.waitForURL("**/devices?search=meter-");
	await page.getByText("3 devices").waitFor();
	expect(await search.evaluate((e) => e === document.activeElement)).toBe(true);
	await page.getByRole("columnheader").getByRole("button", { name: "Device" }).click();
	await page.waitForURL("**sort=-name**");
	await until("the order is turned", async () => {
		const names = await page
			.getByRole("row")
			.getByRole("link", { name: /meter-/ })
			.allTextContents();
		return names.join() === "meter-3,meter-2,meter-1";
	});
	await page.getByRole("combobox", { name: "Status" }).click();
	await page.getByRole("option", { name: "Online" }).click();
	await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
	const deep = page.url();
	expect(new URL(deep).searchParams.get("status")).toBe("online");
	await page.goBack();
	await page.getByText("3 devices").waitFor();
	const again = await owner(g);
	await again.page.goto(deep);
	await again.page.getByRole("heading", { name: "Nothing matches" }).waitFor();
	expect(await again.page.getByRole("searchbox", { name: /Search/ }).inputValue()).toBe("meter-");
	await again.page.getByRole("button", { name: "Clear filters" }).first().click();
	await again.page.getByRole("link", { name: "Kiosk in the lobby", exact: true }).waitFor();

	// Which columns are shown is this browser's.
	await page.getByRole("button", { name: "Columns" }).click();
	await page.getByRole("menuitemcheckbox", { name: "Host name" }).click();
	await page.getByRole("menuitemcheckbox", { name: "Agent" }).click();
	await page.reload();
	await page.getByRole("columnheader", { name: "Host name" }).waitFor();
	expect(await page.getByRole("columnheader", { name: "Agent" }).count()).toBe(0);

	// Nonsense in a link is no fault of the page.
	await page.goto("/devices?status=%5B1%5D&sort=evil&size=1e9&group=No+Such&version=%7B%7D");
	await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
	await page.goto("/devices?cursor=nonsense");
	await page.getByRole("alert").waitFor();
	await page.getByRole("button", { name: "Try again" }).click();
	await page.getByRole("link", { name: "Kiosk in the lobby", exact: true }).waitFor();
});

test("many at once: moved, disabled, deleted, and what failed is told", async () => {
	const { page } = await owner(g);
	await page.goto("/devices?group=meters");
	await page.getByRole("checkbox", { name: "Select meter-1" }).check();
	await page.getByRole("checkbox", { name: "Select all rows of this page" }).check();
	const bar = page.getByRole("region", { name: "What to do with the selected devices" });
	await bar.getByText("3 selected").waitFor();
	await shot(page, "devices-selected");
	await expectAccessible(page, "selected");
	await bar.getByRole("button", { name: "Move to a group" }).click();
	const dialog = page.getByRole("dialog");
	await dialog.getByLabel("Group").fill("attic");
	await page.keyboard.press("Tab");
	await dialog.getByRole("button", { name: "Move" }).click();
	await dialog.getByText("Done with 3 devices.").waitFor();
	await dialog.getByRole("button", { name: "Close" }).last().click();
	expect((await g.ask("GET", "/api/v1/devices?group=attic")).body.total).toBe(3);

	await page.goto("/devices?group=attic");
	await page.getByRole("checkbox", { name: "Select all rows of this page" }).check();
	await bar.getByRole("button", { name: "Disable" }).click();
	await dialog.getByRole("button", { name: "Disable" }).click();
	await dialog.getByText("Done with 3 devices.").waitFor();
	await dialog.getByRole("button", { name: "Close" }).last().click();
	expect((await g.ask("GET", "/api/v1/devices?status=disabled")).body.total).toBe(3);

	// One of them is refused: the others are done, and it can be tried again.
	await page.goto("/devices?group=attic");
	await page.getByRole("checkbox", { name: "Select all rows of this page" }).check();
	let broken = true;
	const victim = (await g.ask("GET", "/api/v1/devices?name=meter-2")).body.items[0].id;
	await page.route(`**/api/v1/devices/${victim}`, (route) =>
		broken && route.request().method() === "DELETE"
			? route.fulfill({
					status: 503,
					contentType: "application/problem+json",
					body: JSON.stringify({ code: "unavailable", detail: "the database is busy", status: 503 }),
				})
			: route.continue(),
	);
	await bar.getByRole("button", { name: "Delete" }).click();
	const button = dialog.getByRole("button", { name: "Delete" });
	expect(await button.isDisabled()).toBe(true);
	await dialog.getByLabel("Type 3 to confirm").fill("2");
	expect(await button.isDisabled()).toBe(true);
	await dialog.getByLabel("Type 3 to confirm").fill("3");
	await button.click();
	await dialog.getByText("meter-2: The database is busy.").waitFor();
	await dialog.getByText("Done with 2 devices.").waitFor();
	await shot(page, "devices-bulk-failed");
	await expectAccessible(page, "what failed");
	broken = false;
	await dialog.getByRole("button", { name: "Try these again" }).click();
	await dialog.getByText("Done with 1 device.").waitFor();
	await dialog.getByRole("button", { name: "Close" }).last().click();
	await bar.waitFor({ state: "hidden" });
	expect((await g.ask("GET", "/api/v1/devices?group=attic")).body.total).toBe(0);
});

test("the ways to reach a device, by the commands of its page", async () => {
	const { page } = await owner(g);
	await page.goto(`/devices/${kiosk.id}?tab=connect`);
	const me = (await g.ask("GET", `/api/v1/devices/${kiosk.id}`)).body;
	expect(me.online).toBe(true);
	await page.getByLabel("Login name on the device").fill("ro ot;");
	await page.getByText("Letters, digits, and . _ - only.").waitFor();
	await page.getByLabel("Login name on the device").fill(process.env.USER ?? "root");
	await page.getByRole("button", { name: "Make a token and show the commands" }).click();
	const box = (name: string) => page.getByRole("button", { name: `Copy ${name}` });
	const text = (name: string) => copied(page, () => box(name).click());
	const line = await text("the line with the token");
	const token = /^export SOCKETXP_AUTHTOKEN=(\S+)$/.exec(line)?.[1] ?? "";
	await expectAccessible(page, "how to connect");
	await shot(page, "device-connect");
	expect(page.url()).not.toContain(token);
	const laptop = join(g.dir, "laptop");
	const ssh = await text("the command for ssh");
	expect(ssh).toMatch(/^socketxp ssh \S+@kiosk-2$/);
	expect(await typed(`${ssh} -- echo reached`, laptop, { SOCKETXP_AUTHTOKEN: token }).done).toContain("reached");

	await page.getByRole("tab", { name: "scp" }).click();
	await typed(await text("the command for ssh-config"), laptop).done;
	const scp = await text("the command for scp");
	expect(scp).toMatch(/^scp report\.pdf \S+@kiosk-2\.socketxp:$/);

	await page.getByRole("tab", { name: "A local port" }).click();
	expect(page.url()).toContain("way=port");
	const slave = typed((await text("the command for A local port")).replace("localhost:3000", "localhost:0"), laptop, {
		SOCKETXP_AUTHTOKEN: token,
	});
	await until("the port is open", () => slave.output().includes("Listening for TCP connections at:"));
	await slave.stop();

	// The token is for this device and port alone, and can be taken back on the spot.
	const made = (await g.ask("GET", "/api/v1/tokens?kind=access")).body.items[0];
	expect(made.scope).toEqual({ devices: [kiosk.id], ports: [22] });
	expect(new Date(made.expires_at).getTime() - new Date(made.created_at).getTime()).toBe(3600_000);
	await page.getByRole("button", { name: "Revoke it" }).click();
	await page.getByRole("button", { name: "Make a token and show the commands" }).waitFor();
	expect((await g.ask("GET", `/api/v1/tokens/${made.id}`)).body.state).toBe("revoked");
});

test("sessions now, and the end of one", async () => {
	const { page } = await owner(g);
	await page.goto("/devices");
	const token = await g.token("access", "visitor");
	await page.goto(`/devices/${kiosk.id}?tab=sessions`);
	await page.getByRole("heading", { name: "Nobody is on it" }).waitFor();
	const visit = typed("socketxp ssh kiosk-2 -- cat", join(g.dir, "visitor"), { SOCKETXP_AUTHTOKEN: token });
	await page.getByRole("button", { name: /^End the session from/ }).click();
	await page.getByRole("dialog").getByRole("button", { name: "End the session" }).click();
	await page.getByRole("heading", { name: "Nobody is on it" }).waitFor();
	await until("the visitor is out", () => visit.child.exitCode !== null);
	await page.getByRole("tab", { name: "Events" }).click();
	await page.getByText("session.ended").first().waitFor();
});

test("a device that is gone, and one that is deleted by its page", async () => {
	const r = await g.ask("POST", "/api/v1/devices", { name: "short-lived", display_name: "", group: "default" });
	const { page } = await owner(g);
	await page.goto(`/devices/${r.body.id}?tab=settings`);
	await page.getByRole("button", { name: "Delete…" }).click();
	const dialog = page.getByRole("dialog", { name: "Delete short-lived?" });
	await dialog.getByRole("textbox").fill("short-lived");
	await dialog.getByRole("button", { name: "Delete the device" }).click();
	await page.waitForURL("**/devices");
	await page.goto(`/devices/${r.body.id}`);
	await page.getByRole("heading", { name: "There is no such device" }).waitFor();
});

test("groups: made, renamed, emptied and deleted", async () => {
	const { page } = await owner(g);
	await page.goto("/groups");
	await page.getByRole("button", { name: "Create group" }).click();
	const dialog = page.getByRole("dialog");
	await dialog.getByLabel("Name").fill("lobby");
	await dialog.getByRole("button", { name: "Create" }).click();
	await dialog.getByText("There is a group of this name already.").waitFor();
	await dialog.getByLabel("Name").fill("cellar");
	await dialog.getByRole("button", { name: "Create" }).click();
	await page.getByRole("link", { name: "cellar" }).waitFor();
	await page.getByRole("button", { name: "Actions for lobby" }).click();
	expect(await page.getByRole("menuitem", { name: "Delete…" }).isDisabled()).toBe(true);
	await page.getByRole("menuitem", { name: "Rename…" }).click();
	await dialog.getByText(/Its 2 devices stay in it/).waitFor();
	await shot(page, "groups-rename");
	await expectAccessible(page, "rename");
	await dialog.getByLabel("Name").fill("entrance");
	await dialog.getByRole("button", { name: "Rename" }).click();
	await page.getByRole("link", { name: "entrance" }).click();
	await page.waitForURL("**/devices?group=entrance");
	await page.getByText("2 devices").waitFor();
	await page.goto("/groups");
	await page.getByRole("button", { name: "Actions for cellar" }).click();
	await page.getByRole("menuitem", { name: "Delete…" }).click();
	await dialog.getByRole("button", { name: "Delete the group" }).click();
	await page.getByRole("link", { name: "cellar" }).waitFor({ state: "hidden" });
	expect((await g.ask("GET", "/api/v1/groups")).body.items.map((x: { name: string }) => x.name)).not.toContain(
		"cellar",
	);
});

const look = async (page: Page, name: string, path: string, ready: () => Promise<unknown>) => {
	await page.goto(path);
	await ready();
	await everyLookOfThis(page, name);
};

test("every look of the lists", async () => {
	const { page } = await owner(g);
	await look(page, "devices", "/devices", () =>
		page.getByRole("link", { name: "Kiosk in the lobby", exact: true }).waitFor(),
	);
	await look(page, "groups", "/groups", () => page.getByRole("link", { name: "entrance" }).waitFor());
	await look(page, "devices-add", "/devices?add=1", () => page.getByRole("dialog", { name: "Add a device" }).waitFor());
});

test("every look of a device", async () => {
	const { page } = await owner(g);
	const path = `/devices/${kiosk.id}`;
	await look(page, "device", path, () => page.getByRole("heading", { name: "Keys" }).waitFor());
	await look(page, "device-settings", `${path}?tab=settings`, () =>
		page.getByRole("heading", { name: "Danger zone" }).waitFor(),
	);
	await look(page, "device-tunnels", `${path}?tab=tunnels`, () => page.getByText("tcp://localhost:22").waitFor());
	await look(page, "device-events", `${path}?tab=events`, () =>
		page.getByText("device.registered").first().waitFor({ state: "attached" }),
	);
});

test("what an agent says of itself is text, whatever it says", async () => {
	const evil = [
		"<script>tripwire()</script>",
		'"><img src=x onerror=tripwire()>',
		"javascript:tripwire()",
		"</title><svg onload=tripwire()>",
		"{{constructor.constructor('tripwire()')()}}",
	];
	const r = await g.ask("POST", "/api/v1/devices", { name: "hostile", display_name: evil[1], group: "default" });
	expect(r.status, JSON.stringify(r.body)).toBe(201);
	seed(g, "hostile", r.body.id, JSON.stringify(evil));
	const { page } = await owner(g);
	let tripped = 0;
	await page.exposeFunction("tripwire", () => {
		tripped++;
	});
	await page.addInitScript(() => localStorage.setItem("socketxp-devices-hidden", '["created"]'));
	const clean = async () => {
		expect(tripped).toBe(0);
		expect(await page.locator("img[src=x], svg[onload], a[href^='javascript:'], #root script").count()).toBe(0);
	};
	await page.goto("/devices?search=hostile");
	const row = page.getByRole("row", { name: /hostile/ });
	for (const text of evil) await row.getByText(text).first().waitFor();
	await shot(page, "devices-hostile");
	await clean();
	await row.getByRole("link", { name: evil[1] ?? "", exact: true }).click();
	await page.getByRole("heading", { level: 1, name: evil[1] ?? "" }).waitFor();
	for (const text of evil) await page.getByRole("definition").getByText(text).first().waitFor();
	await page
		.getByRole("alert")
		.getByText(evil[0] ?? "")
		.waitFor();
	await shot(page, "device-hostile");
	await expectAccessible(page, "a hostile device");
	await clean();
	await page.getByRole("tab", { name: "Published" }).click();
	await page.getByText("tcp://localhost:9").waitFor();
	await page.getByRole("tab", { name: "Events" }).click();
	for (const text of evil) await page.getByText(text).first().waitFor();
	await clean();
	await page.keyboard.press("Control+k");
	await page.keyboard.type("hostile");
	await page
		.getByText(`Open a terminal on`)
		.or(page.getByText(evil[1] ?? ""))
		.first()
		.waitFor();
	await clean();
	// Released: for a machine that was set back to a snapshot.
	await page.keyboard.press("Escape");
	await page.getByRole("button", { name: "Release…" }).click();
	await page.getByRole("dialog").getByRole("button", { name: "Release" }).click();
	await page.getByRole("button", { name: "Release…" }).waitFor({ state: "hidden" });
	expect((await g.ask("GET", `/api/v1/devices/${r.body.id}`)).body.status).toBe("offline");
});
