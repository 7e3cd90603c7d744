package gateway

import (
	"context"
	"crypto/ed25519"
	"net/netip"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

func TestSingleUseKey(t *testing.T) {
	t.Parallel()
	const at = "tcp://127.0.0.1:22"
	w := start(t, func(l *limits) { l.keyRate = quota{1000, 1000} })
	who := caller{kind: socketxp.KindSignIn, accountID: w.account.ID, userID: w.owner.ID, remote: netip.MustParseAddr("192.0.2.7")}
	public := publicOf(newKey(t))
	type result struct {
		user   string
		remove func()
		err    error
	}
	// ask has a key placed, or not.
	ask := func(ctx context.Context, d socketxp.Device, user string) <-chan result {
		done := make(chan result, 1)
		go func() {
			as, remove, err := w.g.placeKey(ctx, who, d, at, user, public)
			done <- result{as, remove, err}
		}()
		return done
	}
	events := func(d socketxp.Device) int {
		return len(must[[]socketxp.Event](t)(w.store.Events(t.Context(), w.account.ID, socketxp.EventQuery{DeviceID: d.ID, Type: socketxp.EventSingleUseKey, Limit: 10})))
	}

	t.Run("is placed and taken away", func(t *testing.T) {
		d, key := w.register("good", "default")
		a, _ := w.online(d, key)
		done := ask(t.Context(), d, "")
		m := expect[control.PlaceKey](a)
		if m.Destination != at || m.User != "" || m.Life != 30 || !socketxp.ValidID(m.ID) {
			t.Errorf("%+v", m)
		}
		if n := w.audited(w.account.ID, "device.place-key", ""); n != 1 {
			t.Errorf("the device was asked with %d records in the audit", n)
		}
		a.send(control.KeyPlaced{ID: m.ID, User: "pi"})
		r := <-done
		if r.err != nil || r.user != "pi" {
			t.Fatalf("%+v", r)
		}
		if !public.Equal(ed25519.PublicKey(m.PublicKey)) {
			t.Error("it is another key")
		}
		r.remove()
		r.remove()
		if got := expect[control.RemoveKey](a); got.ID != m.ID {
			t.Errorf("%+v", got)
		}
		a.send(control.KeyRemoved{ID: m.ID})
		if n := events(d); n != 1 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("a device says no", func(t *testing.T) {
		d, key := w.register("no", "default")
		a, _ := w.online(d, key)
		for said, want := range map[socketxp.Code]socketxp.Code{
			socketxp.CodeForbidden:    socketxp.CodeForbidden,
			socketxp.CodeNotPublished: socketxp.CodeNotPublished,
			socketxp.CodeTokenRevoked: socketxp.CodeUnavailable, // which is not a device's to say
			"made_up":                 socketxp.CodeUnavailable,
		} {
			before := w.audited(w.account.ID, "device.place-key", want)
			done := ask(t.Context(), d, "pi")
			m := expect[control.PlaceKey](a)
			a.send(control.KeyNotPlaced{ID: m.ID, Code: said, Message: "no", Hint: "allow it"})
			r := <-done
			if e := clientError(r.err); e.Code != want || e.Message != "the device refused: no" || e.Hint != "allow it" || r.remove != nil {
				t.Errorf("%s became %+v", said, e)
			}
			if n := w.audited(w.account.ID, "device.place-key", want); want != socketxp.CodeUnavailable && n != before+1 {
				t.Errorf("%s: %d records in the audit, then %d", said, before, n)
			}
			if got := expect[control.RemoveKey](a); got.ID != m.ID { // it may lie
				t.Errorf("%+v", got)
			}
			a.send(control.KeyRemoved{ID: m.ID})
		}
		if n := events(d); n != 0 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("a device answers for another user or key", func(t *testing.T) {
		d, key := w.register("liar", "default")
		a, _ := w.online(d, key)
		done := ask(t.Context(), d, "pi")
		m := expect[control.PlaceKey](a)
		a.send(control.KeyPlaced{ID: socketxp.NewID(time.Now()), User: "pi"})
		a.send(control.KeyRemoved{ID: m.ID})
		a.send(control.KeyPlaced{ID: m.ID, User: "root"})
		a.send(control.KeyPlaced{ID: m.ID, User: "pi"})
		if r := <-done; socketxp.CodeOf(r.err) != socketxp.CodeProtocol {
			t.Errorf("%+v", r)
		}
		expect[control.RemoveKey](a)
	})
	t.Run("whoever asked is gone", func(t *testing.T) {
		d, key := w.register("gone", "default")
		a, _ := w.online(d, key)
		ctx, cancel := context.WithCancel(t.Context())
		done := ask(ctx, d, "")
		m := expect[control.PlaceKey](a)
		cancel()
		if r := <-done; r.err == nil {
			t.Errorf("%+v", r)
		}
		if got := expect[control.RemoveKey](a); got.ID != m.ID {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a device is gone", func(t *testing.T) {
		d, key := w.register("away", "default")
		if r := <-ask(t.Context(), d, ""); socketxp.CodeOf(r.err) != socketxp.CodeDeviceOffline {
			t.Errorf("%+v", r)
		}
		a, _ := w.online(d, key)
		done := ask(t.Context(), d, "")
		expect[control.PlaceKey](a)
		_ = a.conn.Close()
		if r := <-done; socketxp.CodeOf(r.err) != socketxp.CodeDeviceOffline {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a device of before", func(t *testing.T) {
		d, key := w.register("old", "default")
		a := w.dialAs(key, control.RoleDevice, control.SingleUseKeyVersion-1)
		a.welcome(report(at))
		r := <-ask(t.Context(), d, "")
		if e := clientError(r.err); e.Code != socketxp.CodeVersion || !strings.Contains(e.Hint, "newer agent") {
			t.Errorf("%+v", e)
		}
		// Nothing was sent: the next that comes is the end.
		if err := w.store.DeleteDevice(t.Context(), w.account.ID, d.ID, w.entry("device.delete")); err != nil {
			t.Fatal(err)
		}
		w.g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceDeleted, AccountID: w.account.ID, ID: d.ID})
		expect[control.Refused](a)
	})
	t.Run("too many at a time", func(t *testing.T) {
		d, key := w.register("many", "default")
		a, _ := w.online(d, key)
		var placed []func()
		for range w.g.limits.keysAtOnce {
			done := ask(t.Context(), d, "")
			a.send(control.KeyPlaced{ID: expect[control.PlaceKey](a).ID, User: "pi"})
			placed = append(placed, (<-done).remove)
		}
		if r := <-ask(t.Context(), d, ""); socketxp.CodeOf(r.err) != socketxp.CodeRateLimited {
			t.Errorf("%+v", r)
		}
		placed[0]()
		a.send(control.KeyRemoved(expect[control.RemoveKey](a)))
		eventually(t, patience, "a place that is free", func() bool {
			leave, err := w.g.keysPlaced.enter(d.ID, "")
			if err == nil {
				leave()
			}
			return err == nil
		})
		done := ask(t.Context(), d, "")
		a.send(control.KeyPlaced{ID: expect[control.PlaceKey](a).ID, User: "pi"})
		if r := <-done; r.err != nil {
			t.Error(r.err)
		}
	})
}

func TestSingleUseKeysAreRare(t *testing.T) {
	t.Parallel()
	// Not one comes back while the test runs, and a key that is still being taken away is
	// in nobody's way.
	w := start(t, func(l *limits) { l.keyRate.perSecond, l.keysAtOnce = 1e-9, 1000 })
	d, _ := w.register("often", "default")
	who := caller{kind: socketxp.KindSignIn, accountID: w.account.ID, userID: w.owner.ID}
	burst := w.g.limits.keyRate.burst
	codes := make(map[socketxp.Code]int)
	for range 3 * burst {
		_, _, err := w.g.placeKey(t.Context(), who, d, "tcp://127.0.0.1:22", "", make([]byte, ed25519.PublicKeySize))
		codes[socketxp.CodeOf(err)]++
	}
	if codes[socketxp.CodeDeviceOffline] != burst || codes[socketxp.CodeRateLimited] != 2*burst {
		t.Errorf("%v", codes)
	}
}

func TestSingleUseKeySilentDevice(t *testing.T) {
	t.Parallel()
	w := start(t, func(l *limits) { l.keyWithin = 300 * time.Millisecond })
	d, key := w.register("silent", "default")
	a, _ := w.online(d, key)
	who := caller{kind: socketxp.KindSignIn, accountID: w.account.ID, userID: w.owner.ID}
	if _, _, err := w.g.placeKey(t.Context(), who, d, "tcp://127.0.0.1:22", "", make([]byte, ed25519.PublicKeySize)); socketxp.CodeOf(err) != socketxp.CodeUnavailable {
		t.Errorf("%v", err)
	}
	if m, got := expect[control.PlaceKey](a), expect[control.RemoveKey](a); got.ID != m.ID {
		t.Errorf("%+v, %+v", m, got)
	}
}
