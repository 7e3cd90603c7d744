package cluster_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"socketxp"
	"socketxp/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// holder records what the cluster told it.
type holder struct {
	mu         sync.Mutex
	offers     []socketxp.Offer
	superseded int
	removed    []string
	err        error // what Offer returns
	onOffer    func()
}

func (h *holder) Offer(_ context.Context, o socketxp.Offer) error {
	if h.onOffer != nil {
		h.onOffer()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offers = append(h.offers, o)
	return h.err
}

func (h *holder) PlaceKey(_ context.Context, k socketxp.SingleUseKey) (string, error) {
	return k.User, h.err
}

func (h *holder) RemoveKey(_ context.Context, keyID string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removed = append(h.removed, keyID)
	return h.err
}

func (h *holder) Supersede() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.superseded++
}

func (h *holder) got() (offers, superseded int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.offers), h.superseded
}

func hold(t *testing.T, c socketxp.Cluster, device string, h socketxp.DeviceHolder) (release func()) {
	t.Helper()
	release, err := c.Hold(t.Context(), device, h)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func online(t *testing.T, c socketxp.Cluster, device string) bool {
	t.Helper()
	on, err := c.Online(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	return on
}

func TestSingleUseKeys(t *testing.T) {
	c := cluster.NewLocal()
	key := socketxp.SingleUseKey{ID: "k", DeviceID: "d1", User: "pi"}
	if _, err := c.PlaceKey(t.Context(), key); !errors.Is(err, socketxp.ErrDeviceOffline) {
		t.Errorf("a key for a device that nobody holds: %v", err)
	}
	if err := c.RemoveKey(t.Context(), "d1", "k"); !errors.Is(err, socketxp.ErrDeviceOffline) {
		t.Errorf("a key of a device that nobody holds: %v", err)
	}
	h1, h2 := &holder{}, &holder{err: errors.New("full")}
	hold(t, c, "d1", h1)
	hold(t, c, "d2", h2)
	if user, err := c.PlaceKey(t.Context(), key); user != "pi" || err != nil {
		t.Errorf("%q, %v", user, err)
	}
	if err := c.RemoveKey(t.Context(), "d1", "k"); err != nil || !slices.Equal(h1.removed, []string{"k"}) || h2.removed != nil {
		t.Errorf("%v: %q, %q", err, h1.removed, h2.removed)
	}
	if err := c.RemoveKey(t.Context(), "d2", "k"); !errors.Is(err, h2.err) {
		t.Errorf("the holder's error became %v", err)
	}
}

func TestOffer(t *testing.T) {
	c := cluster.NewLocal()
	offer := socketxp.Offer{DeviceID: "d1", SessionID: "s"}
	if err := c.Offer(t.Context(), offer); !errors.Is(err, socketxp.ErrDeviceOffline) {
		t.Errorf("offer to a device that nobody holds: %v", err)
	}
	h1, h2 := &holder{}, &holder{err: errors.New("full")}
	release := hold(t, c, "d1", h1)
	hold(t, c, "d2", h2)
	if err := c.Offer(t.Context(), offer); err != nil {
		t.Error(err)
	}
	if err := c.Offer(t.Context(), socketxp.Offer{DeviceID: "d2"}); !errors.Is(err, h2.err) {
		t.Errorf("the holder's error came as %v", err)
	}
	if n, _ := h1.got(); n != 1 {
		t.Errorf("the holder of d1 got %d offers, want 1", n)
	}
	all, err := c.OnlineDevices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ids := slices.Sorted(slices.Values(all.IDs())); !slices.Equal(ids, []string{"d1", "d2"}) || all.Len() != 2 || !all.Has("d1") || all.Has("d3") {
		t.Errorf("online: %v, %d", ids, all.Len())
	}
	release()
	release()
	if online(t, c, "d1") || !online(t, c, "d2") {
		t.Error("release did not end exactly its own holding")
	}
	if err := c.Offer(t.Context(), offer); !errors.Is(err, socketxp.ErrDeviceOffline) {
		t.Errorf("offer after release: %v", err)
	}
}

func TestNewestHolderWins(t *testing.T) {
	c := cluster.NewLocal()
	first, second := &holder{}, &holder{}
	releaseFirst := hold(t, c, "d", first)
	releaseSecond := hold(t, c, "d", second)
	if _, n := first.got(); n != 1 {
		t.Errorf("the holder of before was superseded %d times, want 1", n)
	}
	releaseFirst()
	if !online(t, c, "d") {
		t.Error("the late release of a superseded holder took the device offline")
	}
	if err := c.Offer(t.Context(), socketxp.Offer{DeviceID: "d"}); err != nil {
		t.Error(err)
	}
	old, _ := first.got()
	now, superseded := second.got()
	if old != 0 || now != 1 || superseded != 0 {
		t.Errorf("offers: %d to the old holder, %d to the new one, which was superseded %d times", old, now, superseded)
	}
	releaseSecond()
	if online(t, c, "d") {
		t.Error("online after the release of its holder")
	}
}

// The same holder twice is two holdings: the first release ends neither.
func TestSameHolderTwice(t *testing.T) {
	c := cluster.NewLocal()
	h := &holder{}
	first := hold(t, c, "d", h)
	second := hold(t, c, "d", h)
	first()
	if !online(t, c, "d") {
		t.Error("offline while held")
	}
	second()
	if online(t, c, "d") {
		t.Error("online while not held")
	}
}

// Of many that hold at once exactly one is left, and each other one is told once.
func TestHoldRace(t *testing.T) {
	const n = 64
	c := cluster.NewLocal()
	holders := make([]*holder, n)
	releases := make([]func(), n)
	var wg sync.WaitGroup
	for i := range n {
		holders[i] = &holder{}
		wg.Go(func() {
			releases[i], _ = c.Hold(context.Background(), "d", holders[i])
			_ = c.Offer(context.Background(), socketxp.Offer{DeviceID: "d"})
			if all, err := c.OnlineDevices(context.Background()); err != nil || len(all.IDs()) > all.Len() || all.Has("other") {
				t.Error("the set of all is wrong")
			}
		})
	}
	wg.Wait()
	left := 0
	for _, h := range holders {
		switch _, superseded := h.got(); superseded {
		case 0:
			left++
		case 1:
		default:
			t.Errorf("superseded %d times", superseded)
		}
	}
	if left != 1 {
		t.Errorf("%d holders were not superseded, want 1", left)
	}
	for i, h := range holders {
		if _, superseded := h.got(); superseded == 1 {
			releases[i]()
		}
	}
	if !online(t, c, "d") {
		t.Error("the releases of superseded holders took the device offline")
	}
}

// What the cluster calls may call the cluster.
func TestHolderCallsBack(t *testing.T) {
	c := cluster.NewLocal()
	var release func()
	release = hold(t, c, "d", &holder{onOffer: func() { release() }})
	if err := c.Offer(t.Context(), socketxp.Offer{DeviceID: "d"}); err != nil || online(t, c, "d") {
		t.Errorf("release within an offer: %v", err)
	}
}

func TestDoneContext(t *testing.T) {
	c := cluster.NewLocal()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, errHold := c.Hold(ctx, "d", &holder{})
	_, errOnline := c.Online(ctx, "d")
	_, errDevices := c.OnlineDevices(ctx)
	errOffer := c.Offer(ctx, socketxp.Offer{DeviceID: "d"})
	for _, err := range []error{errHold, errOnline, errDevices, errOffer} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context canceled", err)
		}
	}
	if online(t, c, "d") {
		t.Error("held in spite of the error")
	}
}

