import type { Page } from "playwright-core";
import { type Gateway, type Person, person, signIn, until } from "./harness";

/** What the terminal's screen shows, without the spaces at the ends of lines: as a screen reader gets it, since what WebGL draws is not text. */
export async function screen(page: Page, pane = 0): Promise<string> {
	return page
		.locator(".xterm-accessibility-tree")
		.nth(pane)
		.evaluate((e) =>
			[...e.children].map((row) => (row.textContent ?? "").replaceAll("\u00a0", " ").trimEnd()).join("\n"),
		);
}

export async function sees(page: Page, text: string | RegExp, pane = 0) {
	try {
		await page.locator(".xterm-accessibility-tree").nth(pane).waitFor();
		await until(`the terminal shows ${text}`, async () => {
			const s = await screen(page, pane);
			return typeof text === "string" ? s.includes(text) : text.test(s);
		});
	} catch (e) {
		throw new Error(`${e}\n${await screen(page, pane).catch(() => "")}`);
	}
}

/** Types a command, and waits for what it says. */
export async function run(page: Page, command: string, want: string | RegExp, pane = 0) {
	await page.locator(".xterm-helper-textarea").nth(pane).focus();
	await page.keyboard.type(command);
	await page.keyboard.press("Enter");
	await sees(page, want, pane);
}

/** Somebody whose terminals are read out, as the tests read them. */
export async function reader(g: Gateway): Promise<Person> {
	const p = await person(g);
	await p.context.addInitScript(() =>
		localStorage.setItem("socketxp-terminal", JSON.stringify({ screenReader: true })),
	);
	await signIn(g, p.page);
	return p;
}
