package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"socketxp"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

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

func done(tb testing.TB, what string, ch <-chan struct{}) {
	tb.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		tb.Fatalf("%s did not happen within %v", what, patience)
	}
}

// dialled returns both ends of a TCP connection.
func dialled(tb testing.TB) (near, far *net.TCPConn) {
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

func expect(tb testing.TB, r *Relay) *Pair {
	tb.Helper()
	p, err := r.Expect()
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// join brings a connection of ticket and returns its outer end, and what Join
// returns.
func join(tb testing.TB, r *Relay, ticket []byte) (*net.TCPConn, <-chan error) {
	tb.Helper()
	near, far := dialled(tb)
	out := make(chan error, 1)
	go func() { out <- r.Join(far, ticket) }()
	return near, out
}

// joined returns a pair and its outer ends.
func joined(tb testing.TB, r *Relay) (p *Pair, visitor, device *net.TCPConn) {
	tb.Helper()
	p = expect(tb, r)
	visitor, v := join(tb, r, p.VisitorTicket())
	device, d := join(tb, r, p.DeviceTicket())
	done(tb, "the meeting", p.Joined())
	tb.Cleanup(func() {
		p.Cut()
		for _, out := range []<-chan error{v, d} {
			if err := <-out; err != nil {
				tb.Error(err)
			}
		}
	})
	return p, visitor, device
}

func TestJoinInEitherOrder(t *testing.T) {
	for _, first := range []side{visitor, device} {
		t.Run(first.String()+" first", func(t *testing.T) {
			r := New(Options{})
			p := expect(t, r)
			var outer [2]*net.TCPConn
			var result [2]<-chan error
			outer[first], result[first] = join(t, r, p.tickets[first])
			await(t, "the first half", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return p.conns[first] != nil
			})
			if w, j := r.Counts(); w != 1 || j != 0 {
				t.Fatal(w, j)
			}
			// What the first says before the other has come is not lost.
			_, _ = outer[first].Write([]byte("early"))
			outer[first.other()], result[first.other()] = join(t, r, p.tickets[first.other()])
			got := make([]byte, 5)
			if _, err := io.ReadFull(outer[first.other()], got); err != nil || string(got) != "early" {
				t.Fatal(string(got), err)
			}
			if w, j := r.Counts(); w != 0 || j != 1 {
				t.Fatal(w, j)
			}

			// Half-close passes, and the other direction lives on.
			_ = outer[visitor].CloseWrite()
			if _, err := outer[device].Read(got); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			_, _ = outer[device].Write([]byte("late"))
			_ = outer[device].CloseWrite()
			if b, err := io.ReadAll(outer[visitor]); err != nil || string(b) != "late" {
				t.Fatal(string(b), err)
			}
			for s, ch := range result {
				if err := <-ch; err != nil {
					t.Fatal(side(s), err)
				}
			}
			done(t, "the end", p.Done())
			up, down := p.Bytes()
			want := [2]int64{0, 4}
			want[first] += 5
			if up != want[visitor] || down != want[device] {
				t.Fatal(up, down)
			}
			if w, j := r.Counts(); w != 0 || j != 0 {
				t.Fatal(w, j)
			}
		})
	}
}

func TestTickets(t *testing.T) {
	r := New(Options{Wait: time.Minute})
	refused := func(ticket []byte) {
		t.Helper()
		outer, result := join(t, r, ticket)
		if err := <-result; !errors.Is(err, socketxp.ErrNotFound) {
			t.Error(err)
		}
		if _, err := outer.Read(make([]byte, 1)); err == nil {
			t.Error("a refused connection is still open")
		}
	}
	t.Run("N-09 unknown", func(*testing.T) {
		refused(nil)
		refused(make([]byte, socketxp.LinkTicketSize))
		refused([]byte(rand.Text()))
	})
	t.Run("N-09 the same half twice", func(t *testing.T) {
		p := expect(t, r)
		_, first := join(t, r, p.VisitorTicket())
		await(t, "the first half", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return p.conns[visitor] != nil
		})
		refused(p.VisitorTicket())
		select {
		case <-p.Joined():
			t.Error("one side met itself")
		default:
		}
		p.Cut()
		if err := <-first; err != nil {
			t.Error(err)
		}
		refused(p.DeviceTicket())
	})
	t.Run("N-09 after use", func(t *testing.T) {
		p, _, _ := joined(t, r)
		refused(p.VisitorTicket())
		refused(p.DeviceTicket())
		p.Cut()
		refused(p.VisitorTicket())
		refused(p.DeviceTicket())
	})
	t.Run("N-09 one ticket, many at once", func(t *testing.T) {
		p := expect(t, r)
		var all sync.WaitGroup
		wins := make(chan error, 16)
		for range 16 {
			_, far := dialled(t)
			all.Go(func() {
				if err := r.Join(far, p.DeviceTicket()); err == nil {
					wins <- err
				}
			})
		}
		await(t, "the half", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return p.conns[device] != nil
		})
		p.Cut()
		all.Wait()
		if len(wins) != 1 {
			t.Error(len(wins), "connections used one ticket")
		}
	})
	if w, j := r.Counts(); w != 0 || j != 0 || len(r.halves) != 0 {
		t.Error(w, j, len(r.halves))
	}
}

