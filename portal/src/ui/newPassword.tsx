import { PasswordInput } from "@mantine/core";
import { useId } from "react";
import { t } from "../strings";
import classes from "./newPassword.module.css";

/** As the gateway asks for (CheckPassword in account.go). */
const shortest = 12;
const longestBytes = 256;
/** From here on nobody guesses it, however fast, unless it is known or follows a pattern. */
const comfortable = 20;

/** What the gateway would refuse a new password for, or undefined. */
export function wrongPassword(password: string, email: string): string | undefined {
	const plain = password.toLowerCase();
	const address = email.trim().toLowerCase();
	if ([...password].length < shortest) return t.password.tooShort;
	if (new TextEncoder().encode(password).length > longestBytes) return t.password.tooLong;
	if (plain === address || plain === address.split("@")[0]) return t.password.isEmail;
	return undefined;
}

export interface Strength {
	tone: "bad" | "warn" | "good";
	/** 0 to 1. */
	part: number;
	text: string;
}

/**
 * What can be said honestly of a password: how long it is, and whether it repeats
 * itself. Whether others use it too is not known here.
 */
export function strength(password: string): Strength {
	const characters = [...password];
	const n = characters.length;
	const part = Math.min(1, n / comfortable);
	if (n < shortest) return { tone: "bad", part, text: n === 0 ? t.password.rule : t.password.more(shortest - n) };
	if (new Set(characters).size < 6) return { tone: "warn", part: 0.5, text: t.password.repeats };
	if (n < comfortable) return { tone: "good", part, text: t.password.enough };
	return { tone: "good", part: 1, text: t.password.long };
}

/** The field of a password that is being chosen. */
export function NewPassword({
	label,
	value,
	onChange,
	error,
}: {
	label: string;
	value: string;
	onChange: (password: string) => void;
	error?: string | undefined;
}) {
	const id = useId();
	const s = strength(value);
	return (
		<div>
			<PasswordInput
				label={label}
				name="new-password"
				autoComplete="new-password"
				required
				maxLength={1024}
				value={value}
				error={error}
				aria-describedby={id}
				onChange={(e) => onChange(e.currentTarget.value)}
				visibilityToggleFocusable
				visibilityToggleButtonProps={{ "aria-label": t.password.show }}
			/>
			<div className={classes.meter} data-tone={s.tone} id={id}>
				<div className={classes.track} aria-hidden>
					<div className={classes.fill} style={{ width: `${s.part * 100}%` }} />
				</div>
				<span>{s.text}</span>
			</div>
		</div>
	);
}
