package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// turn is what one way did with one work, and what it cost.
type turn struct {
	result
	cpu, gateway time.Duration            // of all the way's processes, and of its gateway's
	each         map[string]time.Duration // of the processes of each name
}

// cpuPerGiB returns the processor time that a GiB cost, in seconds.
func (t turn) cpuPerGiB() float64 { return t.cpu.Seconds() / t.gib() }

func (t turn) gib() float64 { return float64(t.Bytes) / (1 << 30) }

// do has a way do a work once.
func (l *lab) do(ctx context.Context, w *way, what work) (t turn, err error) {
	text, err := json.Marshal(what)
	if err != nil {
		return t, err
	}
	before := w.cpu()
	p, err := l.role("load", l.near, w.addr, string(text))
	if err != nil {
		return t, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return t, ctx.Err()
	}
	after := w.cpu()
	if err := json.Unmarshal([]byte(p.out.String()), &t.result); err != nil {
		return t, fmt.Errorf("%s, %s: %s", w.name, what.Kind, p.out.String())
	}
	t.each = make(map[string]time.Duration)
	for i, p := range w.procs {
		used := after[i] - before[i]
		t.cpu += used
		t.each[p.name] += used
		if p == w.gateway {
			t.gateway = used
		}
	}
	return t, nil
}

// rounds have every way do every work, in turn: what else the machine does meanwhile
// meets all of them.
type rounds struct {
	turns map[string]map[string][]turn // by work and way
}

// plan is a work and who does it.
type plan struct {
	name string
	work work
	ways []string // empty for all
}

// add does one more round. Who begins changes from round to round.
func (r *rounds) add(ctx context.Context, l *lab, ways []*way, plans []plan, round int) error {
	if r.turns == nil {
		r.turns = make(map[string]map[string][]turn)
	}
	for _, p := range plans {
		if r.turns[p.name] == nil {
			r.turns[p.name] = make(map[string][]turn)
		}
		for i := range ways {
			w := ways[(i+round)%len(ways)]
			if len(p.ways) > 0 && !slices.Contains(p.ways, w.name) {
				continue
			}
			t, err := l.do(ctx, w, p.work)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			r.turns[p.name][w.name] = append(r.turns[p.name][w.name], t)
		}
	}
	return nil
}

// of returns a figure of a work by a way, round by round.
func (r *rounds) of(work, way string, figure func(turn) float64) (s series) {
	for _, t := range r.turns[work][way] {
		s = append(s, figure(t))
	}
	return s
}

const quickLimit = 38 * time.Second

// quick prints one ratio a line. A number above 1 is more than the other way's, be it
// better or worse.
func quick(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("quick", flag.ContinueOnError)
	if err := f.Parse(args); err != nil {
		return err
	}
	begun := time.Now()
	l, err := newLab()
	if err != nil {
		return err
	}
	defer l.close()
	const ours, pair, relay, ssh = "socketxp", "tls-pair", "relay-3", "openssh-aes128-gcm"
	ways, missing, err := l.setUp(ctx, relay, pair, ours, ssh)
	if err != nil {
		return err
	}
	plans := []plan{
		{"down 1", work{Kind: "down", Conns: 1, Bytes: 192 << 20}, []string{ours, pair, ssh}},
		{"up 1", work{Kind: "up", Conns: 1, Bytes: 192 << 20}, []string{ours, pair}},
		{"down 8", work{Kind: "down", Conns: 8, Bytes: 32 << 20}, []string{ours, pair}},
		{"rtt", work{Kind: "rtt", For: 300 * time.Millisecond}, []string{ours, relay}},
		{"connect", work{Kind: "connect", Conns: 1, For: 400 * time.Millisecond}, []string{ours, relay}},
	}
	var r rounds
	for round := 0; round < 3 || time.Since(begun)*time.Duration(round+1)/time.Duration(round) < quickLimit; round++ {
		if err := r.add(ctx, l, ways, plans, round); err != nil {
			return err
		}
	}
	speed, p50 := result.bytesPerS, func(t turn) float64 { return t.P50 }
	ratio := func(work, other string, figure func(turn) float64) float64 {
		return r.of(work, ours, figure).over(r.of(work, other, figure)).median()
	}
	bulk := func(t turn) float64 { return speed(t.result) }
	return errors.Join(
		line("bulk_down_1_vs_tls_pair", ratio("down 1", pair, bulk)),
		line("bulk_up_1_vs_tls_pair", ratio("up 1", pair, bulk)),
		line("bulk_down_8_vs_tls_pair", ratio("down 8", pair, bulk)),
		line("bulk_down_1_vs_openssh_gcm", ratio("down 1", ssh, bulk)),
		line("rtt_p50_vs_relay_3", ratio("rtt", relay, p50)),
		line("ttfb_p50_vs_relay_3", ratio("connect", relay, p50)),
		line("conn_per_s_vs_relay_3", ratio("connect", relay, func(t turn) float64 { return t.PerS })),
		line("cpu_per_gib_vs_tls_pair", ratio("down 1", pair, turn.cpuPerGiB)),
		line("gateway_cpu_share", r.of("down 1", ours, func(t turn) float64 { return t.gateway.Seconds() / t.cpu.Seconds() }).median()),
		notes(os.Stderr, len(r.turns["rtt"][ours]), missing),
	)
}

// line prints a figure for programs to read.
func line(name string, value float64) error {
	_, err := fmt.Fprintf(os.Stdout, "%s %.3f\n", name, value)
	return err
}

// notes says what the figures rest on.
func notes(to io.Writer, n int, missing []string) error {
	if _, err := fmt.Fprintf(to, "# medians of %d rounds\n", n); err != nil {
		return err
	}
	for _, name := range missing {
		if _, err := fmt.Fprintf(to, "# %s was left out: it is not installed\n", name); err != nil {
			return err
		}
	}
	return nil
}