func TestExpiry(t *testing.T) {
	r := New(Options{Wait: 50 * time.Millisecond})
	alone := expect(t, r)
	done(t, "the expiry of a pair that nobody joined", alone.Done())

	p := expect(t, r)
	outer, result := join(t, r, p.VisitorTicket())
	if err := <-result; socketxp.CodeOf(err) != socketxp.CodeUnavailable && !errors.Is(err, socketxp.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := outer.Read(make([]byte, 1)); err == nil {
		t.Fatal("an expired half is still open")
	}
	_, result = join(t, r, p.DeviceTicket())
	if err := <-result; !errors.Is(err, socketxp.ErrNotFound) {
		t.Fatal("N-09 expired:", err)
	}
	if w, j := r.Counts(); w != 0 || j != 0 || len(r.halves) != 0 {
		t.Fatal(w, j, len(r.halves))
	}
}

func TestMaxPairs(t *testing.T) {
	r := New(Options{MaxPairs: 2})
	p := expect(t, r)
	_, _, _ = joined(t, r)
	if _, err := r.Expect(); socketxp.CodeOf(err) != socketxp.CodeTooManyLinks {
		t.Fatal(err)
	}
	p.Cut()
	expect(t, r).Cut()
}

// TestCut: no byte crosses once Cut has returned.
func TestCut(t *testing.T) {
	for range 20 {
		r := New(Options{})
		p, visitor, device := joined(t, r)
		var writers sync.WaitGroup
		for _, c := range []*net.TCPConn{visitor, device} {
			reset := make(chan bool, 2) // the kernel tells of it once
			writers.Go(func() {
				var err error
				for buf := make([]byte, 64<<10); err == nil; {
					_, err = c.Write(buf)
				}
				reset <- errors.Is(err, syscall.ECONNRESET)
			})
			writers.Go(func() {
				_, err := io.Copy(io.Discard, c)
				reset <- errors.Is(err, syscall.ECONNRESET)
				if first, second := <-reset, <-reset; !first && !second {
					t.Error("a cut connection ended without a reset")
				}
			})
		}
		await(t, "some MiB both ways", func() bool {
			up, down := p.Bytes()
			return up > 1<<20 && down > 1<<20
		})
		p.Cut()
		done(t, "the end", p.Done())
		up, down := p.Bytes()
		writers.Wait()
		p.Cut() // again is nothing
		if u, d := p.Bytes(); u != up || d != down {
			t.Fatal("bytes crossed after the cut")
		}
	}
}

func TestReset(t *testing.T) {
	p, visitor, device := joined(t, New(Options{}))
	_ = visitor.SetLinger(0)
	_ = visitor.Close()
	if _, err := device.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	done(t, "the end", p.Done())
}

// TestBytes: a counter tells of every byte that has arrived, not of whole chunks.
// faultyConn panics when it is read.
type faultyConn struct{ net.Conn }

func (faultyConn) Read([]byte) (int, error) { panic("no way to read") }

func TestP22PanicEndsOnePair(t *testing.T) {
	r := New(Options{})
	_, visitor, device := joined(t, r) // another pair
	p := expect(t, r)
	near, _ := join(t, r, p.VisitorTicket())
	_, far := dialled(t)
	lost := make(chan any, 1)
	go func() {
		defer func() { lost <- recover() }()
		_ = r.Join(faultyConn{far}, p.DeviceTicket())
	}()
	if v := <-lost; v != "no way to read" {
		t.Errorf("got %v: Join must not hide it", v)
	}
	done(t, "the end of the pair", p.Done())
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("P-22 the other half is still open")
	}
	if waiting, joined := r.Counts(); waiting != 0 || joined != 1 {
		t.Errorf("P-22 %d waiting, %d joined", waiting, joined)
	}
	_, _ = visitor.Write([]byte("x"))
	if _, err := io.ReadFull(device, make([]byte, 1)); err != nil {
		t.Errorf("P-22 the other pair: %v", err)
	}
}

