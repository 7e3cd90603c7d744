package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// live knows all that is open and which credentials it hangs on, so that a
// revocation cuts it. What a hint speaks of is judged at once; everything is
// judged every 30 s, whatever the hints said; and what could not be judged for a
// minute ends.
type live struct {
	// hints and due are what the one judging goroutine is fed by.
	hints chan socketxp.Hint
	due   chan openThing // its credential expires about now
	ended chan struct{}  // closed when the judging goroutine has ended

	mu       sync.Mutex // guards the following
	heeded   uint64     // hints so far
	things   map[openThing]struct{}
	channels map[*channel]struct{}
	empty    chan struct{} // closed when the last channel parts; nil while nobody waits for it
}

// openThing is something open that may have to end before its peers want it to:
// a device's control channel, or a visit with its links.
type openThing interface {
	binding() binding
	// judge returns nil if it may stay open. An error that refuses says why not; any
	// other says that the database can't tell.
	judge(ctx context.Context, p *pass) error
	// cut ends it now. Not a byte crosses it after that. It does not block on a peer.
	cut(why error)
}

// binding is what an open thing hangs on; what is "" it does not hang on.
type binding struct {
	accountID, userID, tokenID, signInID, deviceID, sessionID string
}

// concerns reports whether h may be about what b is of.
func (b binding) concerns(h socketxp.Hint) bool {
	is := func(id string) bool { return id != "" && id == h.ID }
	switch h.Kind {
	case "": // hints were missed
		return true
	case socketxp.HintTokenRevoked:
		return is(b.tokenID)
	case socketxp.HintUserDisabled, socketxp.HintMemberRemoved:
		return is(b.userID)
	case socketxp.HintDeviceChanged, socketxp.HintDeviceDeleted:
		return is(b.deviceID)
	case socketxp.HintSessionEnded:
		return is(b.sessionID)
	case socketxp.HintSignInEnded:
		return is(b.signInID)
	case socketxp.HintEvent:
	}
	return false
}

func newLive() *live {
	return &live{
		hints: make(chan socketxp.Hint), due: make(chan openThing), ended: make(chan struct{}),
		things: make(map[openThing]struct{}), channels: make(map[*channel]struct{}),
	}
}

// hint and expire are how hints and expiries reach the judging goroutine; when
// that has ended there is nothing left to judge.
func (l *live) hint(ctx context.Context, h socketxp.Hint) {
	if h.Kind == socketxp.HintEvent {
		return // nothing here hangs on those, and they are many
	}
	select {
	case l.hints <- h:
	case <-ctx.Done():
	}
}

func (l *live) expire(t openThing) {
	select {
	case l.due <- t:
	case <-l.ended:
	}
}

// mark says how many hints were heeded so far; see Gateway.open.
func (l *live) mark() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heeded
}

// open registers a thing that was judged good by what the database said after
// mark returned seen. If a hint came in between, it may have been about this thing
// and found nothing to cut: then the thing is judged again, and err says that it
// must not be opened.
func (g *Gateway) open(t openThing, seen uint64) error {
	g.live.mu.Lock()
	g.live.things[t] = struct{}{}
	again := g.live.heeded != seen
	g.live.mu.Unlock()
	if !again {
		return nil
	}
	err := g.judgeOne(context.Background(), g.newPass(), t)
	if err == nil {
		return nil
	}
	g.live.remove(t)
	if !refuses(err) {
		return unavailable(err)
	}
	return err
}

func (l *live) remove(t openThing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.things, t)
}

// concerned lists the open things that a hint may be about.
func (l *live) concerned(h socketxp.Hint) []openThing {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heeded++
	var found []openThing
	for t := range l.things {
		if t.binding().concerns(h) {
			found = append(found, t)
		}
	}
	return found
}

// all lists everything that is open.
func (l *live) all() []openThing {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]openThing, 0, len(l.things))
	for t := range l.things {
		out = append(out, t)
	}
	return out
}

// counts returns how many devices and visits are open, for the metrics.
func (l *live) counts() (devices, visits int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t := range l.things {
		if _, ok := t.(*visit); ok {
			visits++
		} else {
			devices++
		}
	}
	return devices, visits
}

// join and part keep account of the control channels, for the shutdown.
func (l *live) join(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.channels[c] = struct{}{}
}

func (l *live) part(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.channels, c)
	if len(l.channels) == 0 && l.empty != nil {
		close(l.empty)
		l.empty = nil
	}
}

func (l *live) allChannels() []*channel {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*channel, 0, len(l.channels))
	for c := range l.channels {
		out = append(out, c)
	}
	return out
}

