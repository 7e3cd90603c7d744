// Shows the OpenAPI document as a page, and sends requests that a person fills in.
// Everything from the document and from answers is set as text, never as markup.
const $ = (id) => document.getElementById(id);

// el makes an element: properties, then children (text or elements).
function el(tag, props = {}, ...children) {
	const e = document.createElement(tag);
	for (const [k, v] of Object.entries(props)) {
		if (k in e) e[k] = v;
		else e.setAttribute(k, v);
	}
	e.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
	return e;
}

// prose turns `code` in a description into elements.
function prose(text) {
	return String(text).split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part)).filter((part) => part !== "");
}

let spec;
let token = ""; // in memory only; gone with the tab

function resolve(schema) {
	while (schema?.$ref) schema = spec.components.schemas[schema.$ref.split("/").pop()];
	return schema ?? {};
}

// typeName says what a schema takes, in a few words.
function typeName(schema) {
	const s = resolve(schema);
	const type = [s.type].flat().filter((t) => t && t !== "null").join(" or ") || "any";
	if (s.enum) return s.enum.join(" | ");
	if (type === "array") return `list of ${typeName(s.items)}`;
	const limits = [
		s.minimum !== undefined && `≥ ${s.minimum}`,
		s.maximum !== undefined && `≤ ${s.maximum}`,
		s.maxLength !== undefined && `at most ${s.maxLength} characters`,
		s.format,
	].filter(Boolean);
	return [type, ...limits].join(", ");
}

// fieldRows lists the fields of an object, and of those in it, as table rows.
function fieldRows(schema, depth = 0) {
	const s = resolve(schema);
	if (s.type === "array") return fieldRows(s.items, depth);
	return Object.entries(s.properties ?? {})
		.filter(([name]) => name !== "$schema")
		.flatMap(([name, field]) => {
			const inner = resolve(field);
			const row = el("tr", {},
				el("td", { className: depth ? "nested" : "" }, el("code", {}, name), el("span", { className: "type" }, typeName(field), s.required?.includes(name) ? "" : " · optional")),
				el("td", {}, ...prose(field.description ?? inner.description ?? "")));
			const deeper = depth < 2 && (inner.properties || (inner.type === "array" && resolve(inner.items).properties));
			return deeper ? [row, ...fieldRows(field, depth + 1)] : [row];
		});
}

function fieldTable(schema) {
	const rows = fieldRows(schema);
	return rows.length ? el("div", { className: "scroll" }, el("table", {}, el("tbody", {}, ...rows))) : null;
}

// sample is a body to start from.
function sample(schema, depth = 0) {
	const s = resolve(schema);
	if (s.examples?.length) return s.examples[0];
	if (s.default !== undefined) return s.default;
	if (s.enum) return s.enum[0];
	switch ([s.type].flat().find((t) => t !== "null")) {
		case "object": {
			const out = {};
			for (const [name, field] of Object.entries(s.properties ?? {})) {
				if (name !== "$schema" && s.required?.includes(name) && depth < 4) out[name] = sample(field, depth + 1);
			}
			return out;
		}
		case "array":
			return [];
		case "integer":
		case "number":
			return s.minimum ?? 0;
		case "boolean":
			return false;
	}
	return "";
}

function routeElement(path, method, op) {
	const params = op.parameters ?? [];
	const json = op.requestBody?.content?.["application/json"]?.schema;
	const success = Object.entries(op.responses ?? {}).find(([status]) => status.startsWith("2"));
	const answer = success?.[1].content?.["application/json"]?.schema;
	const inside = el("div", { className: "inside" });
	const route = el("details", { className: "route", id: op.operationId },
		el("summary", {}, el("span", { className: "method" }, method.toUpperCase()), el("span", { className: "path" }, path), el("span", { className: "summary" }, op.summary ?? "")),
		inside);
	// Built when it is opened first: there are many.
	route.addEventListener("toggle", () => {
		if (!route.open || inside.childElementCount) return;
		if (op.description) inside.append(el("p", {}, ...prose(op.description)));
		if (params.length) {
			inside.append(el("h3", {}, "Parameters"), el("div", { className: "scroll" }, el("table", {}, el("tbody", {}, ...params.map((p) =>
				el("tr", {}, el("td", {}, el("code", {}, p.name), el("span", { className: "type" }, `${p.in}, ${typeName(p.schema)}${p.required ? "" : " · optional"}`)), el("td", {}, ...prose(p.description ?? p.schema?.description ?? ""))))))));
		}
		if (json) inside.append(el("h3", {}, "Body"), fieldTable(json) ?? el("p", { className: "quiet" }, typeName(json)));
		if (answer) inside.append(el("h3", {}, `Answer ${success[0]}`), fieldTable(answer) ?? el("p", { className: "quiet" }, typeName(answer)));
		inside.append(tryForm(path, method, params, json));
	});
	return route;
}

