import { useCallback, useState } from "react";
import type { Progress } from "./transfer";

/** One file on its way. */
export interface Transfer {
	key: string;
	title: string;
	sent: number;
	/** 0 if nobody knows. */
	total: number;
	/** handed: the browser goes on with it in its own downloads. */
	state: "going" | "done" | "handed" | "cancelled" | "failed";
	cancel: () => void;
}

/** How many are shown. */
const most = 50;

/** The transfers of a page, which go on whatever part of it is shown. */
export function useTransfers() {
	const [transfers, setTransfers] = useState<Transfer[]>([]);
	/** Shows an act as a transfer; what returns "handed" was given to the browser to end. Throws what it throws, unless it was cancelled. */
	const carry = useCallback(
		async (title: string, total: number, act: (p: Progress, s: AbortSignal) => Promise<unknown>) => {
			const key = crypto.randomUUID();
			const abort = new AbortController();
			const change = (more: Partial<Transfer>) =>
				setTransfers((all) => all.map((x) => (x.key === key ? { ...x, ...more } : x)));
			setTransfers((all) => [
				{ key, title, sent: 0, total, state: "going", cancel: () => abort.abort() },
				...all.slice(0, most - 1),
			]);
			try {
				const how = await act((sent, of) => change({ sent, total: of }), abort.signal);
				change({ state: how === "handed" ? how : "done" });
			} catch (e) {
				change({ state: abort.signal.aborted ? "cancelled" : "failed" });
				if (!abort.signal.aborted) throw e;
			}
		},
		[],
	);
	return { transfers, carry };
}

export type Carry = ReturnType<typeof useTransfers>["carry"];
