import { useState } from "react";

/**
 * What a form or a button does: whether it is being done, and why it failed the last
 * time. `run` never throws. Nothing of the act is kept, as it may have a secret in it.
 */
export function useAct() {
	const [busy, setBusy] = useState(false);
	const [error, setError] = useState<unknown>();
	const run = async (act: () => Promise<unknown>) => {
		setBusy(true);
		setError(undefined);
		try {
			await act();
		} catch (e) {
			setError(e);
		} finally {
			setBusy(false);
		}
	};
	return { busy, error, setError, run };
}
