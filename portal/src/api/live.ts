import { useSyncExternalStore } from "react";
import type { GatewayEvent } from "./client";
import { meQuery, queryClient } from "./queries";
import type { operations } from "./schema.gen";

/** Whether what the pages show is kept up to date as it changes. */
export type LiveState = "connecting" | "live" | "interrupted";

let state: LiveState = "connecting";
const watchers = new Set<() => void>();

function set(next: LiveState) {
	if (next === state) return;
	state = next;
	for (const f of watchers) f();
}

/** Which parts of the cache an event makes stale, by the first word of its type. */
const stale: Record<string, string[]> = {
	device: ["devices", "groups"],
	token: ["tokens"],
	session: ["sessions"],
};

/** Events come in bursts (a gateway that starts again sees all its devices come back): one look at the lists is enough for many. */
const quietTime = 300;

let pending: Set<string> | undefined;

function invalidate(keys: readonly string[]) {
	if (!pending) {
		const collected = new Set<string>();
		pending = collected;
		setTimeout(() => {
			pending = undefined;
			for (const key of collected) void queryClient.invalidateQueries({ queryKey: [key] });
		}, quietTime);
	}
	for (const k of keys) pending.add(k);
}

/** Follows the gateway's events until the returned function is called. The browser reconnects by itself and names the last event it has seen. */
export function follow(url = "/api/v1/events/stream"): () => void {
	let source: EventSource | undefined;
	let again: ReturnType<typeof setTimeout> | undefined;
	let over = false;
	let wait = 1000;

	const open = () => {
		source = new EventSource(url);
		source.onopen = () => {
			if (state === "interrupted") void queryClient.invalidateQueries(); // what happened meanwhile may be lost
			wait = 1000;
			set("live");
		};
		source.onerror = () => {
			set("interrupted");
			if (source?.readyState === EventSource.CLOSED && !over) {
				// Refused: signed out, or too many streams. The question who we are finds out.
				void queryClient.invalidateQueries({ queryKey: meQuery.queryKey });
				again = setTimeout(open, wait);
				wait = Math.min(wait * 2, 30_000);
			}
		};
		source.onmessage = take;
		for (const type of eventTypes) source.addEventListener(type, take);
	};
	open();
	return () => {
		over = true;
		clearTimeout(again);
		source?.close();
		set("connecting");
	};
}

/** The types that the gateway names its server-sent events by: all of them, or this does not compile. */
export type EventType = NonNullable<NonNullable<operations["list-events"]["parameters"]["query"]>["type"]>;
const known: Record<EventType, true> = {
	"device.registered": true,
	"device.online": true,
	"device.offline": true,
	"device.changed": true,
	"device.deleted": true,
	"device.key_changed": true,
	"device.key_retired": true,
	"device.quarantined": true,
	"device.single_use_key": true,
	"token.created": true,
	"token.revoked": true,
	"session.started": true,
	"session.ended": true,
};
export const eventTypes = Object.keys(known) as EventType[];

function take(m: MessageEvent<string>) {
	let event: GatewayEvent;
	try {
		event = JSON.parse(m.data) as GatewayEvent;
	} catch {
		return; // not one of ours
	}
	if (typeof event?.type !== "string") return;
	invalidate(["events", ...(stale[event.type.split(".")[0] ?? ""] ?? [])]);
	if (event.type === "device.registered") invalidate(["tokens"]); // a use of one
}

export function useLiveState(): LiveState {
	return useSyncExternalStore(
		(f) => {
			watchers.add(f);
			return () => watchers.delete(f);
		},
		() => state,
	);
}
