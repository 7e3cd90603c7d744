import { Button, Loader } from "@mantine/core";
import { IconCheck, IconCopy, IconEye, IconEyeOff } from "@tabler/icons-react";
import { useEffect, useState } from "react";
import { api, ask, type Token } from "../api/client";
import { t } from "../strings";
import { CopyBox } from "../ui/copy";
import { withFreshPassword } from "../ui/dialogs";
import { Problem } from "../ui/problem";
import { commandsFor } from "./tokenRules";
import classes from "./tokens.module.css";

/** How long a token stays on the screen. */
export const shownFor = 60_000;

/**
 * A token's text, hidden until it is asked for. The gateway signs it again then, and
 * records that. It is kept in this component alone, and gone when that is.
 */
export function TokenText({ token }: { token: Token }) {
	const [text, setText] = useState<string>();
	const [busy, setBusy] = useState<"show" | "copy">();
	const [copied, setCopied] = useState(false);
	const [error, setError] = useState<unknown>();

	useEffect(() => {
		if (text === undefined) return;
		const timer = setTimeout(() => setText(undefined), shownFor);
		return () => clearTimeout(timer);
	}, [text]);
	useEffect(() => {
		if (!copied) return;
		const timer = setTimeout(() => setCopied(false), 1500);
		return () => clearTimeout(timer);
	}, [copied]);

	const get = async (what: "show" | "copy") => {
		setBusy(what);
		setError(undefined);
		try {
			const got = (
				await withFreshPassword(() =>
					ask(api.POST("/api/v1/tokens/{id}/reveal", { params: { path: { id: token.id } } })),
				)
			).token;
			if (what === "show") {
				setText(got);
				return;
			}
			try {
				await navigator.clipboard.writeText(got);
				setCopied(true);
			} catch {
				setText(got); // to be copied by hand
				setError(new Error(t.common.copyFailed));
			}
		} catch (e) {
			setError(e);
		} finally {
			setBusy(undefined);
		}
	};

	const r = t.tokens.reveal;
	return (
		<div className={classes.text}>
			{text === undefined ? (
				<>
					<div className={classes.hidden}>
						<span className={classes.masked} role="img" aria-label={r.masked}>
							••••••••••••••••••••••••
						</span>
						<Button
							variant="default"
							size="compact-md"
							leftSection={busy === "show" ? <Loader size={14} /> : <IconEye size={16} />}
							disabled={busy !== undefined}
							onClick={() => get("show")}
						>
							{r.show}
						</Button>
						<Button
							variant="default"
							size="compact-md"
							leftSection={
								busy === "copy" ? <Loader size={14} /> : copied ? <IconCheck size={16} /> : <IconCopy size={16} />
							}
							disabled={busy !== undefined}
							onClick={() => get("copy")}
						>
							{copied ? r.copied : r.copy}
						</Button>
					</div>
					<p className={classes.note}>{r.note}</p>
				</>
			) : (
				<>
					<TokenCommands token={token} text={text} />
					<div className={classes.hidden}>
						<Button
							variant="default"
							size="compact-sm"
							leftSection={<IconEyeOff size={16} />}
							onClick={() => setText(undefined)}
						>
							{r.hide}
						</Button>
						<span className={classes.note}>{r.shown}</span>
					</div>
				</>
			)}
			<Problem error={error} />
		</div>
	);
}

/** A token and the commands that it is for. */
export function TokenCommands({ token, text }: { token: Token; text: string }) {
	return (
		<>
			<div>
				<p className={classes.commandTitle}>{t.tokens.reveal.heading}</p>
				<CopyBox text={text} what={t.tokens.reveal.what} wrap />
			</div>
			{commandsFor(token.kind, token.scope, text, location.origin).map((c) => (
				<div key={c.title}>
					<p className={classes.commandTitle}>{c.title}</p>
					<CopyBox text={c.text} what={t.tokens.commands.what} />
					<p className={classes.note}>{c.hint}</p>
				</div>
			))}
		</>
	);
}