func TestBytes(t *testing.T) {
	p, visitor, device := joined(t, New(Options{}))
	for i := range 10 {
		_, _ = visitor.Write([]byte("ping"))
		if _, err := io.ReadFull(device, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		await(t, "the count", func() bool { up, _ := p.Bytes(); return up == int64(i+1)*4 })
	}
	text := make([]byte, 30<<20)
	_, _ = rand.Read(text)
	go func() {
		_, _ = device.Write(text)
		_ = device.CloseWrite()
	}()
	got, err := io.ReadAll(visitor)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatal(len(got), err)
	}
	_ = visitor.Close()
	done(t, "the end", p.Done())
	if up, down := p.Bytes(); up != 40 || down != int64(len(text)) {
		t.Fatal(up, down)
	}
}

// wrapped is a connection that is not a *net.TCPConn, such as a WebSocket.
type wrapped struct{ net.Conn }

func TestOtherConnections(t *testing.T) {
	r := New(Options{})
	p := expect(t, r)
	near, far := net.Pipe()
	out := make(chan error, 2)
	go func() { out <- r.Join(wrapped{far}, p.VisitorTicket()) }()
	device, inner := dialled(t)
	go func() { out <- r.Join(inner, p.DeviceTicket()) }()
	go func() { _, _ = near.Write([]byte("hello")) }()
	got := make([]byte, 5)
	if _, err := io.ReadFull(device, got); err != nil || string(got) != "hello" {
		t.Fatal(string(got), err)
	}
	_, _ = device.Write([]byte("world"))
	if _, err := io.ReadFull(near, got); err != nil || string(got) != "world" {
		t.Fatal(string(got), err)
	}
	p.Cut()
	if _, err := near.Read(got); err == nil {
		t.Fatal("open after Cut")
	}
	done(t, "the end", p.Done())
	if up, down := p.Bytes(); up != 5 || down != 5 {
		t.Fatal(up, down)
	}
	for range 2 {
		if err := <-out; err != nil {
			t.Fatal(err)
		}
	}
}

// lively is a connection that knows whether its other end lives, as a WebSocket
// does: the kernel only knows the nearest proxy.
type lively struct {
	*net.TCPConn
	kept, dead *atomic.Bool
}

func (l lively) KeepAlive() { l.kept.Store(true) }

func (l lively) Dead() error {
	if l.dead.Load() {
		return errors.New("not a sign of life")
	}
	return nil
}

