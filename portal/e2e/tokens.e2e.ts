import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import type { Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import {
	Connection,
	copied,
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
	wordsOf,
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

const row = (page: Page, name: string) => page.getByRole("row").filter({ hasText: name });

/** Fills the dialog's label and makes the token; what the dialog then shows. */
async function create(page: Page, label: string): Promise<Locator> {
	const dialog = page.getByRole("dialog", { name: "Create a token" });
	await dialog.getByLabel("Label").fill(label);
	await dialog.getByRole("button", { name: "Create token" }).click();
	const created = page.getByRole("dialog", { name: "Token created" });
	await created.waitFor();
	return created;
}

/** The texts in the boxes: the token, then the commands. */
async function boxes(where: Locator): Promise<[token: string, command: string]> {
	const [token, command] = await where.locator("pre").allTextContents();
	return [token ?? "", command ?? ""];
}

/** Where a secret must not be: it would outlive the moment in which it is shown. */
async function expectNotKept(page: Page, token: string) {
	const kept = await page.evaluate(
		() =>
			`${location.href} ${JSON.stringify({ ...localStorage })} ${JSON.stringify({ ...sessionStorage })} ${JSON.stringify(history.state)}`,
	);
	expect(kept).not.toContain(token);
}

test("a registration token of the page registers one device", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/tokens");
	await page.getByRole("button", { name: "Create token" }).click();
	const created = await create(page, "for the new meter");
	await shot(page, "tokens-created");
	await expectAccessible(page, "a token that was just made");
	const [token, command] = await boxes(created);
	expect(command).toBe(`socketxp login "${token}"`);
	expect(await copied(page, () => created.getByRole("button", { name: "Copy the command" }).click())).toBe(command);
	await expectNotKept(page, token);
	await created.getByRole("button", { name: "Done" }).click();
	await created.waitFor({ state: "hidden" });

	await row(page, "for the new meter").getByText("0 of 1 uses").waitFor();
	const login = (name: string) =>
		finish("socketxp", [
			"--work-dir",
			mkdtempSync(join(g.dir, "meter-")),
			...wordsOf(command),
			"--iot-device-name",
			name,
		]);
	expect(await login("meter-1")).toContain("Login Succeeded.");
	expect((await g.ask("GET", "/api/v1/devices?name=meter-1")).body.items).toHaveLength(1);
	// Nobody has reloaded the page.
	await row(page, "for the new meter").getByText("Used up").waitFor();
	await row(page, "for the new meter").getByText("1 of 1 uses").waitFor();
	await expect(login("meter-2")).rejects.toThrow(/no use left/);
});

test("an access token opens the one port, until it is revoked; undone, it goes on", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto(`/tokens?new=access&device=${pump.id}`);
	const dialog = page.getByRole("dialog", { name: "Create a token" });
	await dialog.getByText("pump-7").waitFor();
	await dialog.getByLabel("Ports").fill(String(port));
	await dialog.getByLabel("Ports").press("Enter");
	const created = await create(page, "pump maintenance");
	const [, command] = await boxes(created);
	await created.getByRole("button", { name: "Done" }).click();
	await row(page, "pump maintenance").getByText(`1 device, port ${port}`).waitFor();

	const laptop = await slave(g, command);
	const visit = new Connection(laptop.port);
	expect(await visit.answers("hello")).toBe(true);

	const revoke = page.getByRole("button", { name: "Revoke pump maintenance" });
	await until("the session is known", async () => {
		const { body } = await g.ask("GET", "/api/v1/sessions?live=true");
		return body.items.length === 1;
	});
	await revoke.click();
	const notice = page.getByText("Revoking “pump maintenance”: cuts 1 live session.");
	await notice.waitFor();
	await shot(page, "tokens-revoking");
	await page.getByRole("button", { name: "Undo" }).click();
	await notice.waitFor({ state: "hidden" });
	await row(page, "pump maintenance").getByText("Live").waitFor();
	expect(await visit.answers("still there")).toBe(true);

	await revoke.click();
	await page.getByText("“pump maintenance” was revoked.").waitFor();
	await until("the connection is cut", () => visit.closed);
	await row(page, "pump maintenance").waitFor({ state: "hidden" }); // it is not live any more
	await expect(slave(g, command)).rejects.toThrow(/revoked/);
	const { body } = await g.ask("GET", "/api/v1/sessions?live=false");
	expect(body.items[0].end_reason).toBe("token_revoked");
});

