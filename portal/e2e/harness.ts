import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { expect, onTestFailed } from "vitest";

const here = resolve(import.meta.dirname);
const programs = resolve(here, "../../bin");
const shots = resolve(here, "../shots");

/** What a test started; ended in reverse order by `stopAll`. */
const running: (() => Promise<void> | void)[] = [];

/** Does f when all is ended, in reverse order of these calls. */
export function atTheEnd(f: () => Promise<void> | void) {
	running.push(f);
}

/** Ends all that was started, also after a failure. For afterAll. */
export async function stopAll() {
	for (const stop of running.splice(0).reverse()) await stop();
}

/** Waits until f answers something true, and returns it. */
export async function until<T>(what: string, f: () => T | Promise<T>, patience = 20_000): Promise<NonNullable<T>> {
	const end = Date.now() + patience;
	for (;;) {
		const v = await f();
		if (v) return v;
		if (Date.now() > end) throw new Error(`never: ${what}`);
		await new Promise((next) => setTimeout(next, 50));
	}
}

export interface Program {
	output: () => string;
	child: ChildProcess;
	/** Its exit code, when it has ended. */
	ended: Promise<number | null>;
	stop: (signal?: NodeJS.Signals) => Promise<void>;
}

/** Starts a program of this project; it is ended with the tests. */
export function run(name: string, args: string[], env: Record<string, string> = {}): Program {
	return launch(join(programs, name), args, { PATH: process.env.PATH ?? "", HOME: tmpdir(), ...env });
}

function launch(program: string, args: string[], env: Record<string, string>): Program {
	const child = spawn(program, args, { env });
	let output = "";
	child.stdout.on("data", (d) => {
		output += d;
	});
	child.stderr.on("data", (d) => {
		output += d;
	});
	const ended = new Promise<number | null>((done) => child.on("close", done));
	const stop = async (signal: NodeJS.Signals = "SIGINT") => {
		if (child.exitCode === null && child.signalCode === null) child.kill(signal);
		await ended;
	};
	running.push(() => stop());
	return { output: () => output, child, ended, stop };
}

/** Runs a program to its end; its output, or an error with it. */
export async function finish(
	name: string,
	args: string[],
	input = "",
	env: Record<string, string> = {},
): Promise<string> {
	const p = run(name, args, env);
	p.child.stdin?.end(input);
	if ((await p.ended) !== 0) throw new Error(`${name} ${args[0]}: ${p.output()}`);
	return p.output();
}

export interface Answer {
	status: number;
	// biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever was answered
	body: any;
}

/** A gateway of the test's own, on a free port, with its data in a folder of its own. */
export class Gateway {
	readonly dir = mkdtempSync(join(tmpdir(), "socketxp-portal-"));
	readonly data = join(this.dir, "gateway");
	readonly email = "owner@example.com";
	readonly password = randomBytes(15).toString("base64url");
	url = "";
	/** What people's browsers come through; agents go straight. */
	private line: Line | undefined;
	private port = 0;
	process!: Program;
	/** Of the owner who is signed in: name and value. */
	cookie = "";

	/** Starts it. With an owner unless `owner` is false: then `setUpLink` is what it printed. */
	static async start({
		owner = true,
		args = [] as string[],
		line = undefined as Line | undefined,
	} = {}): Promise<Gateway> {
		const g = new Gateway();
		g.line = line;
		mkdirSync(g.data, { mode: 0o700 });
		running.push(() => rmSync(g.dir, { recursive: true, force: true }));
		if (owner) {
			const file = join(g.dir, "password");
			writeFileSync(file, g.password, { mode: 0o600 });
			await finish("socketxp-gateway", [
				"admin",
				"create-user",
				"--data-dir",
				g.data,
				"--email",
				g.email,
				"--account",
				"acme",
				"--password-file",
				file,
			]);
		}
		await g.serve(args);
		if (owner) await g.signIn();
		return g;
	}

