import { useNavigate, useSearch } from "@tanstack/react-router";
import { useCallback } from "react";
import type { Search } from "../router";

/**
 * What a page shows is in its address: links lead there, and the back button goes
 * back. `set` changes some parameters and removes those that are undefined.
 */
export function useUrlState(): readonly [Search, (patch: Search, replace?: boolean) => void] {
	const search = useSearch({ strict: false }) as Search;
	const navigate = useNavigate();
	const set = useCallback(
		(patch: Search, replace = false) => {
			void navigate({
				to: ".",
				search: ((old: Search) => without({ ...old, ...patch })) as never,
				replace,
				resetScroll: false,
			});
		},
		[navigate],
	);
	return [search, set];
}

const without = (s: Search): Search => Object.fromEntries(Object.entries(s).filter(([, v]) => v !== undefined));

/** A parameter that is text. The address's author is anybody: what is something else is left out. */
export function textOf(v: unknown, longest = 2048): string | undefined {
	const s = typeof v === "number" ? String(v) : v;
	return typeof s === "string" && s !== "" && s.length <= longest ? s : undefined;
}

/** A parameter that is one of a few words. */
export function oneOf<T extends string>(v: unknown, words: readonly T[]): T | undefined {
	return words.find((w) => w === v);
}

/** How many rows a page has. */
export const sizeOf = (v: unknown): number => (v === 50 || v === 100 || v === 200 ? v : 25);
