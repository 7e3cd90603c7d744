package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/link"
)

const (
	// maxLocalPeers is how many programs may be connected to a local port at a time;
	// the gateway allows fewer links.
	maxLocalPeers = 1024
	// grantWithin is how long a new connection waits for a grant when there is none
	// just now: a gateway's restart takes a few seconds.
	grantWithin = 10 * time.Second
)

// VisitOptions configure an agent in slave mode.
type VisitOptions struct {
	Peer
	Local LocalPort
	// Patient has trouble that passes (a device that is offline, say) told by Problem
	// and tried again also before the first grant.
	Patient bool
	// Listening is called once, when the port is bound and the gateway has granted
	// it, and Granted each time anew that it has. Dialing is called at the first connection. Problem is called when a
	// connection could not be made, and when the grant is gone for now and will be
	// asked for again after wait. They may be called concurrently; nil means nothing.
	Listening func(url string)
	Granted   func()
	Dialing   func(deviceID, deviceName string, port int)
	Problem   func(err error, wait time.Duration)
}

// Visit opens a local port that leads to a device's tunnel, until ctx ends, which
// is no error. What goes wrong before the first grant is an error at once: a device
// that is offline, too. After it the agent goes on through trouble that passes, and
// ends when the gateway has ended the access.
func Visit(ctx context.Context, o VisitOptions) error {
	visitor, err := newVisitor(o.Peer)
	if err != nil {
		return err
	}
	o.Peer = visitor.Peer
	listeners, port, err := o.Local.listen(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	v := &slave{
		options: o, visitor: visitor, listeners: listeners, port: port, ctx: ctx,
		turned: make(chan struct{}), kicked: make(chan struct{}, 1), peers: make(chan struct{}, maxLocalPeers),
	}
	visitor.hosts = sshHosts(port)
	visitor.warn = func(err error) { v.problem(err, 0) }
	err = v.stayGranted()
	cancel()
	closeListeners(listeners)
	v.running.Wait()
	return err
}

// slave is a local port that leads to a tunnel.
type slave struct {
	options   VisitOptions
	listeners []net.Listener
	port      int
	ctx       context.Context // ends with the agent
	running   sync.WaitGroup
	peers     chan struct{} // a place for each program that is connected
	first     sync.Once     // connection
	kicked    chan struct{} // somebody would like a grant

	// Only stayGranted uses these.
	visitor *visitor
	granted bool // there was a grant

	mu    sync.Mutex // guards the following
	grant *pooled    // nil while there is none
	// turned is closed, and replaced, when grant changes.
	turned chan struct{}
}

// pooled is a grant with its links, which are used again and again.
type pooled struct {
	*grant
	pool *link.Pool
}

// stayGranted holds a grant until the agent ends.
func (v *slave) stayGranted() error {
	var tries backoff
	var renewed time.Time
	for {
		started := time.Now()
		err := v.visit()
		if v.ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		// A token that has just been got and has run out is the end.
		if socketxp.CodeOf(err) == socketxp.CodeTokenExpired && v.visitor.Renew != nil && time.Since(renewed) > firstBound {
			renewed = time.Now()
			if err = v.renew(); err == nil {
				continue
			}
		}
		if !v.granted && !v.options.Patient || !passes(err) {
			return err
		}
		wait, sooner := tries.after(err, time.Since(started))
		if errors.As(err, new(*goAway)) {
			wait = 0 // it was waited for while the grant still held
		} else {
			v.options.Log.Debug("no grant", "err", err, "retry_in", wait.String())
			v.problem(err, wait)
		}
		// A connection that wants a grant may shorten the wait, but not to nothing.
		sleep(v.ctx, min(wait, firstBound))
		select {
		case <-v.kicked: // from before
		default:
		}
		pause(v.ctx, max(0, wait-firstBound), sooner, v.kicked)
	}
}

// renew gets another token. What is open was cut when the old one ran out.
func (v *slave) renew() error {
	token, err := v.visitor.Renew(v.ctx)
	if err == nil {
		v.visitor.Token = token
	}
	return err
}

// passes reports whether the grant that was lost may be had again.
func passes(err error) bool {
	var no *RefusedError
	switch {
	case errors.As(err, new(*goAway)), errors.As(err, new(*UnreachableError)):
		return true
	case errors.As(err, &no):
		// A device that has just started may not have published all of its tunnels yet.
		return no.Passing() || no.reason.Code == socketxp.CodeNotPublished
	}
	return false
}

func (v *slave) problem(err error, wait time.Duration) {
	if v.options.Problem != nil {
		v.options.Problem(err, wait)
	}
}

// visit gets a grant and serves it until it is over. It never returns nil.
func (v *slave) visit() error {
	g, _, err := v.visitor.open(v.ctx, false)
	if err != nil {
		return err
	}
	var improving sync.WaitGroup
	defer improving.Wait()
	defer g.close()
	// A grant does not outlive its channel, so this one is not moved to a better door;
	// the next one goes through it.
	improving.Go(func() { v.visitor.gateway.improve(g.ctx, v.visitor.key, nil) })
	p := &pooled{g, &link.Pool{Dial: g.dial}}
	defer func() { _ = p.pool.Close() }()
	p.pool.Prepare() // the first connection finds a link as all others do
	v.use(p)
	defer v.use(nil)
	if v.options.Granted != nil {
		v.options.Granted()
	}
	if !v.granted {
		v.granted = true
		if v.options.Listening != nil {
			v.options.Listening(v.options.Local.url(v.port))
		}
		for _, l := range v.listeners {
			v.running.Go(func() { v.accept(l) })
		}
	}
	return g.serve()
}

// use makes g the grant of new connections; nil takes it away.
func (v *slave) use(g *pooled) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.grant = g
	close(v.turned)
	v.turned = make(chan struct{})
}