	/** Serves; again on the same port after a stop. */
	async serve(args: string[] = []) {
		const port = this.port || (await freePort());
		this.port = port;
		this.url = `https://localhost:${this.line ? await this.line.to(port) : port}`;
		this.process = run("socketxp-gateway", [
			"serve",
			"--data-dir",
			this.data,
			"--listen",
			`127.0.0.1:${port}`,
			"--public-url",
			this.url,
			"--metrics-listen",
			"",
			...args,
		]);
		await until("the gateway is ready", async () => {
			if (this.process.child.exitCode !== null) throw new Error(this.process.output());
			return (await this.ask("GET", "/readyz").catch(() => undefined))?.status === 200;
		});
	}

	/** The pin of its key, as it printed it. */
	get pin(): string {
		return /^Key {2}(\S+)$/m.exec(this.process.output())?.[1] ?? "";
	}

	get setUpLink(): string {
		return /https:\/\/\S+\/setup#\S+/.exec(this.process.output())?.[0] ?? "";
	}

	/** Signs in for `ask`. */
	async signIn() {
		const r = await this.ask("POST", "/api/v1/signin", { email: this.email, password: this.password });
		expect(r.status, JSON.stringify(r.body)).toBe(200);
	}

	/** Asks the API as the owner. */
	ask(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
		const text = body === undefined ? undefined : JSON.stringify(body);
		return new Promise((done, failed) => {
			const req = request(
				this.url + path,
				{
					method,
					agent: trusting,
					headers: {
						...(text ? { "Content-Type": "application/json", "Content-Length": String(Buffer.byteLength(text)) } : {}),
						...(this.cookie && path.startsWith("/api/") ? { Cookie: this.cookie } : {}),
						...headers,
					},
				},
				(res) => {
					let out = "";
					res.setEncoding("utf8");
					res.on("data", (d) => {
						out += d;
					});
					res.on("end", () => {
						const set = res.headers["set-cookie"]?.find((c) => c.startsWith("__Host-socketxp="));
						if (set) this.cookie = set.split(";")[0] ?? "";
						done({
							status: res.statusCode ?? 0,
							body: /json/.test(res.headers["content-type"] ?? "") ? JSON.parse(out) : out,
						});
					});
				},
			);
			req.on("error", failed);
			req.end(text);
		});
	}

	async token(kind: string, name: string, more: object = {}): Promise<string> {
		const r = await this.ask("POST", "/api/v1/tokens", { kind, name, ...more });
		expect(r.status, JSON.stringify(r.body)).toBe(201);
		return r.body.token;
	}

	/** Registers a device named so and connects it, with the built-in SSH server on the tunnel tcp://localhost:22 unless other arguments are given. */
	async device(
		name: string,
		{ group = "default", connect = ["tcp://localhost:22", "--enable-ssh"] } = {},
	): Promise<Device> {
		const token = await this.token("registration", `for ${name}`);
		return Device.start(this, name, group, token, connect);
	}
}

/**
 * Runs a line as somebody types it into a shell, with the agent on the PATH and its work
 * folder in `dir`. `done` is its output when it has ended well.
 */
export function typed(
	line: string,
	dir: string,
	env: Record<string, string> = {},
): Program & { done: Promise<string> } {
	mkdirSync(dir, { recursive: true, mode: 0o700 });
	const p = launch("/bin/bash", ["-c", `exec ${line}`], {
		PATH: `${programs}:${process.env.PATH ?? ""}`,
		HOME: dir,
		SHELL: "/bin/bash",
		SOCKETXP_WORK_DIR: dir,
		...env,
	});
	const done = p.ended.then((code) => {
		if (code !== 0) throw new Error(`${line}: ${p.output()}`);
		return p.output();
	});
	done.catch(() => {}); // for who does not ask
	return { ...p, done };
}

/** Writes rows that no API makes into a gateway's database; see seed.py. */
export function seed(g: Gateway, what: string, ...args: string[]): string {
	return execFileSync("/usr/bin/python3", [join(here, "seed.py"), join(g.data, "gateway.db"), what, ...args], {
		encoding: "utf8",
	});
}

/** A line between browsers and a gateway that can be cut. What agents say passes in any case. */
export class Line {
	private readonly people = new Set<Socket>();
	private broken = false;
	private server: Server | undefined;

