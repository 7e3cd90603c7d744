package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// idleLinks is how many idle links a pool has.
func (p *Pool) idleLinks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// talk does a round trip on a new connection of the pool.
func talk(tb testing.TB, p *Pool) {
	tb.Helper()
	c := get(tb, p)
	say := []byte("are you there?")
	if _, err := c.Write(say); err != nil {
		tb.Fatal(err)
	}
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, say) {
		tb.Fatal(string(got), err)
	}
	_ = c.Close()
}

func get(tb testing.TB, p *Pool) *Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.Get(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// counted counts a pool's dials.
func counted(p *Pool) *atomic.Int64 {
	var n atomic.Int64
	dial := p.Dial
	p.Dial = func(ctx context.Context) (*Link, error) {
		n.Add(1)
		return dial(ctx)
	}
	return &n
}

func TestPoolReuses(t *testing.T) {
	p := newPool(t, newRelayed(t, nil), echoService(t))
	dials := counted(p)
	for range 50 {
		talk(t, p)
	}
	if n := dials.Load(); n > 4 { // the first, the one kept warm, and what was made while one was on its way back
		t.Fatal("50 connections, one after another, took", n, "links")
	}
}

func TestPoolWarm(t *testing.T) {
	p := newPool(t, newRelayed(t, nil), echoService(t))
	p.Warm = 3
	p.Prepare()
	await(t, "three links", func() bool { return p.idleLinks() == 3 })
	c := get(t, p)
	await(t, "a third link again", func() bool { return p.idleLinks() == 3 })
	_ = c.Close()
}

// TestPoolAfterCut: links that a gateway has cut are not handed out.
func TestPoolAfterCut(t *testing.T) {
	r := newRelayed(t, nil)
	p := newPool(t, r, echoService(t))
	for range 5 {
		talk(t, p)
		await(t, "an idle link, and no more to come", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.idle) > 0 && p.dialing == 0
		})
		r.cut()
		await(t, "no idle link", func() bool { return p.idleLinks() == 0 })
		talk(t, p)
	}
}

func TestPoolDialError(t *testing.T) {
	why := errors.New("the device is offline")
	var dials atomic.Int64
	p := &Pool{Dial: func(context.Context) (*Link, error) {
		dials.Add(1)
		return nil, why
	}}
	defer func() { _ = p.Close() }()
	for range 3 {
		if _, err := p.Get(context.Background()); !errors.Is(err, why) {
			t.Fatal(err)
		}
	}
	if n := dials.Load(); n > 3+1 { // one to keep ready, before anything has failed
		t.Fatal("3 connections took", n, "dials")
	}
}

// TestPoolBackOff: links made ahead are tried ever less often.
func TestPoolBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		p := &Pool{Dial: func(context.Context) (*Link, error) {
			at = append(at, time.Now())
			return nil, io.ErrUnexpectedEOF
		}}
		p.Prepare()
		time.Sleep(10 * time.Minute) //nolint:forbidigo // the bubble's clock
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if n := len(at); n < 12 || n > 30 {
			t.Error(n, "dials in 10 minutes")
		}
		for i := range at[1:] {
			least := min(firstBackOff<<i, lastBackOff) / 2
			if wait := at[i+1].Sub(at[i]); wait < least || wait > 2*least {
				t.Errorf("dial %d came after %v", i+1, wait)
			}
		}
	})
}

// TestPoolHotLoop: a device that refuses a link just after its handshake, as one
// does that expects another key, is not dialled without pause.
func TestPoolHotLoop(t *testing.T) {
	r, k, other := newRelayed(t, nil), newKeys(), newKeys()
	var serving sync.WaitGroup
	defer serving.Wait()
	p := &Pool{Dial: func(ctx context.Context) (*Link, error) {
		rawV, rawD := r.raw()
		serving.Go(func() { _, _ = serve(k.device, public(other.visitor), destination)(rawD) })
		return Visit(ctx, rawV, ticket, k.visitor, public(k.device), destination)
	}}
	dials := counted(p)
	p.Prepare()
	await(t, "the third dial", func() bool { return dials.Load() >= 3 })
	p.mu.Lock()
	backOff := p.backOff
	p.mu.Unlock()
	if backOff < 2*firstBackOff {
		t.Error("the back-off is only", backOff)
	}
	_ = p.Close()
}

func TestPoolExpiry(t *testing.T) {
	p := newPool(t, newRelayed(t, nil), echoService(t))
	p.Warm, p.Idle, p.IdleFor = 1, 3, 50*time.Millisecond
	var conns []*Conn
	for range 6 {
		conns = append(conns, get(t, p))
	}
	for _, c := range conns {
		_ = c.CloseWrite()
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
		if n := p.idleLinks(); n > p.Idle {
			t.Fatal(n, "idle links")
		}
	}
	await(t, "only the warm link", func() bool { return p.idleLinks() == 1 })
	talk(t, p)
}

func TestPoolContext(t *testing.T) {
	release := make(chan struct{})
	p := &Pool{Dial: func(ctx context.Context) (*Link, error) {
		<-release
		return nil, ctx.Err()
	}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Get(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(release)
	_ = p.Close()
}

func TestPoolClose(t *testing.T) {
	p := newPool(t, newRelayed(t, nil), echoService(t))
	c := get(t, p)
	await(t, "an idle link", func() bool { return p.idleLinks() == 1 })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	// The connection in use lives on, and its link ends with it.
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "x" {
		t.Fatal(string(got), err)
	}
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if !errors.Is(l.err, net.ErrClosed) {
		t.Fatal(l.err)
	}
}

// TestPoolCloseWakesWaiting: whoever waits for a link when the pool is closed is
// told so.
func TestPoolCloseWakesWaiting(t *testing.T) {
	started := make(chan struct{}, 16)
	p := &Pool{Dial: func(ctx context.Context) (*Link, error) {
		started <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	out := make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background())
		out <- err
	}()
	<-started
	_ = p.Close()
	if err := <-out; !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestPoolClosedEarly: a connection that is closed while the other end still has
// much to say leaves its link good for the next one.
func TestPoolClosedEarly(t *testing.T) {
	p := newPool(t, newRelayed(t, nil), echoService(t))
	dials := counted(p)
	for range 20 {
		c := get(t, p)
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	talk(t, p)
	if n := dials.Load(); n > 21 {
		t.Fatal(n, "links")
	}
	await(t, "idle links", func() bool { return p.idleLinks() > 1 })
}
