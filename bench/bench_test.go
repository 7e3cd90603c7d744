package main

import (
	"context"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSeries(t *testing.T) {
	s := series{5, 1, 4, 2}
	for what, got := range map[string][2]float64{
		"the median of four":  {s.median(), 3},
		"the median of three": {s[:3].median(), 4},
		"the least":           {s.quantile(0), 1},
		"the most":            {s.quantile(1), 5},
		"the 75th percentile": {s.quantile(0.75), 4},
		"a ratio":             {s.over(series{10, 4, 4, 1}).median(), 0.75},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %v, want %v", what, got[0], got[1])
		}
	}
	if none := (series{}).median(); !math.IsNaN(none) {
		t.Errorf("the median of none is %v", none)
	}
}

// served runs a listener with a handler and returns its address.
func served(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx, l, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestWorks does every work through the limits, all in this process.
func TestWorks(t *testing.T) {
	target := served(t, serveTarget)
	far, err := tlsDevice(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for name, addr := range map[string]string{
		"direct":   target,
		"relay":    served(t, relayTo(t.Context(), target)),
		"tls-pair": served(t, tlsAccess(t.Context(), served(t, far))),
	} {
		t.Run(name, func(t *testing.T) {
			const size = 3<<20 + 1
			for _, kind := range []string{"down", "up"} {
				r, err := driver{addr, work{Kind: kind, Conns: 3, Bytes: size}}.bulk(t.Context())
				if err != nil || r.Bytes != 3*size || r.Seconds <= 0 {
					t.Errorf("%s: %+v, %v", kind, r, err)
				}
			}
			r, err := driver{addr, work{For: 20 * time.Millisecond}}.roundTrips(t.Context())
			if err != nil || r.P50 <= 0 || r.P99 < r.P50 {
				t.Errorf("round trips: %+v, %v", r, err)
			}
			r, err = driver{addr, work{Conns: 4, For: 20 * time.Millisecond}}.connects(t.Context())
			if err != nil || r.PerS <= 0 || r.P99 < r.P50 {
				t.Errorf("connections: %+v, %v", r, err)
			}
			r, err = driver{addr, work{Conns: 5, For: 50 * time.Millisecond}}.fair(t.Context())
			if err != nil || r.Bytes == 0 || r.Half <= 0 || r.Worst > r.Half {
				t.Errorf("shares: %+v, %v", r, err)
			}
		})
	}
	t.Run("a way that is cut is an error", func(t *testing.T) {
		cut := served(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 9)) })
		if r, err := (driver{cut, work{Kind: "down", Conns: 1, Bytes: 1}}).bulk(t.Context()); err == nil {
			t.Errorf("%+v", r)
		}
	})
}

// TestPath sends packets of another network namespace over a distance.
func TestPath(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("not root: CI must run everything")
		}
		t.Skip("not root: there are no network namespaces")
	}
	const delay = 20 * time.Millisecond
	times := func(p path) (lost, in int, rtt time.Duration) {
		l := &lab{dir: t.TempDir()}
		l.dir = filepath.Join(l.dir, "lab")
		defer l.close()
		if err := l.lay(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		argv := l.near.inside([]string{"ping", "-c", "200", "-i", "0.002", "-W", "1", l.far.addr})
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			if _, after, ok := strings.Cut(line, "time="); ok {
				ms, err := time.ParseDuration(strings.ReplaceAll(strings.TrimSpace(after), " ", ""))
				if err != nil {
					t.Fatal(err)
				}
				if in++; rtt == 0 || ms < rtt {
					rtt = ms
				}
			}
		}
		return 200 - in, in, rtt
	}
	if lost, _, rtt := times(path{delay: delay}); lost > 0 || rtt < 2*delay || rtt > 4*delay {
		t.Errorf("%d lost, %v at least", lost, rtt)
	}
	if lost, in, _ := times(path{delay: delay, loss: 0.2}); lost < 30 || in < 80 {
		t.Errorf("%d lost of a fifth each way, %d came back", lost, in)
	}
}
