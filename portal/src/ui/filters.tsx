import { SegmentedControl } from "@mantine/core";
import type { ReactNode } from "react";
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
	return (
		<div className={classes.choices}>
			<SegmentedControl
				aria-label={label}
				size="sm"
				value={value}
				onChange={(v) => onChange(v as T)}
				data={words.map(([value, label]) => ({ value, label }))}
				transitionDuration={0}
			/>
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
