import { Page } from "../ui/page";

export function TerminalPage() {
	return <Page title="terminal">…</Page>;
}
