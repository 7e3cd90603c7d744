import { readFileSync } from "node:fs";
import { resolve as resolvePath } from "node:path";
import { expect, test } from "vitest";
import { build, curl, type Description, fieldsOf, matches, type Route, routesByTag, sample } from "./description";

const d = JSON.parse(
	readFileSync(resolvePath(import.meta.dirname, "../../../internal/api/openapi.json"), "utf8"),
) as Description;
const groups = routesByTag(d);
const route = (id: string) => groups.flatMap((g) => g.routes).find((r) => r.id === id) as Route;

test("every route of the description is in one group", () => {
	const want = Object.values(d.paths).flatMap((methods) => Object.values(methods).map((o) => o.operationId));
	expect(groups.flatMap((g) => g.routes.map((r) => r.id)).sort()).toEqual(want.sort());
	expect(groups[0]?.tag).toBe("Devices");
});

test("every body and answer has fields and a sample that is JSON", () => {
	for (const r of groups.flatMap((g) => g.routes)) {
		for (const content of [r.op.requestBody?.content, ...Object.values(r.op.responses).map((a) => a.content)]) {
			const schema = content?.["application/json"]?.schema;
			if (!schema) continue;
			expect(fieldsOf(d, schema), r.id).not.toEqual([]);
			expect(sample(d, schema, true), r.id).toBeTypeOf("object");
		}
	}
	const body = route("create-token").op.requestBody?.content["application/json"]?.schema;
	expect(sample(d, body, false)).toEqual({ kind: "basic", name: "" });
	const fields = fieldsOf(d, body);
	expect(fields.find((f) => f.name === "kind")).toMatchObject({ required: true, depth: 0 });
	expect(fields.filter((f) => f.depth === 1).length).toBeGreaterThan(3); // of the scope
});

test("routes are found by words in any order", () => {
	expect(matches(route("list-devices"), "devices get")).toBe(true);
	expect(matches(route("list-devices"), "LIST")).toBe(true);
	expect(matches(route("list-devices"), "devices post")).toBe(false);
});

test("a request is made of what was filled in", () => {
	const b = build(route("update-device"), { parameters: { id: "a/b c", "Idempotency-Key": "k" }, body: "{}" });
	expect(b).toEqual({
		url: "/api/v1/devices/a%2Fb%20c",
		headers: { "Idempotency-Key": "k", "Content-Type": "application/json" },
		body: "{}",
	});
	expect(build(route("list-devices"), { parameters: { search: "x&y=z", limit: " " }, body: undefined }).url).toBe(
		"/api/v1/devices?search=x%26y%3Dz",
	);
});

test("curl gets the same request, as words of a shell, without a secret", () => {
	const r = route("create-group");
	const text = curl("https://gw.example", r, build(r, { parameters: {}, body: `{"name":"it's $(here)"}` }));
	expect(text).toContain(`-X POST 'https://gw.example/api/v1/groups'`);
	expect(text).toContain(`--data '{"name":"it'\\''s $(here)"}'`);
	expect(text).toContain(`-H "Authorization: Bearer $SOCKETXP_API_TOKEN"`);
	const own = route("list-sign-ins");
	expect(curl("https://gw.example", own, build(own, { parameters: {}, body: undefined }))).toContain("-b cookies");
	const open = route("show-gateway");
	expect(curl("https://gw.example", open, build(open, { parameters: {}, body: undefined }))).toBe(
		"curl 'https://gw.example/api/v1/gateway'",
	);
});
