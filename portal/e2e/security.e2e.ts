import type { BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Device, expectQuiet, finish, Gateway, person, signIn, stopAll, strangersServer, until } from "./harness";

// The cases of group W that only a real browser can tell: what it sends, and what it
// lets a page see. What the gateway answers to any client is tested in Go.

let g: Gateway;
let pi: Device;
let evil: Awaited<ReturnType<typeof strangersServer>>;
const marker = "tripped"; // a function that hostile text calls if it is ever run
const hostile = `"><img src=x onerror=${marker}()><script>${marker}()</script>`;

beforeAll(async () => {
	g = await Gateway.start();
	pi = await g.device("pi");
	evil = await strangersServer(g, (path) =>
		path === "/script.js"
			? { body: `${marker}()`, headers: { "Content-Type": "text/javascript" } }
			: { body: "<!doctype html><title>a stranger's page</title><p>hello" },
	);
});
afterEach(expectQuiet);
afterAll(stopAll);

/** Somebody who is signed in, and a stranger's page in the same browser. */
async function victim(origin: string): Promise<{ context: BrowserContext; page: Page; stranger: Page }> {
	const { context, page } = await person(g);
	await signIn(g, page);
	const stranger = await context.newPage();
	await stranger.goto(`${origin}/`);
	return { context, page, stranger };
}

const origins = [
	["another site", () => evil.crossSite],
	["another origin of the same site, which gets the cookie", () => evil.sameSite],
] as const;

const groupNames = async () =>
	(await g.ask("GET", "/api/v1/groups")).body.items.map((i: { name: string }) => i.name) as string[];

const whoIs = (page: Page) =>
	page.evaluate(async () => {
		const r = await fetch("/api/v1/me");
		return r.ok ? ((await r.json()).user.email as string) : r.status;
	});

