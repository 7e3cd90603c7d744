import { expect, test } from "vitest";
import { above, bytes, join } from "./transfer";

test.each([
	[0, "0 B"],
	[999, "999 B"],
	[1000, "1.0 kB"],
	[123_456, "123 kB"],
	[5_242_880, "5.2 MB"],
	[3e12, "3.0 TB"],
	[9e15, "9000 TB"],
])("%d bytes are %s", (n, want) => {
	expect(bytes(n)).toBe(want);
});

test("paths", () => {
	expect(join("/", "a")).toBe("/a");
	expect(join("/home/pi/", "a b")).toBe("/home/pi/a b");
	expect(above("/home/pi")).toBe("/home");
	expect(above("/home/")).toBe("/");
	expect(above("/")).toBe("/");
});
