package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// works are what every way does on the machine's own network.
var works = []plan{
	{name: "down 1", work: work{Kind: "down", Conns: 1, Bytes: 384 << 20}},
	{name: "up 1", work: work{Kind: "up", Conns: 1, Bytes: 384 << 20}},
	{name: "down 8", work: work{Kind: "down", Conns: 8, Bytes: 64 << 20}},
	{name: "up 8", work: work{Kind: "up", Conns: 8, Bytes: 64 << 20}},
	{name: "rtt", work: work{Kind: "rtt", For: 500 * time.Millisecond}},
	{name: "connect 1", work: work{Kind: "connect", Conns: 1, For: 700 * time.Millisecond}},
	{name: "connect 16", work: work{Kind: "connect", Conns: 16, For: 700 * time.Millisecond}},
	{name: "fair 100", work: work{Kind: "fair", Conns: 100, For: 2 * time.Second}, ways: []string{"direct", "relay-3", "tls-pair", "socketxp"}},
}

// far are those over a distance.
var far = map[path][]plan{
	{delay: 25 * time.Millisecond}: {
		{name: "down 1", work: work{Kind: "down", Conns: 1, Bytes: 128 << 20}},
		{name: "up 1", work: work{Kind: "up", Conns: 1, Bytes: 128 << 20}},
		{name: "connect 1", work: work{Kind: "connect", Conns: 1, For: 2 * time.Second}},
		{name: "connect 16", work: work{Kind: "connect", Conns: 16, For: 2 * time.Second}},
	},
	{delay: 25 * time.Millisecond, loss: 0.01}: {
		{name: "down 1", work: work{Kind: "down", Conns: 1, Bytes: 8 << 20}},
		{name: "up 1", work: work{Kind: "up", Conns: 1, Bytes: 8 << 20}},
		{name: "connect 1", work: work{Kind: "connect", Conns: 1, For: 2 * time.Second}},
	},
}

// links measures every way and writes the report.
func links(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("links", flag.ContinueOnError)
	n := f.Int("rounds", 5, "how often every way does every work")
	only := f.String("works", "", "only these works, comma-separated; no report then, but a table")
	names := f.String("ways", "", "only these ways, comma-separated; the full path of a folder is this product as it was built there")
	out := f.String("out", "", "the file of the report; empty for standard output")
	if err := f.Parse(args); err != nil {
		return err
	}
	var all []string
	for _, m := range makers {
		all = append(all, m.name)
	}
	chosen := all
	if *names != "" {
		chosen = strings.Split(*names, ",")
	}
	if *only != "" {
		plans := slices.DeleteFunc(slices.Clone(works), func(p plan) bool {
			return !slices.Contains(strings.Split(*only, ","), p.name)
		})
		r, missing, err := near(ctx, chosen, plans, *n, nil, nil)
		if err != nil {
			return err
		}
		return errors.Join(r.write(os.Stdout, chosen, plans), notes(os.Stderr, *n, missing))
	}
	doc, err := measureAll(ctx, chosen, *n)
	if err != nil {
		return err
	}
	if *out == "" {
		_, err = io.WriteString(os.Stdout, doc)
		return err
	}
	return os.WriteFile(*out, []byte(doc), 0o644) //nolint:gosec // a report is for everybody
}

