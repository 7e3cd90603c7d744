package gateway

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// allAsleep reports whether so many channels sleep, and none is awake.
func (w *world) allAsleep(n int) bool {
	w.g.beds.mu.Lock()
	defer w.g.beds.mu.Unlock()
	for _, s := range w.g.beds.sleepers {
		if !s.asleep.Load() {
			return false
		}
	}
	return len(w.g.beds.sleepers) == n
}

// serving counts the goroutines that serve a channel.
func serving() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "(*channel).attend(")
}

func TestIdleChannelHasNoGoroutine(t *testing.T) {
	w := start(t)
	const n = 20
	var devices []socketxp.Device
	var agents []*testDevice
	for i := range n {
		d, key := w.register(fmt.Sprintf("d%d", i), "default")
		devices, agents = append(devices, d), append(agents, w.connect(d, key, echo, "tcp://127.0.0.1:22"))
	}
	eventually(t, patience, "all sleep", func() bool { return w.allAsleep(n) && serving() == 0 })
	t.Run("it wakes by a message, and sleeps again", func(t *testing.T) {
		for _, a := range agents {
			a.send(report("tcp://127.0.0.1:80"))
		}
		for _, d := range devices {
			eventually(t, patience, "the new tunnel", func() bool {
				got := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
				return got.Tunnels[0].Destination.Port == 80
			})
		}
		eventually(t, patience, "all sleep again", func() bool { return w.allAsleep(n) && serving() == 0 })
	})
	t.Run("it wakes while many others stay awake", func(t *testing.T) {
		w.g.beds.awake.Add(2 * mostAwake)
		defer w.g.beds.awake.Add(-2 * mostAwake)
		agents[0].send(report("tcp://127.0.0.1:81"))
		eventually(t, patience, "the new tunnel", func() bool {
			return must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, devices[0].ID)).Tunnels[0].Destination.Port == 81
		})
	})
	t.Run("those who sleep again are not counted", func(t *testing.T) {
		eventually(t, patience, "none is awake", func() bool { return w.g.beds.awake.Load() == 0 })
	})
	t.Run("it wakes by its end", func(t *testing.T) {
		for _, a := range agents[:n/2] {
			_ = a.conn.Close()
		}
		eventually(t, patience, "they are gone", func() bool { return w.allAsleep(n - n/2) })
	})
	t.Run("it wakes when the gateway closes it", func(t *testing.T) {
		for _, c := range w.g.live.allChannels() {
			_ = c.conn.Close()
		}
		// Long before its silence would wake it.
		eventually(t, 10*time.Second, "they are gone", func() bool { return w.allAsleep(0) })
	})
}

// dribble is a connection whose writes leave byte by byte, each when ready says so.
type dribble struct {
	net.Conn
	ready func()
}

func (d *dribble) Write(b []byte) (int, error) {
	if d.ready == nil {
		return d.Conn.Write(b)
	}
	for i := range b {
		d.ready()
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// TestSleeperWakesForPieces has a ping come in pieces, after each of which the channel
// may sleep again: of a TLS record, and of a frame.
func TestSleeperWakesForPieces(t *testing.T) {
	w := start(t)
	_, key := w.register("cam", "default")
	below := &dribble{Conn: w.dialRaw()}
	sealed := tls.Client(below, w.clientTLS(key))
	if err := sealed.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := &agent{w: w, key: key, conn: control.NewAgent(sealed, control.RoleDevice, control.Options{})}
	w.Cleanup(func() { _ = a.conn.Close() })
	a.send(control.Hello{Version: control.Version, Role: control.RoleDevice, Agent: "test"})
	a.welcome(report())
	asleep := func() { eventually(t, patience, "it sleeps", func() bool { return w.allAsleep(1) }) }
	pong := func(t *testing.T) {
		t.Helper()
		got := make([]byte, 4)
		_ = sealed.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(sealed, got); err != nil || string(got) != "\x02\x00\x00\x00" {
			t.Fatalf("%x, %v", got, err)
		}
	}
	write := func(t *testing.T, b string) {
		t.Helper()
		if _, err := sealed.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	asleep()
	t.Run("a record byte by byte", func(t *testing.T) {
		below.ready = asleep
		write(t, "\x01\x00\x00\x00")
		below.ready = nil
		pong(t)
		asleep()
	})
	t.Run("a frame in two records", func(t *testing.T) {
		write(t, "\x01\x00")
		eventually(t, patience, "it waits for the rest", func() bool { return serving() == 1 })
		write(t, "\x00\x00")
		pong(t)
		asleep()
	})
	t.Run("two frames in one record", func(t *testing.T) {
		write(t, "\x01\x00\x00\x00\x01\x00\x00\x00")
		pong(t)
		pong(t)
		asleep()
	})
}

// TestStalledHandshakesHoldUpNobody has more handshakes stall in the middle than may
// work at a time.
func TestStalledHandshakesHoldUpNobody(t *testing.T) {
	w := start(t)
	hello := clientHello(t, w.clientTLS(newKey(t)))
	for range cap(w.g.handshaking) + 2 {
		c := w.dialRaw()
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		// The gateway's half is done: it waits for the client's.
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	d, key := w.register("cam", "default")
	w.connect(d, key, echo)
}

func TestPercentFor(t *testing.T) {
	for _, c := range []struct {
		live  uint64
		least int
		want  int
	}{
		{0, 12, 100},
		{8 << 20, 12, 100},
		{16 << 20, 12, 50},
		{31 << 20, 12, 50},
		{32 << 20, 12, 25},
		{67 << 20, 12, 12},
		{67 << 20, 25, 25},
		{1 << 40, 25, 25},
		{1 << 40, 12, 12},
	} {
		if got := percentFor(c.live, c.least); got != c.want {
			t.Errorf("%d bytes, at least %d: %d, want %d", c.live, c.least, got, c.want)
		}
	}
}