for (const [name, origin] of origins) {
	test(`W-06 ${name} changes nothing: forms, text/plain, no-cors, sign-out, sign-in`, async () => {
		const { context, page, stranger } = await victim(origin());
		const sent: string[] = [];
		const cookies: boolean[] = [];
		stranger.on("request", (r) => r.method() === "POST" && sent.push(new URL(r.url()).pathname));
		// Forms, as whole pages: a browser asks nobody before it sends them.
		const post = async (path: string, enctype: string, field: string, value: string) => {
			const form = await context.newPage();
			await form.goto(`${origin()}/`);
			const answered = form.waitForResponse((r) => r.url() === g.url + path);
			await form.evaluate(
				([action, enctype, field, value]) => {
					const f = document.createElement("form");
					Object.assign(f, { action, enctype, method: "POST" });
					const i = document.createElement("input");
					Object.assign(i, { type: "hidden", name: field, value });
					f.append(i);
					document.body.append(f);
					f.submit();
				},
				[g.url + path, enctype, field, value] as const,
			);
			const answer = await answered;
			cookies.push(((await answer.request().allHeaders()).cookie ?? "").includes("__Host-socketxp="));
			await form.close();
			return answer.status();
		};
		for (const status of [
			await post("/api/v1/groups", "application/x-www-form-urlencoded", "name", "by-form"),
			// A body that is JSON: {"name":"by-text","x":"="}
			await post("/api/v1/groups", "text/plain", '{"name":"by-text","x":"', '"}'),
			await post("/api/v1/signout", "application/x-www-form-urlencoded", "x", "y"),
			await post("/api/v1/signin", "text/plain", '{"email":"owner@example.com","password":"', '"}'),
			await post("/api/v1/signup", "text/plain", '{"account":"x","email":"e@example.com","password":"', '"}'),
		]) {
			expect([403, 415]).toContain(status);
		}
		// Scripts: what they may send without asking first, and what they must ask for.
		await stranger.evaluate(async (url) => {
			const tries: [string, RequestInit][] = [
				["/api/v1/groups", { method: "POST", mode: "no-cors", body: '{"name":"by-no-cors"}' }],
				[
					"/api/v1/groups",
					{ method: "POST", body: '{"name":"by-cors"}', headers: { "Content-Type": "application/json" } },
				],
				["/api/v1/signout", { method: "POST", mode: "no-cors" }],
				["/api/v1/me/signins", { method: "DELETE" }],
				["/api/v1/groups?_method=POST&name=by-get", { mode: "no-cors" }],
				["/api/v1/signout", { mode: "no-cors" }],
			];
			navigator.sendBeacon(`${url}/api/v1/signout`, new Blob(["{}"], { type: "text/plain" }));
			for (const [path, init] of tries) await fetch(url + path, { credentials: "include", ...init }).catch(() => {});
		}, g.url);
		expect(sent).toEqual(expect.arrayContaining(["/api/v1/groups", "/api/v1/signout"]));
		// The case is a real one only if the browser does send the cookie.
		expect(cookies.includes(true)).toBe(origin() === evil.sameSite);
		expect((await groupNames()).filter((n) => n.startsWith("by-"))).toEqual([]);
		expect(await whoIs(page)).toBe(g.email);
		await context.close();
	});

	test(`W-16 ${name} reads nothing: fetch, script, picture, window`, async () => {
		const { context, stranger } = await victim(origin());
		const read = await stranger.evaluate(async (url) => {
			const out: string[] = [];
			for (const path of [
				"/api/v1/me",
				"/api/v1/devices",
				"/api/v1/gateway",
				"/api/openapi.json",
				"/devices",
				"/readyz",
			]) {
				for (const credentials of ["include", "omit"] as const) {
					const r = await fetch(url + path, { credentials }).catch(() => undefined);
					if (r) out.push(`${path} by fetch`);
				}
				const loads = (e: HTMLScriptElement | HTMLImageElement) =>
					new Promise((done) => {
						e.onload = () => done(true);
						e.onerror = () => done(false);
						e.src = url + path;
						document.body.append(e);
					});
				if (await loads(document.createElement("script"))) out.push(`${path} as a script`);
				if (await loads(document.createElement("img"))) out.push(`${path} as a picture`);
			}
			return out;
		}, g.url);
		expect(read).toEqual([]);
		// A window that it opens is out of its hands.
		const popup = context.waitForEvent("page");
		await stranger.evaluate((url) => {
			(window as unknown as { w: Window | null }).w = open(`${url}/devices`);
		}, g.url);
		await (await popup).waitForURL(/\/devices/);
		expect(await stranger.evaluate(() => (window as unknown as { w: Window }).w.closed)).toBe(true);
		expect(await (await popup).evaluate(() => opener)).toBeNull();
		await context.close();
	});

	test(`W-14 ${name} frames nothing`, async () => {
		const { context, stranger } = await victim(origin());
		for (const path of [
			"/",
			"/signin",
			"/devices",
			`/terminal/${pi.id}`,
			"/cli",
			"/api/docs",
			"/api/v1/me",
			"/no-such-page",
			"/icon.svg",
		]) {
			const shown = await stranger.evaluate(async (src) => {
				const f = document.createElement("iframe");
				const over = new Promise((done) => f.addEventListener("load", done));
				f.src = src;
				document.body.append(f);
				await over;
				return f.contentDocument !== null;
			}, g.url + path);
			expect(shown, path).toBe(false);
			await until(`the frame of ${path} is refused`, () => stranger.frames().at(-1)?.url().startsWith("chrome-error:"));
		}
		await context.close();
	});

	test(`W-01 ${name} opens no WebSocket and no stream, not even with a ticket that is good`, async () => {
		const { context, page, stranger } = await victim(origin());
		const ask = (path: string, body?: object) =>
			page.evaluate(
				async ([path, body]) => {
					const init = body ? { body, headers: { "Content-Type": "application/json" } } : {};
					return await (await fetch(path, { method: "POST", ...init })).json();
				},
				[path, body && JSON.stringify(body)] as const,
			);
		const terminal = await ask(`/api/v1/devices/${pi.id}/terminals`, { port: 22 });
		const address = `${g.url.replace("https", "wss")}/api/v1/terminals/${terminal.id}/attach`;
		const opens = (at: Page, ticket: string) =>
			at.evaluate(
				([url, ticket]) =>
					new Promise<boolean>((done) => {
						const s = new WebSocket(url, ["socketxp-terminal.1", `ticket.${ticket}`]);
						s.onopen = () => {
							s.close();
							done(true);
						};
						s.onerror = () => done(false);
					}),
				[address, ticket] as const,
			);
		expect(await opens(stranger, terminal.ticket)).toBe(false);
		const streams = await stranger.evaluate(
			(url) =>
				new Promise<boolean>((done) => {
					const s = new EventSource(url, { withCredentials: true });
					s.onopen = () => done(true);
					s.onerror = () => done(false);
				}),
			`${g.url}/api/v1/events/stream`,
		);
		expect(streams).toBe(false);
		// The same from the portal's own page is opened: nothing else was wrong with it.
		const { ticket } = await ask(`/api/v1/terminals/${terminal.id}/ticket`);
		expect(await opens(page, ticket)).toBe(true);
		await context.close();
	});
}

