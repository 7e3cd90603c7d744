package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"

	"golang.org/x/time/rate"
)

// A device changes its key by internal/control/SPEC.md, section 7.

// newKeyChanges returns the limit of how many changes of its key one channel may
// ask for: a change is one request, and one that failed is tried again.
func newKeyChanges() *rate.Limiter { return rate.NewLimiter(rate.Every(10*time.Second), 4) }

// changeKey answers a KeyChange: KeyStaged or KeyRefused.
func (d *deviceChannel) changeKey(m control.KeyChange) {
	if err := d.stageKey(m); err != nil {
		e := clientError(err)
		d.g.stats.refused(doorControl, e.Code)
		_ = d.tell(control.KeyRefused{Code: e.Code, Message: e.Message, Hint: e.Hint})
		return
	}
	_ = d.tell(control.KeyStaged{Next: m.Next})
}

func (d *deviceChannel) stageKey(m control.KeyChange) error {
	if d.keyChanges == nil {
		d.keyChanges = newKeyChanges()
	}
	if !d.keyChanges.Allow() {
		return socketxp.Errorf(socketxp.CodeRateLimited, "the device changes its key too often")
	}
	ctx, cancel := d.g.asked(d.ctx)
	defer cancel()
	next := ed25519.PublicKey(m.Next)
	entry := socketxp.AuditEntry{
		AccountID: d.accountID, At: d.g.now(),
		Actor:      socketxp.Actor{Kind: socketxp.KindDeviceKey, DeviceID: d.id, RemoteAddr: d.remote.String()},
		Action:     "device.stage-key",
		ObjectKind: "device", ObjectID: d.id, ObjectName: d.name, Detail: "next key " + socketxp.Fingerprint(next),
	}
	var err error
	switch {
	case len(next) != ed25519.PublicKeySize || len(d.nonce) != control.NonceSize:
		return socketxp.Errorf(socketxp.CodeProtocol, "the key can't be changed on this channel")
	case !ed25519.Verify(next, socketxp.KeyChangeProof(d.id, d.key, next, d.nonce), m.Proof):
		err = socketxp.Errorf(socketxp.CodeForbidden, "the proof is not a signature by the next key, on this channel")
	case !ed25519.Verify(d.key, socketxp.KeyVouch(d.id, d.key, next), m.Vouch):
		err = socketxp.Errorf(socketxp.CodeForbidden, "the device's current key does not vouch for the next one")
	}
	if err != nil {
		d.g.auditRefusal(ctx, entry, err)
		return err
	}
	err = d.g.store.StageKey(ctx, d.accountID, d.id, socketxp.KeySuccession{Current: d.key, Next: next, Vouch: m.Vouch}, entry)
	switch socketxp.CodeOf(err) {
	case "", socketxp.CodeConflict:
		return err
	case socketxp.CodeNotFound:
		return socketxp.Errorf(socketxp.CodeDeviceUnknown, "the device was deleted")
	}
	d.g.storeFailed("a device's next key was not stored", err)
	return unavailable(err)
}

// promoteKey makes the key of this channel, the device's next one, its current one.
func (d *deviceChannel) promoteKey() error {
	ctx, cancel := d.g.asked(d.ctx)
	defer cancel()
	device, err := d.g.store.PromoteKey(ctx, d.accountID, d.id, d.key, socketxp.AuditEntry{
		AccountID: d.accountID, At: d.g.now(),
		Actor:      socketxp.Actor{Kind: socketxp.KindDeviceKey, DeviceID: d.id, RemoteAddr: d.remote.String()},
		Action:     "device.change-key",
		ObjectKind: "device", ObjectID: d.id, ObjectName: d.name, Detail: "key " + socketxp.Fingerprint(d.key),
	})
	switch socketxp.CodeOf(err) {
	case "":
	case socketxp.CodeConflict:
		return errBehind // it was looked up a moment ago: it is current, or void, by now
	default:
		d.g.storeFailed("a device's key was not changed", err)
		return unavailable(err)
	}
	d.keySince = device.KeySince
	d.g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: d.accountID, ID: d.id})
	d.g.publishEvent(ctx, socketxp.Event{
		AccountID: d.accountID, Type: socketxp.EventDeviceKeyChanged, DeviceID: d.id, DeviceName: d.name,
		Message: "the device " + d.name + " has changed its key to " + socketxp.Fingerprint(d.key),
	})
	return nil
}

