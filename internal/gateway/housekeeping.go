package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"socketxp"
)

// startHousekeeping starts what the gateway does again and again until ctx is
// done.
func (g *Gateway) startHousekeeping(ctx context.Context) {
	g.every(ctx, g.limits.clockEvery, g.raiseClock)
	g.every(ctx, g.limits.touchEvery, g.presence.touch)
	g.every(ctx, g.limits.touchEvery, g.touchTypists)
	g.every(ctx, g.limits.newsEvery, g.presence.tell)
	g.every(ctx, g.limits.keyDueEvery, g.askForKeys)
	g.every(ctx, g.limits.countEvery, g.writeSessions)
	g.every(ctx, g.limits.pruneEvery, g.prune)
	g.every(ctx, g.limits.keysEvery, g.refreshKeys)
	g.every(ctx, g.limits.certEvery, g.heedKeyChange)
	g.every(ctx, g.limits.calmEvery, g.memory.look)
	g.all.Go(func() { g.announceKeys(ctx) })
}

// every calls do again and again, an interval after it last returned.
func (g *Gateway) every(ctx context.Context, interval time.Duration, do func(context.Context)) {
	g.all.Go(func() {
		for wait(ctx, interval) {
			g.guard("round of housekeeping", func() { do(ctx) })
		}
	})
}

// raiseClock keeps how late it is, so that a clock that is set back while the
// gateway is down brings no expired token back to life.
func (g *Gateway) raiseClock(ctx context.Context) {
	ctx, cancel := g.asked(ctx)
	defer cancel()
	now := g.now()
	if _, err := g.store.RaiseClock(ctx, now); err != nil {
		g.storeFailed("the clock's high-water mark was not stored", err)
	}
	if behind := g.clock.behind(); behind > clockTolerance {
		g.log.Warn("the machine's clock was set back: until it catches up, time stands still for expiries", "behind", behind.Round(time.Second))
	}
}

// clockTolerance is how far the clock may be set back without a word: NTP makes
// corrections of this size.
const clockTolerance = 5 * time.Second

func (g *Gateway) prune(ctx context.Context) {
	// Not asked: deleting a month's worth of rows may take longer than a question.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := g.store.Prune(ctx, g.now()); err != nil && ctx.Err() == nil {
		g.storeFailed("the database was not pruned", err)
	}
}

// writeSessions writes the counters of open sessions, and the ends that the
// database would not take before.
func (g *Gateway) writeSessions(ctx context.Context) {
	for _, e := range g.unended.take() {
		g.endSession(e.session, e.entry)
	}
	for _, thing := range g.live.all() {
		t, ok := thing.(*visit)
		if !ok {
			continue
		}
		if links, up, down, changed := t.counters(); changed {
			g.countSession(ctx, t.session, links, up, down)
		}
	}
}

func (g *Gateway) countSession(ctx context.Context, s socketxp.Session, links, up, down int64) {
	ctx, cancel := g.asked(ctx)
	defer cancel()
	if err := g.store.CountSession(ctx, s.AccountID, s.ID, links, up, down); err != nil {
		g.storeFailed("a session's counters were not stored", err)
	}
}

// endSession writes the end of a session. If the database can't take it now it is
// tried again later; a gateway that dies before finds the session at its next
// start.
func (g *Gateway) endSession(s socketxp.Session, entry socketxp.AuditEntry) {
	ctx, cancel := g.asked(context.Background())
	defer cancel()
	switch err := g.store.EndSession(ctx, s, entry); {
	case err == nil:
	case errors.Is(err, socketxp.ErrNotFound): // pruned, or its account is gone
		return
	default:
		g.storeFailed("the end of a session was not stored, and is tried again", err)
		if !g.unended.put(unendedSession{s, entry}) {
			g.log.Error("the end of a session is lost until the next start", "session", s.ID)
		}
		return
	}
	g.publishEvent(ctx, socketxp.Event{
		AccountID: s.AccountID, Type: socketxp.EventSessionEnded, DeviceID: s.DeviceID, DeviceName: s.DeviceName,
		ObjectID: s.ID, Message: "a session with " + s.DeviceName + " ended: " + s.Destination,
	})
}

// unended are sessions whose end is still to be written.
type unended struct {
	mu   sync.Mutex // guards the following
	list []unendedSession
}

type unendedSession struct {
	session socketxp.Session
	entry   socketxp.AuditEntry
}

// maxUnended bounds the memory of unended: about 5 MiB.
const maxUnended = 10_000

func (u *unended) put(s unendedSession) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) >= maxUnended {
		return false
	}
	u.list = append(u.list, s)
	return true
}

func (u *unended) take() []unendedSession {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := u.list
	u.list = nil
	return list
}

// lastWords writes what only the end of the gateway makes final.
func (g *Gateway) lastWords(ctx context.Context) {
	g.writeSessions(ctx)
	g.presence.touch(ctx)
	g.raiseClock(ctx)
	g.log.Info("the gateway has ended")
}