	/** Leads to the port from now on; answers the line's own. */
	async to(port: number): Promise<number> {
		this.server?.close();
		const server = createServer((near) => {
			const far = connect(port, "127.0.0.1");
			near.once("data", (first: Buffer) => {
				const agent = first.includes("socketxp-control") || first.subarray(0, 4).toString() === "SXPL";
				if (!agent) {
					if (this.broken) {
						near.destroy();
						far.destroy();
						return;
					}
					this.people.add(near);
				}
				far.write(first);
				near.pipe(far).pipe(near);
			});
			const over = () => {
				this.people.delete(near);
				near.destroy();
				far.destroy();
			};
			for (const end of [near, far]) end.on("error", over).on("close", over);
		});
		this.server = server;
		await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
		running.push(() => {
			this.cut();
			server.close();
		});
		return (server.address() as AddressInfo).port;
	}

	/** Ends all that people have open, and lets nothing new through until `mend`. */
	cut() {
		this.broken = true;
		for (const s of this.people) s.destroy();
	}

	mend() {
		this.broken = false;
	}
}

/** A device with a real agent. */
export class Device {
	readonly name: string;
	readonly dir: string;
	process!: Program;
	private readonly connect: string[];
	id = "";

	private constructor(name: string, dir: string, connect: string[]) {
		this.name = name;
		this.dir = dir;
		this.connect = connect;
	}

	static async start(g: Gateway, name: string, group: string, token: string, connect: string[]): Promise<Device> {
		const d = new Device(name, mkdtempSync(join(g.dir, `${name}-`)), connect);
		await finish(
			"socketxp",
			["--work-dir", d.dir, "login", "-", "--iot-device-name", name, "--iot-device-group", group],
			token,
		);
		d.id = JSON.parse(readFileSync(join(d.dir, "device.key"), "utf8")).DeviceId;
		await d.go();
		return d;
	}

	/** Connects, again after `stop`. */
	async go() {
		this.process = run("socketxp", ["--work-dir", this.dir, "connect", ...this.connect], {
			HOME: this.dir,
			SHELL: "/bin/bash",
		});
		await until(`${this.name} is connected`, () => {
			if (this.process.child.exitCode !== null) throw new Error(this.process.output());
			return this.process.output().includes("Connected to");
		});
	}

	stop(signal: NodeJS.Signals = "SIGINT") {
		return this.process.stop(signal);
	}
}

/**
 * A server of somebody else's pages, on a port of its own with the gateway's
 * certificate: as https://localhost it is another origin of the same site, to which
 * the browser sends the gateway's cookies, and as https://127.0.0.1 another site.
 */
export async function strangersServer(
	g: Gateway,
	answer: (path: string) => { body: string; headers?: Record<string, string> },
): Promise<{ sameSite: string; crossSite: string; asked: string[] }> {
	const { createServer } = await import("node:https");
	const asked: string[] = [];
	const server = createServer(
		{ key: readFileSync(join(g.data, "gateway.key")), cert: readFileSync(join(g.data, "gateway.crt")) },
		(req, res) => {
			asked.push(`${req.method} ${req.url}`);
			const { body, headers } = answer(req.url ?? "/");
			res.writeHead(200, { "Content-Type": "text/html", ...headers });
			res.end(body);
		},
	);
	await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
	running.push(() => {
		server.closeAllConnections();
		server.close();
	});
	const { port } = server.address() as { port: number };
	return { sameSite: `https://localhost:${port}`, crossSite: `https://127.0.0.1:${port}`, asked };
}

const trusting = new Agent({ rejectUnauthorized: false, keepAlive: true }); // the test's own gateway, on loopback

export async function freePort(): Promise<number> {
	return new Promise((done) => {
		const s = createServer();
		s.listen(0, "127.0.0.1", () => {
			const { port } = s.address() as { port: number };
			s.close(() => done(port));
		});
	});
}

let browser: Promise<Browser> | undefined;

function chromiumOnce(): Promise<Browser> {
	browser ??= chromium
		.launch({
			executablePath: "/usr/bin/chromium",
			args: [
				"--headless",
				"--no-sandbox",
				"--disable-gpu",
				"--disable-quic",
				"--no-first-run",
				"--disable-background-networking",
				"--disable-component-update",
				"--disable-sync",
			],
		})
		.then((b) => {
			running.push(async () => {
				browser = undefined;
				await b.close();
			});
			return b;
		});
	return browser;
}

export interface Person {
	context: BrowserContext;
	page: Page;
}

