package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
)

// shows has a device report with a value, and returns the gateway's answer.
func (w *world) shows(key ed25519.PrivateKey, value []byte) (*agent, control.Message) {
	w.Helper()
	a := w.dial(key, control.RoleDevice)
	r := report("tcp://127.0.0.1:22")
	r.Sequence = value
	a.send(r)
	m, err := a.receive()
	if err != nil {
		w.Fatal(err)
	}
	return a, m
}

// isAlive answers a check and returns what the gateway says to that.
func (a *agent) isAlive(m control.Message) control.Refused {
	a.w.Helper()
	check, ok := m.(control.SequenceCheck)
	if !ok {
		a.w.Fatalf("got %T %+v, want a SequenceCheck", m, m)
	}
	a.send(control.SequenceHeld(check))
	return expect[control.Refused](a)
}

func (w *world) deviceNow(d socketxp.Device) socketxp.Device {
	w.Helper()
	return must[socketxp.Device](w.T)(w.store.Device(w.Context(), w.account.ID, d.ID))
}

func TestTwoHolders(t *testing.T) {
	t.Parallel()
	w := start(t)
	d, key := w.register("cam", "sensors")
	stolen := w.held.get(key) // none: the copy was made before the first connection
	first := w.connect(d, key, flood, "tcp://127.0.0.1:22")
	_, text := w.access()
	v := w.visitor()
	granted := v.grant(text, d, 22)
	open := v.read(v.open(granted))
	open.flows(t)

	a, m := w.shows(key, stolen)
	began := time.Now()
	no := a.isAlive(m)
	t.Run("K-02 the second holder is refused, with what to do", func(t *testing.T) {
		if no.Code != socketxp.CodeQuarantined || no.RetryAfter != 300 || !bytes.Contains([]byte(no.Hint), []byte("socketxp relogin")) {
			t.Errorf("%+v", no)
		}
	})
	t.Run("K-02 the first one is cut, with its links", func(t *testing.T) {
		select {
		case m := <-first.refused:
			if m.Code != socketxp.CodeQuarantined {
				t.Errorf("%+v", m)
			}
		case <-time.After(soon):
			t.Fatal("it is still connected")
		}
		open.isCut(t)
		if took := time.Since(began); took > soon {
			t.Errorf("it took %v", took)
		}
		if m := expect[control.Ended](v.agent); m.Code != socketxp.CodeQuarantined {
			t.Errorf("its visitor was told %+v", m)
		}
		if must[bool](t)(w.cluster.Online(t.Context(), d.ID)) {
			t.Error("it is online")
		}
	})
	t.Run("K-02 it is told: event, audit, API", func(t *testing.T) {
		if n := w.audited(w.account.ID, "device.quarantine", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
		events := must[[]socketxp.Event](t)(w.store.Events(t.Context(), w.account.ID, socketxp.EventQuery{Type: socketxp.EventDeviceQuarantined, Limit: 10}))
		if len(events) != 1 || events[0].DeviceID != d.ID {
			t.Errorf("events %+v", events)
		}
		client := w.owns()
		got := must[api.Device](t)(client.Device(t.Context(), d.ID))
		if got.Status != api.DeviceQuarantined || got.QuarantinedAt == nil || got.QuarantineReason == "" || got.Online {
			t.Errorf("shown as %+v", got)
		}
		for status, want := range map[api.DeviceStatus]int{api.DeviceQuarantined: 1, api.DeviceOnline: 0, api.DeviceOffline: 0, api.DeviceDisabled: 0} {
			if page := must[api.DevicePage](t)(client.Devices(t.Context(), api.DeviceList{Status: status})); page.Total != want {
				t.Errorf("%d devices are %s, want %d", page.Total, status, want)
			}
		}
	})
	t.Run("K-02 neither holder comes in again, and nobody reaches it", func(t *testing.T) {
		for _, value := range [][]byte{w.held.get(key), stolen} {
			a := w.dial(key, control.RoleDevice)
			if m := expect[control.Refused](a); m.Code != socketxp.CodeQuarantined || m.RetryAfter != 300 {
				t.Errorf("with %x: %+v", value, m)
			}
		}
		if m, ok := w.visitor().visit(control.Visit{Token: text, DeviceID: d.ID, Port: 22}).(control.Ended); !ok || m.Code != socketxp.CodeQuarantined {
			t.Errorf("a visitor was told %+v", m)
		}
		if n := w.audited(w.account.ID, "device.connect", socketxp.CodeQuarantined); n != 1 {
			t.Errorf("%d refusals were audited, want a sample of one", n)
		}
	})
	t.Run("an operator releases it, and who comes first is the device", func(t *testing.T) {
		client := w.owns()
		if got := must[api.Device](t)(client.ReleaseDevice(t.Context(), d.ID)); got.Status != api.DeviceOffline || got.QuarantinedAt != nil {
			t.Errorf("%+v", got)
		}
		if n := w.audited(w.account.ID, "device.release", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
		w.connect(d, key, echo) // with the value of before
		other, m := w.shows(key, stolen)
		if no := other.isAlive(m); no.Code != socketxp.CodeQuarantined {
			t.Errorf("%+v", no)
		}
	})
}

func TestCopyIsUsedFirst(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	_ = w.connect(d, key, echo).conn.Close()
	genuine := w.held.get(key)
	copied := w.connect(d, key, echo) // the copy takes the next value, while the machine is off
	t.Run("K-03 the genuine machine finds it when it comes", func(t *testing.T) {
		a, m := w.shows(key, genuine)
		if no := a.isAlive(m); no.Code != socketxp.CodeQuarantined {
			t.Errorf("%+v", no)
		}
		if m := <-copied.refused; m.Code != socketxp.CodeQuarantined {
			t.Errorf("the copy was told %+v", m)
		}
	})
}

func TestSequenceAtTheDoor(t *testing.T) {
	w := start(t, func(l *limits) { l.showWithin = 2 * time.Second })
	fresh := func(name string) (socketxp.Device, ed25519.PrivateKey, []byte) {
		d, key := w.register(name, "default")
		old := w.held.get(key)
		_ = w.connect(d, key, echo).conn.Close()
		eventually(t, patience, "it is offline", func() bool { return !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) })
		return d, key, old
	}
	quarantined := func(d socketxp.Device) bool { return !w.deviceNow(d).QuarantinedAt.IsZero() }

	t.Run("K-04 a value that comes late is no verdict", func(t *testing.T) {
		d, key, old := fresh("late")
		a, m := w.shows(key, old)
		if _, ok := m.(control.SequenceCheck); !ok {
			t.Fatalf("got %T", m)
		}
		_ = a.conn.Close() // nobody is there
		b, _ := w.shows(key, old)
		if _, err := b.receive(); err == nil { // nobody answers
			t.Error("it was let in")
		}
		c, _ := w.shows(key, old)
		c.send(control.SequenceHeld{Nonce: bytes.Repeat([]byte{1}, control.NonceSize)})
		if m := expect[control.Refused](c); m.Code != socketxp.CodeProtocol {
			t.Errorf("an answer to another question: %+v", m)
		}
		if quarantined(d) {
			t.Error("a false alarm")
		}
		w.connect(d, key, echo)
	})
	t.Run("K-04 the same value is offered until it is confirmed", func(t *testing.T) {
		d, key, _ := fresh("again")
		var offered [][]byte
		for range 3 {
			a, m := w.shows(key, w.held.get(key))
			offered = append(offered, m.(control.SequenceNext).Next) //nolint:forcetypeassert // it fails if not
			_ = a.conn.Close()
		}
		if !bytes.Equal(offered[0], offered[1]) || !bytes.Equal(offered[1], offered[2]) {
			t.Errorf("offered %x", offered)
		}
		w.held.set(key, offered[0]) // it was written down, and the confirmation was lost
		w.connect(d, key, echo)
	})
	t.Run("J6 who does not confirm is not online", func(t *testing.T) {
		d, key, _ := fresh("idle")
		a, m := w.shows(key, w.held.get(key))
		if must[bool](t)(w.cluster.Online(t.Context(), d.ID)) {
			t.Error("online")
		}
		a.send(control.SequenceKept{Next: bytes.Repeat([]byte{1}, socketxp.SequenceSize)})
		if no := expect[control.Refused](a); no.Code != socketxp.CodeProtocol {
			t.Errorf("%T was confirmed by another value: %+v", m, no)
		}
		w.connect(d, key, echo)
	})
	t.Run("J6 of two channels with one value one is let in", func(t *testing.T) {
		_, key, _ := fresh("both")
		value := w.held.get(key)
		a, am := w.shows(key, value)
		b, bm := w.shows(key, value)
		a.send(control.SequenceKept(am.(control.SequenceNext))) //nolint:forcetypeassert // it fails if not
		expect[control.Welcome](a)
		b.send(control.SequenceKept(bm.(control.SequenceNext))) //nolint:forcetypeassert // it fails if not
		if m := expect[control.Refused](b); m.Code != socketxp.CodeUnavailable || m.RetryAfter != 5 {
			t.Errorf("%+v", m)
		}
	})
	t.Run("K-02 a copy of the key alone is found", func(t *testing.T) {
		d, key, _ := fresh("bare")
		a, m := w.shows(key, nil)
		if no := a.isAlive(m); no.Code != socketxp.CodeQuarantined || !quarantined(d) {
			t.Errorf("%+v", no)
		}
	})
	t.Run("K-02 an older version is no way around", func(t *testing.T) {
		_, key, _ := fresh("older")
		c := tls.Client(w.dialRaw(), w.clientTLS(key))
		a := &agent{w: w, key: key, conn: control.NewAgent(c, control.RoleDevice, control.Options{})}
		t.Cleanup(func() { _ = a.conn.Close() })
		a.send(control.Hello{Version: control.SequenceVersion - 1, Role: control.RoleDevice})
		if no, ok := a.report(report()).(control.Refused); !ok || no.Code != socketxp.CodeVersion {
			t.Errorf("%+v", no)
		}
	})
	t.Run("a database that does not answer is no verdict", func(t *testing.T) {
		d, key, old := fresh("down")
		a, m := w.shows(key, old)
		check := m.(control.SequenceCheck) //nolint:forcetypeassert // it fails if not
		w.store.noQuarantine.Store(true)
		defer w.store.noQuarantine.Store(false)
		a.send(control.SequenceHeld(check))
		if no := expect[control.Refused](a); no.Code != socketxp.CodeUnavailable || quarantined(d) {
			t.Errorf("%+v", no)
		}
	})
}

func TestK05Fleet(t *testing.T) {
	w := start(t)
	d, key := w.register("image", "default")
	w.connect(d, key, echo)
	t.Run("K-05 of many clones of one image none is let in after the second", func(t *testing.T) {
		a, m := w.shows(key, nil)
		if no := a.isAlive(m); no.Code != socketxp.CodeQuarantined {
			t.Fatalf("%+v", no)
		}
		for range 20 {
			if m := expect[control.Refused](w.dial(key, control.RoleDevice)); m.Code != socketxp.CodeQuarantined || m.RetryAfter < 300 {
				t.Errorf("%+v", m)
			}
		}
		if n := w.audited(w.account.ID, "device.quarantine", "") + w.audited(w.account.ID, "device.connect", socketxp.CodeQuarantined); n != 2 {
			t.Errorf("%d audit records", n)
		}
	})
}

// countingMoves is a store that takes its time, and counts transactions.
type countingMoves struct {
	mu      sync.Mutex // guards the following
	batches []int
	fail    bool
	gate    chan struct{}
	calls   atomic.Int32
}

func (c *countingMoves) MoveSequences(_ context.Context, moves []socketxp.SequenceMove) ([]bool, error) {
	c.calls.Add(1)
	<-c.gate
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail {
		return nil, errors.New("no")
	}
	c.batches = append(c.batches, len(moves))
	moved := make([]bool, len(moves))
	for i, m := range moves {
		moved[i] = m.DeviceID != "behind"
	}
	return moved, nil
}

func TestSequenceWriter(t *testing.T) {
	store := &countingMoves{gate: make(chan struct{})}
	writer := &sequenceWriter{store: store, within: time.Second, wake: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	var running, asking sync.WaitGroup
	running.Go(func() { writer.run(ctx) })
	results := make(chan error, 2000)
	ask := func(id string) {
		asking.Go(func() { results <- writer.move(t.Context(), socketxp.SequenceMove{DeviceID: id}) })
	}
	waiting := func(n int) {
		eventually(t, patience, "they wait", func() bool {
			writer.mu.Lock()
			defer writer.mu.Unlock()
			return len(writer.waiting) == n
		})
	}
	ask("first")
	eventually(t, patience, "the first is being written", func() bool { return store.calls.Load() == 1 })
	for range 1199 {
		ask("x")
	}
	ask("behind")
	waiting(1200)
	close(store.gate)
	asking.Wait()
	behind := 0
	for range 1201 {
		switch err := <-results; err {
		case nil:
		case error(errBehind): //nolint:errorlint // this very error
			behind++
		default:
			t.Error(err)
		}
	}
	if want := []int{1, 500, 500, 200}; !slices.Equal(store.batches, want) || behind != 1 {
		t.Errorf("written in %v, want %v; %d were behind", store.batches, want, behind)
	}

	store.mu.Lock()
	store.fail = true
	store.mu.Unlock()
	ask("x")
	if err := <-results; socketxp.CodeOf(err) != socketxp.CodeUnavailable {
		t.Errorf("a transaction that failed: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := writer.move(gone, socketxp.SequenceMove{}); socketxp.CodeOf(err) != socketxp.CodeUnavailable {
		t.Errorf("a channel that has gone: %v", err)
	}
	stop()
	running.Wait()
	if err := writer.move(t.Context(), socketxp.SequenceMove{}); socketxp.CodeOf(err) != socketxp.CodeUnavailable {
		t.Errorf("after its end: %v", err)
	}
	asking.Wait()
}
