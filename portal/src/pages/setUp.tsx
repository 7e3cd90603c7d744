import { Page } from "../ui/page";

export function SetUpPage() {
	return <Page title="setUp">…</Page>;
}