test("an API token may do what was chosen, and no more", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/tokens?new=api");
	const dialog = page.getByRole("dialog", { name: "Create a token" });
	await dialog.getByRole("button", { name: "Reading only" }).click();
	await dialog.getByRole("combobox", { name: "Expires in" }).click();
	await page.getByRole("option", { name: "365 days" }).click();
	await dialog.getByText("365 days is long").waitFor();
	await shot(page, "tokens-new-long");
	await dialog.getByRole("combobox", { name: "Expires in" }).click();
	await page.getByRole("option", { name: "Custom…" }).click();
	await dialog.getByRole("textbox", { name: "Life" }).fill("9000");
	await dialog.getByText("At most 365 days").waitFor();
	await dialog.getByRole("textbox", { name: "Life" }).fill("3");
	const created = await create(page, "nightly report");
	const [token, command] = await boxes(created);
	expect(command).toBe(`curl -H "Authorization: Bearer ${token}" ${g.url}/api/v1/devices`);
	await created.getByRole("button", { name: "Done" }).click();
	await row(page, "nightly report").getByText("in 3 hours").waitFor();
	await row(page, "nightly report").getByText("Reading only").waitFor();

	const by = { Authorization: `Bearer ${token}`, Cookie: "" };
	expect((await g.ask("GET", "/api/v1/devices", undefined, by)).status).toBe(200);
	expect((await g.ask("DELETE", `/api/v1/devices/${pump.id}`, undefined, by)).status).toBe(403);
	await page.getByRole("button", { name: "Revoke nightly report" }).click();
	await page.getByText("“nightly report” was revoked.").waitFor();
	expect((await g.ask("GET", "/api/v1/devices", undefined, by)).body.code).toBe("token_revoked");
});

test("a basic token warns, and a link alone makes none", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	const before = (await g.ask("GET", "/api/v1/tokens?limit=200")).body.items.length;
	await page.goto("/tokens?new=basic");
	const dialog = page.getByRole("dialog", { name: "Create a token" });
	await dialog.getByText("Not for production", { exact: true }).waitFor();
	expect((await g.ask("GET", "/api/v1/tokens?limit=200")).body.items).toHaveLength(before);
	await dialog.getByRole("radio", { name: /Device access/ }).click();
	await page.waitForURL("**/tokens?new=access");
	await dialog.getByRole("button", { name: "Cancel" }).click();
	await dialog.waitFor({ state: "hidden" });
	await page.waitForURL("**/tokens");
	expect((await g.ask("GET", "/api/v1/tokens?limit=200")).body.items).toHaveLength(before);
});

