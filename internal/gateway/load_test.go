package gateway

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sync"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// touches keeps what was written of when devices were last seen, and counts the
// reports that were stored.
type touches struct {
	socketxp.Store
	mu      sync.Mutex // guards the following
	batches [][]socketxp.DeviceSeen
	reports int
}

func (s *touches) TouchDevices(ctx context.Context, seen []socketxp.DeviceSeen) error {
	s.mu.Lock()
	s.batches = append(s.batches, append([]socketxp.DeviceSeen(nil), seen...))
	s.mu.Unlock()
	return s.Store.TouchDevices(ctx, seen)
}

func (s *touches) DeviceConnected(ctx context.Context, accountID, id string, r socketxp.DeviceReport) error {
	s.mu.Lock()
	s.reports++
	s.mu.Unlock()
	return s.Store.DeviceConnected(ctx, accountID, id, r)
}

func TestPresenceWrites(t *testing.T) {
	var store *touches
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		store = &touches{Store: d.Store}
		d.Store = store
	}, func(l *limits) { l.touchEvery = time.Hour })
	const devices = 20
	var last *testDevice
	var lastKey ed25519.PrivateKey
	for i := range devices {
		d, key := w.register(fmt.Sprintf("cam-%d", i), "default")
		last, lastKey = w.connect(d, key, echo, "tcp://localhost:22"), key
	}
	t.Run("X-15 when devices were last seen is one write for all of them", func(t *testing.T) {
		eventually(t, patience, "all are known to be here", func() bool { return len(w.g.presence.seen(time.Now())) == devices })
		w.g.presence.touch(t.Context())
		store.mu.Lock()
		defer store.mu.Unlock()
		if len(store.batches) != 1 || len(store.batches[0]) != devices {
			t.Errorf("%d writes", len(store.batches))
		}
		once := make(map[string]bool)
		for _, s := range store.batches[0] {
			if once[s.DeviceID] {
				t.Errorf("%s is in it twice", s.DeviceID)
			}
			once[s.DeviceID] = true
		}
	})
	t.Run("X-15 each 30 s", func(t *testing.T) {
		if l := defaultLimits(); l.touchEvery < 30*time.Second || l.presenceRate < 30*time.Second {
			t.Errorf("each %v, and each %v of one device", l.touchEvery, l.presenceRate)
		}
	})
	t.Run("X-15 a device that comes and goes reports nothing new and has nothing stored", func(t *testing.T) {
		store.mu.Lock()
		before, batches := store.reports, len(store.batches)
		store.mu.Unlock()
		for range 20 {
			_ = last.conn.Close()
			last = w.connect(last.Device, lastKey, echo, "tcp://localhost:22")
		}
		store.mu.Lock()
		defer store.mu.Unlock()
		if store.reports != before || len(store.batches) != batches {
			t.Errorf("20 comings stored %d reports and %d last-seen times", store.reports-before, len(store.batches)-batches)
		}
	})
}

// P-13 in small: all devices of a gateway come at once, as after its restart. Each
// is let in, and when they have gone nothing is left of them.
func TestStorm(t *testing.T) {
	const devices = 200
	dir := t.TempDir()
	w := startIn(t, dir, nil)
	keys := make([]ed25519.PrivateKey, devices)
	rows := make([]socketxp.Device, devices)
	for i := range devices {
		rows[i], keys[i] = w.register(fmt.Sprintf("cam-%d", i), "default")
	}
	t.Run("P-13 all are in, and all is given back", func(t *testing.T) {
		var all sync.WaitGroup
		var mu sync.Mutex // guards in
		var in []*agent
		start := time.Now()
		for i := range devices {
			all.Go(func() {
				a := w.dial(keys[i], control.RoleDevice)
				if _, ok := a.report(report("tcp://localhost:22")).(control.Welcome); !ok {
					t.Errorf("device %d was not welcomed", i)
				}
				mu.Lock()
				defer mu.Unlock()
				in = append(in, a)
			})
		}
		all.Wait()
		if d := time.Since(start); d > 90*time.Second {
			t.Errorf("the last was in after %v", d)
		}
		if n, _ := w.g.live.counts(); n != devices {
			t.Errorf("%d devices are held", n)
		}
		for _, a := range in {
			_ = a.conn.Close()
		}
		eventually(t, patience, "nothing is left", func() bool {
			n, _ := w.g.live.counts()
			return n == 0 && len(w.g.live.allChannels()) == 0 && w.g.preAuth.count() == 0
		})
	})
}
