import { Title } from "@mantine/core";
import { type ReactNode, useEffect } from "react";
import { t } from "../strings";
import classes from "./page.module.css";

/** Names the tab. */
export function useTitle(title: string) {
	useEffect(() => {
		document.title = `${title} · ${t.common.product}`;
	}, [title]);
}

/** A page below the shell: its title, what can be done, and its content. */
export function Page({
	title,
	lead,
	actions,
	above,
	children,
}: {
	title: string;
	lead?: ReactNode;
	actions?: ReactNode;
	/** Stands over the title: the way back. */
	above?: ReactNode;
	children: ReactNode;
}) {
	useTitle(title);
	return (
		<div className={classes.page}>
			{above}
			<header className={classes.header}>
				<div className={classes.words}>
					<Title order={1}>{title}</Title>
					{lead && <p className={classes.lead}>{lead}</p>}
				</div>
				{actions && <div className={classes.actions}>{actions}</div>}
			</header>
			{children}
		</div>
	);
}

/** A bordered part of a page with a heading of its own. */
export function Panel({
	title,
	actions,
	children,
	flush = false,
	danger = false,
}: {
	title?: string;
	actions?: ReactNode;
	children: ReactNode;
	/** Without padding around the content: for tables. */
	flush?: boolean;
	danger?: boolean;
}) {
	return (
		<section className={classes.panel} data-danger={danger || undefined}>
			{title && (
				<div className={classes.panelHeader}>
					<Title order={2}>{title}</Title>
					{actions}
				</div>
			)}
			<div className={flush ? undefined : classes.panelBody}>{children}</div>
		</section>
	);
}

/** Names and values, side by side where there is room. */
export function Facts({
	facts,
	wide = false,
}: {
	facts: readonly (readonly [string, ReactNode])[];
	/** Each in a row of its own: for what is long. */
	wide?: boolean;
}) {
	return (
		<dl className={classes.facts} data-wide={wide || undefined}>
			{facts.map(([name, value]) => (
				<div key={name} className={classes.fact}>
					<dt>{name}</dt>
					<dd>{value ?? t.common.nothing}</dd>
				</div>
			))}
		</dl>
	);
}
