import { ApiError } from "../api/client";

export interface Failure<T> {
	item: T;
	error: unknown;
}

export interface Progress<T> {
	done: number;
	failures: readonly Failure<T>[];
}

/** How many requests of one bulk act are under way at a time. */
export const atOnce = 6;

/** How often one that the gateway put off is tried. */
const patience = 8;

const wait = (seconds: number, signal: AbortSignal) =>
	new Promise<void>((resolve) => {
		const timer = setTimeout(resolve, seconds * 1000);
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			resolve();
		});
	});

/**
 * Does act with each item, a few at a time, and tells how far it is. What fails is
 * collected and stops nothing; what the gateway puts off (429) is tried again when it
 * says so. After an abort nothing new begins, and what is under way comes to its end.
 */
export async function inBulk<T>(
	items: readonly T[],
	act: (item: T) => Promise<unknown>,
	signal: AbortSignal,
	tell: (p: Progress<T>) => void,
): Promise<Progress<T>> {
	let progress: Progress<T> = { done: 0, failures: [] };
	const queue = [...items];
	const worker = async () => {
		for (let item = queue.shift(); item !== undefined && !signal.aborted; item = queue.shift()) {
			const error = await attempt(item);
			if (error === aborted) return;
			progress =
				error === undefined
					? { ...progress, done: progress.done + 1 }
					: { ...progress, failures: [...progress.failures, { item, error }] };
			tell(progress);
		}
	};
	const attempt = async (item: T): Promise<unknown> => {
		for (let n = 1; ; n++) {
			try {
				await act(item);
				return undefined;
			} catch (e) {
				if (!(e instanceof ApiError) || e.status !== 429 || n === patience) return e ?? new Error();
				await wait(e.retryAfter ?? 1, signal);
				if (signal.aborted) return aborted;
			}
		}
	};
	await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
	return progress;
}

const aborted = Symbol("aborted");
