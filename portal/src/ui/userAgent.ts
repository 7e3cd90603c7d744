import { t } from "../strings";

/** Names by what stands in a user agent; the first that fits counts, as the later ones claim to be the earlier. */
const browsers: readonly (readonly [RegExp, string])[] = [
	[/\bsocketxp\//i, "SocketXP"],
	[/\bcurl\//i, "curl"],
	[/\bEdg(e|A|iOS)?\//, "Edge"],
	[/\bOPR\/|\bOpera\//, "Opera"],
	[/\bSamsungBrowser\//, "Samsung Internet"],
	[/\bFirefox\/|\bFxiOS\//, "Firefox"],
	[/\bHeadlessChrome\/|\bChrom(e|ium)\/|\bCriOS\//, "Chrome"],
	[/\bSafari\//, "Safari"],
];
const systems: readonly (readonly [RegExp, string])[] = [
	[/\biPhone\b|\biPad\b/, "iOS"],
	[/\bAndroid\b/, "Android"],
	[/\bWindows\b/, "Windows"],
	[/\bMac OS X\b|\bMacintosh\b/, "macOS"],
	[/\bCrOS\b/, "ChromeOS"],
	[/\bLinux\b/, "Linux"],
];

/** "Firefox on Linux". What a program says of itself is only a hint for people. */
export function browserOf(userAgent: string): string {
	const find = (list: typeof browsers) => list.find(([pattern]) => pattern.test(userAgent))?.[1];
	const browser = find(browsers);
	const system = find(systems);
	if (browser && system) return t.profile.signIns.on(browser, system);
	return browser ?? system ?? (userAgent.slice(0, 60) || t.profile.signIns.unknown);
}
