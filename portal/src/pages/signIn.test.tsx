import { expect, test } from "vitest";
import { isOwnPath } from "./signIn";

test.each([
	["/devices", true],
	["/tokens?kind=access#x", true],
	["//evil.example", false],
	["/\\evil.example", false],
	["https://evil.example/", false],
	["javascript:alert(1)", false],
	["devices", false],
	["", false],
	[undefined, false],
	[7, false],
])("%s leads to a page of the portal: %s", (path, own) => {
	expect(isOwnPath(path)).toBe(own);
});
