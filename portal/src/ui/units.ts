import { t } from "../strings";

const steps = ["B", "kB", "MB", "GB", "TB", "PB"] as const;

/** "0 B", "12.3 kB", "4.1 GB": powers of 1000, three digits. */
export function bytes(n: number): string {
	let v = n;
	let i = 0;
	while (v >= 999.5 && i < steps.length - 1) {
		v /= 1000;
		i++;
	}
	return `${i === 0 || v >= 99.95 ? Math.round(v) : v.toFixed(1)} ${steps[i]}`;
}

/** "5 s", "3 min 20 s", "2 h 5 min", "4 d 6 h", of milliseconds. */
export function duration(ms: number): string {
	const s = Math.max(0, Math.floor(ms / 1000));
	if (s < 60) return t.sessions.seconds(s);
	if (s < 3600) return t.sessions.minutes(Math.floor(s / 60), s % 60);
	if (s < 86_400) return t.sessions.hours(Math.floor(s / 3600), Math.floor((s % 3600) / 60));
	return t.sessions.days(Math.floor(s / 86_400), Math.floor((s % 86_400) / 3600));
}