test("W-15 a cookie that a stranger has planted is nobody's, and is replaced by the sign-in", async () => {
	const { context, page } = await person(g);
	const stranger = await context.newPage();
	await stranger.goto(evil.sameSite); // cookies know no ports
	const planted = "A".repeat(43);
	await stranger.evaluate((v) => {
		// biome-ignore lint/suspicious/noDocumentCookie: as a stranger's page would
		document.cookie = `__Host-socketxp=${v}; Secure; Path=/`;
	}, planted);
	const value = async () => (await context.cookies(g.url)).find((c) => c.name === "__Host-socketxp")?.value;
	expect(await value()).toBe(planted);
	await signIn(g, page);
	const first = await value();
	expect(first).not.toBe(planted);
	expect(await whoIs(page)).toBe(g.email);
	// A script can't write over it either: it is HttpOnly.
	await stranger.evaluate((v) => {
		// biome-ignore lint/suspicious/noDocumentCookie: as a stranger's page would
		document.cookie = `__Host-socketxp=${v}; Secure; Path=/`;
	}, planted);
	expect(await value()).toBe(first);
	const status = await page.evaluate(
		async (password) =>
			(
				await fetch("/api/v1/reauth", {
					method: "POST",
					headers: { "Content-Type": "application/json" },
					body: JSON.stringify({ password }),
				})
			).status,
		g.password,
	);
	expect(status).toBe(200);
	expect(await value()).not.toBe(first);
	await context.close();
});

test("W-11 what stands in an address is never run", async () => {
	const { context, page } = await person(g);
	let runs = 0;
	await context.exposeFunction(marker, () => {
		runs++;
	});
	const text = encodeURIComponent(hostile);
	const paths = [
		`/${text}`,
		`/devices/${text}`,
		`/signin?next=${encodeURIComponent(`javascript:${marker}()`)}`,
		`/signin?next=${text}`,
		`/cli#${text}`,
		`/setup#${text}`,
	];
	const visit = async (path: string) => {
		await page.goto("about:blank"); // or what differs behind the # alone loads nothing
		await page.goto(g.url + path);
		await page.locator("body *").first().waitFor();
		expect(await page.locator("[onerror]").count(), path).toBe(0);
	};
	for (const path of paths) await visit(path);
	await signIn(g, page);
	for (const path of [
		`/devices/${text}`,
		`/signin?next=${encodeURIComponent(`javascript:${marker}()`)}`,
		`/api/docs?q=${text}`,
		`/api/docs#${text}`,
		`/tokens?q=${text}`,
		`/devices?search=${text}`,
		`/events?type=${text}`,
		`/terminal/${text}`,
		`/audit?action=${text}`,
	]) {
		await visit(path);
	}
	expect(runs).toBe(0);
	await context.close();
});

