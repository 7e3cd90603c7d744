package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"socketxp"
	"socketxp/internal/control"
)

// announce tells everybody who is connected, and who connects later.
func (b *bed) announce(pins ...string) {
	b.t.Helper()
	b.mu.Lock()
	b.pins = pins
	var conns []*control.Conn
	for _, d := range b.devices {
		if d.conn != nil {
			conns = append(conns, d.conn)
		}
	}
	for c := range b.visitors {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	for _, c := range conns {
		if err := c.Send(context.Background(), control.GatewayKeys{Pins: pins}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// restart has the gateway come back with another key.
func (b *bed) restart(cert tls.Certificate) {
	b.t.Helper()
	b.stop()
	b.with(func() { b.cert = cert })
	b.start()
}

// knownBy waits until the gateway was told by what the device knows it, and checks
// that the disk says the same.
func (b *bed) knownBy(dir *Dir, name string, want ...string) {
	b.t.Helper()
	until(b.t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, d := range b.devices {
			if d.name == name && d.conn != nil && d.report.GatewayKnownBy == strings.Join(want, " ") {
				return nil
			}
		}
		return errors.New("the gateway was not told")
	})
	key, err := dir.Key()
	if err != nil || key.Gateway.KnownBy() != strings.Join(want, " ") {
		b.t.Errorf("on disk: %+v, %v; want %v", key.Gateway, err, want)
	}
}

// A gateway changes its key: whoever was told before goes on, whoever was not
// is told what to do, and does not talk to a gateway that it can't know.
func TestGatewayChangesItsKey(t *testing.T) {
	b := newBed(t)
	next, nextPin := bedCert(t)
	echoes := service(t, echo)
	dir, key := b.login("sensor")
	away, awayKey := b.login("away")
	device := connect(t, dir, echoes)
	await(t, device.connected)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	url := await(t, laptop.listening)
	open := talk(t, url)
	open.turn("before")

	b.announce(b.addr.Pin, nextPin)
	b.knownBy(dir, "sensor", b.addr.Pin, nextPin)
	open.turn("the announcement cuts nothing")

	b.restart(next)
	await(t, device.connected)
	open.turn("nor does the change")
	b.with(func() { b.pins = []string{nextPin} })
	b.restart(next)
	await(t, device.connected)
	b.knownBy(dir, "sensor", nextPin)
	if k, err := dir.Key(); err != nil || k.ID != key.ID {
		t.Errorf("%+v, %v", k, err)
	}
	t.Run("a visitor whose token knows the old key alone", func(t *testing.T) {
		until(t, func() error {
			_, err := say(url, "after")
			return err
		})
		device.stop()
		laptop.stop()
	})

	t.Run("a device that was away all the time", func(t *testing.T) {
		lost := connect(t, away, echoes)
		err := await(t, lost.problems)
		var e *socketxp.Error
		if !errors.Is(err, socketxp.ErrWrongGateway) || !errors.As(err, &e) || !strings.Contains(e.Hint, "socketxp login TOKEN") {
			t.Errorf("%v", err)
		}
		lost.stop()
		if k, err := away.Key(); err != nil || k.Gateway != b.addr {
			t.Errorf("it knows %+v now, %v", k.Gateway, err)
		}
		addr := socketxp.GatewayAddress{URL: b.addr.URL, Pin: nextPin}
		k, err := Login(t.Context(), LoginOptions{Dir: away, Target: Target{Token: tokenFor(addr)}})
		if err != nil || k.ID != awayKey.ID || k.Gateway != addr {
			t.Errorf("%+v, %v", k, err)
		}
		again := connect(t, away, echoes)
		await(t, again.connected)
		again.stop()
	})
}

func TestForeignAnnouncements(t *testing.T) {
	b := newBed(t)
	_, one := bedCert(t)
	_, two := bedCert(t)
	dir, _ := b.login("sensor")
	device := connect(t, dir, service(t, echo))
	await(t, device.connected)
	b.announce(one, two)
	b.announce(one)
	// Taken after the others, as they came in this order.
	b.announce(b.addr.Pin, two)
	b.knownBy(dir, "sensor", b.addr.Pin, two)
	t.Run("the change is called off", func(t *testing.T) {
		b.announce(b.addr.Pin)
		b.knownBy(dir, "sensor", b.addr.Pin)
	})
	device.stop()
}

// What can't be written down is not confirmed: the gateway would change its key, and
// the next start would know the old one alone.
func TestPinsThatCantBeWritten(t *testing.T) {
	b := newBed(t)
	_, next := bedCert(t)
	dir, key := b.login("sensor")
	gw, err := dir.gateway(key.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	gw.proved = b.addr.Pin
	broken, err := OpenDir(dir.Path() + "/none")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken.Path(), nil, 0o600); err != nil { // where the folder would be
		t.Fatal(err)
	}
	d := &device{dir: broken, key: key, gateway: gw, tunnels: newPublications(nil), log: slog.New(slog.DiscardHandler), knowsMore: make(chan struct{}, 1)}
	d.keepPins([]string{b.addr.Pin, next})
	if r, _ := d.report(); r.GatewayKnownBy != b.addr.Pin || len(d.knowsMore) > 0 {
		t.Errorf("it says that it knows the gateway by %q", r.GatewayKnownBy)
	}
	// The next announcement tries again.
	d.dir = dir
	d.keepPins([]string{b.addr.Pin, next})
	if r, _ := d.report(); r.GatewayKnownBy != b.addr.Pin+" "+next || len(d.knowsMore) != 1 {
		t.Errorf("it says that it knows the gateway by %q", r.GatewayKnownBy)
	}
}
