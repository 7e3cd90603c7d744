import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Device, expectAccessible, expectQuiet, Gateway, shot, stopAll, until } from "./harness";
import { Sshd } from "./sshd";
import { reader, run, sees } from "./terminal";

let g: Gateway;
let sshd: Sshd;
let server: Device;
beforeAll(async () => {
	g = await Gateway.start();
	sshd = await Sshd.start();
	server = await g.device("server", {
		connect: [`tcp://localhost:${sshd.port}`, "--ssh-user", sshd.user, "--ssh-single-use-keys"],
	});
});
afterEach(expectQuiet);
afterAll(stopAll);

/** Fills the form that asks how to connect. */
async function form(
	page: Page,
	method: "Single-use key" | "Password" | "Private key",
	fields: Record<string, string> = {},
) {
	await page.goto(`/terminal/${server.id}`);
	await page.getByText(method, { exact: true }).click();
	await page.getByLabel("User", { exact: false }).first().fill(sshd.user);
	for (const [label, value] of Object.entries(fields))
		await page.getByLabel(label, { exact: false }).first().fill(value);
	await page.getByRole("button", { name: "Connect" }).click();
}

const prompt = /\$ ?$/m;

test("a password is sent to a key that the person has seen", async () => {
	const { page } = await reader(g);
	await form(page, "Password", { "The device user's password": sshd.password });
	const dialog = page.getByRole("dialog", { name: "Is this the right device?" });
	await dialog.waitFor();
	expect(await dialog.textContent()).toContain(sshd.fingerprint);
	await shot(page, "terminal-new-host-key");
	await expectAccessible(page, "a new host key");
	await dialog.getByRole("button", { name: "It is the same: connect" }).click();
	await sees(page, prompt);
	await run(page, "whoami", new RegExp(`^${sshd.user}$`, "m"));
});

test("a wrong password is refused, and another way can be tried", async () => {
	const { page } = await reader(g);
	await form(page, "Password", { "The device user's password": "wrong" });
	await page.getByText("The device did not take this sign-in.").waitFor();
	await shot(page, "terminal-refused");
	await page.getByRole("button", { name: "Sign in differently" }).click();
	await page.getByText("Private key", { exact: true }).click();
	await page.getByLabel("Private key").last().fill(sshd.key);
	await page.getByRole("button", { name: "Connect" }).click();
	await sees(page, prompt);
	await run(page, "whoami", new RegExp(`^${sshd.user}$`, "m"));
});

test("a single-use key leaves nothing behind", async () => {
	const before = readFileSync(sshd.authorizedKeys, "utf8");
	const { page } = await reader(g);
	await form(page, "Single-use key");
	await sees(page, prompt);
	await run(page, "whoami", new RegExp(`^${sshd.user}$`, "m"));
	await until("the key is gone", () => readFileSync(sshd.authorizedKeys, "utf8") === before);
});

test("files come and go beside the terminal", async () => {
	const { page } = await reader(g);
	await form(page, "Single-use key");
	await sees(page, prompt);
	await page.getByRole("button", { name: "Files" }).click();
	const files = page.getByRole("complementary", { name: "Files on the device" });
	await files.getByRole("textbox", { name: "Folder" }).waitFor();
	await until(
		"the home is shown",
		async () => (await files.getByRole("textbox", { name: "Folder" }).inputValue()) === sshd.home,
	);

	// A name that would be markup, and a megabyte of bytes.
	const content = randomBytes(1_000_000);
	const name = "<img src=x onerror=alert(1)> ü.bin";
	const choose = async (what: { name: string; buffer: Buffer }) => {
		const chooser = page.waitForEvent("filechooser");
		await files.getByRole("button", { name: "choose files" }).click();
		await (await chooser).setFiles({ ...what, mimeType: "application/octet-stream" });
	};
	await choose({ name, buffer: content });
	await files.getByText("Done").first().waitFor();
	expect(sum(readFileSync(join(sshd.home, name)))).toBe(sum(content));
	await files.getByText(name, { exact: true }).waitFor();
	await shot(page, "terminal-files");
	await expectAccessible(page, "files beside a terminal");

	// What is there is not overwritten without a word.
	await choose({ name, buffer: Buffer.from("other") });
	const dialog = page.getByRole("dialog", { name: `${name} exists` });
	await dialog.getByRole("button", { name: "Cancel" }).click();
	expect(statSync(join(sshd.home, name)).size).toBe(content.length);
	await choose({ name, buffer: Buffer.from("other") });
	await dialog.getByRole("button", { name: "Replace" }).click();
	await until("it is replaced", () => readFileSync(join(sshd.home, name), "utf8") === "other");

	// And back.
	const out = randomBytes(1_000_000);
	writeFileSync(join(sshd.home, "out.bin"), out);
	await files.getByRole("button", { name: "Reload" }).click();
	const download = page.waitForEvent("download");
	await files.getByRole("button", { name: "Download out.bin" }).click();
	const got = await (await download).path();
	expect(sum(readFileSync(got))).toBe(sum(out));

	// Dropped on the terminal.
	const data = await page.evaluateHandle(() => {
		const d = new DataTransfer();
		d.items.add(new File(["dropped here"], "dropped.txt"));
		return d;
	});
	await page.dispatchEvent("main", "dragover", { dataTransfer: data });
	await page.getByText("Drop to upload to server").waitFor();
	await page.dispatchEvent("main", "drop", { dataTransfer: data });
	await until(
		"it was sent",
		() =>
			existsSync(join(sshd.home, "dropped.txt")) &&
			readFileSync(join(sshd.home, "dropped.txt"), "utf8") === "dropped here",
	);

	// A folder, and an upload into it that is cancelled on the way.
	await files.getByRole("button", { name: "New folder" }).click();
	await page.getByLabel("Name of the folder").fill("inside");
	await page.getByRole("button", { name: "Create" }).click();
	await files.getByRole("button", { name: "Open the folder inside" }).click();
	await files.getByText("This folder is empty.").waitFor();
	const large = join(sshd.dir, "large.bin");
	writeFileSync(large, "");
	truncateSync(large, 1_000_000_000);
	const chooser = page.waitForEvent("filechooser");
	await files.getByRole("button", { name: "choose files" }).click();
	await (await chooser).setFiles(large);
	await files.getByRole("button", { name: "Cancel: Uploading large.bin" }).click();
	await files.getByText("Cancelled").waitFor();
	await until("nothing is left of it", () => readdirSync(join(sshd.home, "inside")).length === 0);
	const audit = (await g.ask("GET", "/api/v1/audit?limit=100")).body.items.map((r: { action: string }) => r.action);
	expect(audit.some((a: string) => /upload|file/.test(a))).toBe(true);
});

const sum = (b: Buffer) => createHash("sha256").update(b).digest("hex");

test("a host key that has changed stops everything", async () => {
	const old = sshd.fingerprint;
	await sshd.stop();
	sshd.newHostKey();
	await sshd.serve();
	const { page } = await reader(g);
	await form(page, "Password", { "The device user's password": sshd.password });
	const dialog = page.getByRole("dialog", { name: "The device's key has changed" });
	await dialog.waitFor();
	const text = await dialog.textContent();
	expect(text).toContain(old);
	expect(text).toContain(sshd.fingerprint);
	await shot(page, "terminal-changed-host-key");
	await expectAccessible(page, "a changed host key");
	await dialog.getByRole("button", { name: "Cancel" }).click();
	await page
		.getByText(/The terminal was closed|closed/)
		.first()
		.waitFor();
});