function tryForm(path, method, params, json) {
	const inputs = params.filter((p) => p.in !== "cookie").map((p) => [p, el("input", { autocomplete: "off", spellcheck: false, placeholder: p.schema?.default ?? "" })]);
	const body = json && el("textarea", { rows: 6, spellcheck: false, value: JSON.stringify(sample(json), null, 2), ariaLabel: "body" });
	const button = el("button", { type: "submit" }, "Send");
	const stop = el("button", { type: "button", className: "plain", hidden: true }, "Stop");
	const state = el("span", { className: "quiet", role: "status" });
	const output = el("pre", { hidden: true, tabIndex: 0 });
	const form = el("form", { noValidate: true },
		el("h3", {}, "Try it"),
		el("div", { className: "fields" }, ...inputs.map(([p, input]) => el("div", {}, el("label", {}, p.name, input)))),
		body || null,
		el("div", { className: "row" }, button, stop, state), output);
	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		let url = path;
		const query = new URLSearchParams();
		const headers = {};
		for (const [p, input] of inputs) {
			const value = input.value.trim();
			if (p.in === "path" && !value) {
				state.textContent = `${p.name} is missing`;
				input.focus();
				return;
			}
			if (!value) continue;
			if (p.in === "path") url = url.replace(`{${p.name}}`, encodeURIComponent(value));
			else if (p.in === "query") query.append(p.name, value);
			else headers[p.name] = value;
		}
		if (query.size) url += `?${query}`;
		if (body) headers["Content-Type"] = "application/json";
		if (token) headers.Authorization = `Bearer ${token}`;
		const abort = new AbortController();
		stop.onclick = () => abort.abort();
		button.disabled = true;
		stop.hidden = false;
		output.hidden = false;
		output.textContent = "";
		state.textContent = "…";
		const start = performance.now();
		try {
			const answer = await fetch(url, { method: method.toUpperCase(), headers, body: body ? body.value : undefined, signal: abort.signal, credentials: token ? "omit" : "same-origin" });
			state.textContent = `${answer.status} ${answer.statusText} · ${Math.round(performance.now() - start)} ms`;
			await show(answer, output);
		} catch (err) {
			state.textContent = err.name === "AbortError" ? "stopped" : "the gateway does not answer";
		} finally {
			button.disabled = false;
			stop.hidden = true;
			who();
		}
	});
	return form;
}

// show writes an answer as it comes, at most 256 KiB of it: a stream has no end.
async function show(answer, output) {
	const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
	let text = "";
	while (reader && text.length < 256 * 1024) {
		const { value, done } = await reader.read();
		if (done) break;
		text += value;
		output.textContent = text;
	}
	reader?.cancel();
	try {
		output.textContent = JSON.stringify(JSON.parse(text), null, 2);
	} catch {
		output.textContent = text || "(no content)";
	}
}

// who shows as whom requests are made.
async function who() {
	let text = "not signed in";
	if (token) text = "with a token";
	else {
		const answer = await fetch("/api/v1/me").catch(() => null);
		if (answer?.ok) text = (await answer.json()).user.email;
	}
	$("who").textContent = text;
	$("sign").textContent = text === "not signed in" ? "Sign in" : "Sign out";
}

$("sign").addEventListener("click", async () => {
	if ($("sign").textContent === "Sign out") {
		if (token) token = "";
		else await fetch("/api/v1/signout", { method: "POST" });
		return who();
	}
	$("signin-problem").hidden = true;
	$("signin").showModal();
});
$("signin-cancel").addEventListener("click", () => $("signin").close());
$("use-token").addEventListener("click", () => {
	token = $("token").value.trim();
	$("token").value = "";
	$("signin").close();
	who();
});
$("signin-form").addEventListener("submit", async (event) => {
	event.preventDefault();
	const problem = $("signin-problem");
	problem.hidden = true;
	$("signin-submit").disabled = true;
	try {
		const answer = await fetch("/api/v1/signin", {
			method: "POST", headers: { "Content-Type": "application/json" },
			body: JSON.stringify({ email: $("signin-email").value, password: $("signin-password").value }),
		});
		if (!answer.ok) {
			const p = await answer.json();
			problem.textContent = [p.detail, p.hint].filter(Boolean).join(". ");
			problem.hidden = false;
			return;
		}
		$("signin-password").value = "";
		$("signin").close();
		who();
	} catch {
		problem.textContent = "The gateway does not answer.";
		problem.hidden = false;
	} finally {
		$("signin-submit").disabled = false;
	}
});

// Search narrows the list; an empty group goes with its heading.
$("search").addEventListener("input", () => {
	const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
	for (const section of document.querySelectorAll("#routes > section")) {
		let any = false;
		for (const route of section.querySelectorAll("details.route")) {
			const text = route.firstChild.textContent.toLowerCase();
			route.hidden = !words.every((w) => text.includes(w));
			any ||= !route.hidden;
		}
		section.hidden = !any;
	}
});
document.addEventListener("keydown", (event) => {
	if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
		event.preventDefault();
		$("search").focus();
	}
});

async function start() {
	try {
		spec = await (await fetch("/api/openapi.json")).json();
	} catch {
		$("state").textContent = "The gateway does not answer. Reload this page when it runs.";
		return;
	}
	$("state").remove();
	const groups = new Map((spec.tags ?? []).map((t) => [t.name, []]));
	for (const [path, methods] of Object.entries(spec.paths)) {
		for (const [method, op] of Object.entries(methods)) {
			const tag = op.tags?.[0] ?? "other";
			if (!groups.has(tag)) groups.set(tag, []);
			groups.get(tag).push(routeElement(path, method, op));
		}
	}
	for (const [tag, routes] of groups) {
		if (!routes.length) continue;
		$("tags").append(el("a", { href: `#tag-${tag}` }, tag));
		$("routes").append(el("section", { id: `tag-${tag}` }, el("h2", {}, tag), ...routes));
	}
	const named = location.hash && document.getElementById(location.hash.slice(1));
	if (named) {
		if (named.tagName === "DETAILS") named.open = true;
		named.scrollIntoView();
	}
}

start();
who();
