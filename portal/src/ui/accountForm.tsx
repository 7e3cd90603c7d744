import { Button, Stack, TextInput } from "@mantine/core";
import { type FormEvent, useState } from "react";
import { ApiError } from "../api/client";
import { t } from "../strings";
import { NewPassword, wrongPassword } from "./newPassword";
import { Problem } from "./problem";

export interface NewAccount {
	account: string;
	email: string;
	password: string;
}

type Errors = Partial<Record<keyof NewAccount, string | undefined>>;

/** What is wrong with each field, as the gateway would say. */
export function wrongFields(a: NewAccount): Errors {
	return {
		account: a.account.trim() ? undefined : t.setUp.noAccount,
		email: /^[^\s@]+@[^\s@]+$/.test(a.email.trim()) ? undefined : t.setUp.noEmail,
		password: wrongPassword(a.password, a.email),
	};
}

/** A new account and its owner; make throws what the gateway refuses. */
export function AccountForm({ make, button }: { make: (a: NewAccount) => Promise<void>; button: string }) {
	const [a, setA] = useState<NewAccount>({ account: "", email: "", password: "" });
	const [errors, setErrors] = useState<Errors>({});
	const [busy, setBusy] = useState(false);
	const [refusal, setRefusal] = useState<unknown>();
	const change = (part: Partial<NewAccount>) => {
		setA({ ...a, ...part });
		setErrors({ ...errors, ...Object.fromEntries(Object.keys(part).map((k) => [k, undefined])) });
	};
	const submit = async (e: FormEvent<HTMLFormElement>) => {
		e.preventDefault();
		const form = e.currentTarget;
		const wrong = wrongFields(a);
		setErrors(wrong);
		setRefusal(undefined);
		const first = (["account", "email", "password"] as const).find((k) => wrong[k]);
		if (first) {
			form.querySelector<HTMLInputElement>(`input[name="${first === "password" ? "new-password" : first}"]`)?.focus();
			return;
		}
		setBusy(true);
		try {
			await make({ account: a.account.trim(), email: a.email.trim(), password: a.password });
		} catch (e) {
			if (e instanceof ApiError && e.fields.size > 0) {
				setErrors({
					account: e.fields.get("body.account"),
					email: e.fields.get("body.email"),
					password: e.fields.get("body.password"),
				});
			}
			setRefusal(e);
		} finally {
			setBusy(false);
		}
	};
	return (
		<form onSubmit={submit} noValidate>
			<Stack gap="md">
				<TextInput
					label={t.setUp.account}
					description={t.setUp.accountHelp}
					name="account"
					autoComplete="organization"
					required
					maxLength={128}
					autoFocus
					value={a.account}
					error={errors.account}
					onChange={(e) => change({ account: e.currentTarget.value })}
				/>
				<TextInput
					label={t.setUp.email}
					description={t.setUp.emailHelp}
					type="email"
					name="email"
					autoComplete="username"
					required
					maxLength={254}
					value={a.email}
					error={errors.email}
					onChange={(e) => change({ email: e.currentTarget.value })}
				/>
				<NewPassword
					label={t.setUp.password}
					value={a.password}
					error={errors.password}
					onChange={(password) => change({ password })}
				/>
				<Problem error={refusal} />
				<Button type="submit" loading={busy} fullWidth>
					{button}
				</Button>
			</Stack>
		</form>
	);
}
