package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"socketxp/internal/gateway"
)

// manager plays the service manager at a real socket.
type manager struct {
	*testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return &manager{t, conn}
}

// hears waits for a message that holds all of these lines.
func (m *manager) hears(lines ...string) string {
	m.Helper()
	_ = m.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 4096)
	for {
		n, err := m.conn.Read(b)
		if err != nil {
			m.Fatalf("%q was not heard: %v", lines, err)
		}
		text := "\n" + strings.TrimRight(string(b[:n]), "\n") + "\n"
		all := true
		for _, l := range lines {
			all = all && strings.Contains(text, "\n"+l)
		}
		if all {
			return text
		}
	}
}

// silent fails if there is anything to hear.
func (m *manager) silent() {
	m.Helper()
	_ = m.conn.SetReadDeadline(time.Now())
	b := make([]byte, 4096)
	if n, err := m.conn.Read(b); err == nil {
		m.Errorf("%q was heard", b[:n])
	}
}

func testConfig(t *testing.T) gateway.Config {
	t.Helper()
	cfg := gateway.DefaultConfig()
	cfg.Listen, cfg.MetricsListen, cfg.DataDir = "127.0.0.1:0", "", filepath.Join(t.TempDir(), "data")
	return cfg
}

// writerFunc is told what is written.
type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

var quiet = slog.New(slog.DiscardHandler)

func TestServiceManager(t *testing.T) {
	for name, socket := range map[string]string{
		"a path":           filepath.Join(t.TempDir(), "notify"),
		"an abstract name": "@socketxp-test-" + filepath.Base(t.TempDir()) + "-" + time.Now().Format("150405.000000000"),
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, socket)
			t.Setenv("WATCHDOG_USEC", "200000")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- serve(ctx, testConfig(t), quiet, io.Discard) }()
			m.hears("READY=1", "STATUS=serving https://localhost")
			m.hears("WATCHDOG=1")
			m.hears("WATCHDOG=1")
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			m.hears("RELOADING=1", "MONOTONIC_USEC=")
			m.hears("READY=1")
			cancel()
			m.hears("STOPPING=1")
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("one that can't be told", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := serve(ctx, testConfig(t), quiet, writerFunc(func([]byte) { cancel() })); err != nil {
			t.Error(err)
		}
	})
}

func TestWatchdog(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "20000")
	type state struct {
		curable bool
		err     error
	}
	var now atomic.Pointer[state]
	asked := make(chan struct{})
	now.Store(&state{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newService(quiet).watch(ctx, "serving", func(context.Context) (bool, error) {
			if now.Load().curable {
				select {
				case asked <- struct{}{}:
				case <-ctx.Done():
				}
			}
			return now.Load().curable, now.Load().err
		})
	}()
	m.hears("WATCHDOG=1")

	// What a restart does not cure is told, and the watchdog is content.
	now.Store(&state{err: errors.New("the database\nis away")})
	m.hears("WATCHDOG=1", "STATUS=not well: the database is away")
	m.hears("WATCHDOG=1")
	now.Store(&state{})
	m.hears("WATCHDOG=1", "STATUS=serving")

	now.Store(&state{curable: true, err: errors.New("stuck")})
	<-asked
	if text := m.hears("STATUS=not well: stuck"); strings.Contains(text, "WATCHDOG=1") {
		t.Errorf("a gateway that is stuck says %q", text)
	}
	for range 5 {
		<-asked
	}
	m.silent()
	cancel()
	<-ended

	t.Run("another process is watched", func(t *testing.T) {
		t.Setenv("WATCHDOG_PID", "1")
		newService(quiet).watch(t.Context(), "", nil)
	})
	t.Run("nobody watches", func(t *testing.T) {
		t.Setenv("WATCHDOG_USEC", "")
		newService(quiet).watch(t.Context(), "", nil)
	})
	t.Run("nonsense", func(t *testing.T) {
		for _, usec := range []string{"x", "-1", "0"} {
			t.Setenv("WATCHDOG_USEC", usec)
			newService(quiet).watch(t.Context(), "", nil)
		}
	})
}
