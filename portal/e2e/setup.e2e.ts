import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { everyLookOfThis, expectAccessible, expectQuiet, Gateway, person, shot, stopAll } from "./harness";

let g: Gateway;
beforeAll(async () => {
	g = await Gateway.start({ owner: false });
});
afterEach(expectQuiet);
afterAll(stopAll);

test("whoever comes without the whole link is told what to do", async () => {
	const { page } = await person(g);
	await page.goto("/");
	await page.waitForURL("**/setup");
	await page.getByRole("heading", { name: "The link is not whole" }).waitFor();
	await page.getByText("socketxp-gateway admin create-user").waitFor();
	await shot(page, "setup-no-secret");
	await expectAccessible(page, "set-up without the secret");
	await page.goto("/signin");
	await page.getByRole("heading", { name: "Nobody can sign in yet" }).waitFor();
});

test("a link that is not the gateway's makes nobody an owner", async () => {
	const { page } = await person(g);
	await page.goto(`/setup#${"A".repeat(43)}`);
	await page.getByLabel("Account").fill("home");
	await page.getByLabel("Email address").fill("thief@example.com");
	await page.getByLabel("Password").first().fill("a long enough password");
	await page.getByRole("button", { name: "Make the account" }).click();
	await page.getByText("The set-up link is not valid.").waitFor();
	await page.getByText("Use the one that the gateway printed when it was last started.").waitFor();
});

test("X-19 the first owner is made by the link, and the secret is nowhere afterwards", async () => {
	const { page } = await person(g);
	const link = g.setUpLink;
	const secret = link.split("#")[1] ?? "";
	expect(secret).toHaveLength(43);
	const sent: string[] = [];
	page.on("request", (r) => sent.push(r.url() + JSON.stringify(r.headers())));
	await page.goto(link);
	await page.getByRole("heading", { name: "Set up this gateway" }).waitFor();
	expect(page.url()).toBe(`${g.url}/setup`);
	await everyLookOfThis(page, "setup");

	// What is wrong is said at its field, and the first one has the focus.
	const submit = page.getByRole("button", { name: "Make the account" });
	const focused = () => page.evaluate(() => (document.activeElement as HTMLInputElement).name);
	await submit.click();
	await page.getByText("The account needs a name.").waitFor();
	await page.getByText("Enter an email address, such as you@example.com.").waitFor();
	await page.getByText("The password is too short.").waitFor();
	expect(await focused()).toBe("account");
	await shot(page, "setup-errors");
	await expectAccessible(page, "set-up with errors");
	await page.getByLabel("Account").fill("home");
	await page.getByLabel("Email address").fill("firstowner@example.com");
	const password = page.getByLabel("Password").first();
	await password.fill("too short");
	await page.getByText("3 more characters needed.").waitFor();
	await submit.click();
	expect(await focused()).toBe("new-password");
	await password.fill("aaaaaaaaaaaa");
	await page.getByText("Long enough, but the same few characters are easy to guess.").waitFor();
	await password.fill("firstowner@example.com");
	await submit.click();
	await page.getByText("Choose one that can't be guessed from your email address.").waitFor();
	await password.fill(g.password);
	await page.getByText("Long. Used nowhere else, nobody guesses it.").waitFor();
	await submit.click();
	await page.waitForURL("**/devices");
	await page.getByText("The gateway is yours. You are signed in.").waitFor();
	await page.getByRole("heading", { level: 1 }).waitFor();

	expect(sent.join("\n")).not.toContain(secret);
	const kept = await page.evaluate(() =>
		[location.href, JSON.stringify(history.state), JSON.stringify({ ...localStorage, ...sessionStorage })].join(),
	);
	expect(kept).not.toContain(secret);
	await page.goBack().catch(() => null);
	expect(page.url()).not.toContain(secret);

	// The link works once.
	await page.goto(link);
	await page.getByRole("heading", { name: "This gateway is set up already" }).waitFor();
	await shot(page, "setup-already");
	await expectAccessible(page, "set-up that is over");
});
