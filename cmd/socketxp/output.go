package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The forms of output.
const (
	formTable = "table"
	formJSON  = "json"
	formJSONL = "jsonl"
	formCSV   = "csv"
)

// outputFlags choose the form.
type outputFlags struct {
	form   string
	asJSON bool
}

func (f *outputFlags) add(cmd *cobra.Command, forms ...string) {
	cmd.Flags().StringVarP(&f.form, "output", "o", formTable, "the `FORM`: "+strings.Join(forms, ", "))
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON, as --output json does")
	fixedValues(cmd, "output", forms...)
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if f.asJSON {
			if err := exclusive(cmd, "json", "output"); err != nil {
				return err
			}
			f.form = formJSON
		}
		if !slices.Contains(forms, f.form) {
			return usage("it is one of "+strings.Join(forms, ", "), "there is no form of output %q", f.form)
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
}

// column is one of a table of Ts.
type column[T any] struct {
	name string         // in a table's head; in CSV lower case with _ for spaces
	show func(T) string // for people
	// value is for CSV; nil for what people see.
	value func(T) string
	// shrinks says that a table may cut it to fit the terminal.
	shrinks bool
}

// list is how a list of Ts is printed.
type list[T any] struct {
	columns []column[T]
	id      func(T) string
	// none and next are said when the list is empty: what, and what to do.
	none, next string
}

// listFlags are those of all lists.
type listFlags struct {
	output   outputFlags
	limit    int
	all      bool
	watch    bool
	interval time.Duration
}

// usualLimit is as much as a person reads. A program that was not told would not
// notice that something is missing: it gets all.
const usualLimit = 100

func (f *listFlags) add(a *app, cmd *cobra.Command) {
	f.output.add(cmd, formTable, formJSON, formJSONL, formCSV)
	cmd.Flags().IntVar(&f.limit, "limit", usualLimit, "at most `N`; for tables only, unless it is given")
	cmd.Flags().BoolVar(&f.all, "all", false, "without a limit")
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "go on: redraw on a terminal, else print what is new or has changed")
	cmd.Flags().DurationVar(&f.interval, "interval", 2*time.Second, "`TIME` between two looks of --watch")
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case f.limit < 1:
			return usage("--all is without a limit", "--limit is 1 or more")
		case f.all && cmd.Flags().Changed("limit"):
			return exclusive(cmd, "all", "limit")
		case f.interval < 500*time.Millisecond:
			return usage("500ms is the shortest", "the interval is too short")
		case cmd.Flags().Changed("interval") && !f.watch:
			return usage("add --watch", "--interval is for --watch")
		}
		if err := check(cmd, args); err != nil {
			return err
		}
		if f.watch && f.output.form == formCSV {
			return usage("use --output jsonl", "--watch can't print CSV")
		}
		f.all = f.all || !cmd.Flags().Changed("limit") && (f.output.form != formTable || a.quiet)
		return nil
	}
}

// pageSize is the largest page that a gateway gives.
const pageSize = 200

// pages gets as many items as the flags ask for. More is true if there are others.
func pages[T any](f listFlags, get func(cursor string, n int) (items []T, next string, err error)) (all []T, more bool, err error) {
	all = []T{}
	cursor := ""
	for {
		n := pageSize
		if !f.all {
			n = min(n, f.limit-len(all))
		}
		items, next, err := get(cursor, n)
		if err != nil {
			return nil, false, err
		}
		all = append(all, items...)
		switch {
		case next == "" || len(items) == 0 || next == cursor:
			return all, false, nil
		case !f.all && len(all) >= f.limit:
			return all, true, nil
		}
		cursor = next
	}
}

// printList prints a list once, or again and again.
func printList[T any](ctx context.Context, a *app, f listFlags, l list[T], get func(context.Context) (items []T, more bool, err error)) error {
	if f.watch {
		return watchList(ctx, a, f, l, get)
	}
	items, more, err := get(ctx)
	if err != nil {
		return err
	}
	if err := writeList(a, f.output.form, l, items); err != nil {
		return err
	}
	switch {
	case len(items) == 0:
		a.note(f.output.form, l.none, l.next)
	case more:
		a.note(f.output.form, fmt.Sprintf("these are the first %d; there are more", len(items)), "--all, or --limit")
	}
	return nil
}

// note tells people something beside the output.
func (a *app) note(form, text, hint string) {
	if a.quiet || form != formTable {
		return
	}
	a.complain(text, nil)
	a.hint(hint)
}