// awaitGrant returns the grant, waiting a little for one if there is none.
func (v *slave) awaitGrant() (*pooled, error) {
	limit := time.NewTimer(grantWithin)
	defer limit.Stop()
	for {
		v.mu.Lock()
		g, turned := v.grant, v.turned
		v.mu.Unlock()
		if g != nil {
			return g, nil
		}
		select {
		case v.kicked <- struct{}{}:
		default:
		}
		select {
		case <-turned:
		case <-v.ctx.Done():
			return nil, v.ctx.Err()
		case <-limit.C:
			return nil, socketxp.Errorf(socketxp.CodeUnavailable, "there is no access to the device just now")
		}
	}
}

// accept takes the connections to the local port.
func (v *slave) accept(l net.Listener) {
	for {
		local, err := l.Accept()
		if err != nil {
			if v.ctx.Err() != nil {
				return
			}
			v.options.Log.Warn("a connection to the local port can't be accepted", "err", err)
			if !sleep(v.ctx, 100*time.Millisecond) { // out of descriptors, as a rule
				return
			}
			continue
		}
		select {
		case v.peers <- struct{}{}:
		default:
			reset(local)
			continue
		}
		v.running.Go(func() {
			defer func() { <-v.peers }()
			if !guard(v.options.Log, "connection", func() { v.serve(local) }) {
				reset(local)
			}
		})
	}
}

// serve carries one local connection. If that can't be done it is reset, as by a
// port where nobody listens.
func (v *slave) serve(local net.Conn) {
	conn, err := v.connect()
	if err != nil {
		reset(local)
		if v.ctx.Err() == nil {
			v.problem(err, 0)
		}
		return
	}
	stop := context.AfterFunc(v.ctx, func() {
		reset(local)
		_ = conn.Reset("")
	})
	defer stop()
	up, down, err := link.Pipe(local, conn)
	v.options.Log.Debug("a connection has ended", "sent", up, "received", down, "err", err)
	if socketxp.CodeOf(err) == socketxp.CodeDialFailed {
		v.problem(err, 0)
	}
}

// connect returns a connection to the device's tunnel.
func (v *slave) connect() (*link.Conn, error) {
	g, err := v.awaitGrant()
	if err != nil {
		return nil, err
	}
	v.first.Do(func() {
		if v.options.Dialing != nil {
			v.options.Dialing(g.DeviceID, g.DeviceName, v.options.DevicePort)
		}
	})
	ctx, cancel := context.WithTimeout(v.ctx, linkWithin)
	defer cancel()
	return g.pool.Get(ctx)
}

// reset closes a local connection in the way that no program takes for an orderly
// end.
func reset(local net.Conn) {
	if tcp, ok := local.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = local.Close()
}
