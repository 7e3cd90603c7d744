package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// idle is what a way with many open, silent connections is like.
type idle struct {
	rtt, down turn // of one active connection beside them
	// Memory that one open connection takes, in KiB, at the gateway and at each agent;
	// with the kernel's own of both ends of a socket apart.
	gatewayKiB float64
	// RSS in MiB of the agents with no connection and with 100.
	agents map[string][2]float64
}

// measureAll measures everything that the report has.
func measureAll(ctx context.Context, names []string, n int) (string, error) {
	held := make(map[string]idle)
	first := series{}
	r, missing, err := near(ctx, names, works, n, func(l *lab, w *way) (err error) {
		fmt.Fprintf(os.Stderr, "# %s with open connections\n", w.name)
		held[w.name], err = l.holdOpen(ctx, w)
		return err
	}, func(l *lab, w *way) (err error) {
		if w.again != nil {
			first, err = l.firsts(ctx, w, 2*n+1)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	distant := make(map[path]rounds)
	for _, p := range distances() {
		fmt.Fprintf(os.Stderr, "# %v\n", p)
		few := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return p.loss > 0 && !slices.Contains([]string{"direct", "tls-pair", "socketxp"}, name)
		})
		if distant[p], err = over(ctx, p, few, far[p], n); err != nil {
			return "", fmt.Errorf("%v: %w", p, err)
		}
	}
	var doc strings.Builder
	doc.WriteString("# Links, measured side by side\n\n" + header(ctx, n, missing))
	writeFigures(&doc, &r, held, first, distant)
	doc.WriteString("\n## On one machine\n")
	if err := r.write(&doc, names, works); err != nil {
		return "", err
	}
	writeProcesses(&doc, &r, names)
	writeIdle(&doc, names, held)
	for _, p := range distances() {
		d := distant[p]
		fmt.Fprintf(&doc, "\n## Over a distance: %v\n", p)
		if err := d.write(&doc, names, far[p]); err != nil {
			return "", err
		}
	}
	return doc.String(), nil
}

// distances returns the paths in the order of the report.
func distances() []path {
	var all []path
	for p := range far {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b path) int {
		if a.loss < b.loss {
			return -1
		}
		return 1
	})
	return all
}

// header says what was measured where.
func header(ctx context.Context, n int, missing []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Made by `make bench`; not typed. %s, %s. Everything ran on this machine in the same minutes, each way in turn: only what stands in one table may be compared. Medians of %d rounds, with the least and the most.\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), n)
	fmt.Fprintf(&b, "| | |\n|---|---|\n| direct | the client dials the target |\n| relay-3 | three plain Go relays in a row, no encryption |\n| tls-pair | two processes, TLS 1.3 between them, tuned, no gateway |\n| socketxp | this product: agent, gateway, agent; end to end TLS 1.3 |\n| socketxp-websocket | the same with both agents in a WebSocket |\n| derived | an experiment, no part of the product: one TLS session, and a pair of sockets with keys derived from it for each connection (`docs/decisions/0024-links-stay-tls.md`) |\n| openssh-aes128-gcm, openssh | `ssh -R` from the device, `ssh -L` from the laptop, sshd between: with that cipher, and with the default one |\n| stunnel-haproxy | stunnel at both ends, HAProxy passing it on: TLS end to end in C |\n\n")
	for _, v := range versions(ctx) {
		b.WriteString("- " + v + "\n")
	}
	for _, name := range missing {
		b.WriteString("- " + name + " was left out: it is not installed\n")
	}
	return b.String()
}

// versions are those of the programs that were measured: the line of what each says
// that begins so.
func versions(ctx context.Context) (all []string) {
	for _, v := range []struct {
		begins string
		argv   []string
	}{
		{"socketxp-gateway", []string{"bin/socketxp-gateway", "version"}},
		{"OpenSSH", []string{"ssh", "-V"}},
		{"stunnel", []string{"stunnel", "-version"}},
		{"HAProxy", []string{"haproxy", "-v"}},
	} {
		path := v.argv[0]
		if !strings.Contains(path, "/") {
			var err error
			if path, err = installed(path); err != nil {
				continue
			}
		}
		out, err := exec.CommandContext(ctx, path, v.argv[1:]...).CombinedOutput() //nolint:gosec // fixed programs
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, v.begins) {
				all = append(all, strings.TrimSpace(line))
				break
			}
		}
	}
	return all
}

