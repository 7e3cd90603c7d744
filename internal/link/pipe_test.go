package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"socketxp"
)

// device accepts connections on d and pipes each to dial's, as an agent does.
func serveDevice(d *Link, dial func() (net.Conn, error)) {
	defer func() { _ = d.Close() }()
	for {
		c, err := d.Accept()
		if err != nil {
			return
		}
		local, err := dial()
		if err != nil {
			_ = c.Reset(socketxp.CodeDialFailed)
			continue
		}
		_, _, _ = Pipe(local, c)
	}
}

// piped returns the outer ends of a connection through two Pipes and one link:
// the client's and the service's, and what the visitor's Pipe returns.
func piped(t testing.TB, v, d *Link) (client, service *net.TCPConn, result chan error) {
	t.Helper()
	vc, dc := open(t, v, d)
	client, localV := tcpPair(t)
	localD, service := tcpPair(t)
	result = make(chan error, 1)
	go func() { _, _, err := Pipe(localV, vc); result <- err }()
	device := make(chan struct{})
	go func() { defer close(device); _, _, _ = Pipe(localD, dc) }()
	t.Cleanup(func() { <-device })
	t.Cleanup(func() { _ = client.Close(); _ = service.Close() })
	return client, service, result
}

func TestPipeHalfClose(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	for range 3 {
		client, service, result := piped(t, v, d)
		_, _ = client.Write([]byte("question"))
		_ = client.CloseWrite()
		if got, err := io.ReadAll(service); err != nil || string(got) != "question" {
			t.Fatal(string(got), err)
		}
		_, _ = service.Write([]byte("answer"))
		_ = service.CloseWrite()
		if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
			t.Fatal(string(got), err)
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		await(t, "the device's end is idle", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.current == nil
		})
	}
}

func TestPipeReset(t *testing.T) {
	for _, who := range []string{"client", "service"} {
		for _, after := range []string{"both are silent", "the other end has ended", "its own end"} {
			t.Run(who+" resets while "+after, func(t *testing.T) {
				v, d := newRelayed(t, nil).links(newKeys())
				client, service, result := piped(t, v, d)
				one, other := client, service
				if who == "service" {
					one, other = service, client
				}
				_, _ = one.Write([]byte("x"))
				if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				switch after {
				case "the other end has ended":
					_ = other.CloseWrite()
					if _, err := one.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
						t.Fatal(err)
					}
				case "its own end":
					_ = one.CloseWrite()
					if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
						t.Fatal(err)
					}
				}
				_ = one.SetLinger(0)
				_ = one.Close()
				within(t, "the reset", func() {
					var err error
					for err == nil { // after one's FIN only a write finds out, as without a link
						if after == "its own end" {
							_, err = other.Write(make([]byte, 1))
						} else {
							_, err = other.Read(make([]byte, 1))
						}
					}
					if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
						t.Errorf("the other end sees %v", err)
					}
					if <-result == nil {
						t.Error("Pipe returned no error")
					}
				})
			})
		}
	}
}

func TestPipeCut(t *testing.T) {
	for _, state := range []string{"both talk", "client has ended", "service has ended"} {
		t.Run(state, func(t *testing.T) {
			r := newRelayed(t, nil)
			v, d := r.links(newKeys())
			client, service, result := piped(t, v, d)
			_, _ = client.Write([]byte("x"))
			if _, err := io.ReadFull(service, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			switch state {
			case "client has ended":
				_ = client.CloseWrite()
				_, _ = service.Read(make([]byte, 1))
			case "service has ended":
				_ = service.CloseWrite()
				_, _ = client.Read(make([]byte, 1))
			}
			r.cut()
			within(t, "the cut", func() {
				if <-result == nil {
					t.Error("Pipe returned no error")
				}
				for _, c := range []*net.TCPConn{client, service} {
					_, err := c.Read(make([]byte, 1))
					if errors.Is(err, io.EOF) { // its peer ended in peace before
						for err = nil; err == nil; {
							_, err = c.Write(make([]byte, 1))
						}
					}
					if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
						t.Errorf("an outer end sees %v", err)
					}
				}
			})
		})
	}
}

