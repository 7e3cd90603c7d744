import { hostname } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import {
	everyLookOfThis,
	expectAccessible,
	expectQuiet,
	Gateway,
	type Program,
	person,
	run,
	shot,
	stopAll,
	until,
} from "./harness";

let g: Gateway;
beforeAll(async () => {
	g = await Gateway.start();
});
afterEach(expectQuiet);
afterAll(stopAll);

/** A command line that asks to be signed in: its program, and the link and code that it shows. */
async function commandLine(name: string): Promise<{ program: Program; link: string; code: string }> {
	const program = run("socketxp", ["signin", g.url, "--pin", g.pin, "--profile", name], {
		HOME: g.dir,
		XDG_CONFIG_HOME: join(g.dir, "config"),
	});
	const link = await until("it shows a link", () => /^ {4}(https:\/\/\S+)$/m.exec(program.output())?.[1]);
	return { program, link, code: link.split("#")[1] ?? "" };
}

test("W-19 a person approves by the link in the terminal, in a browser where nobody is signed in", async () => {
	const { page } = await person(g);
	const { program, link, code } = await commandLine("laptop");
	await page.goto(link);
	await page.getByRole("heading", { name: "First, sign in" }).waitFor();
	expect(page.url()).toBe(`${g.url}/cli`);
	expect(await page.evaluate(() => [location.href, JSON.stringify(history.state)].join())).not.toContain(code);
	await shot(page, "cli-signin");
	await expectAccessible(page, "the sign-in before a code");
	await page.getByLabel("Email address").fill(g.email);
	await page.getByLabel("Password").first().fill("not the password");
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.getByText("The email address or the password is wrong.").waitFor();
	await page.getByLabel("Password").first().fill(g.password);
	await page.getByRole("button", { name: "Sign in" }).click();

	// All that a person needs to tell a stranger's sign-in from their own.
	await page.getByRole("heading", { name: "Is this you?" }).waitFor();
	expect(page.url()).toBe(`${g.url}/cli`);
	for (const text of [code, "127.0.0.1", hostname(), "just now"]) await page.getByText(text, { exact: true }).waitFor();
	await page.getByText("Approve only what you have begun yourself").waitFor();
	await page.getByText("You are owner@example.com of the account acme.").waitFor();
	await everyLookOfThis(page, "cli-ask");
	expect(program.child.exitCode, "it was signed in before anybody approved").toBeNull();
	await page.getByRole("button", { name: "Approve" }).click();
	await page.getByText(`${hostname()} is signed in. You can close this page.`).waitFor();
	await shot(page, "cli-approved");
	expect(await program.ended, program.output()).toBe(0);
	// The code is good for nothing more.
	await page.goto(link);
	await page.getByText("No sign-in waits for this code.").waitFor();
});

test("W-19 a link that is opened where somebody is signed in does nothing until a click", async () => {
	const { page } = await person(g);
	await page.goto("/signin");
	await page.getByLabel("Email address").fill(g.email);
	await page.getByLabel("Password").first().fill(g.password);
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.waitForURL("**/devices");
	const { program, link, code } = await commandLine("second");
	const decisions: string[] = [];
	page.on("request", (r) => r.url().includes("/device-authorization/confirm") && decisions.push(r.url()));
	await page.goto(link);
	await page.getByRole("heading", { name: "Is this you?" }).waitFor();
	await page.reload();
	// The code is gone with the page, and is entered by hand: a wrong one first.
	const field = page.getByRole("textbox", { name: "Code" });
	await field.waitFor();
	expect(await field.inputValue()).toBe("");
	await shot(page, "cli-enter");
	await expectAccessible(page, "the field for a code");
	await field.fill("BBBB-CCCC");
	await page.getByRole("button", { name: "Continue" }).click();
	await page.getByText("No sign-in waits for this code.").waitFor();
	await field.fill(code.replace("-", " ").toLowerCase());
	await field.press("Enter");
	await page.getByText(code, { exact: true }).waitFor();
	expect(decisions).toEqual([]);
	// Deny has the focus: who types on by mistake lets nobody in.
	expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Deny");
	await page.keyboard.press("Enter");
	await page.getByText(`Denied. ${hostname()} gets no access.`).waitFor();
	await shot(page, "cli-denied");
	expect(await program.ended, program.output()).toBe(4);
	await page.getByRole("button", { name: "Enter another code" }).click();
	expect(await field.inputValue()).toBe("");
});

test("a sign-in that has ended is asked for again, and another person can sign in", async () => {
	const { page, context } = await person(g);
	const { program, link, code } = await commandLine("third");
	await page.goto(link);
	const enter = async () => {
		await page.getByLabel("Email address").fill(g.email);
		await page.getByLabel("Password").first().fill(g.password);
		await page.getByRole("button", { name: "Sign in" }).click();
		await page.getByText(code, { exact: true }).waitFor();
	};
	await enter();
	await page.getByRole("button", { name: "Not you?" }).click();
	await enter();
	await context.clearCookies();
	await page.getByRole("button", { name: "Approve" }).click();
	await page.getByText("Your sign-in has ended. Sign in again.").waitFor();
	expect(program.child.exitCode).toBeNull();
	await enter();
	await page.getByRole("button", { name: "Deny" }).click();
	expect(await program.ended, program.output()).toBe(4);
});
