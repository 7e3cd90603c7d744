import { Page } from "../ui/page";

export function EventsPage() {
	return <Page title="events">…</Page>;
}
