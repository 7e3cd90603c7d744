package link

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"socketxp"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const destination = "tcp://localhost:22"

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// maxSealed is what a frame of the largest size has on the wire.
const maxSealed = maxFrame + maxFrame/maxRecord*recordOverhead

// tap is what a test's relay does with the bytes of one direction; offset is that
// of the first one, counted behind the preface.
type tap func(toDevice bool, offset int64, b []byte)

// relayed is a tiny gateway between one visitor and one device.
type relayed struct {
	tb  testing.TB
	l   net.Listener
	tap tap

	dialing sync.Mutex // held from a dial to its accept

	mu    sync.Mutex // guards the following
	conns []*net.TCPConn
}

func newRelayed(tb testing.TB, tap tap) *relayed {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &relayed{tb: tb, l: l, tap: tap}
	tb.Cleanup(func() {
		_ = l.Close()
		r.cut()
	})
	return r
}

// cut resets everything, as a gateway that ends a session.
func (r *relayed) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	r.conns = nil
}

// raw returns two connections that have been joined by the relay.
func (r *relayed) raw() (visitor, device net.Conn) {
	r.tb.Helper()
	dial := func() (near net.Conn, far *net.TCPConn) {
		near, err := net.Dial("tcp", r.l.Addr().String())
		if err != nil {
			r.tb.Fatal(err)
		}
		c, err := r.l.Accept()
		if err != nil {
			r.tb.Fatal(err)
		}
		return near, c.(*net.TCPConn)
	}
	r.dialing.Lock()
	visitor, v := dial()
	device, d := dial()
	r.dialing.Unlock()
	r.mu.Lock()
	r.conns = append(r.conns, v, d)
	r.mu.Unlock()
	go r.join(v, d)
	return visitor, device
}

func (r *relayed) join(v, d *net.TCPConn) {
	for _, c := range []net.Conn{v, d} {
		var preface [PrefaceSize]byte
		if _, err := io.ReadFull(c, preface[:]); err != nil {
			break
		}
		if _, err := ParsePreface(preface[:]); err != nil {
			r.tb.Error(err)
			break
		}
	}
	var both sync.WaitGroup
	both.Go(func() { r.copy(d, v, true) })
	both.Go(func() { r.copy(v, d, false) })
	both.Wait()
	_ = v.Close()
	_ = d.Close()
}

func (r *relayed) copy(dst, src *net.TCPConn, toDevice bool) {
	var err error
	if r.tap == nil {
		_, err = io.Copy(dst, src)
	} else {
		err = r.copyTapped(dst, src, toDevice)
	}
	if err != nil {
		_ = dst.SetLinger(0)
		_ = src.SetLinger(0)
		_ = dst.Close()
		_ = src.Close()
		return
	}
	_ = dst.CloseWrite()
}

func (r *relayed) copyTapped(dst, src *net.TCPConn, toDevice bool) error {
	buf := make([]byte, 32<<10)
	var offset int64
	for {
		n, err := src.Read(buf)
		r.tap(toDevice, offset, buf[:n])
		offset += int64(n)
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// keys are those of a visitor and a device.
type keys struct{ visitor, device ed25519.PrivateKey }

func newKeys() keys {
	_, v, _ := ed25519.GenerateKey(rand.Reader)
	_, d, _ := ed25519.GenerateKey(rand.Reader)
	return keys{v, d}
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

var ticket = make([]byte, socketxp.LinkTicketSize)

// links returns both ends of a new link.
func (r *relayed) links(k keys) (visitor, device *Link) {
	r.tb.Helper()
	rawVisitor, rawDevice := r.raw()
	type result struct {
		l   *Link
		err error
	}
	served := make(chan result, 1)
	go func() {
		l, err := Serve(context.Background(), rawDevice, ticket, k.device, public(k.visitor), destination)
		served <- result{l, err}
	}()
	visitor, err := Visit(context.Background(), rawVisitor, ticket, k.visitor, public(k.device), destination)
	s := <-served
	if err != nil || s.err != nil {
		r.tb.Fatal(err, s.err)
	}
	r.tb.Cleanup(func() {
		_ = visitor.Close()
		_ = s.l.Close()
	})
	return visitor, s.l
}

// open returns both ends of a new connection on an idle link.
func open(tb testing.TB, visitor, device *Link) (v, d *Conn) {
	tb.Helper()
	v, err := visitor.Open()
	if err != nil {
		tb.Fatal(err)
	}
	d, err = device.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return v, d
}

// tcpPair returns both ends of a local connection.
func tcpPair(tb testing.TB) (near, far *net.TCPConn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = c.Close()
		_ = a.Close()
	})
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// await waits until ok is true.
func await(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	tb.Fatalf("%s did not happen within %v", what, patience)
}

// within runs f and fails the test if it hangs.
func within(tb testing.TB, what string, f func()) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		panic(fmt.Sprintf("%s hangs", what))
	}
}
