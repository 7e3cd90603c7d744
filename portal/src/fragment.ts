// A link may carry a secret behind the #, which browsers send to nobody. Here it is
// taken out of the address bar and the history before anything else runs (main.tsx
// loads this first), and kept in memory only.
import { useSyncExternalStore } from "react";

const paths = ["/setup", "/cli"];
const longest = 200;
let taken = "";
const watchers = new Set<() => void>();

function set(text: string) {
	taken = text;
	for (const f of watchers) f();
}

function take() {
	if (!paths.includes(location.pathname) || !location.hash) return;
	let text = "";
	try {
		text = decodeURIComponent(location.hash.slice(1)).slice(0, longest);
	} catch {
		// Not what a link of ours has.
	}
	history.replaceState(history.state, "", location.pathname + location.search);
	if (text) set(text);
}

take();
addEventListener("hashchange", take); // a link that is opened in this same tab

/** Forgets what a link brought, when it is of no more use. */
export function forgetFragment() {
	set("");
}

/** What stood behind the # of the link that was opened; "" if there was nothing. */
export function useFragment(): string {
	return useSyncExternalStore(
		(f) => {
			watchers.add(f);
			return () => watchers.delete(f);
		},
		() => taken,
	);
}
