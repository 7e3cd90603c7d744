import { Tooltip } from "@mantine/core";
import { useEffect, useState } from "react";
import { t } from "../strings";
import { Lazy } from "./lazy";

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "long" });
const short = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const full = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

const units: [Intl.RelativeTimeFormatUnit, number][] = [
	["year", 365 * 86_400],
	["month", 30 * 86_400],
	["day", 86_400],
	["hour", 3600],
	["minute", 60],
];

/** What was given 8 hours of life is not to say "in 7 hours" a moment later. */
const grace = 0.02;

/** "5 minutes ago", "in 2 days"; below a minute "just now" or "in less than a minute". */
export function fromNow(at: Date, now = Date.now()): string {
	const seconds = (at.getTime() - now) / 1000;
	for (const [unit, size] of units) {
		// 45 days are closer to the truth than "last month".
		if (unit === "month" && Math.abs(seconds) < 60 * 86_400) continue;
		const n = Math.abs(seconds) / size;
		if (seconds > 0 && n >= 1 - grace) return relative.format(Math.floor(n + grace), unit);
		if (n >= 1) return relative.format(Math.trunc(seconds / size), unit);
	}
	return seconds > 0 ? "in less than a minute" : "just now";
}

/** The reader's own zone. */
export const local = (at: Date) => short.format(at);

/** 2026-11-29 09:41:07 UTC. */
export const utc = (at: Date) => `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;

const minute = new Set<() => void>();
setInterval(() => {
	for (const f of minute) f();
}, 20_000);

/** Draws the component again now and then, so that relative times stay true. */
export function useNow(): number {
	const [now, set] = useState(Date.now);
	useEffect(() => {
		const f = () => set(Date.now());
		minute.add(f);
		return () => {
			minute.delete(f);
		};
	}, []);
	return now;
}

/** A moment as the gateway says it: relative or in the reader's zone, in full and in UTC on hover. */
export function Time({ at, absolute = false }: { at: string | undefined; absolute?: boolean }) {
	const now = useNow();
	if (!at) return <span className="quiet">{t.common.never}</span>;
	const date = new Date(at);
	if (Number.isNaN(date.getTime())) return <span className="quiet">{t.common.nothing}</span>;
	const text = (
		<time dateTime={at} className="numbers">
			{absolute ? local(date) : fromNow(date, now)}
		</time>
	);
	return (
		<Lazy>
			{(ready) =>
				ready ? (
					<Tooltip
						multiline
						label={
							<>
								{full.format(date)}
								<br />
								{utc(date)}
							</>
						}
					>
						{text}
					</Tooltip>
				) : (
					text
				)
			}
		</Lazy>
	);
}
