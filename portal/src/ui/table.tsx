import { Button, Checkbox, Group, Menu, Select, Skeleton, Tooltip, UnstyledButton } from "@mantine/core";
import {
	IconChevronDown,
	IconChevronLeft,
	IconChevronLeftPipe,
	IconChevronRight,
	IconChevronUp,
	IconColumns3,
	IconSelector,
} from "@tabler/icons-react";
import { memo, type ReactNode, useMemo, useRef } from "react";
import { t } from "../strings";
import { IconButton } from "./iconButton";
import { Problem } from "./problem";
import classes from "./table.module.css";

export interface Column<Row> {
	id: string;
	title: string;
	cell: (row: Row) => ReactNode;
	/** The API's name of the field to sort by. */
	sort?: string;
	/** It can't be hidden by the reader. */
	fixed?: boolean;
	/** Hidden until the reader chooses it. */
	optional?: boolean;
	/** Not shown where there is little room: below 48 em, or below 75 em. */
	from?: "md" | "lg";
	align?: "right";
	/** Stays in sight at the right edge while the rest is scrolled sideways. */
	sticky?: boolean;
	/** A CSS width. */
	width?: string;
	/** The title is for screen readers alone. */
	quietTitle?: boolean;
}

export interface Selection {
	ids: ReadonlySet<string>;
	set: (ids: ReadonlySet<string>) => void;
}

interface TableProps<Row> {
	/** What the table is of, for screen readers. */
	label: string;
	columns: readonly Column<Row>[];
	/** undefined while the first answer is not there. */
	rows: readonly Row[] | undefined;
	id: (row: Row) => string;
	/** What a row is called, for the labels of its controls. */
	name?: (row: Row) => string;
	error?: unknown;
	onRetry?: () => void;
	/** The rows are those of before; others are on their way. */
	stale?: boolean;
	/** Shown in place of no rows. */
	empty?: ReactNode;
	/** "name" or "-name" */
	sort?: string | undefined;
	onSort?: (sort: string) => void;
	selection?: Selection;
	/** What a row shows when it is expanded; undefined for rows that can't be. */
	expanded?: (row: Row) => ReactNode;
	isExpanded?: (row: Row) => boolean;
	hidden?: ReadonlySet<string>;
	onRowClick?: (row: Row) => void;
}

/** A table of a page of rows: skeletons at first, then rows, or what is wrong, or what to do while there are none. */
export function Table<Row>(p: TableProps<Row>) {
	const columns = useMemo(() => p.columns.filter((c) => !p.hidden?.has(c.id)), [p.columns, p.hidden]);
	const ids = p.rows?.map(p.id) ?? [];
	const chosen = p.selection ? ids.filter((id) => p.selection?.ids.has(id)) : [];
	const acts = useRef<RowActs<Row>>({});
	acts.current = {
		click: p.onRowClick,
		select: (id) => {
			const next = new Set(p.selection?.ids);
			if (!next.delete(id)) next.add(id);
			p.selection?.set(next);
		},
	};
	if (p.error && !p.rows) return <Problem error={p.error} {...(p.onRetry ? { onRetry: p.onRetry } : {})} />;
	if (p.rows?.length === 0 && p.empty) return p.empty;
	return (
		// biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard
		<section className={classes.scroll} tabIndex={0} aria-label={p.label}>
			{p.error ? <Problem error={p.error} {...(p.onRetry ? { onRetry: p.onRetry } : {})} /> : null}
			<table className={classes.table} aria-busy={!p.rows || p.stale} data-stale={p.stale || undefined}>
				<caption className={classes.caption}>{p.label}</caption>
				<thead>
					<tr>
						{p.selection && (
							<th className={classes.check} scope="col">
								<Checkbox
									size="xs"
									aria-label={t.common.rows.selectAll}
									checked={ids.length > 0 && chosen.length === ids.length}
									indeterminate={chosen.length > 0 && chosen.length < ids.length}
									onChange={(e) => {
										const next = new Set(p.selection?.ids);
										for (const id of ids) e.currentTarget.checked ? next.add(id) : next.delete(id);
										p.selection?.set(next);
									}}
								/>
							</th>
						)}
						{columns.map((c) => (
							<HeaderCell key={c.id} column={c} sort={p.sort} onSort={p.onSort} />
						))}
					</tr>
				</thead>
				<tbody>
					{p.rows
						? p.rows.map((row) => {
								const id = p.id(row);
								const open = p.isExpanded?.(row) ?? false;
								return (
									<TableRow
										key={id}
										row={row}
										id={id}
										columns={columns}
										name={p.selection ? (p.name?.(row) ?? id) : undefined}
										selected={p.selection?.ids.has(id) ?? false}
										clickable={p.onRowClick !== undefined}
										acts={acts}
										expanded={open ? p.expanded?.(row) : undefined}
										open={open}
									/>
								);
							})
						: skeletonRows.map((n) => (
								<tr key={n}>
									{p.selection && <td className={classes.check} />}
									{columns.map((c) => (
										<td key={c.id} data-from={c.from}>
											<Skeleton height={12} width={`${40 + ((n * 17 + c.title.length * 7) % 45)}%`} />
										</td>
									))}
								</tr>
							))}
				</tbody>
			</table>
		</section>
	);
}

