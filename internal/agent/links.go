package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"sync"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
)

// A device serves so many links at a time, by its memory: a link holds half a MiB while
// bytes flow both ways, and a device has other things to do.
const (
	fewestLinks   = 256
	mostLinks     = 2048
	memoryPerLink = 2 << 20
)

// maxLinks returns how many links a device with so much memory serves at a time; 0
// stands for a device that does not say.
func maxLinks(memory uint64) int {
	return int(min(max(memory/memoryPerLink, fewestLinks), mostLinks))
}

// links serves the device's ends of links. The gateway's word is needed for a link
// but does not suffice: what is opened is only what the device itself publishes.
type links struct {
	device  *device
	resolve resolver
	serving sync.WaitGroup
	// max is how many links there may be. One session may have three quarters of them:
	// no visitor takes the whole device.
	max int

	mu        sync.Mutex // guards the following
	total     int
	bySession map[string]int
}

func newLinks(d *device) *links {
	return &links{device: d, resolve: net.DefaultResolver, max: maxLinks(memorySize()), bySession: make(map[string]int)}
}

// wait returns when all links are over; nothing may be taken any more.
func (l *links) wait() { l.serving.Wait() }

// take answers an offer: by dialling the link door, or by OfferRefused. What is
// refused on the spot is answered before the next message is read, so that a flood
// of offers slows down its sender alone.
func (l *links) take(ctx context.Context, conn *control.Conn, o control.Offer) {
	refuse := func(code socketxp.Code, message string) {
		l.device.log.Info("an offer was refused", "destination", o.Destination, "session", o.SessionID, "reason", message)
		// An error closes the channel, and whoever receives on it sees that.
		_ = conn.Send(ctx, control.OfferRefused{Ticket: o.Ticket, Code: code, Message: message})
	}
	t := l.device.tunnels.find(o.Destination)
	if t == nil {
		refuse(socketxp.CodeNotPublished, "this device doesn't publish "+o.Destination)
		return
	}
	if !l.enter(o.SessionID) {
		refuse(socketxp.CodeTooManyLinks, "this device serves no more links at a time")
		return
	}
	l.serving.Go(func() {
		defer l.leave(o.SessionID)
		err := errFault
		guard(l.device.log, "link", func() { err = l.serve(t, o) })
		var failed *dialDoorError
		switch {
		case errors.As(err, &failed):
			refuse(socketxp.CodeUnavailable, "this device can't reach the gateway's link door")
		case err != nil:
			l.device.log.Info("a link has ended", "destination", o.Destination, "session", o.SessionID, "err", err)
		}
	})
}

// enter takes a place for one more link of a session.
func (l *links) enter(session string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.bySession[session] >= l.max*3/4 {
		return false
	}
	l.total++
	l.bySession[session]++
	return true
}

func (l *links) leave(session string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.bySession[session]--; l.bySession[session] == 0 {
		delete(l.bySession, session)
	}
}

// dialDoorError says that the gateway's port could not be reached.
type dialDoorError struct{ error }

// serve makes the link that was offered and serves the connections on it until it
// is over. It lives on when the control channel drops; it ends with the tunnel.
func (l *links) serve(t *publication, o control.Offer) error {
	raw, err := l.device.gateway.link(t.ctx)
	if err != nil {
		return &dialDoorError{err}
	}
	end, err := link.Serve(t.ctx, raw, o.Ticket, l.device.keyNow().Key, ed25519.PublicKey(o.VisitorKey), o.Destination)
	if err != nil {
		l.device.gateway.ways.doubt() // it may have been the way
		return err
	}
	defer func() { _ = end.Close() }()
	stop := context.AfterFunc(t.ctx, func() { _ = end.Close() })
	defer stop()
	l.device.tunnels.count(t, 1)
	defer l.device.tunnels.count(t, -1)
	l.device.log.Info("a link is open", "destination", o.Destination, "session", o.SessionID)
	for {
		conn, err := end.Accept()
		switch {
		case errors.Is(err, io.EOF) || t.ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		l.connect(t, conn)
	}
}

// connect serves one connection.
func (l *links) connect(t *publication, conn *link.Conn) {
	if t.SSH {
		_ = t.ssh.ServeConn(t.ctx, conn) // logs by itself
		return
	}
	local, err := dialDestination(t.ctx, l.resolve, t.Destination)
	if err != nil {
		l.device.log.Info("a destination could not be reached", "destination", t.Destination.String(), "err", err)
		_ = conn.Reset(socketxp.CodeDialFailed)
		return
	}
	up, down, err := link.Pipe(local, conn)
	l.device.log.Debug("a connection has ended", "destination", t.Destination.String(), "sent", up, "received", down, "err", err)
}
