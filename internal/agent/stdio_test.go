package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// proxyRun is a Proxy that runs between two pipes.
type proxyRun struct {
	t      *testing.T
	in     *io.PipeWriter // what the program on this machine says
	out    *io.PipeReader // what it hears
	cancel context.CancelFunc
	ended  chan error
}

func (b *bed) proxy(dir *Dir, name string, port int) *proxyRun {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p := &proxyRun{t: b.t, in: inW, out: outR, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		defer close(p.ended)
		p.ended <- Proxy(ctx, ProxyOptions{
			Peer: Peer{Target: Target{Token: b.token()}, Dir: dir, DeviceName: name, DevicePort: port, Version: "test"},
			In:   inR, Out: outW,
		})
		_ = outW.Close()
	}()
	b.t.Cleanup(func() {
		cancel()
		_, _ = inW.Close(), outR.Close()
		for range p.ended {
		}
	})
	return p
}

func (p *proxyRun) say(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *proxyRun) hear(text string) {
	p.t.Helper()
	back := make([]byte, len(text))
	if _, err := io.ReadFull(p.out, back); err != nil || string(back) != text {
		p.t.Fatalf("heard %q: %v", back, err)
	}
}

// end fails if it is another one than by both ends' will.
func (p *proxyRun) end() {
	p.t.Helper()
	if err := await(p.t, p.ended); err != nil {
		p.t.Errorf("it ended by %v", err)
	}
}

// reachable is a device that publishes what serve does.
func reachable(t *testing.T, serve func(*net.TCPConn)) (*bed, int) {
	t.Helper()
	b := newBed(t)
	dir, _ := b.login("sensor")
	s := service(t, serve)
	device := connect(t, dir, s)
	await(t, device.connected)
	until(t, func() error { // it has looked for the link door
		s, err := GetStatus(t.Context(), dir)
		return errors.Join(err, yes(s.LinkDoor != ""))
	})
	return b, s.Destination.Port
}

func TestProxy(t *testing.T) {
	t.Run("turns, and an end on either side", func(t *testing.T) {
		b, port := reachable(t, echo)
		p := b.proxy(newDir(t), "sensor", port)
		p.say("hello")
		p.hear("hello")
		p.say("again")
		p.hear("again")
		_ = p.in.Close()
		if rest, err := io.ReadAll(p.out); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
		p.end()
	})
	t.Run("the input's end leaves the output open", func(t *testing.T) {
		heard := make(chan string, 1)
		b, port := reachable(t, func(c *net.TCPConn) {
			all, _ := io.ReadAll(c)
			heard <- string(all)
			_, _ = io.WriteString(c, strings.Repeat("answer", 100_000))
		})
		p := b.proxy(newDir(t), "sensor", port)
		p.say("all I have to say")
		_ = p.in.Close()
		if got := await(t, heard); got != "all I have to say" {
			t.Errorf("%q", got)
		}
		if all, err := io.ReadAll(p.out); err != nil || string(all) != strings.Repeat("answer", 100_000) {
			t.Errorf("%d bytes, %v", len(all), err)
		}
		p.end()
	})
	t.Run("the device's end leaves the input open while it flows", func(t *testing.T) {
		heard := make(chan string, 1)
		b, port := reachable(t, func(c *net.TCPConn) {
			_ = c.CloseWrite()
			all, _ := io.ReadAll(c)
			heard <- string(all)
		})
		p := b.proxy(newDir(t), "sensor", port)
		if all, err := io.ReadAll(p.out); err != nil || len(all) > 0 {
			t.Errorf("%q, %v", all, err)
		}
		text := strings.Repeat("still here ", 100_000)
		p.say(text)
		_ = p.in.Close()
		if got := await(t, heard); got != text {
			t.Errorf("%d bytes of %d", len(got), len(text))
		}
		p.end()
	})
	t.Run("the device's end, and an input that says nothing more", func(t *testing.T) {
		b, port := reachable(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "the time") })
		p := b.proxy(newDir(t), "sensor", port)
		began := time.Now()
		if all, err := io.ReadAll(p.out); err != nil || string(all) != "the time" {
			t.Errorf("%q, %v", all, err)
		}
		p.end()
		if took := time.Since(began); took < quietAfterEnd {
			t.Errorf("it ended after %v: input that comes a little later is lost", took)
		}
	})
	t.Run("nobody takes the output", func(t *testing.T) {
		b, port := reachable(t, func(c *net.TCPConn) {
			for _, err := c.Write([]byte("more")); err == nil; _, err = c.Write([]byte("more")) {
			}
		})
		p := b.proxy(newDir(t), "sensor", port)
		p.hear("more")
		_ = p.out.Close()
		p.end()
	})
	t.Run("it is told to end", func(t *testing.T) {
		cut := make(chan error, 1)
		b, port := reachable(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "x")
			_, err := io.ReadAll(c)
			cut <- err
		})
		p := b.proxy(newDir(t), "sensor", port)
		p.hear("x")
		p.cancel()
		p.end()
		if err := await(t, cut); err == nil {
			t.Error("the device saw an orderly end of what was given up")
		}
	})
}

