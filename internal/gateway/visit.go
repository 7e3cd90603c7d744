package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/relay"
)

// holder is who has a visit: an agent in slave mode, or the gateway itself for a
// person's terminal.
type holder interface {
	// visitorKey is the key that is proved by the visit's links.
	visitorKey() ed25519.PublicKey
	// life is done when the holder is gone.
	life() context.Context
	// tell brings LinkTicket, LinkRefused and Ended. It may block on the holder.
	tell(m control.Message) error
	// forget is called when the visit is over. It does not block.
	forget(t *visit)
}

// visit is one visitor's right to one tunnel of one device, with the links that
// came of it: what the audit shows as a session. It is one of the open things of
// live, from the grant until the last link is over.
type visit struct {
	g         *Gateway
	number    uint32
	visitor   holder
	remote    netip.Addr
	actor     socketxp.Actor
	port      int
	session   socketxp.Session  // as it began
	deviceKey ed25519.PublicKey // that the visitor was told
	answered  chan struct{}     // closed when the visitor has been told that it is granted

	mu        sync.Mutex      // guards the following
	signIn    socketxp.SignIn // that it hangs on, if it is a person's
	expiresAt time.Time
	expiry    *time.Timer
	links     map[*relay.Pair]struct{}
	left      bool            // there will be no new link
	reason    socketxp.Code   // why, if not because the visitor left
	why       *socketxp.Error // the same for people, if it was cut
	over      bool            // left, and without links: the session has ended
	joined    int64           // links so far
	up, down  int64           // bytes of the links that are over
	counted   [3]int64        // what was written last of joined, up, down
}

func (t *visit) binding() binding {
	s := &t.session
	t.mu.Lock()
	defer t.mu.Unlock()
	return binding{accountID: s.AccountID, userID: s.UserID, tokenID: s.TokenID, signInID: t.signIn.ID, deviceID: s.DeviceID, sessionID: s.ID}
}

// newVisit returns a visit that was judged good, and is in no book yet.
func (g *Gateway) newVisit(h holder, who caller, device socketxp.Device, tunnel socketxp.Tunnel) *visit {
	now := g.now()
	return &visit{
		g: g, visitor: h, remote: who.remote, signIn: who.signIn, expiresAt: who.expiresAt(), port: tunnel.Destination.Port,
		deviceKey: device.PublicKey, actor: who.actor(), links: make(map[*relay.Pair]struct{}), answered: make(chan struct{}),
		session: socketxp.Session{
			ID: socketxp.NewID(now), AccountID: who.accountID, DeviceID: device.ID, DeviceName: device.Name,
			UserID: who.userID, TokenID: who.token.ID, Destination: tunnel.Destination.String(),
			RemoteAddr: who.remote.String(), StartedAt: now,
		},
	}
}

// store writes the session and its audit record, before anybody is told of it.
func (t *visit) store(ctx context.Context) error {
	if err := t.g.store.CreateSession(ctx, t.session, t.entry("session.start", t.session.StartedAt)); err != nil {
		t.g.storeFailed("a session was not stored", err)
		return unavailable(err)
	}
	return nil
}

// begin puts the visit under the eyes of live. If it may not be opened any more it is
// over.
func (t *visit) begin(ctx context.Context, seen uint64) error {
	if err := t.g.open(t, seen); err != nil {
		t.visitor.forget(t)
		t.leave(socketxp.CodeOf(err))
		return err
	}
	t.watchExpiry()
	s := &t.session
	t.g.publishEvent(ctx, socketxp.Event{
		AccountID: s.AccountID, Type: socketxp.EventSessionStarted, DeviceID: s.DeviceID, DeviceName: s.DeviceName,
		ObjectID: s.ID, Message: "a session with " + s.DeviceName + " began: " + s.Destination,
	})
	return nil
}

// judge asks whether all that the visit was granted by still holds.
func (t *visit) judge(ctx context.Context, p *pass) error {
	_, err := t.judgeDevice(ctx, p)
	return err
}

// judgeDevice returns the device as it is now, too.
func (t *visit) judgeDevice(ctx context.Context, p *pass) (socketxp.Device, error) {
	var none socketxp.Device
	s := &t.session
	token, err := t.judgeCredential(ctx, p)
	if err != nil {
		return none, err
	}
	device, err := p.device(ctx, s.AccountID, s.DeviceID)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return none, socketxp.Errorf(socketxp.CodeNotFound, "the device was deleted")
	case err != nil:
		return none, err
	case !device.DisabledAt.IsZero():
		return none, errDeviceDisabled
	case !device.QuarantinedAt.IsZero():
		return none, errVisitQuarantined
	}
	if err := judgeScope(token, device, t.port); err != nil {
		return none, err
	}
	return device, t.judgeKey(ctx, device)
}