func hint(i int) socketxp.Hint {
	return socketxp.Hint{Kind: socketxp.HintEvent, ID: strconv.Itoa(i)}
}

func TestHintsComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.NewLocal()
		var one, two []socketxp.Hint
		defer c.Subscribe(func(h socketxp.Hint) { one = append(one, h) })()
		cancel := c.Subscribe(func(h socketxp.Hint) { two = append(two, h) })
		var want []socketxp.Hint
		for i := range 100 {
			c.Publish(hint(i))
			want = append(want, hint(i))
		}
		synctest.Wait()
		cancel()
		cancel()
		c.Publish(hint(100))
		synctest.Wait()
		if !slices.Equal(one, append(want, hint(100))) {
			t.Errorf("the first subscriber got %v", one)
		}
		if !slices.Equal(two, want) {
			t.Errorf("the second subscriber, which cancelled, got %v", two)
		}
	})
}

func TestSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.NewLocal()
		var got, quick []socketxp.Hint
		gate := make(chan struct{})
		defer c.Subscribe(func(h socketxp.Hint) {
			got = append(got, h)
			<-gate
		})()
		defer c.Subscribe(func(h socketxp.Hint) { quick = append(quick, h) })()

		c.Publish(hint(0))
		synctest.Wait() // the slow one is in its call
		for i := 1; i <= 1024; i++ {
			c.Publish(hint(i)) // would hang here if it waited for a subscriber
			synctest.Wait()
		}
		gate <- struct{}{}
		synctest.Wait()
		if len(got) != 2 || got[1] != hint(1) {
			t.Fatalf("a queue of 1024 was not kept: %v", got)
		}
		// One place is free again. The second of these finds none.
		c.Publish(hint(1025))
		c.Publish(hint(1026))
		c.Publish(hint(1027))
		close(gate)
		synctest.Wait()
		want := []socketxp.Hint{hint(0), hint(1), {}, hint(1027)}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if len(quick) != 1028 || slices.Contains(quick, socketxp.Hint{}) {
			t.Errorf("a subscriber beside a slow one got %d hints", len(quick))
		}
	})
}

// A subscriber may cancel, and subscribe another, from within its call.
func TestCancelWithinCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.NewLocal()
		calls := 0
		var cancel func()
		cancel = c.Subscribe(func(socketxp.Hint) {
			calls++
			cancel()
			c.Publish(hint(calls))
		})
		c.Publish(hint(0))
		c.Publish(hint(1))
		synctest.Wait()
		if calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
	})
}

func TestPublishRace(t *testing.T) {
	c := cluster.NewLocal()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range 200 {
				cancel := c.Subscribe(func(socketxp.Hint) {})
				c.Publish(hint(i))
				cancel()
			}
		})
	}
	wg.Wait()
}
