import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, test } from "vitest";
import { copied, expectQuiet, finish, Gateway, person, run, shot, stopAll, until, wordsOf } from "./harness";

// The first minutes of somebody new: from the link that the gateway prints to a shell
// on a device, by what the pages show and nothing else.

let g: Gateway;
beforeAll(async () => {
	g = await Gateway.start({ owner: false });
});
afterEach(expectQuiet);
afterAll(stopAll);

test("set-up link, owner, first device, terminal", async () => {
	const { context, page } = await person(g);
	// Terminals are read out, as a screen reader gets them: what WebGL draws is not text.
	await context.addInitScript(() => localStorage.setItem("socketxp-terminal", JSON.stringify({ screenReader: true })));
	await page.goto(g.setUpLink);
	await page.getByLabel("Account").fill("home");
	await page.getByLabel("Email address").fill("you@example.com");
	await page.getByLabel("Password").first().fill(g.password);
	await page.getByRole("button", { name: "Make the account" }).click();
	await page.getByRole("heading", { name: "Add your first device" }).waitFor();
	await shot(page, "walk-first");

	await page.getByRole("textbox", { name: "Device name" }).fill("kiosk");
	await page.getByRole("button", { name: "Make the command" }).click();
	const command = (what: string) =>
		copied(page, () => page.getByRole("button", { name: `Copy the ${what} command` }).click());
	const dir = join(g.dir, "kiosk");
	mkdirSync(dir);
	const env = { HOME: dir, SHELL: "/bin/bash", SOCKETXP_WORK_DIR: join(dir, "work") };
	await finish("socketxp", wordsOf(await command("register")), "", env);
	await page.getByText("kiosk is registered").waitFor();
	run("socketxp", wordsOf(await command("connect")), env);
	await page.getByText("kiosk is online").waitFor();
	await shot(page, "walk-online");

	const tab = context.waitForEvent("page");
	await page.getByRole("link", { name: "Open its terminal" }).click();
	const terminal = await tab;
	const screen = terminal.locator(".xterm-accessibility-tree");
	await screen.waitFor();
	const shows = (what: RegExp) =>
		until(`the terminal shows ${what}`, async () =>
			what.test((await screen.locator("> *").allTextContents()).join("\n").replaceAll("\u00a0", " ")),
		);
	await shows(/[$#] *$/m);
	await terminal.locator(".xterm-helper-textarea").focus();
	await terminal.keyboard.type("uname -a");
	await terminal.keyboard.press("Enter");
	await shows(/^Linux \S+ \d/m);
	await shot(terminal, "walk-terminal");
});
