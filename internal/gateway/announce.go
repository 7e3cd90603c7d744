package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// welcome lets the agent in, and tells it the gateway's keys. From then on it hears
// of every change of them.
func (c *channel) welcome(w control.Welcome) error {
	c.keysMu.Lock()
	defer c.keysMu.Unlock()
	w.GatewayPins = c.g.cert.pins()
	if err := c.tell(w); err != nil {
		return err
	}
	c.told = w.GatewayPins
	return nil
}

// tellKeys tells the agent the gateway's keys, unless it was told. One that is not
// welcome yet hears of them when it is.
func (c *channel) tellKeys() {
	c.keysMu.Lock()
	defer c.keysMu.Unlock()
	pins := c.g.cert.pins()
	if c.told == nil || c.version < keysSince || slices.Equal(c.told, pins) {
		return
	}
	c.told = pins
	if changed := c.g.cert.changed.Load(); c.device && len(pins) > 1 && changed != 0 && c.since.UnixNano() < changed+int64(c.g.limits.showWithin) {
		// The key that this channel was opened with is none of those: what is said here
		// would not count. A new channel, opened beside this one, proves the present key.
		_ = c.tell(control.GoAway{Message: "the gateway has another key since this channel was opened", RetryAfter: 0})
		return
	}
	_ = c.tell(control.GatewayKeys{Pins: pins})
}

// keysSince is the version of the control protocol that has GatewayKeys.
const keysSince = 2

// tellKeys has all agents told, if there is something to tell. It does not block.
func (g *Gateway) tellKeys() {
	select {
	case g.rekeyed <- struct{}{}:
	default: // it is due already
	}
}

// announceKeys tells all agents of changed keys until ctx is done: one after the
// other, as each device writes them down and has that stored.
func (g *Gateway) announceKeys(ctx context.Context) {
	for {
		g.rememberKeys(ctx)
		select {
		case <-ctx.Done():
			return
		case <-g.rekeyed:
		}
		for _, c := range g.live.allChannels() {
			if c.tellKeys(); !wait(ctx, announceEvery) {
				return
			}
		}
	}
}

// announceEvery makes 10,000 devices confirm within a minute.
const announceEvery = 5 * time.Millisecond

// heedKeyChange does what the change of the key in the data folder asks for, if there
// is one: announces the next key, and changes to it when the day has come and no
// device would be locked out.
func (g *Gateway) heedKeyChange(ctx context.Context) {
	if leaf := g.cert.judge(); leaf != nil { // ACME has obtained another
		g.log.Info("the gateway has another certificate", "issuer", leaf.Issuer.String(), "until", leaf.NotAfter, "pinned", g.cert.pin() != "")
	}
	if g.cfg.TLSCert != "" {
		return // the operator changes the key, by Reload
	}
	change, err := ReadKeyChange(g.cfg.DataDir)
	switch {
	case errors.Is(err, ErrNoKeyChange):
		if g.cert.next.Load() != nil {
			g.log.Info("the change of the gateway's key was called off")
			g.cert.announce("")
			g.tellKeys()
		}
		return
	case err != nil:
		g.complain("it can't be read", err)
		return
	}
	if next := g.cert.next.Load(); !change.Changing && (next == nil || *next != change.Pin) {
		if _, err := change.nextPair(g.cfg.DataDir); err != nil {
			g.complain("the next key can't be announced", err)
			return
		}
		g.cert.announce(change.Pin)
		g.tellKeys()
		g.log.Info("the gateway's next key is announced", "pin", change.Pin, "change_at", change.ChangeAt)
	}
	if !change.Changing && (g.now().Before(change.ChangeAt) || !g.mayChangeKey(ctx, change)) {
		return
	}
	if err := g.changeKey(ctx, change); err != nil {
		g.complain("the key was not changed", err)
	}
}

func (g *Gateway) complain(what string, err error) {
	if g.complaints.allow(what) {
		g.log.Error("the change of the gateway's key does not go on", "what", what, "error", err)
	}
}