func TestProxyBinary(t *testing.T) {
	b, port := reachable(t, echo)
	p := b.proxy(newDir(t), "sensor", port)
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	go func() {
		for rest := data; len(rest) > 0; { // pieces of all sizes
			n := min(len(rest), 1+len(rest)%150_000)
			_, _ = p.in.Write(rest[:n])
			rest = rest[n:]
		}
		_ = p.in.Close()
	}()
	back, err := io.ReadAll(p.out)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes of %d came back, or others: %v", len(back), len(data), err)
	}
	p.end()
}

func TestProxyRefused(t *testing.T) {
	b, port := reachable(t, echo)
	for name, want := range map[string]socketxp.Code{"nobody": socketxp.CodeNotFound, "sensor": socketxp.CodeNotPublished} {
		err := await(t, b.proxy(newDir(t), name, port+1).ended)
		if !errors.As(err, new(*RefusedError)) || socketxp.CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Run("the destination is gone", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		gone := tunnel(t, "tcp://"+l.Addr().String())
		_ = l.Close()
		dir, _ := b.login("lonely")
		device := connect(t, dir, gone)
		await(t, device.connected)
		if err := await(t, b.proxy(newDir(t), "lonely", gone.Destination.Port).ended); socketxp.CodeOf(err) != socketxp.CodeDialFailed {
			t.Errorf("%v", err)
		}
	})
	t.Run("the gateway is not there", func(t *testing.T) {
		b.stop()
		if err := await(t, b.proxy(newDir(t), "sensor", port).ended); !errors.As(err, new(*UnreachableError)) {
			t.Errorf("%v", err)
		}
	})
}

// TestProxyEnded is a revocation in the middle: the error says why, whichever comes
// first, the cut or the word.
func TestProxyEnded(t *testing.T) {
	b, port := reachable(t, echo)
	p := b.proxy(newDir(t), "sensor", port)
	p.say("x")
	p.hear("x")
	b.tellVisitors(control.Ended{Visit: visitNumber, Code: socketxp.CodeTokenRevoked, Message: "the token was revoked"})
	p.say("y") // a word alone ends nothing: the gateway cuts
	p.hear("y")
	b.cutLinks()
	err := await(t, p.ended)
	if !errors.As(err, new(*RefusedError)) || socketxp.CodeOf(err) != socketxp.CodeTokenRevoked {
		t.Errorf("%v", err)
	}
	t.Run("cut without a word", func(t *testing.T) {
		p := b.proxy(newDir(t), "sensor", port)
		p.say("x")
		p.hear("x")
		b.cutLinks()
		err := await(t, p.ended)
		if socketxp.CodeOf(err) != socketxp.CodeUnavailable || !strings.Contains(err.Error(), "was cut") {
			t.Errorf("%v", err)
		}
	})
	t.Run("the channel's end leaves the connection", func(t *testing.T) {
		p := b.proxy(newDir(t), "sensor", port)
		p.say("x")
		p.hear("x")
		b.stop()
		p.say("y")
		p.hear("y")
		_ = p.in.Close()
		p.end()
	})
}

// TestProxyAsksOnce counts what it costs the gateway: one channel, one link, and
// nothing in between that is waited for.
func TestProxyAsksOnce(t *testing.T) {
	b, port := reachable(t, echo)
	var conns atomic.Int32
	b.with(func() { b.arrived = func() { conns.Add(1) } })
	p := b.proxy(newDir(t), "sensor", port)
	p.say("x")
	p.hear("x")
	_ = p.in.Close()
	p.end()
	if n := conns.Load(); n != 3 { // channel, link, and the device's half of it
		t.Errorf("%d connections to the gateway, want 3", n)
	}
}

func TestParseDevice(t *testing.T) {
	id := socketxp.NewID(time.Now())
	for s, want := range map[string][2]string{
		"kiosk": {"", "kiosk"}, "kiosk.socketxp": {"", "kiosk"}, "KIOSK.SocketXP": {"", "kiosk"},
		id: {id, ""}, id + ".socketxp": {id, ""},
	} {
		if i, name, err := ParseDevice(s); err != nil || i != want[0] || name != want[1] {
			t.Errorf("%s: %q, %q, %v", s, i, name, err)
		}
	}
	for _, s := range []string{"", ".socketxp", "-kiosk", "a b", "a.b", "a;id", "$(id)", "a'b", "a/b", "a@b", "kiosk.socketxp.socketxp", "ö"} {
		if i, name, err := ParseDevice(s); err == nil {
			t.Errorf("%q was taken as %q, %q", s, i, name)
		}
	}
}