// near does works on the machine's own network. What is given besides is done with each
// way before and after them.
func near(ctx context.Context, names []string, plans []plan, n int, before, after func(*lab, *way) error) (r rounds, missing []string, err error) {
	l, err := newLab()
	if err != nil {
		return r, nil, err
	}
	defer l.close()
	ways, missing, err := l.setUp(ctx, names...)
	if err != nil {
		return r, nil, err
	}
	all := func(do func(*lab, *way) error) error {
		for _, w := range ways {
			if do == nil {
				break
			}
			if err := do(l, w); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
		return nil
	}
	if err := all(before); err != nil {
		return r, nil, err
	}
	if err := r.addAll(ctx, l, ways, plans, n); err != nil {
		return r, nil, err
	}
	return r, missing, all(after)
}

// over does works over a path.
func over(ctx context.Context, p path, names []string, plans []plan, n int) (r rounds, err error) {
	l, err := newLab()
	if err != nil {
		return r, err
	}
	defer l.close()
	if err := l.lay(ctx, p); err != nil {
		return r, err
	}
	ways, _, err := l.setUp(ctx, names...)
	if err != nil {
		return r, err
	}
	return r, r.addAll(ctx, l, ways, plans, n)
}

func (r *rounds) addAll(ctx context.Context, l *lab, ways []*way, plans []plan, n int) error {
	for round := range n {
		fmt.Fprintf(os.Stderr, "# round %d of %d\n", round+1, n)
		if err := r.add(ctx, l, ways, plans, round); err != nil {
			return err
		}
	}
	return nil
}

// column is a figure that a table shows of each way.
type column struct {
	name string
	of   func(turn) float64
	form string
}

// columnsOf returns what a work's table shows.
func columnsOf(kind string) []column {
	mib := column{"MiB/s", func(t turn) float64 { return t.bytesPerS() / (1 << 20) }, "%.0f"}
	p50 := column{"p50 µs", func(t turn) float64 { return t.P50 }, "%.0f"}
	p99 := column{"p99 µs", func(t turn) float64 { return t.P99 }, "%.0f"}
	switch kind {
	case "down", "up":
		return []column{mib, {"CPU-s per GiB", turn.cpuPerGiB, "%.2f"}, {"of it the gateway", func(t turn) float64 { return 100 * t.gateway.Seconds() / t.cpu.Seconds() }, "%.0f %%"}}
	case "rtt":
		return []column{p50, p99}
	case "connect":
		return []column{{"per second", func(t turn) float64 { return t.PerS }, "%.0f"}, p50, p99}
	case "fair":
		return []column{{"half have", func(t turn) float64 { return t.Half }, "%.2f"}, {"the worst has", func(t turn) float64 { return t.Worst }, "%.2f"}}
	}
	return nil
}

// cell is a median with its spread.
func (f column) cell(s series) string {
	if len(s) == 0 || s.median() != s.median() {
		return "–"
	}
	return fmt.Sprintf(f.form+" ("+f.form+"–"+f.form+")", s.median(), s.quantile(0), s.quantile(1))
}

// write writes a table for each work.
func (r *rounds) write(to io.Writer, names []string, plans []plan) error {
	for _, p := range plans {
		figures := columnsOf(p.work.Kind)
		if _, err := fmt.Fprintf(to, "\n### %s\n\n| |%s\n|---|%s\n", p.title(), heads(figures), strings.Repeat("---|", len(figures))); err != nil {
			return err
		}
		for _, name := range names {
			if len(r.turns[p.name][name]) == 0 {
				continue
			}
			row := "| " + name + " |"
			for _, f := range figures {
				row += " " + f.cell(r.of(p.name, name, f.of)) + " |"
			}
			if _, err := fmt.Fprintln(to, row); err != nil {
				return err
			}
		}
	}
	return nil
}

func heads(figures []column) (s string) {
	for _, f := range figures {
		s += " " + f.name + " |"
	}
	return s
}

// title says what a work is.
func (p plan) title() string {
	conns := "one connection"
	if p.work.Conns > 1 {
		conns = fmt.Sprintf("%d connections", p.work.Conns)
	}
	switch p.work.Kind {
	case "down":
		return "Bulk to the visitor, " + conns
	case "up":
		return "Bulk to the device, " + conns
	case "rtt":
		return "Round trips of 64 bytes through an open connection"
	case "connect":
		if p.work.Conns == 1 {
			return "New connections one after another, to the first byte"
		}
		return fmt.Sprintf("New connections, %d at once, to the first byte", p.work.Conns)
	case "fair":
		return "98 connections beside one that takes nothing and one that takes all it can get: parts of a fair share"
	}
	return p.name
}
