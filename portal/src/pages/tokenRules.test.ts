import { expect, test } from "vitest";
import type { Token } from "../api/client";
import { allRights, commandsFor, kinds, lifeWords, livesOf, readRights, scopeWords, usualRights } from "./tokenRules";

const day = 86_400;

test.each(kinds)("the lives of a %s token begin short and end with the longest", (kind) => {
	const l = livesOf(kind, { basic_token_life: 7 * day });
	expect(l.presets).toEqual([...l.presets].sort((a, b) => a - b));
	expect(new Set(l.presets).size).toBe(l.presets.length);
	expect(l.presets.at(-1)).toBe(l.longest);
	expect(l.presets).toContain(l.usual);
});

test("an account may hold basic tokens to another life", () => {
	expect(livesOf("basic", { basic_token_life: 7200 })).toMatchObject({
		presets: [3600, 7200],
		usual: 7200,
		longest: 7200,
	});
	expect(livesOf("basic", { basic_token_life: 1000 * day }).longest).toBe(365 * day);
	expect(livesOf("api", { basic_token_life: 7200 }).longest).toBe(365 * day);
});

test("a life in words", () => {
	expect([900, 3600, 8 * 3600, day, 30 * day, 90_000, 61].map(lifeWords)).toEqual([
		"15 minutes",
		"1 hour",
		"8 hours",
		"1 day",
		"30 days",
		"25 hours",
		"61 seconds",
	]);
});

test.each<[Partial<Pick<Token, "max_uses">> & Pick<Token, "kind" | "scope">, string]>([
	[{ kind: "registration", max_uses: 1, scope: {} }, "1 device"],
	[
		{
			kind: "registration",
			max_uses: 50,
			scope: { name_pattern: "meter-*", group: "meters", networks: ["192.0.2.0/24"] },
		},
		"50 devices, named meter-*, into group meters, from 192.0.2.0/24",
	],
	[{ kind: "access", scope: {} }, "any device, any port"],
	[
		{ kind: "access", scope: { devices: ["a", "b"], groups: ["meters"], ports: [22] } },
		"2 devices and group meters, port 22",
	],
	[{ kind: "access", scope: { groups: ["a", "b"], ports: [22, 5432] } }, "groups a, b, ports 22, 5432"],
	[{ kind: "api", scope: { rights: [...usualRights] } }, "all but making API and basic tokens"],
	[{ kind: "api", scope: { rights: [...readRights] } }, "reading only"],
	[{ kind: "api", scope: { rights: ["devices:read"] } }, "devices:read"],
	[{ kind: "basic", scope: { rights: [...allRights] } }, "everything"],
	[{ kind: "basic", scope: { ports: [22] } }, "any device, port 22"],
	[{ kind: "basic", scope: {} }, "nothing with the API"],
])("%j is good for: %s", (token, words) => {
	expect(scopeWords({ max_uses: 0, ...token })).toBe(words);
});

test("the commands of each kind", () => {
	const texts = (kind: Token["kind"], scope = {}) =>
		commandsFor(kind, scope, "TOKEN", "https://g.example").map((c) => c.text);
	const register = 'socketxp login "TOKEN"';
	const access =
		'socketxp connect tcp://localhost:3000 --iot-slave --peer-device-name DEVICE --peer-device-port 22 --authtoken "TOKEN"';
	const api = 'curl -H "Authorization: Bearer TOKEN" https://g.example/api/v1/devices';
	expect(texts("registration")).toEqual([register]);
	expect(texts("access")).toEqual([access]);
	expect(texts("access", { devices: ["ID"], ports: [5432] })).toEqual([
		access.replace("--peer-device-name DEVICE", "--peer-device-id ID").replace("port 22", "port 5432"),
	]);
	expect(texts("access", { devices: ["A", "B"] })).toEqual([access]);
	expect(texts("api")).toEqual([api]);
	expect(texts("basic")).toEqual([register, access, api]);
});