// judgeCredential asks whether the token that the visit hangs on is still good, or
// the person still signed in, who has no token.
func (t *visit) judgeCredential(ctx context.Context, p *pass) (socketxp.Token, error) {
	t.mu.Lock()
	signIn, expiresAt := t.signIn, t.expiresAt
	t.mu.Unlock()
	if signIn.ID != "" {
		return socketxp.Token{}, p.judgeSignIn(ctx, signIn)
	}
	var none socketxp.Token
	s := &t.session
	if !p.now.Before(expiresAt) {
		return none, socketxp.Errorf(socketxp.CodeTokenExpired, "the token has expired")
	}
	token, err := p.token(ctx, s.AccountID, s.TokenID)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return none, socketxp.Errorf(socketxp.CodeTokenRevoked, "the token was removed")
	case err != nil:
		return none, err
	}
	if err := token.Usable(p.now); err != nil {
		return none, err
	}
	switch {
	case !socketxp.MayUse(socketxp.Kind(token.Kind), socketxp.PurposeVisit):
		return none, socketxp.Errorf(socketxp.CodeWrongPurpose, "the token is not for reaching devices")
	case !token.Scope.AllowsFrom(t.remote):
		return none, socketxp.Errorf(socketxp.CodeForbidden, "the token is not for this network")
	}
	if token.Kind == socketxp.TokenBasic {
		account, err := p.accountOf(ctx, s.AccountID)
		switch {
		case err != nil && !errors.Is(err, socketxp.ErrNotFound):
			return none, err
		case err != nil || !account.BasicTokens:
			return none, socketxp.Errorf(socketxp.CodeForbidden, "the account does not admit basic tokens")
		}
	}
	switch _, err := p.membership(ctx, s.AccountID, token.CreatedBy); {
	case errors.Is(err, socketxp.ErrNotFound):
		return none, socketxp.Errorf(socketxp.CodeTokenRevoked, "the token's maker was removed from the account")
	case err != nil:
		return none, err
	}
	return token, nil
}

// judgeSignIn returns nil if a person is still signed in and may still reach devices.
func (p *pass) judgeSignIn(ctx context.Context, s socketxp.SignIn) error {
	now, err := p.signIn(ctx, s.SecretHash)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return errSignInEnded
	case err != nil:
		return err
	case now.ID != s.ID || now.AccountID != s.AccountID || now.UserID != s.UserID || !p.now.Before(now.ExpiresAt):
		return errSignInEnded
	}
	switch member, err := p.membership(ctx, s.AccountID, s.UserID); {
	case errors.Is(err, socketxp.ErrNotFound):
		return errSignInEnded
	case err != nil:
		return err
	case !slices.Contains(member.Role.Rights(), rightReach):
		return socketxp.Errorf(socketxp.CodeForbidden, "this needs the right %s", rightReach)
	}
	return nil
}

// rightReach is the right to reach devices: that of whoever may make access tokens,
// which reach them.
const rightReach = socketxp.RightTokensWrite

// expect makes the pair for one more link, and watches it until it is over.
func (t *visit) expect() (*relay.Pair, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.left:
		return nil, socketxp.Errorf(socketxp.CodeSessionEnded, "the session is over")
	case len(t.links) >= t.g.limits.links:
		return nil, socketxp.Errorf(socketxp.CodeTooManyLinks, "one session can't have more than %d links at a time", t.g.limits.links)
	}
	pair, err := t.g.relay.Expect()
	if err != nil {
		return nil, err
	}
	t.links[pair] = struct{}{}
	t.g.spawn("link's count", func() {
		select {
		case <-pair.Joined():
			t.linkJoined()
		case <-pair.Done():
		}
		<-pair.Done()
		t.linkOver(pair)
	})
	return pair, nil
}

// offer judges the visit once more and brings the two tickets to the two ends.
// On an error the caller cuts the pair.
func (t *visit) offer(pair *relay.Pair, number uint32) error {
	v := t.visitor
	ctx, cancel := t.g.asked(v.life())
	defer cancel()
	device, err := t.judgeDevice(ctx, t.g.newPass())
	switch {
	case err != nil && !refuses(err):
		return unavailable(err)
	case err != nil:
		t.cut(err)
		return err
	case !publishes(device, t.session.Destination):
		return socketxp.Errorf(socketxp.CodeNotPublished, "the device doesn't publish %s any more", t.session.Destination)
	}
	o := t.g.offers.add(device.ID, pair, v, t.number, number)
	defer close(o.sent)
	err = t.g.cluster.Offer(ctx, socketxp.Offer{
		DeviceID: device.ID, SessionID: t.session.ID, Ticket: pair.DeviceTicket(),
		VisitorKey: v.visitorKey(), Destination: t.session.Destination,
	})
	switch {
	case errors.Is(err, socketxp.ErrDeviceOffline):
		return offline(device.Name)
	case err != nil:
		return unavailable(err)
	}
	_ = v.tell(control.LinkTicket{Visit: t.number, Link: number, Ticket: pair.VisitorTicket()})
	return nil
}

