package link

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// firstBackOff doubles up to lastBackOff while links can't be made ahead.
	firstBackOff = time.Second
	lastBackOff  = time.Minute
)

// Pool keeps the idle links of one visit to one tunnel and makes new ones. Its
// fields must not be changed after the first call of a method. It is safe for
// concurrent use.
type Pool struct {
	// Dial makes a link.
	Dial func(ctx context.Context) (*Link, error)
	// Warm is how many idle links are kept ready ahead (default 1); Idle the most
	// idle ones kept after use (default 16); IdleFor how long (default 60 s).
	Warm, Idle int
	IdleFor    time.Duration

	mu      sync.Mutex // guards the following
	started bool
	closed  bool
	ctx     context.Context // ends with Close; what dials get
	cancel  context.CancelFunc
	all     sync.WaitGroup // dials and watchers
	idle    []*idleLink    // the one that came last is used first
	waiting []chan got     // Gets without a link, in the order they came
	dialing int
	backOff time.Duration
	retryAt time.Time   // no links are made ahead before
	retry   *time.Timer // fills at retryAt
	expiry  *time.Timer // closes links that were idle for too long
}

// got is what a waiting Get gets.
type got struct {
	link *Link
	err  error
}

// idleLink is a link that is watched until it is used.
type idleLink struct {
	link    *Link
	since   time.Time
	watched chan error // why the link is no good, or nil
}

// start sets the pool up. The caller holds mu.
func (p *Pool) start() {
	if p.started {
		return
	}
	p.started = true
	if p.Warm == 0 {
		p.Warm = 1
	}
	if p.Idle == 0 {
		p.Idle = 16
	}
	if p.IdleFor == 0 {
		p.IdleFor = time.Minute
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
}

// Prepare makes the links that are kept ready ahead, in the background; without
// it the first Get does.
func (p *Pool) Prepare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start()
	p.fill()
}

// Get returns a new connection on an idle link, or on a new one. The error is
// ctx's, net.ErrClosed after Close, or that of a Dial.
func (p *Pool) Get(ctx context.Context) (*Conn, error) {
	// A link that was cut a moment ago has carried nothing of this connection yet: as
	// many idle ones are tried as there are, and two fresh ones.
	for failed := 0; ; {
		l, fresh, err := p.link(ctx)
		if err != nil {
			return nil, err
		}
		c, err := l.Open()
		if err == nil {
			p.mu.Lock()
			p.backOff, p.retryAt = 0, time.Time{}
			p.fill()
			p.mu.Unlock()
			return c, nil
		}
		_ = l.Close()
		if fresh {
			failed++
		}
		if failed == 2 {
			return nil, err
		}
	}
}

// link returns an idle link, or waits for a fresh one.
func (p *Pool) link(ctx context.Context) (_ *Link, fresh bool, err error) {
	p.mu.Lock()
	p.start()
	for len(p.idle) > 0 {
		i := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		i.link.wake()
		if <-i.watched == nil {
			return i.link, false, nil
		}
		p.mu.Lock()
	}
	if p.closed {
		p.mu.Unlock()
		return nil, false, net.ErrClosed
	}
	w := make(chan got, 1)
	p.waiting = append(p.waiting, w)
	p.fill()
	p.mu.Unlock()

	select {
	case g := <-w:
		return g.link, true, g.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(other chan got) bool { return other == w })
	p.mu.Unlock()
	select {
	case g := <-w: // it came meanwhile
		if g.link != nil {
			p.put(g.link)
		}
	default:
	}
	return nil, false, ctx.Err()
}

// fill dials as many links as are wanted: one for each Get that waits, and those
// kept ready ahead. The caller holds mu.
func (p *Pool) fill() {
	if p.closed {
		return
	}
	want := len(p.waiting)
	if !time.Now().Before(p.retryAt) {
		want += max(p.Warm-len(p.idle), 0)
	}
	for ; p.dialing < want; p.dialing++ {
		p.all.Go(p.dial)
	}
}

