package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// acceptBeat is how often the accepting goroutine shows that it is alive while
	// nobody comes, and acceptLate how late it may be, on a busy machine.
	acceptBeat = 2 * time.Second
	acceptLate = 20 * time.Second
)

// beat says that the accepting goroutine is alive, and has it woken up for the next
// beat if nobody comes.
func (g *Gateway) beat() {
	now := time.Now()
	g.accepting.Store(now.UnixNano())
	_ = g.listener.SetDeadline(now.Add(acceptBeat)) // it fails if the listener is closed, which Accept says
}

// Health returns nil if the gateway takes connections and its database answers.
// Otherwise curable says whether another start may help: an external database that
// is away comes back by itself, and what is open meanwhile need not be cut.
func (g *Gateway) Health(ctx context.Context) (curable bool, err error) {
	if silent := time.Since(time.Unix(0, g.accepting.Load())); silent > acceptLate {
		return true, fmt.Errorf("no connection was or could be accepted for %s", silent.Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, g.limits.storeWithin)
	defer cancel()
	answered := make(chan error, 1)
	// Not waited for: what does not heed its context is just what is to be found.
	go func() { answered <- g.store.Ping(ctx) }()
	select {
	case err = <-answered:
	case <-ctx.Done():
		select {
		case err = <-answered:
		case <-time.After(time.Second):
			return true, errors.New("the database does not return from a question")
		}
	}
	if err != nil {
		return g.cfg.Database == "", fmt.Errorf("the database does not answer: %w", err)
	}
	return false, nil
}