var errKeyRetired = socketxp.Errorf(socketxp.CodeKeyRetired, "this key is not the device's any more: it has a newer one").
	WithHint("if this is the genuine machine, somebody else has its key: socketxp relogin TOKEN takes the device back")

// refuseRetired refuses a channel with a key that the device once had. If somebody
// is there who uses it, people are told: the machine it was copied from, or the copy.
// The device goes on: whoever finds an old key must not be able to stop it.
func (d *deviceChannel) refuseRetired() error {
	err := d.g.sequences.check(d.ctx, d.conn, socketxp.Sequence{})
	if !errors.As(err, new(*foreignError)) {
		return err
	}
	if !d.g.alarms.allow(string(d.key)) {
		return errKeyRetired
	}
	ctx, cancel := d.g.asked(d.ctx)
	defer cancel()
	d.g.auditRefusal(ctx, socketxp.AuditEntry{
		AccountID:  d.accountID,
		Actor:      socketxp.Actor{Kind: socketxp.KindDeviceKey, DeviceID: d.id, RemoteAddr: d.remote.String()},
		Action:     "device.connect",
		ObjectKind: "device", ObjectID: d.id, ObjectName: d.name, Detail: "retired key " + socketxp.Fingerprint(d.key),
	}, errKeyRetired)
	d.g.log.Warn("a retired key of a device was used", "account", d.accountID, "device", d.id, "name", d.name, "remote", d.remote.String())
	d.g.publishEvent(ctx, socketxp.Event{
		AccountID: d.accountID, Type: socketxp.EventDeviceKeyRetired, DeviceID: d.id, DeviceName: d.name,
		Message: "somebody at " + d.remote.String() + " has used a key that the device " + d.name + " had before",
	})
	return errKeyRetired
}

// askForKeys asks devices whose key is older than the operator wants to change it,
// a few at a time, and each one now and then until it has.
func (g *Gateway) askForKeys(context.Context) {
	if g.cfg.DeviceKeyLife == 0 {
		return
	}
	now, left := g.now(), g.limits.keyDueAtOnce
	for _, t := range g.live.all() {
		d, ok := t.(*deviceChannel)
		if !ok || left == 0 {
			continue
		}
		if d.keyIsDue(now, g.cfg.DeviceKeyLife) {
			left--
			g.spawn("message", func() { _ = d.tell(control.KeyDue{}) })
		}
	}
}

// keyAskEvery is how long a device is left alone that was asked for another key.
const keyAskEvery = time.Hour

