import { expect, test } from "vitest";
import { linesOf, needsLook, plain } from "./paste";

test.each([
	["ls -l", "ls -l", false],
	["a\tb", "a\tb", false],
	["a\rb\r", "a\nb\n", true],
	["a\r\nb", "a\nb", true],
	["curl x|sh\n", "curl x|sh\n", true],
	["\x1b[201~rm -rf ~\r", "[201~rm -rf ~\n", true],
	["a\x00\x07\x7f\x9bb", "ab", false],
	["x".repeat(5001), "x".repeat(5001), true],
	["ü 漢 🙂", "ü 漢 🙂", false],
])("%j is pasted as %j, after a look: %s", (raw, text, look) => {
	expect(plain(raw)).toBe(text);
	expect(needsLook(plain(raw))).toBe(look);
});

test("lines", () => {
	expect([linesOf("a"), linesOf("a\n"), linesOf("a\nb"), linesOf("a\nb\n\n")]).toEqual([1, 1, 2, 3]);
});