// awaitParted waits until no control channel is left, for at most d.
func (l *live) awaitParted(d time.Duration) {
	l.mu.Lock()
	if len(l.channels) == 0 {
		l.mu.Unlock()
		return
	}
	if l.empty == nil {
		l.empty = make(chan struct{})
	}
	empty := l.empty
	l.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-empty:
	case <-t.C:
	}
}

// sayGoAway tells every agent to come again elsewhere or later; what is open may
// go on for the time of the drain.
func (g *Gateway) sayGoAway() {
	for _, c := range g.live.allChannels() {
		// One that is not welcomed yet can't be told, and is closed by the try.
		g.spawn("message", func() {
			_ = c.tell(control.GoAway{Message: "the gateway is shutting down", RetryAfter: drainRetry})
		})
	}
}

// cutAll ends everything that is open at the end of a shutdown, and gives the
// agents a moment to hear why.
func (g *Gateway) cutAll(why error) {
	for _, t := range g.live.all() {
		t.cut(why)
	}
	for _, c := range g.live.allChannels() {
		c.dismiss(why)
	}
	g.live.awaitParted(partingTime)
}

// judgeLoop judges what is open until ctx is done. It is the only goroutine that
// cuts for a revocation, so that what it does has an order.
func (g *Gateway) judgeLoop(ctx context.Context) {
	defer close(g.live.ended)
	next := time.NewTimer(g.limits.sweepEvery)
	defer next.Stop()
	judged := time.Now() // when everything was last known to be good
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-g.live.hints:
			g.heed(ctx, h)
		case t := <-g.live.due:
			g.judgeNow(ctx, g.newPass(), []openThing{t}, true)
		case <-next.C:
			start := time.Now()
			if g.sweep(ctx) {
				judged = start
				next.Reset(g.limits.sweepEvery)
				continue
			}
			if time.Since(judged)+g.limits.sweepRetry > g.limits.strictAfter {
				g.cutUnjudged()
				judged = time.Now()
			}
			next.Reset(g.limits.sweepRetry)
		}
	}
}

// heed acts on a hint: what it may be about is judged, and cut if it may not stay
// or if that can't be found out.
func (g *Gateway) heed(ctx context.Context, h socketxp.Hint) {
	things := g.live.concerned(h)
	if len(things) == 0 {
		return
	}
	if h.Kind == socketxp.HintSessionEnded {
		for _, t := range things {
			t.cut(errSessionEnded)
		}
		return
	}
	// A hint that hints were lost says of nothing in particular that it is revoked.
	g.judgeNow(ctx, g.newPass(), things, h.Kind != "")
}

var errSessionEnded = socketxp.Errorf(socketxp.CodeSessionEnded, "the session was ended by an operator")

// judgeNow judges things and cuts what may not stay; with strict, also what the
// database can't tell about. It reports whether the database told about all.
func (g *Gateway) judgeNow(ctx context.Context, p *pass, things []openThing, strict bool) bool {
	told := true
	for _, t := range things {
		err := g.judgeOne(ctx, p, t)
		switch {
		case err == nil:
		case refuses(err), err == errUnjudged: //nolint:errorlint // this very error
			t.cut(err)
		default:
			told = false
			if ctx.Err() == nil && strict {
				t.cut(unavailable(err))
			}
		}
	}
	return told
}

