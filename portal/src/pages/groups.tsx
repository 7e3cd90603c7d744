import { Page } from "../ui/page";

export function GroupsPage() {
	return <Page title="groups">…</Page>;
}
