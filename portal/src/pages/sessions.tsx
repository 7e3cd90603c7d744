import { Page } from "../ui/page";

export function SessionsPage() {
	return <Page title="sessions">…</Page>;
}
