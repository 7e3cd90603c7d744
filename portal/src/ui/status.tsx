import { t } from "../strings";
import classes from "./status.module.css";

/** How something is, as a dot: never by colour alone, so words stand beside it. */
export type Tone = "good" | "bad" | "warn" | "off";

export function Dot({ tone, pulse = false }: { tone: Tone; pulse?: boolean }) {
	return <span className={classes.dot} data-tone={tone} data-pulse={pulse || undefined} aria-hidden />;
}

/** A dot and a word. */
export function Status({ tone, children, pulse = false }: { tone: Tone; children: React.ReactNode; pulse?: boolean }) {
	return (
		<span className={classes.status}>
			<Dot tone={tone} pulse={pulse} />
			{children}
		</span>
	);
}

/** A small label: a group, a kind, a state. */
export function Tag({ children, tone }: { children: React.ReactNode; tone?: Tone | "brand" }) {
	return (
		<span className={classes.tag} data-tone={tone}>
			{children}
		</span>
	);
}

export const nothing = <span className="quiet">{t.common.nothing}</span>;
