import { Page } from "../ui/page";

export function DevicesPage() {
	return <Page title="devices">…</Page>;
}