interface RowActs<Row> {
	click?: ((row: Row) => void) | undefined;
	select?: (id: string) => void;
}

interface RowProps<Row> {
	row: Row;
	id: string;
	columns: readonly Column<Row>[];
	/** What it is called, where rows can be selected. */
	name: string | undefined;
	selected: boolean;
	clickable: boolean;
	acts: { readonly current: RowActs<Row> };
	open: boolean;
	expanded: ReactNode;
}

/** Drawn again only if something of it has changed: a page has up to 200 of them. */
const TableRow = memo(function TableRow<Row>(p: RowProps<Row>) {
	return (
		<>
			<tr
				data-selected={p.selected || undefined}
				data-open={p.open || undefined}
				data-click={p.clickable || undefined}
				onClick={
					p.clickable
						? (e) => {
								// Links, buttons and marked text are meant themselves.
								if ((e.target as Element).closest("a, button, input, label, [role=menu], [role=dialog]")) return;
								if (getSelection()?.toString()) return;
								p.acts.current.click?.(p.row);
							}
						: undefined
				}
			>
				{p.name !== undefined && (
					<td className={classes.check}>
						<Checkbox
							size="xs"
							aria-label={t.common.rows.select(p.name)}
							checked={p.selected}
							onChange={() => p.acts.current.select?.(p.id)}
						/>
					</td>
				)}
				{p.columns.map((c) => (
					<td key={c.id} data-from={c.from} data-align={c.align} data-sticky={c.sticky || undefined}>
						{c.cell(p.row)}
					</td>
				))}
			</tr>
			{p.open && (
				<tr className={classes.more}>
					<td colSpan={p.columns.length + (p.name === undefined ? 0 : 1)}>{p.expanded}</td>
				</tr>
			)}
		</>
	);
}) as <Row>(p: RowProps<Row>) => ReactNode;

const skeletonRows = [1, 2, 3, 4, 5, 6, 7, 8];

