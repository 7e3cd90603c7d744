import { expect, test } from "vitest";
import { fromNow, utc } from "./time";

test("relative times", () => {
	const now = Date.UTC(2026, 10, 29, 12, 0, 0);
	const at = (seconds: number) => fromNow(new Date(now + seconds * 1000), now);
	expect(at(0)).toBe("just now");
	expect(at(-59)).toBe("just now");
	expect(at(50)).toBe("in less than a minute");
	expect(at(-61)).toBe("1 minute ago");
	expect(at(-7199)).toBe("1 hour ago");
	expect(at(-86_400)).toBe("yesterday");
	expect(at(86_401)).toBe("tomorrow");
	expect(at(30 * 86_400)).toBe("in 30 days");
	expect(at(-8 * 86_400)).toBe("8 days ago");
	expect(at(60 * 86_400)).toBe("in 2 months");
	expect(at(8 * 3600 - 20)).toBe("in 8 hours");
	expect(at(7.5 * 3600)).toBe("in 7 hours");
	expect(at(3590)).toBe("in 1 hour");
	expect(at(45 * 60)).toBe("in 45 minutes");
});

test("UTC in full", () => {
	expect(utc(new Date("2026-11-29T09:41:07.123Z"))).toBe("2026-11-29 09:41:07 UTC");
});
