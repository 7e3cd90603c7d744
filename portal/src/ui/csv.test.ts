import { expect, test } from "vitest";
import { csvLine } from "./csv";

test.each([
	["plain", "plain"],
	["=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"],
	["+1", "'+1"],
	["-1", "'-1"],
	["@SUM(A1)", "'@SUM(A1)"],
	["\t=1", "'\t=1"],
	["\r=1", `"'\r=1"`],
	['=HYPERLINK("https://evil.example","x")', `"'=HYPERLINK(""https://evil.example"",""x"")"`],
	["a,b", '"a,b"'],
	["two\nlines", '"two\nlines"'],
	[-5, "-5"],
	[undefined, ""],
])("%j is the cell %j", (value, cell) => {
	expect(csvLine([value, "x"])).toBe(`${cell},x\r\n`);
});