// mayChangeKey reports whether no device would be locked out, or it is to be done
// all the same.
func (g *Gateway) mayChangeKey(ctx context.Context, change KeyChange) bool {
	if change.Forced {
		return true
	}
	if !g.asksKnowledge.allow(change.Pin + change.ChangeAt.String()) {
		return false // asked a moment ago
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	all, err := g.store.KeyKnowledge(ctx, change.Pin, g.now().Add(-KeySeenWithin))
	if err != nil {
		g.storeFailed("the devices that know the next key were not counted", err)
		return false
	}
	missing := 0
	for _, k := range all {
		missing += k.RecentDont
	}
	if missing > 0 {
		g.log.Warn("the gateway's key is not changed yet: devices that were seen in the last 90 days don't know the next one; see admin rotate-tls-key --status",
			"devices", missing)
	}
	return missing == 0
}

// changeKey changes to the staged key. Connections that are open live on.
func (g *Gateway) changeKey(ctx context.Context, change KeyChange) error {
	before := g.cert.keyPin()
	next, err := g.nextACME(ctx, change)
	if err != nil {
		return err
	}
	if err := change.carryOut(g.cfg.DataDir); err != nil {
		if next != nil {
			next.end()
		}
		return err
	}
	pair, err := g.cert.read()
	if err != nil {
		return err
	}
	if old := g.cert.acme.Load(); old != nil {
		g.cert.acme.Store(next)
		old.end()
		if err := os.RemoveAll(old.dir); err != nil { // the old key is in it
			g.log.Warn("the certificates of the old key were not removed", "error", err)
		}
	}
	g.cert.show(pair)
	g.tellKeys()
	g.log.Info("the gateway has changed its key", "pin", g.cert.keyPin(), "before", before)
	return nil
}

// nextACME returns what obtains the certificates of the staged key, with those for
// all names already obtained: whoever knows no pin must be able to verify the gateway
// when it has changed its key. It is nil without ACME.
func (g *Gateway) nextACME(ctx context.Context, change KeyChange) (*acme, error) {
	if g.cert.acme.Load() == nil {
		return nil, nil //nolint:nilnil // as it says
	}
	if !g.obtains.allow(change.Pin + change.ChangeAt.String()) {
		return nil, errors.New("certificates for the next key could not be obtained a while ago; it is tried again every 10 minutes")
	}
	pair, err := change.nextPair(g.cfg.DataDir)
	if change.Changing {
		return nil, errors.New("the change was broken off; it is finished by the next start")
	}
	if err != nil {
		return nil, err
	}
	next, err := g.newACME(ctx, pair)
	if err != nil {
		return nil, err
	}
	obtaining, cancel := context.WithTimeout(ctx, obtainWithin)
	defer cancel()
	if err := next.obtain(obtaining); err != nil {
		next.end()
		return nil, fmt.Errorf("obtain the certificates for the next key: %w", err)
	}
	return next, nil
}

// obtainWithin is how long obtaining the certificates for the next key may take.
const obtainWithin = 3 * time.Minute

// keysSetting holds the pins of the keys that devices were told last.
const keysSetting = "gateway_keys"

// rememberKeys keeps which keys devices are told, and says in the log if the gateway
// has come back with one that they were not.
func (g *Gateway) rememberKeys(ctx context.Context) {
	ctx, cancel := g.asked(ctx)
	defer cancel()
	known, err := g.store.Setting(ctx, keysSetting)
	now := strings.Join(g.cert.pins(), " ")
	switch {
	case err != nil && !errors.Is(err, socketxp.ErrNotFound):
		g.storeFailed("the keys that devices were told could not be read", err)
		return
	case known == now:
		return
	case known != "" && !slices.Contains(strings.Fields(known), g.cert.keyPin()) && g.cert.pin() != "":
		g.log.Warn("the gateway has another key than before, which was not announced: devices that pinned the one of before will not connect until they log in again",
			"pin", g.cert.keyPin(), "before", known)
	}
	if err := g.store.SetSetting(ctx, keysSetting, now); err != nil {
		g.storeFailed("the keys that devices are told were not stored", err)
	}
}
