package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
)

// faulty is a store that panics when it is asked for one thing, the next time only.
type faulty struct {
	socketxp.Store
	next atomic.Pointer[string]
}

// secretOfPanic stands for what a panic's value may have in it.
const secretOfPanic = "canary-in-a-panic"

func (f *faulty) breakAt(method string) { f.next.Store(&method) }

func (f *faulty) maybe(method string) {
	if at := f.next.Load(); at != nil && *at == method && f.next.CompareAndSwap(at, nil) {
		panic(errors.New("no case for " + secretOfPanic))
	}
}

func (f *faulty) DeviceByKey(ctx context.Context, key ed25519.PublicKey) (socketxp.Device, socketxp.DeviceKeyState, error) {
	f.maybe("DeviceByKey")
	return f.Store.DeviceByKey(ctx, key)
}

func (f *faulty) DeviceConnected(ctx context.Context, accountID, id string, r socketxp.DeviceReport) error {
	f.maybe("DeviceConnected")
	return f.Store.DeviceConnected(ctx, accountID, id, r)
}

func (f *faulty) Device(ctx context.Context, accountID, id string) (socketxp.Device, error) {
	f.maybe("Device")
	return f.Store.Device(ctx, accountID, id)
}

func (f *faulty) Token(ctx context.Context, accountID, id string) (socketxp.Token, error) {
	f.maybe("Token " + id)
	return f.Store.Token(ctx, accountID, id)
}

func (f *faulty) RaiseClock(ctx context.Context, now time.Time) (time.Time, error) {
	f.maybe("RaiseClock")
	return f.Store.RaiseClock(ctx, now)
}

func (f *faulty) UserByEmail(ctx context.Context, email string) (socketxp.User, error) {
	f.maybe("UserByEmail")
	return f.Store.UserByEmail(ctx, email)
}

// metric returns a value of the metrics page: 0 if there is none.
func (w *world) metric(name string) float64 {
	w.Helper()
	text := w.get(w.httpClient("http/1.1"), "http://"+w.g.MetricsAddr().String()+"/metrics").body
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return must[float64](w.T)(strconv.ParseFloat(strings.TrimSpace(value), 64))
		}
	}
	return 0
}

func TestP22PanicsCostOneThing(t *testing.T) {
	var log lockedBuffer
	var store faulty
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		d.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		store.Store = d.Store
		d.Store = &store
	}, func(l *limits) { l.clockEvery, l.sweepEvery = 20*time.Millisecond, 20*time.Millisecond })
	// What goes on all the time, beside all the faults.
	bystander, key := w.register("bystander", "default")
	w.connect(bystander, key, flood, "tcp://127.0.0.1:22")
	_, text := w.access()
	v := w.visitor()
	flow := v.read(v.open(v.grant(text, bystander, 22)))
	flow.flows(t)

	// lost breaks one thing, and counts what it has cost.
	lost := func(t *testing.T, method, what string, do func(t *testing.T)) {
		t.Helper()
		before := w.metric(`socketxp_panics_total{lost="` + what + `"}`)
		store.breakAt(method)
		do(t)
		eventually(t, patience, "it is counted", func() bool {
			return w.metric(`socketxp_panics_total{lost="`+what+`"}`) == before+1
		})
		if store.next.Load() != nil {
			t.Fatal("nothing has panicked: this test means nothing")
		}
		eventually(t, patience, "no place is taken any more", func() bool { return w.g.preAuth.count() == 0 })
		flow.flows(t)
	}
	d, key := w.register("cam", "default")

	t.Run("P-22 a connection", func(t *testing.T) {
		lost(t, "DeviceByKey", "connection", func(t *testing.T) {
			a := w.dial(key, control.RoleDevice)
			if m, err := a.receive(); err == nil {
				t.Errorf("it was answered: %+v", m)
			}
		})
	})
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22")
	t.Run("P-22 a device's control channel", func(t *testing.T) {
		lost(t, "DeviceConnected", "control channel", func(t *testing.T) {
			td.send(report("tcp://127.0.0.1:22", "tcp://127.0.0.1:80"))
			eventually(t, patience, "the device is offline", func() bool { return !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) })
			td.running.Wait()
		})
		td = w.connect(d, key, echo, "tcp://127.0.0.1:22")
	})
	t.Run("P-22 a visitor's control channel", func(t *testing.T) {
		other, otherText := w.access()
		lost(t, "Token "+other.ID, "control channel", func(t *testing.T) {
			v := w.visitor()
			v.send(control.Visit{Visit: 1, Token: otherText, DeviceID: d.ID, Port: 22})
			if m, err := v.receive(); err == nil {
				t.Errorf("it was answered: %+v", m)
			}
		})
	})
	t.Run("P-22 a link", func(t *testing.T) {
		v := w.visitor()
		g := v.grant(text, d, 22)
		lost(t, "Device", "link", func(t *testing.T) {
			v.send(control.LinkRequest{Visit: g.Visit, Link: 1000})
			if m := expect[control.LinkRefused](v.agent); m.Link != 1000 || m.Code != socketxp.CodeInternal {
				t.Errorf("told %+v", m)
			}
		})
		c := must[*link.Conn](t)(v.open(g).Open()) // the next one
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("P-22 J12 what can't be judged is cut", func(t *testing.T) {
		other, otherText := w.access()
		v := w.visitor()
		g := v.grant(otherText, d, 22)
		lost(t, "Token "+other.ID, "judgement", func(t *testing.T) { // by the next sweep
			if m := expect[control.Ended](v.agent); m.Visit != g.Visit {
				t.Errorf("told %+v", m)
			}
		})
	})
	t.Run("P-22 a round of housekeeping", func(t *testing.T) {
		lost(t, "RaiseClock", "round of housekeeping", func(t *testing.T) {
			eventually(t, patience, "it came round", func() bool { return store.next.Load() == nil })
		})
		store.breakAt("RaiseClock")
		eventually(t, patience, "it came round again", func() bool { return store.next.Load() == nil })
	})
	t.Run("P-22 a request", func(t *testing.T) {
		lost(t, "UserByEmail", "request", func(t *testing.T) {
			a := w.rest().do(post, "/api/v1/signin", `{"email":"a@example.com","password":"canary of a password"}`).want(t, http.StatusInternalServerError, socketxp.CodeInternal)
			if strings.Contains(a.body, "canary") || strings.Contains(a.body, ".go") {
				t.Error(a.body)
			}
		})
	})
	t.Run("P-22 the stack is in the log, without secrets", func(t *testing.T) {
		text := log.String()
		if !strings.Contains(text, "guard_test.go:") || !strings.Contains(text, "*errors.errorString") {
			t.Error("the log doesn't say where it was")
		}
		if strings.Contains(text, "canary") {
			t.Errorf("the log has what the panic had: %s", text)
		}
	})
}

func TestPanicText(t *testing.T) {
	caught := func(do func()) (text string) {
		defer func() { text = panicText(recover()) }()
		do()
		return ""
	}
	var none []int
	for want, do := range map[string]func(){
		"runtime error: index out of range [3] with length 0": func() { _ = none[3+len(none)] },
		"string":              func() { panic(secretOfPanic) },
		"*errors.errorString": func() { panic(errors.New(secretOfPanic)) },
	} {
		if got := caught(do); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
