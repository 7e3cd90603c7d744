import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import {
	copied,
	everyLook,
	expectAccessible,
	expectQuiet,
	Gateway,
	person,
	shot,
	signIn,
	stopAll,
	until,
} from "./harness";

let g: Gateway;
beforeAll(async () => {
	g = await Gateway.start();
});
afterEach(expectQuiet);
afterAll(stopAll);

test("who is not signed in reads every route, and calls what needs no credential", async () => {
	const { page } = await person(g);
	await page.goto("/api/docs");
	await page.getByRole("heading", { name: "How to call it" }).waitFor();
	const description = (await g.ask("GET", "/api/openapi.json")).body;
	const routes = Object.values(description.paths).flatMap((m) => Object.values(m as object));
	const links = page.getByRole("navigation", { name: "Routes" }).getByRole("link");
	expect(await links.count()).toBe(routes.length);
	await shot(page, "docs-out");
	await expectAccessible(page, "the API, signed out");

	await page.getByRole("link", { name: "Show the gateway" }).click();
	expect(page.url()).toBe(`${g.url}/api/docs#show-gateway`);
	await page.getByRole("button", { name: "Send GET" }).click();
	await page.getByText(/^200 .* ms$/).waitFor();
	await page.getByText('"set_up": true').waitFor();

	// Another route, and back to the one before.
	await page.getByRole("link", { name: "List devices" }).click();
	await page.getByRole("heading", { name: "List devices" }).waitFor();
	await page.getByRole("button", { name: "Send GET" }).click();
	await page.getByText(/^401 /).waitFor();
	await page.goBack();
	await page.getByRole("heading", { name: "Show the gateway" }).waitFor();
	expect(await page.locator("a[aria-current]").allInnerTexts()).toEqual([expect.stringContaining("Show the gateway")]);

	// The way to sign in leads back to the route.
	await page.goto("/api/docs#create-token");
	await page.getByRole("heading", { name: "Make a token" }).waitFor();
	await page.getByText("what it is called in lists").first().waitFor();
	await page.getByRole("link", { name: "Sign in", exact: true }).click();
	await page.getByLabel("Email address").fill(g.email);
	await page.getByLabel("Password").first().fill(g.password);
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.waitForURL("**/api/docs#create-token");
	await page.getByText(`As ${g.email}, in the account acme.`).waitFor();
	await page.getByRole("navigation", { name: "Main" }).waitFor();
});

test("a route is found by words, and an address that names none says so", async () => {
	const { page } = await person(g);
	await page.goto("/api/docs");
	await page.getByRole("heading", { name: "How to call it" }).waitFor();
	await page.keyboard.press("/");
	await page.keyboard.type("tokens revoke");
	const links = page.getByRole("navigation", { name: "Routes" }).getByRole("link");
	await until("one route is left", async () => (await links.count()) === 1);
	await page.waitForURL("**/api/docs?q=tokens**");
	await page.reload();
	await page.getByRole("link", { name: "Revoke a token" }).waitFor();
	expect(await links.count()).toBe(1);
	await page.getByLabel("Find a route").fill("nothing of the kind");
	await page.getByText("No route has these words.").waitFor();
	await page.getByRole("button", { name: "Show all routes" }).click();
	await until("all are back", async () => (await links.count()) > 20);
	await page.goto("/api/docs#no-such-route");
	await page.getByText("There is no such route.").waitFor();
});

test("a write is sent after a confirmation, and not before", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/api/docs#rename-group");
	await page.getByRole("button", { name: "Send PATCH" }).click();
	await page.getByText("Fill this in.").waitFor();

	await page.goto("/api/docs#create-group");
	await page.getByLabel("Body").fill('{"name":"made-here"}');
	await page.getByRole("button", { name: "Send POST" }).click();
	const dialog = page.getByRole("dialog", { name: "Send this request?" });
	await dialog.getByText("POST /api/v1/groups").waitFor();
	await page.keyboard.press("Escape");
	await dialog.waitFor({ state: "hidden" });
	const groups = async () => (await g.ask("GET", "/api/v1/groups")).body.items.map((i: { name: string }) => i.name);
	expect(await groups()).not.toContain("made-here");
	await page.getByRole("button", { name: "Send POST" }).click();
	await shot(page, "docs-confirm");
	await dialog.getByRole("button", { name: "Send POST" }).click();
	await page.getByText(/^201 .* ms$/).waitFor();
	expect(await groups()).toContain("made-here");

	// With a token in place of the sign-in: the cookie stays away.
	const token = await g.token("api", "reads devices", { scope: { rights: ["devices:read"] } });
	await page.getByLabel("Token").first().fill(token);
	await page.getByLabel("Body").fill('{"name":"not-made"}');
	await page.getByRole("button", { name: "Send POST" }).click();
	await dialog.getByRole("button", { name: "Send POST" }).click();
	await page.getByText(/^403 /).waitFor();
	expect(
		await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage, u: location.href })),
	).not.toContain(token);
});

test("what is copied as curl is the same request", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/api/docs#create-group");
	await page.getByLabel("Body").fill(`{\n  "name": "by-curl"\n}`);
	const command = await copied(page, () => page.getByRole("button", { name: "Copy the command" }).click());
	const token = await g.token("api", "for curl");
	const { stdout } = await promisify(execFile)("bash", ["-c", `${command} --cacert "$CERTIFICATE" -sS`], {
		env: { PATH: process.env.PATH ?? "", SOCKETXP_API_TOKEN: token, CERTIFICATE: join(g.data, "gateway.crt") },
	});
	expect(JSON.parse(stdout)).toMatchObject({ name: "by-curl" });
});

test("a stream is shown as it comes, and stopped", async () => {
	const { page } = await person(g);
	await signIn(g, page);
	await page.goto("/api/docs#stream-events");
	await page.getByRole("button", { name: "Send GET" }).click();
	await page.getByText(/^200 /).waitFor();
	await g.token("access", "seen in the stream");
	await page.getByText("token.created").first().waitFor();
	await page.getByRole("button", { name: "Stop" }).click();
	await page.getByText(/Stopped\.$/).waitFor();
});

test("every look of the API", async () => {
	await everyLook(g, "docs", "/api/docs", (page) => page.getByRole("heading", { name: "How to call it" }).waitFor());
	await everyLook(g, "docs-route", "/api/docs#create-token", (page) =>
		page.getByRole("heading", { name: "Make a token" }).waitFor(),
	);
});
