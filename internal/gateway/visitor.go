package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"

	"golang.org/x/time/rate"
)

// visitor is the channel of an agent in slave mode. Its key proves nothing but
// that the same process is speaking; what it may do, each visit's token says.
type visitor struct {
	*channel
	rate *rate.Limiter // of links

	badTokens int // that were tried so far; the receiving goroutine's alone

	mu     sync.Mutex // guards the following
	visits map[uint32]*visit
	idle   *time.Timer // runs while there is no visit
}

// beginVisitor lets a visitor in, who may do nothing yet.
func (c *channel) beginVisitor(version int) (serve func() (asleep bool), err error) {
	g := c.g
	v := &visitor{channel: c, rate: rate.NewLimiter(g.limits.linkRate, g.limits.linkBurst), visits: make(map[uint32]*visit)}
	if c.welcome(control.Welcome{Version: version, Gateway: g.version, Heartbeat: g.heartbeat()}) != nil {
		return nil, errOver
	}
	v.idle = time.AfterFunc(g.limits.showWithin, func() {
		// Not dismiss: this goroutine is nobody's, and must not start others.
		_ = c.tell(control.Refused{Code: socketxp.CodeUnauthenticated, Message: "the channel has no visit", RetryAfter: retryAfter(socketxp.CodeUnauthenticated)})
		_ = c.conn.Close()
	})
	return v.serve, nil
}

// serve takes the visitor's messages until the channel is over or asleep. Links that
// are open when it is over live on.
func (v *visitor) serve() (asleep bool) {
	defer func() {
		if !asleep {
			v.leaveAll()
		}
	}()
	for {
		m, resting, err := v.next()
		if err != nil {
			return false
		}
		if resting {
			return true
		}
		switch m := m.(type) {
		case control.Visit:
			v.visit(m)
		case control.LinkRequest:
			v.request(m)
		case control.Leave:
			v.leave(m.Visit)
		}
	}
}

// visit answers a Visit: Granted or Ended.
func (v *visitor) visit(m control.Visit) {
	started := time.Now()
	t, granted, err := v.grant(m)
	if t != nil {
		defer close(t.answered)
	}
	if err == nil {
		v.g.stats.visited(started)
		v.proven()
		_ = v.tell(granted)
		return
	}
	e := clientError(err)
	v.g.stats.refused(doorControl, e.Code)
	_ = v.tell(control.Ended{Visit: m.Visit, Code: e.Code, Message: e.Message, Hint: e.Hint})
	if e.Code == socketxp.CodeUnauthenticated {
		v.badTokens++
	}
	if v.badTokens >= v.g.limits.visits {
		v.dismiss(socketxp.Errorf(socketxp.CodeRateLimited, "too many tokens were not valid"))
	}
}

// grant judges a visit and opens it. The session and its audit record are written
// before anybody is told of it. The caller closes answered of a visit it gets, also
// beside an error, when the visitor has been told.
func (v *visitor) grant(m control.Visit) (*visit, control.Granted, error) {
	var none control.Granted
	if err := v.mayVisit(m.Visit); err != nil {
		return nil, none, err
	}
	g := v.g
	ctx, cancel := g.asked(v.ctx)
	defer cancel()
	seen := g.live.mark() // before the database is asked: see open
	who, err := g.authenticateToken(ctx, m.Token, socketxp.PurposeVisit, v.remote)
	if err != nil {
		return nil, none, err
	}
	device, tunnel, err := g.judgeVisit(ctx, who, m)
	if err != nil {
		return nil, none, err
	}

	var vouchers []control.Voucher
	if v.version >= control.SequenceVersion {
		if vouchers, err = g.vouchersOf(ctx, device); err != nil {
			return nil, none, err
		}
	}

	t := g.newVisit(v, who, device, tunnel)
	t.number = m.Visit
	if err := t.store(ctx); err != nil {
		return nil, none, err
	}
	v.remember(t)
	if err := t.begin(ctx, seen); err != nil {
		return t, none, err
	}
	return t, control.Granted{
		Visit: m.Visit, SessionID: t.session.ID, DeviceID: device.ID, DeviceName: device.Name,
		DeviceKey: device.PublicKey, Vouchers: vouchers, SSHHostKey: device.SSHHostKey,
		Destination: t.session.Destination, SSH: tunnel.SSH, ExpiresAt: who.token.ExpiresAt,
	}, nil
}

func (v *visitor) mayVisit(number uint32) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.visits[number] != nil:
		return socketxp.Errorf(socketxp.CodeInvalid, "the visit's number is in use")
	case len(v.visits) >= v.g.limits.visits:
		return socketxp.Errorf(socketxp.CodeTooManyLinks, "one channel can't have more than %d visits", v.g.limits.visits)
	}
	return nil
}

