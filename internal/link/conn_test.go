package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"socketxp"

	"golang.org/x/net/nettest"
)

func TestNetConn(t *testing.T) {
	k := newKeys()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		r := newRelayed(t, nil)
		v, d := r.links(k)
		vc, dc := open(t, v, d)
		return vc, dc, func() {
			_ = vc.Close()
			_ = dc.Close()
			_ = v.Close()
			_ = d.Close()
			r.cut()
		}, nil
	})
}

// TestNetConnOfDevice is TestNetConn with the roles exchanged: its first
// connection does most of the work.
func TestNetConnOfDevice(t *testing.T) {
	k := newKeys()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		r := newRelayed(t, nil)
		v, d := r.links(k)
		vc, dc := open(t, v, d)
		return dc, vc, func() {
			_ = vc.Close()
			_ = dc.Close()
			_ = v.Close()
			_ = d.Close()
			r.cut()
		}, nil
	})
}

func TestDialFailed(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	for range 2 { // the link survives it
		vc, dc := open(t, v, d)
		if err := dc.Reset(socketxp.CodeDialFailed); err != nil {
			t.Fatal(err)
		}
		_, err := vc.Read(make([]byte, 1))
		if socketxp.CodeOf(err) != socketxp.CodeDialFailed || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		if _, err := vc.Write([]byte("x")); socketxp.CodeOf(err) != socketxp.CodeDialFailed {
			t.Fatal(err)
		}
		if err := vc.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCloseThrowsAway: what still comes on a closed connection is gone, and the
// link carries the next one.
func TestCloseThrowsAway(t *testing.T) {
	for _, closer := range []string{"visitor", "device"} {
		t.Run(closer, func(t *testing.T) {
			v, d := newRelayed(t, nil).links(newKeys())
			vc, dc := open(t, v, d)
			near, far := vc, dc
			if closer == "device" {
				near, far = dc, vc
			}
			if _, err := near.Write([]byte("bye")); err != nil {
				t.Fatal(err)
			}
			if err := near.Close(); err != nil {
				t.Fatal(err)
			}
			if err := near.Close(); !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
			// The closer's next Open or Accept throws away what far sends; far's own comes
			// when it has sent it.
			type result struct {
				c   *Conn
				err error
			}
			next := map[string]func() (*Conn, error){"visitor": v.Open, "device": d.Accept}
			results := map[string]chan result{"visitor": make(chan result, 1), "device": make(chan result, 1)}
			start := func(end string) {
				c, err := next[end]()
				results[end] <- result{c, err}
			}
			go start(closer)
			if _, err := far.Write(make([]byte, 5<<20)); err != nil {
				t.Fatal(err)
			}
			if err := far.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(far); err != nil || string(got) != "bye" {
				t.Fatal(string(got), err)
			}
			if closer == "device" {
				start("visitor")
			} else {
				start("device")
			}
			rv, rd := <-results["visitor"], <-results["device"]
			if rv.err != nil || rd.err != nil {
				t.Fatal(rv.err, rd.err)
			}
			opened, c := rv.c, rd.c
			_, _ = opened.Write([]byte("next"))
			got := make([]byte, 4)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "next" {
				t.Fatal(string(got), err)
			}
			// The old connection is of no more consequence.
			_ = near.SetDeadline(longAgo)
			_ = far.SetDeadline(longAgo)
			_, _ = near.Write([]byte("x"))
			_ = far.Reset("")
			go func() { _, _ = c.Write([]byte("good")) }()
			if _, err := io.ReadFull(opened, got); err != nil || string(got) != "good" {
				t.Fatal(string(got), err)
			}
		})
	}
}

// TestWriteDeadline: a write that times out loses nothing that it has counted, and
// the connection goes on, which plain crypto/tls can't do.
func TestWriteDeadline(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	vc, dc := open(t, v, d)
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	var sent bytes.Buffer
	for timeouts := 0; timeouts < 3; {
		_ = vc.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := vc.Write(text)
		sent.Write(text[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			timeouts++
			// Some of what is stuck is read, so that the next write gets on a little: not the
			// frame that may still be kept on this side, and on a slow machine that is all.
			got := make([]byte, max(0, min(700_000, sent.Len()-maxSealed)))
			if _, err := io.ReadFull(dc, got); err != nil || !bytes.Equal(got, sent.Next(len(got))) {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// However often it times out, no more than a frame is kept.
	for stuck, tries := 0, 0; stuck < 5; tries++ {
		if tries == 1000 {
			t.Fatal("the wire keeps nothing of what is stuck")
		}
		_ = vc.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := vc.Write(text)
		sent.Write(text[:n])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		v.wire.mu.Lock()
		kept := v.wire.out
		v.wire.mu.Unlock()
		if kept != nil {
			if stuck++; len(kept) > maxSealed {
				t.Fatalf("the wire keeps %d bytes", len(kept))
			}
		}
	}
	_ = vc.SetWriteDeadline(time.Time{})
	go func() { _ = vc.CloseWrite() }()
	got, err := io.ReadAll(dc)
	if err != nil || !bytes.Equal(got, sent.Bytes()) {
		t.Fatal(len(got), sent.Len(), err)
	}
}

// TestCutIsNoEnd: a connection that was cut off never looks as if it had ended in
// peace.
func TestCutIsNoEnd(t *testing.T) {
	r := newRelayed(t, nil)
	v, d := r.links(newKeys())
	vc, dc := open(t, v, d)
	_, _ = vc.Write([]byte("half a file"))
	if _, err := io.ReadFull(dc, make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	for _, c := range r.conns { // in the mildest way: TCP's orderly end
		_ = c.CloseWrite()
	}
	r.mu.Unlock()
	for _, c := range []*Conn{vc, dc} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if _, err := v.Open(); err == nil {
		t.Fatal("a broken link opens connections")
	}
	if _, err := d.Accept(); err == nil || errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestRoles(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	if _, err := d.Open(); err == nil {
		t.Error("a device opened a connection")
	}
	if _, err := v.Accept(); err == nil {
		t.Error("a visitor accepted a connection")
	}
	open(t, v, d)
	if _, err := v.Open(); err == nil {
		t.Error("a second connection at the same time")
	}
	if _, err := d.Accept(); err == nil {
		t.Error("a second connection at the same time")
	}
}