func publishes(d socketxp.Device, destination string) bool {
	for _, t := range d.Tunnels {
		if t.Destination.String() == destination {
			return true
		}
	}
	return false
}

func (t *visit) linkJoined() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.joined++
}

func (t *visit) linkOver(pair *relay.Pair) {
	t.g.offers.remove(pair)
	up, down := pair.Bytes()
	t.g.stats.linkOver(up, down)
	t.mu.Lock()
	delete(t.links, pair)
	t.up, t.down = t.up+up, t.down+down
	t.mu.Unlock()
	t.endIfOver()
}

// leave refuses further links. Reason is "" if the visitor wants no more.
func (t *visit) leave(reason socketxp.Code) {
	t.mu.Lock()
	if !t.left {
		t.left, t.reason = true, reason
	}
	t.mu.Unlock()
	t.endIfOver()
}

// cut ends the visit and its links now, and then tells the visitor why.
func (t *visit) cut(why error) {
	if why == error(errKeyChanged) { //nolint:errorlint // this very error
		t.renew()
		return
	}
	e := clientError(why)
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	if !t.left || t.reason == "" {
		t.left, t.reason = true, e.Code
	}
	if t.why == nil {
		t.why = e
	}
	pairs := make([]*relay.Pair, 0, len(t.links))
	for p := range t.links {
		pairs = append(pairs, p)
	}
	t.mu.Unlock()
	for _, p := range pairs {
		p.Cut()
	}
	t.visitor.forget(t)
	t.g.stats.cut(e.Code)
	t.g.spawn("message", func() {
		t.awaitAnswer()
		_ = t.visitor.tell(control.Ended{Visit: t.number, Code: e.Code, Message: e.Message, Hint: e.Hint})
	})
	t.endIfOver()
}

// awaitAnswer waits until the visitor has been told that the visit is granted, or is
// gone.
func (t *visit) awaitAnswer() {
	select {
	case <-t.answered:
	case <-t.visitor.life().Done():
	}
}

// watchExpiry has the visit judged when its token expires: nothing outlives the
// credential it came from.
func (t *visit) watchExpiry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	if t.expiry != nil {
		t.expiry.Stop()
	}
	t.expiry = time.AfterFunc(t.expiresAt.Sub(t.g.now()), func() { t.g.live.expire(t) })
}

// endIfOver ends the session when the visitor has left and the last link is over.
func (t *visit) endIfOver() {
	t.mu.Lock()
	if t.over || !t.left || len(t.links) > 0 {
		t.mu.Unlock()
		return
	}
	t.over = true
	if t.expiry != nil {
		t.expiry.Stop()
	}
	s := t.session
	s.EndedAt, s.EndReason = t.g.now(), t.reason
	s.Links, s.BytesUp, s.BytesDown = t.joined, t.up, t.down
	t.mu.Unlock()

	entry := t.entry("session.end", s.EndedAt)
	entry.Reason = s.EndReason
	entry.Detail = fmt.Sprintf("%s, %d links, %d bytes up, %d down", s.Destination, s.Links, s.BytesUp, s.BytesDown)
	t.g.spawn("session's end", func() {
		defer t.g.live.remove(t)
		t.g.endSession(s, entry)
	})
}

// entry is what the audit is told of the session.
func (t *visit) entry(action string, at time.Time) socketxp.AuditEntry {
	return socketxp.AuditEntry{
		AccountID: t.session.AccountID, At: at, Actor: t.actor, Action: action,
		ObjectKind: "session", ObjectID: t.session.ID, ObjectName: t.session.DeviceName, Detail: t.session.Destination,
	}
}

// counters returns links and bytes so far, and whether they changed since the
// last call.
func (t *visit) counters() (links, up, down int64, changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	links, up, down = t.joined, t.up, t.down
	for p := range t.links {
		u, d := p.Bytes()
		up, down = up+u, down+d
	}
	now := [3]int64{links, up, down}
	changed = !t.over && now != t.counted
	t.counted = now
	return links, up, down, changed
}