test("W-08 W-17 W-19 a walk through all pages with hostile names: nothing runs, nothing is kept, nothing is done", async () => {
	// Text from outside, wherever it may come in.
	await g.ask("PATCH", `/api/v1/devices/${pi.id}`, { display_name: hostile });
	const token = await g.token("access", hostile);
	await g.ask("POST", "/api/v1/signin", { email: g.email, password: g.password }, { "User-Agent": hostile });
	const asked = await g.ask("POST", "/api/v1/device-authorization", { host: hostile });
	expect(asked.status).toBe(200);

	const { context, page } = await person(g);
	let runs = 0;
	await context.exposeFunction(marker, () => {
		runs++;
	});
	const missing: string[] = [];
	const writes: string[] = [];
	const urls: string[] = [];
	context.on("response", async (r) => {
		const h = r.headers();
		if (!r.url().startsWith(g.url) || r.status() === 101) return;
		if (
			h["x-content-type-options"] !== "nosniff" ||
			h["x-frame-options"] !== "DENY" ||
			h["referrer-policy"] !== "no-referrer"
		)
			missing.push(r.url());
		if (
			!/frame-ancestors 'none'/.test(h["content-security-policy"] ?? "") ||
			/unsafe/.test(h["content-security-policy"] ?? "")
		)
			missing.push(r.url());
		if (h["cross-origin-opener-policy"] !== "same-origin" || h["cross-origin-resource-policy"] !== "same-origin")
			missing.push(r.url());
	});
	await signIn(g, page);
	context.on("request", (r) => {
		urls.push(r.url());
		if (r.method() !== "GET") writes.push(`${r.method()} ${new URL(r.url()).pathname}`);
	});
	page.on("websocket", (s) => writes.push(`WebSocket ${s.url()}`));
	const pages = [
		"/devices",
		`/devices/${pi.id}`,
		"/groups",
		"/tokens",
		"/sessions",
		"/events",
		"/audit",
		"/account",
		"/profile",
		"/api/docs#create-token",
		`/terminal/${pi.id}`,
	];
	for (const path of pages) {
		await page.goto(path);
		await page.getByRole("heading").first().waitFor();
		await until("it is at rest", async () => (await page.locator(".mantine-Skeleton-root").count()) === 0);
		expect(await page.locator("[onerror]").count(), path).toBe(0);
	}
	// The name did come to be shown, or nothing was proved.
	await page.goto("/devices");
	await page.getByText(hostile).first().waitFor();
	expect(writes, "a link did something").toEqual([]);
	await page.goto(asked.body.verification_uri_complete.replace(/^https:\/\/[^/]+/, ""));
	await page.getByText(hostile).waitFor();
	expect(runs).toBe(0);
	expect(missing).toEqual([]);

	// The sign-in, and what tells the gateway that this browser has been here before.
	const cookies = await context.cookies(g.url);
	expect(cookies.map((c) => c.name)).toEqual(["__Host-socketxp", "__Host-socketxp-known"]);
	for (const c of cookies)
		expect(c).toMatchObject({ httpOnly: true, secure: true, sameSite: "Strict", path: "/", domain: "localhost" });
	const kept = await page.evaluate(async () => ({
		cookie: document.cookie,
		local: { ...localStorage },
		session: { ...sessionStorage },
		databases: await indexedDB.databases(),
		caches: await caches.keys(),
		workers: (await navigator.serviceWorker.getRegistrations()).length,
		history: [location.href, JSON.stringify(history.state)],
	}));
	expect(kept).toMatchObject({ cookie: "", databases: [], caches: [], workers: 0 });
	const all = JSON.stringify([kept, urls]);
	for (const secret of [
		...cookies.map((c) => c.value),
		g.password,
		token,
		asked.body.device_code,
		asked.body.user_code,
	]) {
		expect(secret.length).toBeGreaterThan(8);
		expect(all.includes(secret), "a secret is kept or was in an address").toBe(false);
	}
	await context.close();
});