func (p *Pool) dial() {
	l, err := p.Dial(p.ctx)
	p.mu.Lock()
	p.dialing--
	if err == nil {
		p.mu.Unlock()
		l.mu.Lock()
		l.rested = func() { p.put(l) }
		l.mu.Unlock()
		p.put(l)
		return
	}
	defer p.mu.Unlock()
	if len(p.waiting) > 0 {
		p.waiting[0] <- got{err: err}
		p.waiting = p.waiting[1:]
	}
	p.slowDown()
}

// slowDown makes no link ahead for a while. A Get dials nevertheless. The caller
// holds mu.
func (p *Pool) slowDown() {
	if p.closed {
		return
	}
	p.backOff = min(max(2*p.backOff, firstBackOff), lastBackOff)
	wait := p.backOff/2 + rand.N(p.backOff/2) //nolint:gosec // jitter is no secret
	p.retryAt = time.Now().Add(wait)
	if p.retry != nil {
		p.retry.Stop()
	}
	p.retry = time.AfterFunc(wait, p.Prepare)
}

// put gives an idle link to the Get that has waited longest, or keeps it.
func (p *Pool) put(l *Link) {
	if !p.keep(l) {
		_ = l.Close()
	}
}

func (p *Pool) keep(l *Link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return false
	case len(p.waiting) > 0:
		p.waiting[0] <- got{link: l}
		p.waiting = p.waiting[1:]
		return true
	case len(p.idle) >= max(p.Warm, p.Idle):
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.startWatch()
	i := &idleLink{link: l, since: time.Now(), watched: make(chan error, 1)}
	p.idle = append(p.idle, i)
	p.all.Go(func() { p.watch(i) })
	p.planExpiry()
	return true
}

// watch notices that an idle link ends.
func (p *Pool) watch(i *idleLink) {
	err := i.link.watch()
	p.mu.Lock()
	at := slices.Index(p.idle, i)
	if at < 0 { // it was taken, by whom err concerns
		p.mu.Unlock()
		i.watched <- err
		return
	}
	p.idle = slices.Delete(p.idle, at, at+1)
	// Links that never live for long are made ahead ever less often: whoever ends
	// them (a device that refuses our key, say) would go on doing so.
	if time.Since(i.since) > lastBackOff {
		p.backOff = 0
	}
	p.slowDown()
	p.mu.Unlock()
	_ = i.link.Close() // also one on which the device spoke out of turn
}

// planExpiry sets the timer for the link that was idle for longest. The caller
// holds mu.
func (p *Pool) planExpiry() {
	if p.closed || len(p.idle) <= p.Warm {
		return
	}
	wait := time.Until(p.idle[0].since.Add(p.IdleFor))
	if p.expiry == nil {
		p.expiry = time.AfterFunc(wait, p.expire)
	} else {
		p.expiry.Reset(wait)
	}
}

// expire closes the links that were idle for too long, but for the warm ones.
func (p *Pool) expire() {
	p.mu.Lock()
	var old []*idleLink
	for len(p.idle) > p.Warm && time.Since(p.idle[0].since) >= p.IdleFor {
		old = append(old, p.idle[0])
		p.idle = p.idle[1:]
	}
	p.planExpiry()
	p.mu.Unlock()
	for _, i := range old {
		_ = i.link.Close()
	}
}

// Close closes the idle links and refuses further ones. Connections in use live on
// and their links are closed after them.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.start()
	p.closed = true
	p.cancel()
	for _, timer := range []*time.Timer{p.retry, p.expiry} {
		if timer != nil {
			timer.Stop()
		}
	}
	idle, waiting := p.idle, p.waiting
	p.idle, p.waiting = nil, nil
	p.mu.Unlock()
	for _, w := range waiting {
		w <- got{err: net.ErrClosed}
	}
	for _, i := range idle {
		_ = i.link.Close()
	}
	p.all.Wait()
	return nil
}