// writeList prints items in a form.
func writeList[T any](a *app, form string, l list[T], items []T) error {
	var out bytes.Buffer
	switch {
	case a.quiet:
		for _, item := range items {
			fmt.Fprintln(&out, agent.Printable(l.id(item)))
		}
	case form == formJSON:
		if items == nil {
			items = []T{}
		}
		return a.printJSON(items)
	case form == formJSONL:
		for _, item := range items {
			line, err := json.Marshal(item)
			if err != nil {
				return err
			}
			out.Write(append(harmless(line), '\n'))
		}
	case form == formCSV:
		if err := writeCSV(&out, l, items); err != nil {
			return err
		}
	case len(items) > 0:
		l.writeTable(&out, items, a.width())
	}
	_, err := a.stdout.Write(out.Bytes())
	return err
}

// width is how many columns the terminal has, 0 if the output goes elsewhere.
func (a *app) width() int {
	out, ok := a.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) {
		return 0
	}
	w, _, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return 0
	}
	return w
}

// gap is between two columns.
const gap = 3

// writeTable prints items with a head. A table that is wider than width, which is not
// 0, has the widest of its columns that can shrink cut until it fits.
func (l list[T]) writeTable(w io.Writer, items []T, width int) {
	rows := make([][]string, 0, len(items)+1)
	head := make([]string, len(l.columns))
	for i, c := range l.columns {
		head[i] = c.name
	}
	rows = append(rows, head)
	for _, item := range items {
		rows = append(rows, l.cells(item))
	}
	writeRows(w, rows, l.widths(rows, width))
}

// cells returns an item for people.
func (l list[T]) cells(item T) []string {
	row := make([]string, len(l.columns))
	for i, c := range l.columns {
		if row[i] = agent.Printable(c.show(item)); row[i] == "" {
			row[i] = "-"
		}
	}
	return row
}

// narrowest is what a column is cut to at most.
const narrowest = 8

func (l list[T]) widths(rows [][]string, width int) []int {
	widths := make([]int, len(l.columns))
	total := gap * (len(widths) - 1)
	for i := range widths {
		for _, r := range rows {
			widths[i] = max(widths[i], cellWidth(r[i]))
		}
		total += widths[i]
	}
	for ; width > 0 && total > width; total-- {
		widest := -1
		for i, c := range l.columns {
			if c.shrinks && widths[i] > narrowest && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

func writeRows(w io.Writer, rows [][]string, widths []int) {
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			cell = fit(cell, widths[i])
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-cellWidth(cell)+gap))
			}
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// fit cuts a cell to a width.
func fit(cell string, width int) string {
	if cellWidth(cell) <= width {
		return cell
	}
	var out strings.Builder
	left := width - 1
	for _, r := range cell {
		if left -= runeWidth(r); left < 0 {
			break
		}
		out.WriteRune(r)
	}
	return out.String() + "…"
}

func cellWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// wide are the blocks whose characters take two columns (UAX #11, the main ones).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x2e80, 0xa4cf, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x1f300, 0x1faff, 1}, {0x20000, 0x3fffd, 1}},
}

func runeWidth(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// writeCSV prints items for a spreadsheet, in which no cell is a formula.
func writeCSV[T any](out io.Writer, l list[T], items []T) error {
	w := csv.NewWriter(out)
	record := make([]string, len(l.columns))
	for i, c := range l.columns {
		record[i] = strings.ReplaceAll(strings.ToLower(c.name), " ", "_")
	}
	_ = w.Write(record) // an error stays until Flush
	for _, item := range items {
		for i, c := range l.columns {
			value := c.value
			if value == nil {
				value = c.show
			}
			record[i] = plainCell(agent.Printable(value(item)))
		}
		_ = w.Write(record)
	}
	w.Flush()
	return w.Error()
}

// plainCell prefixes what a spreadsheet would take for a formula.
func plainCell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		if _, err := strconv.ParseFloat(s, 64); err != nil { // a number is no formula
			return "'" + s
		}
	}
	return s
}

// printJSON prints v for a program, or for a person to read.
func (a *app) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(a.stdout, "%s\n", harmless(data))
	}
	return err
}

// harmless returns JSON of the same meaning in which no character does anything to a
// terminal.
func harmless(data []byte) []byte {
	var out bytes.Buffer
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == '\n', agent.Printable(string(r)) == string(r):
			out.Write(data[:n])
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		data = data[n:]
	}
	return out.Bytes()
}

