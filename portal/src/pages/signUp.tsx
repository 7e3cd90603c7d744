import { Page } from "../ui/page";

export function SignUpPage() {
	return <Page title="signUp">…</Page>;
}
