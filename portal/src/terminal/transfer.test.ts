import { expect, test } from "vitest";
import { above, join } from "./transfer";

test("paths", () => {
	expect(join("/", "a")).toBe("/a");
	expect(join("/home/pi/", "a b")).toBe("/home/pi/a b");
	expect(above("/home/pi")).toBe("/home");
	expect(above("/home/")).toBe("/");
	expect(above("/")).toBe("/");
});
