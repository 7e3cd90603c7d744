import { Page } from "../ui/page";

export function DevicePage() {
	return <Page title="device">…</Page>;
}