test("the content security policy holds: no inline script, eval, markup, style, frame, or foreign host", async () => {
	const { context, page } = await person(g);
	await signIn(g, page);
	const own = await context.newPage(); // its complaints are what is wanted here
	let runs = 0;
	await context.exposeFunction(marker, () => {
		runs++;
	});
	await own.goto("/devices");
	await own.getByRole("heading").first().waitFor();
	const before = evil.asked.length;
	const refused = await own.evaluate(
		async ([url, marker]) => {
			// What a debugger evaluates may use eval: this goes on as a page's own code.
			await new Promise((r) => setTimeout(r, 0));
			const seen: string[] = [];
			document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
			const out: Record<string, boolean> = {};
			const throws = (f: () => unknown) => {
				try {
					f();
					return false;
				} catch {
					return true;
				}
			};
			/** Whether f is followed by a violation of this directive. */
			const violates = async (directive: string, f: () => unknown) => {
				seen.length = 0;
				try {
					await f();
				} catch {
					// It may also throw.
				}
				for (let i = 0; i < 100 && !seen.some((s) => s.startsWith(directive)); i++)
					await new Promise((r) => setTimeout(r, 10));
				return seen.some((s) => s.startsWith(directive));
			};
			const add = (tag: string, props: object) =>
				document.body.append(Object.assign(document.createElement(tag), props));
			const attribute = (tag: string, name: string, value: string) => {
				const e = document.createElement(tag);
				e.setAttribute(name, value);
				document.body.append(e);
				return e;
			};
			// biome-ignore lint/security/noGlobalEval: it must not work
			out.eval = throws(() => globalThis.eval(`${marker}()`));
			out.function = throws(() => new Function(`${marker}()`)());
			out.timeout = await violates("", () => setTimeout(`${marker}()` as unknown as () => void, 0)).catch(() => true);
			out.markup = throws(() => {
				document.createElement("div").innerHTML = `<img src=x onerror=${marker}()>`;
			});
			out.write = throws(() => document.write(`<script>${marker}()</script>`));
			out.inline = await violates("", () => add("script", { text: `${marker}()` }));
			out.handler = await violates("", () => attribute("img", "onerror", `${marker}()`));
			out.foreignScript = await violates("", () => add("script", { src: `${url}/script.js` }));
			out.fetch = await violates("connect-src", () => fetch(url, { mode: "no-cors" }));
			out.beacon = await violates("connect-src", () => navigator.sendBeacon(url, "x"));
			out.socket = await violates("connect-src", () => new WebSocket(url.replace("https", "wss")));
			out.picture = await violates("img-src", () => add("img", { src: `${url}/x.png` }));
			out.style = await violates("style-src", () => add("style", { textContent: "body { display: none }" }));
			out.frame = await violates("frame-src", () => add("iframe", { src: url }));
			out.object = await violates("", () => add("object", { data: url }));
			out.base = await violates("base-uri", () =>
				document.head.append(Object.assign(document.createElement("base"), { href: url })),
			);
			out.worker = await violates("", () => new Worker("/assets/x.js"));
			out.form = await violates("form-action", () => {
				const f = Object.assign(document.createElement("form"), { action: url, method: "POST" });
				document.body.append(f);
				f.submit();
			});
			return out;
		},
		[evil.crossSite, marker] as const,
	);
	for (const [what, held] of Object.entries(refused)) expect(held, what).toBe(true);
	expect(runs).toBe(0);
	expect(evil.asked.slice(before)).toEqual([]);
	await context.close();
});

test("L-04 whoever is disabled is out within 5 s, with the page that they have open", async () => {
	await finish(
		"socketxp-gateway",
		[
			"admin",
			"create-user",
			"--data-dir",
			g.data,
			"--email",
			"leaves@example.com",
			"--account",
			"other",
			"--password-file",
			"-",
		],
		g.password,
	);
	const { context, page } = await person(g);
	await page.goto("/signin");
	await page.getByLabel("Email address").fill("leaves@example.com");
	await page.getByLabel("Password").first().fill(g.password);
	await page.getByRole("button", { name: "Sign in" }).click();
	await page.waitForURL("**/devices");
	await page.getByText("Live", { exact: true }).waitFor();
	await finish("socketxp-gateway", ["admin", "disable-user", "--data-dir", g.data, "leaves@example.com"]);
	const begun = Date.now();
	await until("nothing is answered any more", async () => (await whoIs(page)) === 401, 5000);
	expect(Date.now() - begun).toBeLessThan(5000);
	const paths = Object.entries(
		(await g.ask("GET", "/api/openapi.json")).body.paths as Record<string, Record<string, { security: object[] }>>,
	)
		.filter(([path, m]) => m.get && !path.includes("{") && m.get.security.every((s) => Object.keys(s).length > 0))
		.map(([path]) => path);
	expect(paths.length).toBeGreaterThan(8);
	const statuses = await page.evaluate(
		(paths) => Promise.all(paths.map(async (p) => `${p} ${(await fetch(p)).status}`)),
		paths,
	);
	expect(statuses.filter((s) => !s.endsWith(" 401"))).toEqual([]);
	await page.evaluate(() => dispatchEvent(new Event("visibilitychange")));
	await page.locator('a[href="/tokens"]').first().dispatchEvent("click");
	await page.getByRole("dialog", { name: "Your session ended" }).waitFor();
	await context.close();
});
