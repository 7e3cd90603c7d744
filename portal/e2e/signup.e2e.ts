import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { everyLookOfThis, expectQuiet, Gateway, person, shot, signIn, stopAll } from "./harness";

let closed: Gateway;
let open: Gateway;
beforeAll(async () => {
	[closed, open] = await Promise.all([Gateway.start(), Gateway.start({ args: ["--sign-up"] })]);
});
afterEach(expectQuiet);
afterAll(stopAll);

test("where sign-up is off nothing leads to it, and its page says whom to ask", async () => {
	const { page } = await person(closed);
	await page.goto("/signin");
	await page.getByText("Forgot the password?").waitFor();
	expect(await page.getByRole("link", { name: "Sign up" }).count()).toBe(0);
	await page.goto("/signup");
	await page.getByRole("heading", { name: "Nobody can sign up here" }).waitFor();
	await shot(page, "signup-off");
	await page.getByRole("link", { name: "Sign in" }).click();
	await page.waitForURL("**/signin");
});

test("A-30 an account of one's own has nothing of another's", async () => {
	await open.token("access", "a token of acme");
	const { page } = await person(open);
	await page.goto("/signin");
	await page.getByRole("link", { name: "Sign up" }).click();
	await page.waitForURL("**/signup");
	await page.getByLabel("Account").waitFor();
	await everyLookOfThis(page, "signup");
	await page.getByLabel("Account").fill("acme");
	await page.getByLabel("Email address").fill("colleague@example.com");
	await page.getByLabel("Password").first().fill("another good password");
	await page.getByRole("button", { name: "Make the account" }).click();
	await page.waitForURL("**/devices");
	const seen = await page.evaluate(async () => ({
		me: await (await fetch("/api/v1/me")).json(),
		tokens: await (await fetch("/api/v1/tokens")).json(),
	}));
	expect(seen.me).toMatchObject({ user: { email: "colleague@example.com" }, account: { name: "acme" }, role: "owner" });
	expect(seen.tokens.items).toEqual([]);
	expect(seen.me.account.id).not.toBe((await open.ask("GET", "/api/v1/me")).body.account.id);
});

test("X-03 an address that has an account is not told from one that was mistyped, and stays as it is", async () => {
	const { page } = await person(open);
	await page.goto("/signup");
	await page.getByLabel("Account").fill("mine");
	await page.getByLabel("Email address").fill(open.email);
	await page.getByLabel("Password").first().fill("the password of a thief");
	await page.getByRole("button", { name: "Make the account" }).click();
	await page.getByText("That did not sign you in").waitFor();
	await shot(page, "signup-taken");
	expect(new URL(page.url()).pathname).toBe("/signup");
	await signIn(open, page);
});
