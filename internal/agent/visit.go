package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
)

const (
	// maxLocalPeers is how many programs may be connected to a local port at a time;
	// the gateway allows fewer links.
	maxLocalPeers = 1024
	// grantWithin is how long a new connection waits for a grant when there is none
	// just now: a gateway's restart takes a few seconds.
	grantWithin = 10 * time.Second
	// linkWithin is how long a connection may take to get its link.
	linkWithin = 20 * time.Second
)

// VisitOptions configure an agent in slave mode.
type VisitOptions struct {
	Target
	Dir   *Dir
	Local LocalPort
	// Exactly one of DeviceID and DeviceName says whose tunnel it is.
	DeviceID, DeviceName string
	DevicePort           int
	Version              string
	Log                  *slog.Logger // nil logs nothing
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
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	gw, _, err := o.resolve()
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	listeners, port, err := o.Local.listen(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	v := &visitor{
		options: o, gateway: gw, key: key, listeners: listeners, port: port, ctx: ctx,
		deviceID: o.DeviceID, turned: make(chan struct{}), kicked: make(chan struct{}, 1), peers: make(chan struct{}, maxLocalPeers),
	}
	err = v.stayGranted()
	cancel()
	closeListeners(listeners)
	v.running.Wait()
	return err
}

// visitor is a slave-mode agent.
type visitor struct {
	options   VisitOptions
	gateway   *gateway
	key       ed25519.PrivateKey // made for this process; proves that all of it is one visitor
	listeners []net.Listener
	port      int
	ctx       context.Context // ends with the agent
	running   sync.WaitGroup
	peers     chan struct{} // a place for each program that is connected
	first     sync.Once     // connection
	kicked    chan struct{} // somebody would like a grant

	// Only stayGranted uses these.
	deviceID string // whom it is about; known from the first grant on
	granted  bool   // there was a grant

	mu    sync.Mutex // guards the following
	grant *grant     // nil while there is none
	// turned is closed, and replaced, when grant changes.
	turned chan struct{}
}

// stayGranted holds a grant until the agent ends.
func (v *visitor) stayGranted() error {
	var tries backoff
	for {
		started := time.Now()
		err := v.visit()
		if v.ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		if !v.granted || !passes(err) {
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

func (v *visitor) problem(err error, wait time.Duration) {
	if v.options.Problem != nil {
		v.options.Problem(err, wait)
	}
}

// visit opens a channel, asks for the grant and serves the channel until it is
// over. It never returns nil.
func (v *visitor) visit() error {
	ctx, cancel := context.WithCancelCause(v.ctx)
	defer cancel(nil)
	conn, err := v.gateway.open(ctx, v.key, control.RoleVisitor, v.options.Version)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	welcome, err := v.gateway.welcome(ctx, conn)
	if err != nil {
		return err
	}
	v.gateway.announced(welcome.GatewayPins)
	granted, err := v.ask(ctx, conn)
	if err != nil {
		return err
	}
	g := &grant{visitor: v, Granted: granted, conn: conn, ctx: ctx, waiting: make(map[uint32]chan control.Message)}
	g.pool = &link.Pool{Dial: g.dial}
	defer func() { _ = g.pool.Close() }()
	v.use(g)
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
	for {
		m, err := conn.Receive(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return unreachable(v.gateway.addr.URL, err)
		}
		switch m := m.(type) {
		case control.LinkTicket:
			g.answer(m.Visit, m.Link, m)
		case control.LinkRefused:
			g.answer(m.Visit, m.Link, m)
		case control.Ended:
			if m.Visit == visitNumber {
				return refused(m.Code, m.Message, m.Hint, 0)
			}
		case control.Refused:
			return refused(m.Code, m.Message, m.Hint, m.RetryAfter)
		case control.GatewayKeys:
			v.gateway.announced(m.Pins) // the token knows but those of the day when it was made
		case control.GoAway:
			move := time.AfterFunc(time.Duration(m.RetryAfter)*time.Second+jitter(2*firstBound), func() {
				cancel(&goAway{m.Message})
			})
			defer move.Stop()
		}
	}
}

// visitNumber is that of the one visit of each channel.
const visitNumber = 1

// ask sends the Visit and takes the answer, whose device must be the one that was
// meant, with the key it had before.
func (v *visitor) ask(ctx context.Context, conn *control.Conn) (control.Granted, error) {
	o := v.options
	request := control.Visit{Visit: visitNumber, Token: o.Token, DeviceID: v.deviceID, Port: o.DevicePort}
	if v.deviceID == "" {
		request.DeviceName = o.DeviceName
	}
	if err := conn.Send(ctx, request); err != nil {
		return control.Granted{}, unreachable(v.gateway.addr.URL, err)
	}
	answered, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for {
		m, err := conn.Receive(answered)
		if err != nil {
			return control.Granted{}, unreachable(v.gateway.addr.URL, err)
		}
		switch m := m.(type) {
		case control.Granted:
			return m, v.check(ctx, m)
		case control.GatewayKeys:
			v.gateway.announced(m.Pins)
		case control.Ended:
			return control.Granted{}, refused(m.Code, m.Message, m.Hint, 0)
		case control.Refused:
			return control.Granted{}, refused(m.Code, m.Message, m.Hint, m.RetryAfter)
		}
	}
}

// check compares a grant with what was asked for and with what is known.
func (v *visitor) check(ctx context.Context, m control.Granted) error {
	o := v.options
	dest, err := socketxp.ParseDestination(m.Destination)
	switch {
	case err != nil:
		return err
	case m.Visit != visitNumber || v.deviceID != "" && m.DeviceID != v.deviceID || v.deviceID == "" && m.DeviceName != o.DeviceName || dest.Port != o.DevicePort:
		return errors.New("the gateway granted something else than was asked for")
	}
	if err := o.Dir.know(ctx, v.gateway.addr.URL, m.DeviceID, m.DeviceName, m.DeviceKey, o.DeviceName != ""); err != nil {
		return err
	}
	v.deviceID = m.DeviceID // never another one of the same name, as long as this runs
	key := ""
	if m.SSH {
		key = m.SSHHostKey
	}
	if err := o.Dir.knowSSHHost(ctx, v.port, key); err != nil {
		v.problem(err, 0)
	}
	return nil
}

// use makes g the grant of new connections; nil takes it away.
func (v *visitor) use(g *grant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.grant = g
	close(v.turned)
	v.turned = make(chan struct{})
}

// awaitGrant returns the grant, waiting a little for one if there is none.
func (v *visitor) awaitGrant() (*grant, error) {
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
func (v *visitor) accept(l net.Listener) {
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
			v.serve(local)
		})
	}
}

// serve carries one local connection. If that can't be done it is reset, as by a
// port where nobody listens.
func (v *visitor) serve(local net.Conn) {
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
func (v *visitor) connect() (*link.Conn, error) {
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

// grant is a visit while the gateway grants it.
type grant struct {
	control.Granted
	visitor *visitor
	conn    *control.Conn
	ctx     context.Context // the channel's, of which the grant is a part
	pool    *link.Pool

	mu      sync.Mutex // guards the following
	number  uint32     // of the last link that was asked for
	waiting map[uint32]chan control.Message
}

// dial makes a link: it asks for a ticket and goes to the link door with it.
func (g *grant) dial(ctx context.Context) (*link.Link, error) {
	ctx, stop := context.WithTimeout(ctx, linkWithin)
	defer stop()
	number, answers := g.expect()
	defer g.forget(number)
	// Under the channel's context: a send that is given up closes the channel.
	if err := g.conn.Send(g.ctx, control.LinkRequest{Visit: visitNumber, Link: number}); err != nil {
		return nil, unreachable(g.visitor.gateway.addr.URL, err)
	}
	ticket, err := g.await(ctx, answers)
	if err != nil {
		return nil, err
	}
	raw, err := g.visitor.gateway.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The device may still refuse its half; then nobody comes to the other end.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		if _, err := g.await(ctx, answers); err != nil {
			cancel(err)
		}
	})
	return link.Visit(ctx, raw, ticket, g.visitor.key, bytes.Clone(g.DeviceKey), g.Destination)
}

// expect returns the number for one more link, and where its answers will be.
func (g *grant) expect() (uint32, <-chan control.Message) {
	answers := make(chan control.Message, 2) // a ticket, and a refusal after it
	g.mu.Lock()
	defer g.mu.Unlock()
	g.number++
	g.waiting[g.number] = answers
	return g.number, answers
}

func (g *grant) forget(number uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, number)
}

// answer passes on what the gateway says of a link. What nobody waits for is
// dropped.
func (g *grant) answer(visit, number uint32, m control.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if answers := g.waiting[number]; visit == visitNumber && answers != nil {
		select {
		case answers <- m:
		default:
		}
	}
}

// await returns the ticket, or why there is none.
func (g *grant) await(ctx context.Context, answers <-chan control.Message) ([]byte, error) {
	select {
	case m := <-answers:
		switch m := m.(type) {
		case control.LinkTicket:
			return m.Ticket, nil
		case control.LinkRefused:
			return nil, refused(m.Code, m.Message, m.Hint, 0)
		}
		return nil, errors.New("the gateway answered with something else than a ticket")
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.ctx.Done():
		return nil, unreachable(g.visitor.gateway.addr.URL, errors.New("the control channel is closed"))
	}
}
