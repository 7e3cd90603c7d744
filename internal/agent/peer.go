package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
)

// linkWithin is how long a connection may take to get its link.
const linkWithin = 20 * time.Second

// Peer is one tunnel of one device, and the right to reach it.
type Peer struct {
	Target
	Dir *Dir
	// Exactly one of DeviceID and DeviceName says whose tunnel it is.
	DeviceID, DeviceName string
	DevicePort           int
	// DeviceHost is the host of the tunnel, for devices that publish one port of
	// several; empty is the one there is.
	DeviceHost string
	// Renew returns another token when Token has run out; nil lets the access end then.
	Renew   func(ctx context.Context) (string, error)
	Version string
	Log     *slog.Logger // nil logs nothing
}

// visitor asks for grants to one tunnel, again and again if need be. One goroutine
// at a time uses it.
type visitor struct {
	Peer
	gateway *gateway
	key     ed25519.PrivateKey // made for this process; proves that all of it is one visitor
	// hosts are the names under which ssh looks for the host key of a built-in server
	// that is reached this way; empty if it doesn't.
	hosts string
	// warn is told what does no harm to the grant.
	warn     func(error)
	deviceID string // whom it is about; known from the first grant on
}

func newVisitor(p Peer) (*visitor, error) {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	gw, _, err := p.resolve()
	if err != nil {
		return nil, err
	}
	gw.remember(p.Dir, p.Log)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &visitor{Peer: p, gateway: gw, key: key, warn: func(error) {}, deviceID: p.DeviceID}, nil
}

// grant is a visit while the gateway grants it.
type grant struct {
	control.Granted
	visitor *visitor
	conn    *control.Conn
	ctx     context.Context // the channel's, of which the grant is a part
	cancel  context.CancelCauseFunc

	mu      sync.Mutex // guards the following
	number  uint32     // of the last link that was asked for
	waiting map[uint32]chan control.Message
}

