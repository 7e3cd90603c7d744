// A terminal opens by itself only if the person has just clicked on its icon in this
// portal: a link that leads here from elsewhere asks first (W-19). No other origin
// can write what is kept here.
const key = "socketxp-terminal-clicked";

/** How long a click counts, in ms. */
const fresh = 15_000;

/** Opens the device's terminal in a tab of its own. */
export function openTerminal(deviceId: string) {
	rememberClick(deviceId);
	window.open(`/terminal/${encodeURIComponent(deviceId)}`, "_blank", "noopener");
}

/** For links with target=_blank: call it in onClick. */
export function rememberClick(deviceId: string) {
	try {
		localStorage.setItem(key, JSON.stringify({ id: deviceId, at: Date.now() }));
	} catch {
		// Then the page asks.
	}
}

/** Whether the terminal of this device was clicked on a moment ago; once. */
export function takeClick(deviceId: string): boolean {
	try {
		const c = JSON.parse(localStorage.getItem(key) ?? "{}") as { id?: string; at?: number };
		if (c.id !== deviceId || Math.abs(Date.now() - Number(c.at)) > fresh) return false;
		localStorage.removeItem(key);
		return true;
	} catch {
		return false;
	}
}