function HeaderCell<Row>({
	column: c,
	sort,
	onSort,
}: {
	column: Column<Row>;
	sort: string | undefined;
	onSort: ((sort: string) => void) | undefined;
}) {
	const up = c.sort !== undefined && sort === c.sort;
	const down = c.sort !== undefined && sort === `-${c.sort}`;
	const sortable = c.sort !== undefined && onSort;
	return (
		<th
			scope="col"
			data-from={c.from}
			data-align={c.align}
			data-sticky={c.sticky || undefined}
			style={c.width ? { width: c.width } : undefined}
			aria-sort={up ? "ascending" : down ? "descending" : undefined}
		>
			{sortable ? (
				<UnstyledButton
					className={classes.sort}
					onClick={() => onSort(up ? `-${c.sort}` : (c.sort ?? ""))}
					title={t.common.rows.sortBy(c.title)}
				>
					{c.title}
					{up ? (
						<IconChevronUp size={14} aria-hidden />
					) : down ? (
						<IconChevronDown size={14} aria-hidden />
					) : (
						<IconSelector size={14} aria-hidden className={classes.unsorted} />
					)}
				</UnstyledButton>
			) : c.quietTitle ? (
				<span className={classes.caption}>{c.title}</span>
			) : (
				c.title
			)}
		</th>
	);
}

/** A menu to choose the columns that are shown. */
export function ColumnMenu<Row>({
	columns,
	hidden,
	onChange,
}: {
	columns: readonly Column<Row>[];
	hidden: ReadonlySet<string>;
	onChange: (hidden: ReadonlySet<string>) => void;
}) {
	return (
		<Menu closeOnItemClick={false}>
			<Menu.Target>
				<Tooltip label={t.common.rows.columnsHelp}>
					<Button variant="default" leftSection={<IconColumns3 size={16} />}>
						{t.common.rows.columns}
					</Button>
				</Tooltip>
			</Menu.Target>
			<Menu.Dropdown>
				{columns
					.filter((c) => !c.fixed)
					.map((c) => (
						<Menu.CheckboxItem
							key={c.id}
							checked={!hidden.has(c.id)}
							onChange={() => {
								const next = new Set(hidden);
								if (!next.delete(c.id)) next.add(c.id);
								onChange(next);
							}}
						>
							{c.title}
						</Menu.CheckboxItem>
					))}
			</Menu.Dropdown>
		</Menu>
	);
}

const sizes = ["25", "50", "100", "200"];

/** Ways to the pages of a list that is read by cursors. The pages before are known from where the reader came. */
export function Pager({
	summary,
	cursor,
	nextCursor,
	onGo,
	size,
	onSize,
}: {
	/** What is in the list, beside the buttons. */
	summary?: ReactNode;
	cursor: string | undefined;
	nextCursor: string | undefined;
	/** Goes to the page that begins at the cursor; undefined for the first one. */
	onGo: (cursor: string | undefined) => void;
	size: number;
	onSize: (size: number) => void;
}) {
	return (
		<nav className={classes.pager} aria-label={t.common.rows.perPage}>
			<span className="quiet numbers" role="status">
				{summary}
			</span>
			<Group gap={6} wrap="nowrap">
				<Select
					aria-label={t.common.rows.perPage}
					data={sizes}
					value={String(size)}
					onChange={(v) => v && onSize(Number(v))}
					size="xs"
					w={76}
					comboboxProps={{ withinPortal: true }}
				/>
				<IconButton
					variant="default"
					size={30}
					label={t.common.rows.first}
					disabled={!cursor}
					onClick={() => onGo(undefined)}
				>
					<IconChevronLeftPipe size={16} />
				</IconButton>
				<IconButton
					variant="default"
					size={30}
					label={t.common.rows.previous}
					disabled={!cursor}
					onClick={() => onGo(before.get(cursor ?? ""))}
				>
					<IconChevronLeft size={16} />
				</IconButton>
				<IconButton
					variant="default"
					size={30}
					label={t.common.rows.next}
					disabled={!nextCursor}
					onClick={() => {
						if (nextCursor) {
							before.set(nextCursor, cursor);
							onGo(nextCursor);
						}
					}}
				>
					<IconChevronRight size={16} />
				</IconButton>
			</Group>
		</nav>
	);
}

/** The cursor of the page before the one that begins at a cursor. After a reload nothing is known, and "previous" is the first page. */
const before = new Map<string, string | undefined>();