/**
 * A browser with nothing in it. Whatever a page complains of (a script that fails,
 * something that the content security policy forbids) fails the test in `expectQuiet`.
 */
export async function person(
	g: Gateway,
	{ scheme = "light" as "light" | "dark", width = 1440, height = 900 } = {},
): Promise<Person> {
	const context = await (await chromiumOnce()).newContext({
		baseURL: g.url,
		ignoreHTTPSErrors: true,
		colorScheme: scheme,
		viewport: { width, height },
		locale: "en-GB",
		timezoneId: "Europe/Berlin",
		reducedMotion: "reduce",
	});
	await context.grantPermissions(["clipboard-read", "clipboard-write"]);
	const page = await context.newPage();
	listen(page);
	running.push(() => context.close());
	onTestFailed(async () => {
		if (!page.isClosed()) await shot(page, `failed-${Date.now()}`);
	});
	return { context, page };
}

const complaints: string[] = [];

/** Collects what a page complains of; for tabs that a test opens itself. */
export function listen(page: Page) {
	page.on("pageerror", (e) => complaints.push(`${page.url()}: ${e.message}`));
	page.on("console", (m) => {
		// What the network refused is told of on the page itself.
		if (m.type() === "error" && !/Failed to load resource|net::ERR_/.test(m.text()))
			complaints.push(`${page.url()}: ${m.text()}`);
	});
}

/** Fails if a page has complained since the last call. For afterEach. */
export function expectQuiet() {
	expect(complaints.splice(0)).toEqual([]);
}

/** Signs in by the form. */
export async function signIn(g: Gateway, page: Page) {
	await page.goto("/signin");
	await page.getByLabel("Email address").fill(g.email);
	await page.getByLabel("Password", { exact: false }).first().fill(g.password);
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.waitForURL("**/devices");
}

/** A browser in which the owner is signed in already, without the form. */
export async function owner(g: Gateway, look: Parameters<typeof person>[1] = {}): Promise<Person> {
	const p = await person(g, look);
	p.page.setDefaultTimeout(10_000);
	const [name = "", value = ""] = g.cookie.split("=");
	await p.context.addCookies([{ name, value, url: g.url, secure: true, httpOnly: true, sameSite: "Lax" }]);
	return p;
}

/** What an act puts into the clipboard: it comes a moment after the act. */
export async function copied(page: Page, act: () => Promise<unknown>): Promise<string> {
	await page.evaluate(() => navigator.clipboard.writeText(""));
	await act();
	return until("something is copied", () => page.evaluate(() => navigator.clipboard.readText()));
}

/** Keeps a picture in portal/shots. */
export async function shot(page: Page, name: string) {
	mkdirSync(shots, { recursive: true });
	// The caret is hidden by a style element, which the content security policy forbids.
	await page.screenshot({ path: join(shots, `${name}.png`), caret: "initial" });
}

const axeSource = readFileSync(resolve(here, "../node_modules/axe-core/axe.min.js"), "utf8");

/** Looks at the page as a screen reader would: no violation of WCAG 2.2 AA or of axe's best practices. */
export async function expectAccessible(page: Page, name: string) {
	// A tooltip that is open now by chance stands outside of all landmarks, as they do.
	const tooltip = page.locator("[role=tooltip]");
	if ((await tooltip.count()) > 0) {
		await page.mouse.move(0, 0);
		await page.evaluate(() => (document.activeElement as HTMLElement | null)?.blur());
		await until("no tooltip is open", async () => (await tooltip.count()) === 0);
	}
	// By the DevTools protocol: the content security policy lets no foreign script in.
	const cdp = await page.context().newCDPSession(page);
	await cdp.send("Runtime.evaluate", { expression: axeSource });
	const r = await cdp.send("Runtime.evaluate", {
		expression: `axe.run(document, { resultTypes: ["violations"] }).then((r) => JSON.stringify(r.violations.map((v) => v.id + ": " + v.help + " — " + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160)).join(" | "))))`,
		awaitPromise: true,
		returnByValue: true,
	});
	await cdp.detach();
	if (r.exceptionDetails) throw new Error(r.exceptionDetails.exception?.description ?? r.exceptionDetails.text);
	expect(JSON.parse(String(r.result.value)), `axe on ${name}`).toEqual([]);
}

