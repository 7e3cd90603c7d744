import type { Schemas, Token } from "../api/client";
import { t } from "../strings";
import { count } from "../strings/en/common";

export type Kind = Token["kind"];
export const kinds = ["registration", "access", "api", "basic"] as const satisfies readonly Kind[];

const hour = 3600;
const day = 24 * hour;

/** What the gateway holds the lives of a kind to (socketxp.TokenKind.TokenLife), in seconds; short ones come first. */
const lives: Record<Kind, { presets: readonly number[]; usual: number; longest: number; advised: number }> = {
	registration: {
		presets: [hour / 4, hour, 8 * hour, day, 7 * day, 30 * day],
		usual: hour,
		longest: 30 * day,
		advised: day,
	},
	access: { presets: [hour, 8 * hour, day, 7 * day, 30 * day], usual: 8 * hour, longest: 30 * day, advised: day },
	api: {
		presets: [hour, day, 7 * day, 30 * day, 90 * day, 365 * day],
		usual: 30 * day,
		longest: 365 * day,
		advised: 90 * day,
	},
	basic: { presets: [hour, 8 * hour, day, 7 * day], usual: day, longest: 7 * day, advised: day },
};

/** The lives that a kind can have in this account. */
export function livesOf(kind: Kind, account: Pick<Schemas["Account"], "basic_token_life">) {
	const l = lives[kind];
	const longest = kind === "basic" ? Math.min(account.basic_token_life, 365 * day) : l.longest;
	const presets = l.presets.filter((s) => s < longest);
	return { ...l, longest, presets: [...presets, longest], usual: Math.min(l.usual, longest) };
}

/** "15 minutes", "8 hours", "30 days". */
export function lifeWords(seconds: number): string {
	if (seconds % day === 0) return count(seconds / day, "day");
	if (seconds % hour === 0) return count(seconds / hour, "hour");
	if (seconds % 60 === 0) return count(seconds / 60, "minute");
	return count(seconds, "second");
}

/** Whether the gateway would show the token's text again: not when it is good for nothing. */
export const showable = (token: Token) => token.state === "live" || token.state === "used_up";

/** Whether there is anything left to revoke. */
export const revocable = (token: Token) => token.state !== "revoked" && token.state !== "expired";

/** What a token may do, in a few words. */
export function scopeWords(token: Pick<Token, "kind" | "scope" | "max_uses">): string {
	const { kind, scope } = token;
	const w = t.tokens.scope;
	const parts: string[] = [];
	const devices = scope.devices?.length ?? 0;
	const groups = scope.groups ?? [];
	const ports = scope.ports ?? [];
	const rights = scope.rights ?? [];
	const reaches = devices + groups.length + ports.length > 0;
	if (kind === "registration") {
		parts.push(w.registers(token.max_uses));
		if (scope.name_pattern) parts.push(w.named(scope.name_pattern));
		if (scope.group) parts.push(w.intoGroup(scope.group));
	}
	if (kind === "api" || (kind === "basic" && !reaches)) parts.push(rightsWords(rights));
	if (kind === "access" || (kind === "basic" && reaches)) {
		const where = [devices > 0 ? count(devices, "device") : "", groups.length > 0 ? w.groups(groups) : ""];
		parts.push(where.filter(Boolean).join(w.or) || w.anyDevice);
		parts.push(ports.length > 0 ? w.ports(ports) : w.anyPort);
	}
	if (scope.networks?.length) parts.push(w.from(scope.networks));
	return parts.join(", ");
}

/** All rights there are, in the order of the documentation. */
export const allRights = Object.keys(t.rights) as (keyof typeof t.rights)[];

/** What an api token gets when nothing is asked for: all but making tokens that are as strong. */
export const usualRights = allRights.filter((r) => r !== "tokens:admin");
export const readRights = allRights.filter((r) => r.endsWith(":read"));

function rightsWords(rights: readonly string[]): string {
	const same = (other: readonly string[]) => rights.length === other.length && other.every((r) => rights.includes(r));
	const w = t.tokens.scope;
	if (rights.length === 0) return w.noRights;
	if (same(allRights)) return w.allRights;
	if (same(usualRights)) return w.usualRights;
	if (same(readRights)) return w.readRights;
	return rights.join(" ");
}

export interface Command {
	title: string;
	text: string;
	hint: string;
}

/** What to type to use a token of this kind. */
export function commandsFor(kind: Kind, scope: Schemas["TokenScope"], text: string, gateway: string): Command[] {
	const c = t.tokens.commands;
	const register = { title: c.register.title, text: `socketxp login "${text}"`, hint: c.register.hint };
	const [device] = scope.devices ?? [];
	const peer = device && scope.devices?.length === 1 ? `--peer-device-id ${device}` : "--peer-device-name DEVICE";
	const access = {
		title: c.access.title,
		text: `socketxp connect tcp://localhost:3000 --iot-slave ${peer} --peer-device-port ${scope.ports?.[0] ?? 22} --authtoken "${text}"`,
		hint: c.access.hint,
	};
	const api = {
		title: c.api.title,
		text: `curl -H "Authorization: Bearer ${text}" ${gateway}/api/v1/devices`,
		hint: c.api.hint,
	};
	switch (kind) {
		case "registration":
			return [register];
		case "access":
			return [access];
		case "api":
			return [api];
		case "basic":
			return [register, access, api];
	}
}
