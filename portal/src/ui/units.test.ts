import { expect, test } from "vitest";
import { bytes, duration } from "./units";

test.each([
	[0, "0 B"],
	[999, "999 B"],
	[1000, "1.0 kB"],
	[12_345, "12.3 kB"],
	[99_960, "100 kB"],
	[999_499, "999 kB"],
	[999_500, "1.0 MB"],
	[4_100_000_000, "4.1 GB"],
])("%d bytes are %s", (n, words) => {
	expect(bytes(n)).toBe(words);
});

test.each([
	[-5, "0 s"],
	[59_999, "59 s"],
	[60_000, "1 min"],
	[200_000, "3 min 20 s"],
	[7_500_000, "2 h 5 min"],
	[4 * 86_400_000 + 6 * 3_600_000, "4 d 6 h"],
])("%d ms are %s", (ms, words) => {
	expect(duration(ms)).toBe(words);
});
