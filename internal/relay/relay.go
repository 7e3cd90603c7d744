// Package relay pairs two raw connections by their tickets and copies between
// them, in the kernel where it can. It sees only what two strangers say to each
// other in TLS. DESIGN.md says how.
package relay

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"socketxp"
	"socketxp/internal/link"
)

// Options configure a Relay. Zero fields take the defaults.
type Options struct {
	// Wait is how long a pair waits for its halves (default 10 s).
	Wait time.Duration
	// MaxPairs is the most pairs, waiting and joined (default 65536).
	MaxPairs int
	Log      *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Wait == 0 {
		o.Wait = 10 * time.Second
	}
	if o.MaxPairs == 0 {
		o.MaxPairs = 65536
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Relay pairs connections. It is safe for concurrent use.
type Relay struct {
	options Options
	// Directions that were begun, by how their bytes move.
	spliced, copied atomic.Int64

	// mu guards the following and the state of every Pair. Nobody holds it while
	// bytes move or a connection is closed.
	mu      sync.Mutex
	pairs   map[*Pair]struct{}
	halves  map[ticketHash]half // those that have not come yet
	joined  int
	closing bool
	empty   chan struct{} // closed when closing and no pair is left
}

// ticketHash is the SHA-256 of a ticket. A map is looked up in time that tells a
// little of how near a guess came to a key; of a hash that tells nothing.
type ticketHash [sha256.Size]byte

// half is one of the two places of a pair.
type half struct {
	pair *Pair
	side side
}

// New returns a Relay.
func New(o Options) *Relay {
	return &Relay{
		options: o.withDefaults(),
		pairs:   make(map[*Pair]struct{}),
		halves:  make(map[ticketHash]half),
		empty:   make(chan struct{}),
	}
}

// Expect makes a pair of fresh tickets. Nothing else than one connection with
// each of them, within Wait, can join it. CodeTooManyLinks if there are
// MaxPairs, CodeGoingAway after Shutdown.
func (r *Relay) Expect() (*Pair, error) {
	p := &Pair{relay: r, joined: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{})}
	for i := range p.tickets {
		p.tickets[i] = make([]byte, socketxp.LinkTicketSize)
		_, _ = rand.Read(p.tickets[i]) // never fails: it ends the program instead
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing:
		return nil, socketxp.Errorf(socketxp.CodeGoingAway, "the gateway is shutting down")
	case len(r.pairs) >= r.options.MaxPairs:
		return nil, socketxp.Errorf(socketxp.CodeTooManyLinks, "the gateway carries no more links").WithHint("try again later")
	}
	r.pairs[p] = struct{}{}
	for i, ticket := range p.tickets {
		r.halves[sha256.Sum256(ticket)] = half{p, side(i)}
	}
	p.timer = time.AfterFunc(r.options.Wait, p.expire)
	return p, nil
}

// Join brings a connection whose preface held ticket, and blocks until its pair
// is over. The Relay owns conn. An unknown or used ticket is CodeNotFound, and
// conn is closed; CodeUnavailable if the other half did not come.
func (r *Relay) Join(conn net.Conn, ticket []byte) error {
	h, ok := r.take(conn, ticket)
	if !ok {
		_ = conn.Close()
		return socketxp.Errorf(socketxp.CodeNotFound, "the link's ticket is unknown, used or expired")
	}
	p := h.pair
	select {
	case <-p.joined:
	case <-p.done:
		if p.expired { // read after done: see Pair
			return socketxp.Errorf(socketxp.CodeUnavailable, "the other half of the link did not come")
		}
		return nil
	}
	p.copy(h.side)
	<-p.done
	return nil
}

// take uses a ticket up and puts conn in its place.
func (r *Relay) take(conn net.Conn, ticket []byte) (half, bool) {
	link.KeepAlive(conn)
	hash := ticketHash(sha256.Sum256(ticket))
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.halves[hash]
	if !ok {
		return half{}, false
	}
	delete(r.halves, hash)
	p := h.pair
	p.conns[h.side] = conn
	if p.conns[h.side.other()] != nil {
		p.copying = 2
		r.joined++
		p.timer.Stop()
		p.timer = time.AfterFunc(checkEvery, p.check)
		close(p.joined)
	}
	return h, true
}

// Counts returns the number of pairs waiting and joined, for the metrics.
func (r *Relay) Counts() (waiting, joined int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pairs) - r.joined, r.joined
}

// Directions returns how many directions of joined pairs were begun: those whose bytes
// stay in the kernel, and those that go through this process.
func (r *Relay) Directions() (spliced, copied int64) { return r.spliced.Load(), r.copied.Load() }

// Shutdown refuses new pairs, waits for the open ones until ctx is done, and
// then cuts them. It returns ctx's error if it had to.
func (r *Relay) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	if !r.closing {
		r.closing = true
		if len(r.pairs) == 0 {
			close(r.empty)
		}
	}
	r.mu.Unlock()
	select {
	case <-r.empty:
		return nil
	case <-ctx.Done():
	}

	r.mu.Lock()
	open := make([]*Pair, 0, len(r.pairs))
	for p := range r.pairs {
		open = append(open, p)
	}
	r.mu.Unlock()
	for _, p := range open {
		p.Cut()
	}
	<-r.empty
	return ctx.Err()
}