// judgeVisit finds what a visit asks for and says whether the caller may have it. A
// refusal is audited.
func (g *Gateway) judgeVisit(ctx context.Context, who caller, m control.Visit) (socketxp.Device, socketxp.Tunnel, error) {
	device, tunnel, err := g.findVisit(ctx, who, m)
	if err != nil {
		g.auditRefusal(ctx, socketxp.AuditEntry{
			AccountID: who.accountID, Actor: who.actor(), Action: "session.start",
			ObjectKind: "device", ObjectID: device.ID, ObjectName: device.Name,
			Detail: fmt.Sprintf("port %d", m.Port),
		}, err)
	}
	return device, tunnel, err
}

// findVisit judges what the caller may not reach at all before what it could learn
// about it.
func (g *Gateway) findVisit(ctx context.Context, who caller, m control.Visit) (socketxp.Device, socketxp.Tunnel, error) {
	var none socketxp.Tunnel
	device, err := g.findDevice(ctx, who.accountID, m.DeviceID, m.DeviceName)
	if err != nil {
		return device, none, err
	}
	if err := judgeScope(who.token, device, m.Port); err != nil {
		return device, none, err
	}
	if !device.DisabledAt.IsZero() {
		return device, none, errDeviceDisabled
	}
	if !device.QuarantinedAt.IsZero() {
		return device, none, errVisitQuarantined
	}
	online, err := g.cluster.Online(ctx, device.ID)
	switch {
	case err != nil:
		return device, none, unavailable(err)
	case !online:
		return device, none, offline(device.Name)
	}
	tunnel, err := socketxp.FindTunnel(device.Tunnels, m.Host, m.Port)
	return device, tunnel, err
}

func (g *Gateway) findDevice(ctx context.Context, accountID, id, name string) (device socketxp.Device, err error) {
	if id != "" {
		device, err = g.store.Device(ctx, accountID, id)
	} else {
		device, err = g.store.DeviceByName(ctx, accountID, name)
	}
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return socketxp.Device{}, socketxp.Errorf(socketxp.CodeNotFound, "there is no device %s in the account", id+name)
	case err != nil:
		g.storeFailed("a device could not be looked up", err)
		return socketxp.Device{}, unavailable(err)
	}
	return device, nil
}

func judgeScope(t socketxp.Token, d socketxp.Device, port int) error {
	switch {
	case !t.Scope.AllowsDevice(d):
		return socketxp.Errorf(socketxp.CodeForbidden, "the token is not for the device %s", d.Name)
	case !t.Scope.AllowsPort(port):
		return socketxp.Errorf(socketxp.CodeForbidden, "the token is not for port %d", port)
	}
	return nil
}

func offline(name string) error {
	return socketxp.Errorf(socketxp.CodeDeviceOffline, "the device %s is offline", name).WithHint("on the device: socketxp status")
}

// request answers a LinkRequest: LinkTicket or LinkRefused. It does not block, so
// that a device that doesn't read holds up nobody but those who ask for it.
func (v *visitor) request(m control.LinkRequest) {
	started := time.Now()
	v.mu.Lock()
	t := v.visits[m.Visit]
	v.mu.Unlock()
	refuse := func(err error) {
		e := clientError(err)
		v.g.stats.refused(doorControl, e.Code)
		_ = v.tell(control.LinkRefused{Visit: m.Visit, Link: m.Link, Code: e.Code, Message: e.Message, Hint: e.Hint})
	}
	switch {
	case t == nil:
		refuse(socketxp.Errorf(socketxp.CodeSessionEnded, "there is no such visit, or it is over"))
		return
	case !v.rate.Allow():
		refuse(socketxp.Errorf(socketxp.CodeRateLimited, "links are asked for too fast"))
		return
	}
	pair, err := t.expect()
	if err != nil {
		refuse(err)
		return
	}
	v.g.spawn("link", func() {
		err := errors.New("it panicked")
		defer func() {
			if err != nil {
				pair.Cut()
				refuse(err)
				return
			}
			v.g.stats.linked(started)
		}()
		err = t.offer(pair, m.Link)
	})
}

// leave ends a visit as the visitor asked: it can have no new links.
func (v *visitor) leave(number uint32) {
	v.mu.Lock()
	t := v.visits[number]
	v.mu.Unlock()
	if t != nil {
		v.forget(t)
		t.leave("")
	}
}

// visitorKey is for holder.
func (v *visitor) visitorKey() ed25519.PublicKey { return v.key }

// life is for holder.
func (v *visitor) life() context.Context { return v.ctx }

// remember keeps a visit until it is forgotten.
func (v *visitor) remember(t *visit) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.visits[t.number] = t
	v.idle.Stop()
}

// forget drops a visit that is over. A channel that has none left is closed
// unless it begins another one soon.
func (v *visitor) forget(t *visit) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.visits[t.number] != t {
		return
	}
	delete(v.visits, t.number)
	if len(v.visits) == 0 && v.ctx.Err() == nil {
		v.idle.Reset(v.g.limits.showWithin)
	}
}

// leaveAll is called when the channel is over.
func (v *visitor) leaveAll() {
	v.end()
	v.mu.Lock()
	v.idle.Stop()
	visits := v.visits
	v.visits = nil
	v.mu.Unlock()
	for _, t := range visits {
		t.leave("")
	}
}
