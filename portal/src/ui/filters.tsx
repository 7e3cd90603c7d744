import { type ReactNode, useId } from "react";
import classes from "./filters.module.css";

/** What narrows a table, over it. */
export function Filters({ children }: { children: ReactNode }) {
	return <div className={classes.filters}>{children}</div>;
}

/** One of a few words, all of them visible. */
export function Choices<T extends string>({
	label,
	value,
	onChange,
	words,
}: {
	label: string;
	value: T;
	onChange: (value: T) => void;
	words: readonly (readonly [T, string])[];
}) {
	const name = useId();
	return (
		<div className={classes.choices} role="radiogroup" aria-label={label}>
			{words.map(([word, text]) => (
				<label key={word} className={classes.choice}>
					<input type="radio" name={name} value={word} checked={word === value} onChange={() => onChange(word)} />
					{text}
				</label>
			))}
		</div>
	);
}

/** In place of a table without rows: why there is nothing, and what to do. */
export function Empty({ title, text, children }: { title: string; text: ReactNode; children?: ReactNode }) {
	return (
		<div className={classes.empty}>
			<p className={classes.emptyTitle}>{title}</p>
			<p className={classes.emptyText}>{text}</p>
			{children}
		</div>
	);
}