/** What stands on a page now, in light and dark, wide and narrow: axe, no scrolling sideways, and a picture of each. */
export async function everyLookOfThis(page: Page, name: string) {
	for (const [scheme, width] of [
		["light", 1440],
		["light", 360],
		["dark", 360],
		["dark", 1440],
	] as const) {
		await page.setViewportSize({ width, height: width === 360 ? 740 : 900 });
		await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
		await page.evaluate(async (scheme) => {
			const frame = () => new Promise(requestAnimationFrame);
			while (document.documentElement.getAttribute("data-mantine-color-scheme") !== scheme) await frame();
			// Colours change by transitions, which are short but not nothing.
			await frame();
			await Promise.all(document.getAnimations().map((a) => a.finished.catch(() => {})));
			await frame();
		}, scheme);
		const sideways = await page.evaluate(
			() => document.documentElement.scrollWidth - document.documentElement.clientWidth,
		);
		expect(sideways, `${name} scrolls sideways at ${width}`).toBeLessThanOrEqual(0);
		await shot(page, `${name}-${scheme}-${width}`);
		await expectAccessible(page, `${name}, ${scheme}, ${width} wide`);
	}
}

/** A page in light and dark, wide and narrow: axe, no scrolling sideways, and a picture of each. */
export async function everyLook(g: Gateway, name: string, path: string, ready: (page: Page) => Promise<unknown>) {
	for (const scheme of ["light", "dark"] as const) {
		const { page, context } = await person(g, { scheme });
		await signIn(g, page);
		for (const width of [1440, 360]) {
			await page.setViewportSize({ width, height: width === 360 ? 740 : 900 });
			await page.goto(path);
			await ready(page);
			const sideways = await page.evaluate(
				() => document.documentElement.scrollWidth - document.documentElement.clientWidth,
			);
			expect(sideways, `${name} scrolls sideways at ${width}`).toBeLessThanOrEqual(0);
			await shot(page, `${name}-${scheme}-${width}`);
			await expectAccessible(page, `${name}, ${scheme}, ${width} wide`);
		}
		await context.close();
	}
}

/** Changes the gateway's database behind its back. */
export function sql(g: Gateway, statement: string) {
	const script =
		"import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=10); db.executescript(sys.argv[2]); db.close()";
	execFileSync("python3", ["-c", script, join(g.data, "gateway.db"), statement]);
}

/** A TCP server on this machine that answers with what it gets; its port. */
export async function echo(): Promise<number> {
	const server = createServer((c) => c.on("error", () => {}).pipe(c));
	await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
	running.push(() => void server.close());
	return (server.address() as AddressInfo).port;
}

/** A connection to a port of this machine. */
export class Connection {
	private readonly socket: Socket;
	private got = "";
	closed = false;

	constructor(port: number) {
		this.socket = connect(port, "127.0.0.1");
		this.socket.on("data", (d) => {
			this.got += d;
		});
		this.socket.on("error", () => {}); // told by "close"
		this.socket.on("close", () => {
			this.closed = true;
		});
		running.push(() => void this.socket.destroy());
	}

	/** Whether text comes back. */
	async answers(text: string): Promise<boolean> {
		this.socket.write(text);
		await until(`"${text}" comes back`, () => this.closed || this.got.includes(text));
		return this.got.includes(text);
	}
}

/** Opens a local port by a command of socketxp as it stands on a page, but a free port; the port. */
export async function slave(g: Gateway, command: string): Promise<{ port: number; program: Program }> {
	const dir = mkdtempSync(join(g.dir, "laptop-"));
	const program = run("socketxp", ["--work-dir", dir, ...wordsOf(command.replace("localhost:3000", "localhost:0"))]);
	const port = await until("the local port is open", () => {
		if (program.child.exitCode !== null) throw new Error(program.output());
		return /tcp:\/\/localhost:(\d+)/.exec(program.output())?.[1];
	});
	return { port: Number(port), program };
}

/** The arguments of a command of socketxp, as a shell would take them apart. */
export const wordsOf = (command: string) =>
	[...command.replace(/^socketxp /, "").matchAll(/"([^"]*)"|(\S+)/g)].map((m) => m[1] ?? m[2] ?? "");
