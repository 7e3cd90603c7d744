import { Page } from "../ui/page";

export function CliPage() {
	return <Page title="cli">…</Page>;
}