// open opens a channel and asks for a grant on it. With ahead, the first link is
// asked for in the same breath: see ticket. The caller serves the grant, and closes
// it.
func (v *visitor) open(ctx context.Context, ahead bool) (_ *grant, first *ticket, err error) {
	conn, err := v.gateway.open(ctx, v.key, control.RoleVisitor, v.Version)
	if err != nil {
		return nil, nil, err
	}
	g := &grant{visitor: v, conn: conn, waiting: make(map[uint32]chan control.Message)}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	// All that can be said is said before the first answer: each answer that is waited
	// for costs the time to the gateway and back.
	if err := v.ask(ctx, conn); err != nil {
		return nil, nil, err
	}
	if ahead {
		if first, err = g.request(); err != nil {
			return nil, nil, err
		}
	}
	welcome, err := v.gateway.welcome(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	v.gateway.announced(welcome.GatewayPins)
	if g.Granted, err = v.answer(ctx, conn); err != nil {
		return nil, nil, err
	}
	return g, first, nil
}

// visitNumber is that of the one visit of each channel.
const visitNumber = 1

// ask sends the Visit.
func (v *visitor) ask(ctx context.Context, conn *control.Conn) error {
	request := control.Visit{Visit: visitNumber, Token: v.Token, DeviceID: v.deviceID, Host: v.DeviceHost, Port: v.DevicePort}
	if v.deviceID == "" {
		request.DeviceName = v.DeviceName
	}
	if err := conn.Send(ctx, request); err != nil {
		return unreachable(v.gateway.addr.URL, err)
	}
	return nil
}

// answer takes the answer to the Visit, whose device must be the one that was
// meant, with the key it had before.
func (v *visitor) answer(ctx context.Context, conn *control.Conn) (control.Granted, error) {
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
	dest, err := socketxp.ParseDestination(m.Destination)
	switch {
	case err != nil:
		return err
	case m.Visit != visitNumber || v.deviceID != "" && m.DeviceID != v.deviceID || v.deviceID == "" && m.DeviceName != v.DeviceName,
		dest.Port != v.DevicePort || v.DeviceHost != "" && dest.Host != strings.ToLower(v.DeviceHost):
		return errors.New("the gateway granted something else than was asked for")
	}
	vouchers := make([]socketxp.KeyVoucher, 0, len(m.Vouchers))
	for _, w := range m.Vouchers {
		vouchers = append(vouchers, socketxp.KeyVoucher{Key: w.Key, Vouch: w.Vouch})
	}
	if err := v.Dir.know(ctx, v.gateway.addr.URL, m.DeviceID, m.DeviceName, m.DeviceKey, vouchers, v.DeviceName != ""); err != nil {
		return err
	}
	v.deviceID = m.DeviceID // never another one of the same name, as long as this runs
	if v.hosts == "" {
		return nil
	}
	key := ""
	if m.SSH {
		key = m.SSHHostKey
	}
	if err := v.Dir.knowSSHHost(ctx, v.hosts, key); err != nil {
		v.warn(err)
	}
	return nil
}

// serve takes the gateway's messages until the grant is over. It never returns
// nil.
func (g *grant) serve() error {
	for {
		m, err := g.conn.Receive(g.ctx)
		if err != nil {
			if cause := context.Cause(g.ctx); cause != nil {
				return cause
			}
			return unreachable(g.visitor.gateway.addr.URL, err)
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
			g.visitor.gateway.announced(m.Pins) // the token knows but those of the day when it was made
		case control.GoAway:
			move := time.AfterFunc(time.Duration(m.RetryAfter)*time.Second+jitter(2*firstBound), func() {
				g.cancel(&goAway{m.Message})
			})
			defer move.Stop()
		}
	}
}

// close ends the channel, and with it the grant. Links that are open live on.
func (g *grant) close() {
	g.cancel(nil)
	_ = g.conn.Close()
}

// dial makes a link: it asks for a ticket and goes to the link door with it.
func (g *grant) dial(ctx context.Context) (*link.Link, error) {
	door := g.visitor.gateway.link
	if g.visitor.gateway.ways.known(errandLink) == "" {
		// The way is found before there is a ticket that could run out meanwhile.
		conn, err := door(ctx)
		if err != nil {
			return nil, err
		}
		taken := false
		defer func() {
			if !taken {
				_ = conn.Close()
			}
		}()
		door = func(context.Context) (net.Conn, error) {
			taken = true
			return conn, nil
		}
	}
	t, err := g.request()
	if err != nil {
		return nil, err
	}
	return t.dial(ctx, door)
}

// ticket is one that was asked for.
type ticket struct {
	grant   *grant
	number  uint32
	answers <-chan control.Message
}

// request asks for a ticket to one more link.
func (g *grant) request() (*ticket, error) {
	number, answers := g.expect()
	// Under the channel's context: a send that is given up closes the channel.
	if err := g.conn.Send(g.ctx, control.LinkRequest{Visit: visitNumber, Link: number}); err != nil {
		g.forget(number)
		return nil, unreachable(g.visitor.gateway.addr.URL, err)
	}
	return &ticket{g, number, answers}, nil
}

// dial goes to the link door when the ticket has come. It is called once.
func (t *ticket) dial(ctx context.Context, door func(context.Context) (net.Conn, error)) (*link.Link, error) {
	g := t.grant
	defer g.forget(t.number)
	ctx, stop := context.WithTimeout(ctx, linkWithin)
	defer stop()
	name, err := g.await(ctx, t.answers)
	if err != nil {
		return nil, err
	}
	raw, err := door(ctx)
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
		if _, err := g.await(ctx, t.answers); err != nil {
			cancel(err)
		}
	})
	l, err := link.Visit(ctx, raw, name, g.visitor.key, bytes.Clone(g.DeviceKey), g.Destination)
	if err != nil {
		g.visitor.gateway.ways.doubt() // it may have been the way
	}
	if errors.Is(err, link.ErrWrongKey) {
		return nil, &socketxp.Error{
			Code:    socketxp.CodeInvalid,
			Message: fmt.Sprintf("SOMEBODY IS IN BETWEEN: what answers as the device %s does not have its key %s", g.DeviceName, socketxp.Fingerprint(g.DeviceKey)),
			Hint:    "nothing was said to it; the device may just have changed its key, so try once more, and then ask who runs the gateway",
			Err:     err,
		}
	}
	return l, err
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