// holdOpen measures a way that has done nothing yet: with no, with 100 and with 1,000
// open, silent connections.
func (l *lab) holdOpen(ctx context.Context, w *way) (h idle, err error) {
	const some, many = 100, 1000
	h.agents = make(map[string][2]float64)
	mib := func(at int) error {
		for _, p := range w.procs {
			m, err := memoryOf(p.cmd.Process.Pid)
			if err != nil {
				return err
			}
			v := h.agents[p.name]
			v[at] = float64(m.rss) / (1 << 20)
			h.agents[p.name] = v
		}
		return nil
	}
	// What a process has begun with is done, and what it took for that is given back.
	if !pause(ctx, settled) {
		return h, ctx.Err()
	}
	if err := mib(0); err != nil {
		return h, err
	}
	if err := l.holding(ctx, w, some, func() error { return mib(1) }); err != nil {
		return h, err
	}
	var before memory
	if w.gateway != nil {
		if !pause(ctx, settled) {
			return h, ctx.Err()
		}
		if before, err = memoryOf(w.gateway.cmd.Process.Pid); err != nil {
			return h, err
		}
	}
	err = l.holding(ctx, w, many, func() (err error) {
		if w.gateway != nil {
			if !pause(ctx, settled) {
				return ctx.Err()
			}
			after, err := memoryOf(w.gateway.cmd.Process.Pid)
			if err != nil {
				return err
			}
			h.gatewayKiB = float64(after.rss-before.rss) / 1024 / many
		}
		if h.rtt, err = l.do(ctx, w, work{Kind: "rtt", For: 500 * time.Millisecond}); err != nil {
			return err
		}
		h.down, err = l.do(ctx, w, work{Kind: "down", Conns: 1, Bytes: 256 << 20})
		return err
	})
	return h, err
}

// settled is how long a process has to come to rest.
const settled = 8 * time.Second

// holding does something while a way has n connections open.
func (l *lab) holding(ctx context.Context, w *way, n int, do func() error) error {
	p, err := l.role("load", l.near, w.addr, fmt.Sprintf(`{"Kind":"hold","Conns":%d}`, n))
	if err != nil {
		return err
	}
	defer p.stop()
	if _, err := p.await(ctx, "^begun"); err != nil {
		return err
	}
	return do()
}

// firsts returns how long the first connection of a grant takes to its first byte, in
// ms: a visitor's agent is started anew for each, and dialled when it has named its
// port.
func (l *lab) firsts(ctx context.Context, w *way, n int) (s series, err error) {
	for range n {
		p, addr, err := w.again(ctx)
		if err != nil {
			return nil, err
		}
		t, err := l.do(ctx, &way{name: w.name, addr: addr}, work{Kind: "connect", Conns: 1})
		p.stop()
		if err != nil {
			return nil, err
		}
		s = append(s, t.P50/1000)
	}
	return s, nil
}

// writeProcesses writes what each process of a way uses for a GiB.
func writeProcesses(b *strings.Builder, r *rounds, names []string) {
	const work = "down 1"
	b.WriteString("\n### CPU seconds per GiB to the visitor, process by process\n\n| | process | CPU-s per GiB |\n|---|---|---|\n")
	for _, name := range names {
		turns := r.turns[work][name]
		if len(turns) == 0 {
			continue
		}
		for _, process := range slices.Sorted(maps.Keys(turns[0].each)) {
			s := r.of(work, name, func(t turn) float64 { return t.each[process].Seconds() / t.gib() })
			fmt.Fprintf(b, "| %s | %s | %s |\n", name, process, column{form: "%.2f"}.cell(s))
		}
	}
}

// writeIdle writes what many open connections cost.
func writeIdle(b *strings.Builder, names []string, held map[string]idle) {
	b.WriteString("\n### 1,000 open, silent connections, and one active\n\n| | round trip p50 µs | p99 µs | bulk MiB/s | gateway, KiB per open connection |\n|---|---|---|---|---|\n")
	for _, name := range names {
		if h, ok := held[name]; ok {
			gateway := "–"
			if h.gatewayKiB != 0 {
				gateway = fmt.Sprintf("%.1f", h.gatewayKiB)
			}
			fmt.Fprintf(b, "| %s | %.0f | %.0f | %.0f | %s |\n", name, h.rtt.P50, h.rtt.P99, h.down.bytesPerS()/(1<<20), gateway)
		}
	}
	b.WriteString("\nThe gateway's growth of RSS; what the kernel holds for sockets and pipes is not in it.\n\n### Memory of the processes, before any other work\n\n| | process | RSS MiB | with 100 open connections |\n|---|---|---|---|\n")
	for _, name := range names {
		for _, process := range slices.Sorted(maps.Keys(held[name].agents)) {
			m := held[name].agents[process]
			fmt.Fprintf(b, "| %s | %s | %.1f | %.1f |\n", name, process, m[0], m[1])
		}
	}
}

