/**
 * A cell of a CSV file for spreadsheets. What they would take for a formula gets a
 * quote in front, so that a device called =HYPERLINK(…) stays its name.
 */
export function csvCell(value: string | number | undefined): string {
	let s = String(value ?? "");
	if (typeof value !== "number" && /^[=+\-@\t\r]/.test(s)) s = `'${s}`;
	return /[",\n\r]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
}

/** A line of it, with its end. */
export const csvLine = (cells: readonly (string | number | undefined)[]): string =>
	`${cells.map(csvCell).join(",")}\r\n`;