test("a token is shown again after the password, and hidden again", async () => {
	const token = await g.token("registration", "spare");
	const { page } = await person(g);
	await signIn(g, page);
	sql(g, "UPDATE sign_ins SET auth_at = auth_at - 3600 * 1000000");
	await page.goto("/tokens");
	const expand = page.getByRole("button", { name: "Show details and text of spare" });
	await expand.focus();
	await page.keyboard.press("Enter");
	await page.getByText("is recorded in the audit").waitFor();
	await shot(page, "tokens-expanded");
	await expectAccessible(page, "an expanded token");
	expect(await page.content()).not.toContain(token);

	await page.getByRole("button", { name: "Show", exact: true }).click();
	const password = page.getByRole("dialog", { name: "Enter your password again" });
	await password.getByLabel("Password").first().fill(g.password);
	await password.getByRole("button", { name: "Continue" }).click();
	await page.getByText(`socketxp login "${token}"`).waitFor();
	await shot(page, "tokens-revealed");
	await expectAccessible(page, "a token that is shown");
	await expectNotKept(page, token);
	const collapse = page.getByRole("button", { name: "Hide details of spare" });
	await collapse.click();
	expect(await page.content()).not.toContain(token);
	await expand.click();
	await page.getByText("is recorded in the audit").waitFor();
	expect(await page.content()).not.toContain(token);

	// The password counts as just entered now.
	await page.getByRole("button", { name: "Copy", exact: true }).click();
	await page.getByRole("button", { name: "Copied", exact: true }).waitFor();
	expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(token);
	expect(await page.content()).not.toContain(token);
	const audit = (await g.ask("GET", "/api/v1/audit?action=token.reveal")).body.items;
	expect(audit.map((r: { object_name: string; reason?: string }) => [r.object_name, r.reason])).toEqual(
		[
			["spare", undefined],
			["spare", undefined],
			["", "reauth_required"],
		].map(([name, reason]) => [name || undefined, reason]),
	);
});

test("every look of the tokens page", async () => {
	await g.token("basic", "trying things");
	await g.token("access", "database of plant 3", {
		scope: { groups: ["default"], ports: [5432], networks: ["192.0.2.0/24"] },
	});
	await g.token("registration", "meters of plant 3", {
		max_uses: 50,
		expires_in: 86_400,
		scope: { name_pattern: "meter-*", group: "meters" },
	});
	const { page, context } = await person(g);
	await signIn(g, page);
	await page.goto("/tokens?state=all");
	await row(page, "database of plant 3").waitFor();
	await everyLookOfThis(page, "tokens");
	await page.goto("/tokens?kind=api");
	await page.getByText("No live tokens").waitFor();
	await everyLookOfThis(page, "tokens-none");
	await context.close();
});

test.each(["registration", "access", "api", "basic"])(
	"every look of the dialog for a token of kind %s",
	async (kind) => {
		const { page, context } = await person(g);
		await signIn(g, page);
		await page.goto(`/tokens?new=${kind}`);
		await page.getByRole("dialog", { name: "Create a token" }).waitFor();
		await everyLookOfThis(page, `tokens-new-${kind}`);
		await context.close();
	},
);

test("a gateway that shows no token again says so", async () => {
	await g.process.stop();
	await g.serve(["--reveal-tokens=false"]);
	await g.token("registration", "for once");
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/tokens");
	await page.getByRole("button", { name: "Show details and text of for once" }).click();
	await page.getByRole("button", { name: "Show", exact: true }).click();
	await page.getByText("This gateway does not show tokens again.").waitFor();
	await page.getByText("Make a new one.").waitFor();
});

test("tokens from before a restore are good for nothing until they are confirmed", async () => {
	const token = await g.token("api", "restored report");
	const backup = join(g.dir, "backup.tar.gz");
	await finish("socketxp-gateway", ["admin", "backup", backup, "--data-dir", g.data]);
	await g.process.stop();
	await finish("socketxp-gateway", ["admin", "restore", backup, "--data-dir", g.data, "--force"]);
	await g.serve();
	await g.signIn();
	const by = { Authorization: `Bearer ${token}`, Cookie: "" };
	expect((await g.ask("GET", "/api/v1/devices", undefined, by)).status).toBe(401);

	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/tokens");
	await page.getByRole("button", { name: "Show them" }).click();
	await row(page, "restored report").getByText("Unconfirmed").waitFor();
	await shot(page, "tokens-unconfirmed");
	await expectAccessible(page, "unconfirmed tokens");
	await page.getByRole("button", { name: "Confirm restored report" }).click();
	const dialog = page.getByRole("dialog", { name: "Make this token good again?" });
	await dialog.getByRole("button", { name: "Confirm" }).click();
	await row(page, "restored report").getByText("Live").waitFor();
	expect((await g.ask("GET", "/api/v1/devices", undefined, by)).status).toBe(200);
});