func TestPipeBothWaysAtOnce(t *testing.T) {
	size := int64(100 << 20)
	if testing.Short() {
		size = 10 << 20
	}
	v, d := newRelayed(t, nil).links(newKeys())
	client, service, result := piped(t, v, d)
	sum := func(w io.WriteCloser) func() [32]byte {
		h := sha256.New()
		out := make(chan [32]byte, 1)
		go func() {
			_, _ = io.CopyN(io.MultiWriter(w, h), rand.Reader, size)
			_ = w.(*net.TCPConn).CloseWrite()
			out <- [32]byte(h.Sum(nil))
		}()
		return func() [32]byte { return <-out }
	}
	check := func(r io.Reader, want func() [32]byte) {
		h := sha256.New()
		if n, err := io.Copy(h, r); err != nil || n != size {
			t.Errorf("%d bytes: %v", n, err)
		}
		if [32]byte(h.Sum(nil)) != want() {
			t.Error("wrong bytes")
		}
	}
	sent, answered := sum(client), sum(service)
	var both sync.WaitGroup
	both.Go(func() { check(service, sent) })
	both.Go(func() { check(client, answered) })
	both.Wait()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

// newPool returns a pool over r whose device pipes to dial.
func newPool(t testing.TB, r *relayed, dial func() (net.Conn, error)) *Pool {
	k := newKeys()
	var serving sync.WaitGroup
	p := &Pool{Dial: func(ctx context.Context) (*Link, error) {
		rawV, rawD := r.raw()
		serving.Go(func() {
			d, err := Serve(context.Background(), rawD, ticket, k.device, public(k.visitor), destination)
			if err == nil {
				serveDevice(d, dial)
			}
		})
		return Visit(ctx, rawV, ticket, k.visitor, public(k.device), destination)
	}}
	t.Cleanup(func() {
		_ = p.Close()
		r.cut()
		serving.Wait()
	})
	return p
}

// echoService returns what dials a service that answers with what it is told.
func echoService(tb testing.TB) func() (net.Conn, error) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
}

func TestPoolManyConnections(t *testing.T) {
	p := newPool(t, newRelayed(t, nil), echoService(t))
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for j := range 3 {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				c, err := p.Get(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				text := make([]byte, 100_000+1000*i+j)
				_, _ = rand.Read(text)
				go func() {
					_, _ = c.Write(text)
					_ = c.CloseWrite()
				}()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%d bytes of %d: %v", len(got), len(text), err)
				}
				_ = c.Close()
			}
		})
	}
	all.Wait()
}

// faultyConn panics when it is read.
type faultyConn struct{ *net.TCPConn }

func (faultyConn) Read([]byte) (int, error) { panic("no way to read") }

// P-22: a panic of either direction is the caller's to outlive, and both ends of the
// connection hear that it is over.
func TestP22PanicInPipe(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	vc, dc := open(t, v, d)
	outer, local := tcpPair(t)
	defer func() { _ = outer.Close() }()
	lost := make(chan any, 1)
	go func() {
		defer func() { lost <- recover() }()
		_, _, _ = Pipe(faultyConn{local}, vc)
	}()
	if v := <-lost; v != "no way to read" {
		t.Errorf("got %v", v)
	}
	if _, err := outer.Read(make([]byte, 1)); err == nil {
		t.Error("the local connection is still open")
	}
	if _, err := dc.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the other end of the link was told of an orderly end: %v", err)
	}
	_ = dc.Close()
}

// recorder is a local connection that takes what it gets, and looks around with each
// write.
type recorder struct {
	writes, bytes int
	look          func()
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writes++
	r.bytes += len(b)
	r.look()
	return len(b), nil
}

// TestPipeGathers has many frames at hand: they are given on in few writes, and what
// ends the connection is not heard before all of them are.
func TestPipeGathers(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	vc, dc := open(t, v, d)
	if err := vc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := dc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatal(n, err)
	}
	const frames, size = 64, 10_000
	for range frames {
		if _, err := dc.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := dc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	local := &recorder{look: func() {
		if vc.isOver() {
			t.Error("the link is free for another connection while this one's last bytes are not given on")
		}
	}}
	var err error
	for err == nil {
		_, err = vc.copyOnce(local)
	}
	if !errors.Is(err, io.EOF) || local.bytes != frames*size {
		t.Fatalf("%d bytes, then %v", local.bytes, err)
	}
	if local.writes > frames/4*3 { // the first ones are taken as they come
		t.Errorf("%d frames were given on in %d writes", frames, local.writes)
	}
}
