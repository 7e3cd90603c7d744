import { Button, Code, Group, Modal, PasswordInput, Stack, Text, TextInput } from "@mantine/core";
import { type FormEvent, type ReactNode, useState } from "react";
import { ApiError, api, ask } from "../api/client";
import { t } from "../strings";
import { Problem } from "./problem";
import { useAct } from "./useAct";

/**
 * Asks before something that can't be undone. With `word` it must be typed. The
 * dialog stays, and says why, if act fails; it closes when act is done.
 */
export function Confirm({
	title,
	children,
	button,
	word,
	opened,
	onClose,
	act,
}: {
	title: string;
	children: ReactNode;
	button: string;
	word?: string;
	opened: boolean;
	onClose: () => void;
	act: () => Promise<unknown>;
}) {
	return (
		<Modal
			opened={opened}
			onClose={onClose}
			title={<Text fw={600}>{title}</Text>}
			closeButtonProps={{ "aria-label": t.common.close }}
		>
			<ConfirmForm button={button} {...(word ? { word } : {})} onClose={onClose} act={act}>
				{children}
			</ConfirmForm>
		</Modal>
	);
}

function ConfirmForm({
	children,
	button,
	word,
	onClose,
	act,
}: {
	children: ReactNode;
	button: string;
	word?: string;
	onClose: () => void;
	act: () => Promise<unknown>;
}) {
	const [typed, setTyped] = useState("");
	const { busy, error, run } = useAct();
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		await run(async () => {
			await act();
			onClose();
		});
	};
	return (
		<form onSubmit={submit}>
			<Stack gap="md">
				<div>{children}</div>
				{word && (
					<TextInput
						label={
							<>
								{t.common.confirm.before} <Code>{word}</Code> {t.common.confirm.after}
							</>
						}
						value={typed}
						onChange={(e) => setTyped(e.currentTarget.value)}
						autoComplete="off"
						spellCheck={false}
						data-autofocus
					/>
				)}
				<Problem error={error} />
				<Group justify="flex-end" gap="xs">
					<Button variant="default" onClick={onClose}>
						{t.common.cancel}
					</Button>
					<Button type="submit" color="red" loading={busy} disabled={word !== undefined && typed !== word}>
						{button}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}

let askPassword: (() => Promise<boolean>) | undefined;

/**
 * Does what needs a password entered a short time ago: if the gateway asks for it,
 * the person is asked, and the act is done again. Throws the refusal if they cancel.
 */
export async function withFreshPassword<T>(act: () => Promise<T>): Promise<T> {
	try {
		return await act();
	} catch (e) {
		if (!(e instanceof ApiError) || e.code !== "reauth_required" || !askPassword || !(await askPassword())) throw e;
		return await act();
	}
}

/** Stands once in the application, for withFreshPassword. */
export function PasswordDialog() {
	const [answer, setAnswer] = useState<((ok: boolean) => void) | undefined>();
	askPassword = () => new Promise((resolve) => setAnswer(() => resolve));
	const close = (ok: boolean) => {
		answer?.(ok);
		setAnswer(undefined);
	};
	return (
		<Modal
			opened={answer !== undefined}
			onClose={() => close(false)}
			title={<Text fw={600}>{t.common.reauth.title}</Text>}
			zIndex={400}
			closeButtonProps={{ "aria-label": t.common.close }}
		>
			<PasswordForm onDone={() => close(true)} onCancel={() => close(false)} />
		</Modal>
	);
}

function PasswordForm({ onDone, onCancel }: { onDone: () => void; onCancel: () => void }) {
	const [password, setPassword] = useState("");
	const { busy, error, run } = useAct();
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		await run(async () => {
			await ask(api.POST("/api/v1/reauth", { body: { password } }));
			onDone();
		});
	};
	return (
		<form onSubmit={submit}>
			<Stack gap="md">
				<Text size="sm">{t.common.reauth.why}</Text>
				<PasswordInput
					label={t.common.reauth.password}
					value={password}
					onChange={(e) => setPassword(e.currentTarget.value)}
					autoComplete="current-password"
					required
					maxLength={1024}
					data-autofocus
				/>
				<Problem error={error} />
				<Group justify="flex-end" gap="xs">
					<Button variant="default" onClick={onCancel}>
						{t.common.cancel}
					</Button>
					<Button type="submit" loading={busy} disabled={!password}>
						{t.common.reauth.submit}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}