func (d *deviceChannel) keyIsDue(now time.Time, life time.Duration) bool {
	select {
	case <-d.welcomed:
	default:
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone || len(d.nonce) == 0 || now.Sub(d.keySince) < life || now.Sub(d.keyAsked) < keyAskEvery {
		return false
	}
	d.keyAsked = now
	return true
}

// errKeyChanged ends a visit softly: its links go on, and the visitor asks anew and
// meets the device's new key.
var errKeyChanged = socketxp.Errorf(socketxp.CodeKeyRetired, "the device has changed its key")

// judgeKey returns an error if the device has another key than the visitor was told:
// errKeyChanged if the visitor's key has vouched for it, else the links are those of
// somebody who is the device no more.
func (t *visit) judgeKey(ctx context.Context, device socketxp.Device) error {
	if device.PublicKey.Equal(t.deviceKey) {
		return nil
	}
	vouchers, err := t.g.store.KeyVouchers(ctx, device.AccountID, device.ID)
	switch {
	case err != nil:
		return err
	case !socketxp.FollowsKey(device.ID, socketxp.Fingerprint(t.deviceKey), vouchers, device.PublicKey):
		return socketxp.Errorf(socketxp.CodeKeyRetired, "the device has got a new key that the one of before does not vouch for")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left {
		return nil // it may finish what it has
	}
	return errKeyChanged
}

// renew ends a visit for new links, and has the visitor ask anew.
func (t *visit) renew() {
	t.mu.Lock()
	if t.over || t.left {
		t.mu.Unlock()
		return
	}
	t.left, t.reason = true, errKeyChanged.Code
	t.mu.Unlock()
	t.visitor.forget(t)
	t.g.spawn("message", func() {
		t.awaitAnswer()
		_ = t.visitor.tell(control.Ended{Visit: t.number, Code: socketxp.CodeUnavailable, Message: errKeyChanged.Message})
	})
	t.endIfOver()
}

type reloginIn struct{ Body api.ReloginRequest }

// relogin gives a device a new key by a registration or basic token, and brings it
// out of quarantine.
func (g *Gateway) relogin(ctx context.Context, who caller, in *reloginIn) (*registerOut, error) {
	for _, v := range []verdict{
		g.rest.registrations.take(network(who.remote)),
		g.rest.tokenRegistrations.take(who.credentialID),
		g.rest.accountRegistrations.take(who.accountID),
	} {
		if err := v.err(); err != nil {
			return nil, err
		}
	}
	old, next := ed25519.PublicKey(in.Body.OldKey), ed25519.PublicKey(in.Body.PublicKey)
	if len(old) != ed25519.PublicKeySize || len(next) != ed25519.PublicKeySize {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "a public key is not an Ed25519 key")
	}
	text := socketxp.KeyReplaceProof(callOf(ctx).bearer, old, next)
	switch {
	case !ed25519.Verify(old, text, in.Body.OldProof):
		return nil, socketxp.Errorf(socketxp.CodeForbidden, "the proof of the old key is not its signature over this token and both keys")
	case !ed25519.Verify(next, text, in.Body.Proof):
		return nil, socketxp.Errorf(socketxp.CodeForbidden, "the proof of the new key is not its signature over this token and both keys")
	}
	entry := g.entry(who, "device.relogin", "device", "", "")
	entry.Detail = "key " + socketxp.Fingerprint(next) + " for " + socketxp.Fingerprint(old)
	d, again, err := g.store.ReplaceKey(ctx, socketxp.KeyReplacement{
		AccountID: who.accountID, TokenID: who.credentialID, Old: old, New: next,
		Allow: func(d socketxp.Device) error { return mayRelogin(who.token.Scope, d) },
	}, g.now(), entry)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return nil, socketxp.Errorf(socketxp.CodeNotFound, "the account has no device with this key").WithHint("socketxp logout, then socketxp login TOKEN")
	case err != nil:
		return nil, err
	}
	if !again {
		g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: d.AccountID, ID: d.ID})
		g.publishEvent(ctx, socketxp.Event{
			AccountID: d.AccountID, Type: socketxp.EventDeviceKeyChanged, DeviceID: d.ID, DeviceName: d.Name,
			Message: "the device " + d.Name + " was logged in again, with the new key " + socketxp.Fingerprint(next),
		})
	}
	return &registerOut{api.RegisterResponse{DeviceID: d.ID, Name: d.Name, Group: d.Group, Again: again}}, nil
}

// mayRelogin says whether a token for registrations is for this device, too.
func mayRelogin(scope socketxp.TokenScope, d socketxp.Device) error {
	if scope.Group != "" && scope.Group != d.Group {
		return socketxp.Errorf(socketxp.CodeForbidden, "the token is for devices of the group %s", scope.Group)
	}
	if ok, err := path.Match(scope.NamePattern, d.Name); scope.NamePattern != "" && (err != nil || !ok) {
		return socketxp.Errorf(socketxp.CodeForbidden, "the token is for device names like %s, not for %s", scope.NamePattern, d.Name)
	}
	return nil
}

// vouchersOf returns how a device's key came from those before it, for a visitor who
// knows one of them. A device that never changed its key has none.
func (g *Gateway) vouchersOf(ctx context.Context, d socketxp.Device) ([]control.Voucher, error) {
	if d.KeySince.Equal(d.CreatedAt) {
		return nil, nil
	}
	found, err := g.store.KeyVouchers(ctx, d.AccountID, d.ID)
	if err != nil {
		g.storeFailed("a device's keys could not be looked up", err)
		return nil, unavailable(err)
	}
	return mapped(found, func(v socketxp.KeyVoucher) control.Voucher { return control.Voucher{Key: v.Key, Vouch: v.Vouch} }), nil
}
