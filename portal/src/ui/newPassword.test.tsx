import { expect, test } from "vitest";
import { t } from "../strings";
import { strength, wrongPassword } from "./newPassword";

test.each([
	["elevenchars", t.password.tooShort],
	["twelve chars", undefined],
	["ääääääääääää", undefined],
	["ä".repeat(129), t.password.tooLong],
	["😀".repeat(64), undefined],
	["AdaLovelace1843", t.password.isEmail],
	["adalovelace1843@EXAMPLE.com", t.password.isEmail],
	["adalovelace1844", undefined],
])("%s", (password, want) => {
	expect(wrongPassword(password, " adalovelace1843@example.com ")).toBe(want);
});

test.each([
	["", "bad", t.password.rule],
	["elevenchars", "bad", t.password.more(1)],
	["aaaaaaaaaaaaaaaaaaaaaaaa", "warn", t.password.repeats],
	["twelve chars", "good", t.password.enough],
	["correct horse battery", "good", t.password.long],
])("what is said of %s", (password, tone, text) => {
	expect(strength(password)).toMatchObject({ tone, text });
});