func (g *Gateway) judgeOne(ctx context.Context, p *pass, t openThing) error {
	if p.failed != nil {
		return p.failed // a database that is down is not asked once for each
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	err := errUnjudged
	g.guard("judgement", func() { err = t.judge(ctx, p) })
	return err
}

// errUnjudged is about a thing that could not be judged for a fault of ours: it must
// not stay open.
var errUnjudged error = socketxp.Errorf(socketxp.CodeUnavailable, "the gateway has a fault").WithHint("its log says more")

// sweep judges all that is open, and reports whether the database told about all.
func (g *Gateway) sweep(ctx context.Context) bool {
	things := g.live.all()
	p := g.newPass()
	p.fetchDevices(ctx, things)
	return g.judgeNow(ctx, p, things, false)
}

// cutUnjudged ends the visits: nobody knows any more whether they are allowed.
// Devices keep their channels, which give nobody anything.
func (g *Gateway) cutUnjudged() {
	why := socketxp.Errorf(socketxp.CodeUnavailable, "the gateway can't check any more whether this is allowed").
		WithHint("try again when its database is back")
	n := 0
	for _, t := range g.live.all() {
		if v, ok := t.(*visit); ok {
			v.cut(why)
			n++
		}
	}
	g.log.Error("sessions were ended because the database did not answer", "sessions", n, "within", g.limits.strictAfter)
}

// refuses reports whether err is an answer, rather than the lack of one.
func refuses(err error) bool {
	code := socketxp.CodeOf(err)
	return code != "" && code != socketxp.CodeInternal && code != socketxp.CodeUnavailable
}

// pass is one look at the database for many open things: it asks for each token,
// membership and device once.
type pass struct {
	g       *Gateway
	now     time.Time
	tokens  memo[socketxp.Token]
	members memo[socketxp.Membership]
	account memo[socketxp.Account]
	signIns memo[socketxp.SignIn]
	devices memo[socketxp.Device]
	failed  error // the database did not answer
}

func (g *Gateway) newPass() *pass {
	return &pass{
		g: g, now: g.now(),
		tokens: make(memo[socketxp.Token]), members: make(memo[socketxp.Membership]),
		account: make(memo[socketxp.Account]), signIns: make(memo[socketxp.SignIn]), devices: make(memo[socketxp.Device]),
	}
}

// memo holds answers by account and id.
type memo[T any] map[[2]string]answer[T]

type answer[T any] struct {
	value T
	err   error
}

// ask returns what the pass knows, or asks for it. Failures to answer end the
// pass.
func ask[T any](p *pass, m memo[T], accountID, id string, question func() (T, error)) (T, error) {
	key := [2]string{accountID, id}
	if a, ok := m[key]; ok {
		return a.value, a.err
	}
	var a answer[T]
	if a.err = p.failed; a.err != nil {
		return a.value, a.err
	}
	a.value, a.err = question()
	if a.err != nil && !errors.Is(a.err, socketxp.ErrNotFound) {
		p.failed = a.err
		p.g.storeFailed("what is open could not be judged", a.err)
		return a.value, a.err
	}
	m[key] = a
	return a.value, a.err
}

func (p *pass) token(ctx context.Context, accountID, id string) (socketxp.Token, error) {
	return ask(p, p.tokens, accountID, id, func() (socketxp.Token, error) { return p.g.store.Token(ctx, accountID, id) })
}

func (p *pass) signIn(ctx context.Context, secretHash [32]byte) (socketxp.SignIn, error) {
	return ask(p, p.signIns, "", string(secretHash[:]), func() (socketxp.SignIn, error) { return p.g.store.SignInBySecret(ctx, secretHash, p.now) })
}

func (p *pass) membership(ctx context.Context, accountID, userID string) (socketxp.Membership, error) {
	return ask(p, p.members, accountID, userID, func() (socketxp.Membership, error) { return p.g.store.Membership(ctx, accountID, userID) })
}

func (p *pass) accountOf(ctx context.Context, id string) (socketxp.Account, error) {
	return ask(p, p.account, id, "", func() (socketxp.Account, error) { return p.g.store.Account(ctx, id) })
}

func (p *pass) device(ctx context.Context, accountID, id string) (socketxp.Device, error) {
	return ask(p, p.devices, accountID, id, func() (socketxp.Device, error) { return p.g.store.Device(ctx, accountID, id) })
}

// devicesPerQuery is the most devices that the store lists at once.
const devicesPerQuery = 200

// fetchDevices asks for the devices of all things, 200 at a time.
func (p *pass) fetchDevices(ctx context.Context, things []openThing) {
	wanted := make(map[string]map[string]bool) // ids by account
	for _, t := range things {
		b := t.binding()
		if wanted[b.accountID] == nil {
			wanted[b.accountID] = make(map[string]bool)
		}
		wanted[b.accountID][b.deviceID] = true
	}
	for accountID, set := range wanted {
		ids := make([]string, 0, devicesPerQuery)
		for id := range set {
			delete(set, id)
			if ids = append(ids, id); len(ids) < devicesPerQuery && len(set) > 0 {
				continue
			}
			p.fetch(ctx, accountID, ids)
			ids = ids[:0]
		}
	}
}

func (p *pass) fetch(ctx context.Context, accountID string, ids []string) {
	if p.failed != nil {
		return
	}
	ctx, cancel := p.g.asked(ctx)
	defer cancel()
	found, _, err := p.g.store.Devices(ctx, accountID, socketxp.DeviceQuery{IDs: ids, Limit: devicesPerQuery})
	if err != nil {
		p.failed = err
		p.g.storeFailed("what is open could not be judged", err)
		return
	}
	for _, id := range ids {
		p.devices[[2]string{accountID, id}] = answer[socketxp.Device]{err: socketxp.ErrNotFound}
	}
	for _, d := range found {
		p.devices[[2]string{accountID, d.ID}] = answer[socketxp.Device]{value: d}
	}
}