// watchList prints a list again and again until ctx ends, which is no error.
func watchList[T any](ctx context.Context, a *app, f listFlags, l list[T], get func(context.Context) ([]T, bool, error)) error {
	last := make(map[string]string)
	var widths []int
	for {
		items, _, err := get(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was told to end
		case err != nil:
			var no *agent.RefusedError
			if !errors.As(err, new(*agent.UnreachableError)) && (!errors.As(err, &no) || !no.Passing()) {
				return err
			}
			a.problem(err, f.interval)
		case a.width() > 0 && f.output.form == formTable && !a.quiet:
			var out bytes.Buffer
			fmt.Fprintf(&out, "\x1b[H\x1b[2J%s   every %v, Ctrl-C ends it\n\n", time.Now().Format(time.DateTime), f.interval)
			if len(items) == 0 {
				fmt.Fprintln(&out, l.none)
			} else {
				l.writeTable(&out, items, a.width())
			}
			if _, err := a.stdout.Write(out.Bytes()); err != nil {
				return err
			}
			a.well()
		default:
			a.well()
			if widths, err = writeChanged(a, f.output.form, l, items, last, widths); err != nil {
				return err
			}
		}
		if !pause(ctx, f.interval) {
			return nil
		}
	}
}

// writeChanged prints the items that are not as they were in last, which it brings up
// to date. A table keeps the widths that it began with.
func writeChanged[T any](a *app, form string, l list[T], items []T, last map[string]string, widths []int) ([]int, error) {
	var changed []T
	now := make(map[string]string, len(items))
	for _, item := range items {
		text, err := json.Marshal(item)
		if err != nil {
			return nil, err
		}
		id := l.id(item)
		if now[id] = string(text); last[id] != now[id] {
			changed = append(changed, item)
		}
	}
	clear(last)
	for id, text := range now {
		last[id] = text
	}
	if len(changed) == 0 {
		return widths, nil
	}
	if form != formTable || a.quiet {
		return nil, writeList(a, formJSONL, l, changed)
	}
	var rows [][]string
	if widths == nil {
		head := make([]string, len(l.columns))
		for i, c := range l.columns {
			head[i] = c.name
		}
		rows = append(rows, head)
	}
	for _, item := range changed {
		rows = append(rows, l.cells(item))
	}
	if widths == nil {
		widths = l.widths(rows, 0)
	}
	var out bytes.Buffer
	for i := range widths { // what is wider than at the start is not cut
		for _, r := range rows {
			widths[i] = max(widths[i], cellWidth(r[i]))
		}
	}
	writeRows(&out, rows, widths)
	_, err := a.stdout.Write(out.Bytes())
	return widths, err
}

// field is a line of what `show` prints.
type field struct{ name, value string }

// printFields prints one thing for people; fields without a value are left out.
func (a *app) printFields(fields []field) {
	widest := 0
	for _, f := range fields {
		if f.value != "" {
			widest = max(widest, len(f.name))
		}
	}
	for _, f := range fields {
		if f.value != "" {
			_, _ = fmt.Fprintf(a.stdout, "%-*s  %s\n", widest, f.name, agent.Printable(f.value))
		}
	}
}

// since says how long ago t is, or how long there is until t, in the largest unit.
func since(t time.Time) string { return relative(t, time.Now()) }

func sincePtr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return since(*t)
}

func relative(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t).Round(time.Second)
	text := rough(max(d, -d))
	switch {
	case d > -time.Second && d < time.Second:
		return "now"
	case d > 0:
		return text + " ago"
	}
	return "in " + text
}

// rough returns a duration in its largest unit: up to two of the next smaller one are
// a different number.
func rough(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d < 730*day:
		return fmt.Sprintf("%d d", d/day)
	}
	return fmt.Sprintf("%d years", d/(365*day))
}

// exact is a time for programs.
func exact(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func exactPtr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return exact(*t)
}

// both is a time for people who want to know it exactly.
func both(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime) + " (" + since(t) + ")"
}

func bothPtr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return both(*t)
}

// life is a flag for a duration that may also be in days.
type life time.Duration

const day = 24 * time.Hour

// Set is for pflag.
func (l *life) Set(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return errors.New("it looks like 30d or 8h")
		}
		*l = life(time.Duration(n) * day)
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("it looks like 30d or 8h")
	}
	*l = life(d)
	return nil
}

// String is for pflag.
func (l *life) String() string {
	d := time.Duration(*l)
	if d != 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// Type is for pflag.
func (*life) Type() string { return "duration" }

// size is a number of bytes for people.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 999.5 && unit < 6 {
		value /= 1000
		unit++
	}
	digits := 0
	if value < 9.95 {
		digits = 1
	}
	return strconv.FormatFloat(value, 'f', digits, 64) + " " + []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}[unit]
}