// writeFigures compares what was measured with what we want.
func writeFigures(b *strings.Builder, r *rounds, held map[string]idle, first series, distant map[path]rounds) {
	const ours, pair, relay, ssh = "socketxp", "tls-pair", "relay-3", "openssh-aes128-gcm"
	b.WriteString("\n## Figures\n\nRatios are taken round by round. ✗ is a figure that was missed in this run.\n\n| what | measured | wanted | |\n|---|---|---|---|\n")
	row := func(what string, s series, form string, least bool, want float64) {
		word, met := "at most", s.median() <= want
		if least {
			word, met = "at least", s.median() >= want
		}
		mark := "✗"
		switch {
		case len(s) == 0:
			mark = "not measured"
		case met:
			mark = "✓"
		}
		fmt.Fprintf(b, "| %s | %s | %s "+form+" | %s |\n", what, column{form: form}.cell(s), word, want, mark)
	}
	bulk := func(t turn) float64 { return t.bytesPerS() }
	p50 := func(t turn) float64 { return t.P50 }
	p99 := func(t turn) float64 { return t.P99 }
	perS := func(t turn) float64 { return t.PerS }
	ratio := func(r *rounds, work, other string, of func(turn) float64) series {
		return r.of(work, ours, of).over(r.of(work, other, of))
	}
	const x = "%.2f ×"
	row("bulk to the visitor, 1 connection, of tls-pair", ratio(r, "down 1", pair, bulk), x, true, 1)
	row("bulk to the device, 1 connection, of tls-pair", ratio(r, "up 1", pair, bulk), x, true, 1)
	row("bulk to the visitor, 8 connections, of tls-pair", ratio(r, "down 8", pair, bulk), x, true, 0.92)
	row("bulk to the device, 8 connections, of tls-pair", ratio(r, "up 8", pair, bulk), x, true, 0.92)
	row("bulk to the visitor, 1 connection, of OpenSSH aes128-gcm", ratio(r, "down 1", ssh, bulk), x, true, 1.35)
	row("bulk to the visitor, 8 connections, of OpenSSH aes128-gcm", ratio(r, "down 8", ssh, bulk), x, true, 1.6)
	row("CPU per GiB, of tls-pair", ratio(r, "down 1", pair, turn.cpuPerGiB), x, false, 1.2)
	row("the gateway's part of it", r.of("down 1", ours, func(t turn) float64 { return t.gateway.Seconds() / t.cpu.Seconds() }), "%.3f", false, 0.18)
	row("round trip p50, of relay-3", ratio(r, "rtt", relay, p50), x, false, 1.2)
	row("round trip p99, of relay-3", ratio(r, "rtt", relay, p99), x, false, 1.4)
	row("first byte of a new connection p50, of relay-3", ratio(r, "connect 1", relay, p50), x, false, 1.1)
	row("first byte of a grant's first connection, ms", first, "%.1f", false, 5)
	row("new connections a second, one after another, of relay-3", ratio(r, "connect 1", relay, perS), x, true, 0.92)
	row("new connections a second, 16 at once, of relay-3", ratio(r, "connect 16", relay, perS), x, true, 0.8)
	for _, p := range distances() {
		d := distant[p]
		row(fmt.Sprintf("bulk to the visitor, of tls-pair over the same path (%v)", p), ratio(&d, "down 1", pair, bulk), x, true, 0.9)
		row(fmt.Sprintf("bulk to the device, of tls-pair over the same path (%v)", p), ratio(&d, "up 1", pair, bulk), x, true, 0.9)
		trip := float64((2 * p.delay).Microseconds())
		row(fmt.Sprintf("first byte of a new connection p50, round trips (%v)", p), d.of("connect 1", ours, func(t turn) float64 { return t.P50 / trip }), "%.2f", false, 1.1)
	}
	row("98 connections beside a slow one and a greedy one: half have, of a fair share", r.of("fair 100", ours, func(t turn) float64 { return t.Half }), "%.2f", true, 0.8)
	if h, ok := held[ours]; ok {
		row("gateway, KiB per open idle connection", series{h.gatewayKiB}, "%.1f", false, 24)
		for _, name := range []string{"device", "laptop"} {
			m := h.agents[name]
			row("agent ("+name+"), RSS in MiB, idle", series{m[0]}, "%.1f", false, 15)
			row("agent ("+name+"), RSS in MiB with 100 open connections", series{m[1]}, "%.1f", false, 20)
		}
	}
}
