import { Page } from "../ui/page";

export function TokensPage() {
	return <Page title="tokens">…</Page>;
}
