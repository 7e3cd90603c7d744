import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { everyLook, expectAccessible, expectQuiet, Gateway, person, shot, signIn, stopAll } from "./harness";

let g: Gateway;
beforeAll(async () => {
	g = await Gateway.start();
});
afterEach(expectQuiet);
afterAll(stopAll);

test("sign in, and come back to where one wanted to go", async () => {
	const { page } = await person(g);
	await page.goto("/tokens?kind=access");
	await page.waitForURL("**/signin?**");
	await expectAccessible(page, "sign-in");
	await page.getByLabel("Email address").fill(g.email);
	await page.getByLabel("Password").first().fill("not the password");
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.getByRole("alert").waitFor();
	await shot(page, "signin-refused");
	await page.getByLabel("Password").first().fill(g.password);
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.waitForURL("**/tokens?kind=access");
});

test("a link leads nowhere else after the sign-in", async () => {
	for (const next of ["https://evil.example/", "//evil.example/", "/\\evil.example/", "javascript:alert(1)"]) {
		const { page, context } = await person(g);
		await page.goto(`/signin?next=${encodeURIComponent(next)}`);
		await page.getByLabel("Email address").fill(g.email);
		await page.getByLabel("Password").first().fill(g.password);
		await page.getByRole("button", { name: "Sign in" }).click();
		await page.waitForURL("**/devices");
		expect(new URL(page.url()).origin).toBe(g.url);
		await context.close();
	}
});

test("a session that ends loses nothing that was typed", async () => {
	const { page, context } = await person(g);
	await signIn(g, page);
	await page.goto("/tokens");
	await page.evaluate(() => {
		(window as { kept?: string }).kept = "still here";
	});
	await context.clearCookies();
	await page.evaluate(() => fetch("/api/v1/me"));
	// The dialog may stand over the link already, if a question of the page's own was refused first.
	await page.locator('a[href="/devices"]').first().dispatchEvent("click");
	const dialog = page.getByRole("dialog", { name: "Your session ended" });
	await dialog.waitFor();
	await shot(page, "session-ended");
	await dialog.getByLabel("Password").first().fill(g.password);
	await dialog.getByRole("button", { name: "Sign in" }).click();
	await dialog.waitFor({ state: "hidden" });
	expect(await page.evaluate(() => (window as { kept?: string }).kept)).toBe("still here");
});

test("sign out ends it here, and everywhere if asked to", async () => {
	const here = await person(g);
	const there = await person(g);
	await signIn(g, here.page);
	await signIn(g, there.page);
	await here.page.getByRole("button", { name: /Signed in as/ }).click();
	await here.page.getByRole("menuitem", { name: "Sign out everywhere" }).click();
	await here.page.waitForURL("**/signin");
	await there.page.reload();
	await there.page.waitForURL("**/signin**");
	await g.signIn();
});

test("every look of the devices page", async () => {
	await everyLook(g, "devices-empty", "/devices", (page) => page.getByRole("heading", { level: 1 }).waitFor());
});