func TestDeadBehindProxy(t *testing.T) {
	r := New(Options{})
	p := expect(t, r)
	var kept, dead atomic.Bool
	visitor, far := dialled(t)
	device, inner := dialled(t)
	out := make(chan error, 2)
	go func() { out <- r.Join(lively{far, &kept, &dead}, p.VisitorTicket()) }()
	go func() { out <- r.Join(inner, p.DeviceTicket()) }()
	done(t, "both", p.Joined())
	p.check()
	if _, err := visitor.Write([]byte("x")); err != nil || !kept.Load() {
		t.Fatal(err, kept.Load())
	}
	if _, err := io.ReadFull(device, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	p.check()
	done(t, "the end", p.Done())
	if _, err := device.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("N-10 the other half ended with %v", err)
	}
	for range 2 {
		if err := <-out; err != nil {
			t.Error(err)
		}
	}
}

// openFiles is the number of this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(names)
}

func TestChurn(t *testing.T) {
	r := New(Options{})
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for i := range 50 {
				p := expect(t, r)
				v, vd := join(t, r, p.VisitorTicket())
				d, dd := join(t, r, p.DeviceTicket())
				_, _ = v.Write([]byte("x"))
				_, _ = io.ReadFull(d, make([]byte, 1))
				if i%2 == 0 {
					p.Cut()
				}
				_ = v.Close()
				_ = d.Close()
				if err := errors.Join(<-vd, <-dd); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if w, j := r.Counts(); w != 0 || j != 0 || len(r.halves) != 0 {
		t.Fatal(w, j, len(r.halves))
	}
	await(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
	await(t, "the end of all descriptors", func() bool {
		runtime.GC() // two of them empty the pool of pipes
		return openFiles(t) <= files
	})
}

func TestIdlePairsHoldNoPipes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("pipes are used on Linux only")
	}
	r := New(Options{})
	before := openFiles(t)
	for range 50 {
		_, visitor, device := joined(t, r)
		_, _ = visitor.Write([]byte("x"))
		_, _ = io.ReadFull(device, make([]byte, 1))
	}
	await(t, "no more than the sockets", func() bool {
		runtime.GC()
		return openFiles(t)-before <= 4*50+4 // both ends of two connections, and the pool's last pipes
	})
}

func TestShutdown(t *testing.T) {
	t.Run("drains", func(t *testing.T) {
		r := New(Options{})
		_, visitor, device := joined(t, r)
		out := make(chan error, 1)
		go func() { out <- r.Shutdown(context.Background()) }()
		await(t, "refusing", func() bool {
			p, err := r.Expect()
			if err == nil {
				p.Cut()
			}
			return socketxp.CodeOf(err) == socketxp.CodeGoingAway
		})
		_, _ = visitor.Write([]byte("still"))
		if _, err := io.ReadFull(device, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		_ = visitor.Close()
		_ = device.Close()
		if err := <-out; err != nil {
			t.Fatal(err)
		}
		if err := r.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("cuts", func(t *testing.T) {
		r := New(Options{})
		_, visitor, _ := joined(t, r)
		waiting := expect(t, r)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := r.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := visitor.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		done(t, "the waiting pair's end", waiting.Done())
	})
}

func BenchmarkCopy(b *testing.B) {
	_, visitor, device := joined(b, New(Options{}))
	const chunk = 256 << 10
	b.SetBytes(chunk)
	b.ReportAllocs()
	go func() {
		buf := make([]byte, chunk)
		for {
			if _, err := visitor.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, chunk)
	for b.Loop() {
		if _, err := io.ReadFull(device, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	_, visitor, device := joined(b, New(Options{}))
	b.ReportAllocs()
	go func() { _, _ = io.Copy(struct{ io.Writer }{device}, struct{ io.Reader }{device}) }()
	buf := make([]byte, 64)
	for b.Loop() {
		if _, err := visitor.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(visitor, buf); err != nil {
			b.Fatal(err)
		}
	}
}
