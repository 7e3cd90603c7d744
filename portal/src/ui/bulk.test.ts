import { expect, test, vi } from "vitest";
import { ApiError } from "../api/client";
import { atOnce, inBulk, type Progress } from "./bulk";

const items = Array.from({ length: 20 }, (_, i) => i);

test("a few at a time, and what fails stops nothing", async () => {
	let now = 0;
	let most = 0;
	const told: Progress<number>[] = [];
	const end = await inBulk(
		items,
		async (i) => {
			most = Math.max(most, ++now);
			await Promise.resolve();
			now--;
			if (i % 5 === 0) throw new Error(`no ${i}`);
		},
		new AbortController().signal,
		(p) => told.push(p),
	);
	expect(most).toBe(atOnce);
	expect(end.done).toBe(16);
	expect(end.failures.map((f) => f.item).sort((a, b) => a - b)).toEqual([0, 5, 10, 15]);
	expect(told).toHaveLength(20);
	expect(told.at(-1)).toEqual(end);
});

test("after an abort nothing new begins, and what is under way is counted", async () => {
	const stop = new AbortController();
	const begun: number[] = [];
	const end = await inBulk(
		items,
		async (i) => {
			begun.push(i);
			if (i === 3) stop.abort();
			await Promise.resolve();
		},
		stop.signal,
		() => {},
	);
	expect(begun).toEqual([0, 1, 2, 3]);
	expect(end).toEqual({ done: 4, failures: [] });
});

test("what is put off is tried again when the gateway says so", async () => {
	vi.useFakeTimers();
	let tries = 0;
	const end = inBulk(
		["x"],
		async () => {
			if (++tries < 3) throw new ApiError({ code: "rate_limited", detail: "Later.", status: 429, retryAfter: 7 });
		},
		new AbortController().signal,
		() => {},
	);
	await vi.advanceTimersByTimeAsync(6_999);
	expect(tries).toBe(1);
	await vi.advanceTimersByTimeAsync(1);
	expect(tries).toBe(2);
	await vi.advanceTimersByTimeAsync(7_000);
	expect(await end).toEqual({ done: 1, failures: [] });
	vi.useRealTimers();
});
