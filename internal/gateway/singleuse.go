package gateway

import (
	"context"
	"crypto/ed25519"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"socketxp"
	"socketxp/internal/control"
)

// placeKey has a device let in, once, who has the private half of a key: as one of its
// users ("" for the first that it allows), at a destination that it publishes. The
// caller's right to reach it has been judged. As is the user. Remove has the device take
// the key away, and must be called as soon as the sign-in is over; it does not block, and
// may be called more than once. The device's no is an error whose message may be shown.
func (g *Gateway) placeKey(ctx context.Context, who caller, device socketxp.Device, destination, user string, public ed25519.PublicKey) (as string, remove func(), err error) {
	if err := g.keyRates.take(device.ID).err(); err != nil {
		return "", nil, err
	}
	leave, err := g.keysPlaced.enter(device.ID, "sign-ins by single-use keys")
	if err != nil {
		return "", nil, err
	}
	sshKey, err := ssh.NewPublicKey(public)
	if err != nil {
		leave()
		return "", nil, err
	}
	key := socketxp.SingleUseKey{
		ID: socketxp.NewID(g.now()), DeviceID: device.ID, Destination: destination, User: user, PublicKey: public, Life: g.limits.keyLife,
	}
	entry := g.entry(who, "device.place-key", "device", device.ID, device.Name)
	entry.Detail = "single-use key " + ssh.FingerprintSHA256(sshKey) + " for " + destination
	if user != "" {
		entry.Detail += " as " + user
	}
	if err := g.recordKey(ctx, entry); err != nil {
		leave()
		return "", nil, err
	}
	remove = sync.OnceFunc(func() {
		g.spawn("single-use key", func() {
			defer leave()
			g.removeKey(ctx, key)
		})
	})
	asked, cancel := context.WithTimeout(ctx, g.limits.keyWithin)
	defer cancel()
	as, err = g.cluster.PlaceKey(asked, key)
	if err != nil {
		remove() // it may be there all the same
		if asked.Err() != nil && ctx.Err() == nil {
			err = socketxp.Errorf(socketxp.CodeUnavailable, "the device did not answer").WithHint("try again in a moment")
		}
		recorded, done := g.asked(ctx)
		defer done()
		g.auditRefusal(recorded, entry, err)
		return "", nil, err
	}
	g.publishEvent(context.WithoutCancel(ctx), socketxp.Event{
		AccountID: device.AccountID, Type: socketxp.EventSingleUseKey, DeviceID: device.ID, DeviceName: device.Name,
		Message: "the device " + device.Name + " lets in a terminal as " + as + " by a single-use key",
	})
	return as, remove, nil
}

// recordKey writes down that a key is about to be placed.
func (g *Gateway) recordKey(ctx context.Context, entry socketxp.AuditEntry) error {
	ctx, cancel := g.asked(ctx)
	defer cancel()
	if _, err := g.store.AppendAudit(ctx, entry); err != nil {
		g.storeFailed("a single-use key was not recorded", err)
		return unavailable(err)
	}
	return nil
}

// removeKey has a device take a key away. If the device does not say that it has, it
// will by itself, as the key's life is short.
func (g *Gateway) removeKey(ctx context.Context, key socketxp.SingleUseKey) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.limits.keyWithin)
	defer cancel()
	if err := g.cluster.RemoveKey(ctx, key.DeviceID, key.ID); err != nil {
		g.log.Debug("a device did not say that a single-use key is gone", "device", key.DeviceID, "key", key.ID, "error", err)
	}
}

// keyQuestion is what a device was asked about a single-use key: to place it, or to
// take it away.
type keyQuestion struct {
	id    string
	place bool
}

// PlaceKey is for the cluster.
func (d *deviceChannel) PlaceKey(ctx context.Context, k socketxp.SingleUseKey) (user string, err error) {
	if d.version < control.SingleUseKeyVersion {
		return "", socketxp.Errorf(socketxp.CodeVersion, "the device's agent is too old for single-use keys").
			WithHint("install a newer agent there, or sign in by password or key")
	}
	answer, err := d.question(ctx, keyQuestion{k.ID, true}, control.PlaceKey{
		ID: k.ID, Destination: k.Destination, User: k.User, PublicKey: k.PublicKey, Life: int(k.Life / time.Second),
	})
	if err != nil {
		return "", err
	}
	switch m := answer.(type) {
	case control.KeyPlaced:
		if k.User == "" || m.User == k.User {
			return m.User, nil
		}
	case control.KeyNotPlaced:
		return "", socketxp.Errorf(keyCode(m.Code), "the device refused: %s", m.Message).WithHint(m.Hint)
	}
	return "", socketxp.Errorf(socketxp.CodeProtocol, "the device answered what it was not asked")
}

// keyCode returns the reason that a device gave for its no to a key, if it is one that
// a device can know.
func keyCode(c socketxp.Code) socketxp.Code {
	if slices.Contains([]socketxp.Code{
		socketxp.CodeNotPublished, socketxp.CodeDialFailed, socketxp.CodeForbidden, socketxp.CodeInvalid, socketxp.CodeConflict, socketxp.CodeRateLimited,
	}, c) {
		return c
	}
	return socketxp.CodeUnavailable
}

// RemoveKey is for the cluster.
func (d *deviceChannel) RemoveKey(ctx context.Context, keyID string) error {
	if d.version < control.SingleUseKeyVersion {
		return nil // it has none
	}
	_, err := d.question(ctx, keyQuestion{keyID, false}, control.RemoveKey{ID: keyID})
	return err
}

// question asks the device and waits for its answer.
func (d *deviceChannel) question(ctx context.Context, q keyQuestion, m control.Message) (control.Message, error) {
	select {
	case <-d.welcomed:
	case <-d.ctx.Done():
		return nil, socketxp.ErrDeviceOffline
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answer := make(chan control.Message, 1)
	d.mu.Lock()
	if d.questions == nil {
		d.questions = make(map[keyQuestion]chan control.Message)
	}
	d.questions[q] = answer
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.questions, q)
	}()
	if d.tell(m) != nil {
		return nil, socketxp.ErrDeviceOffline
	}
	select {
	case m := <-answer:
		return m, nil
	case <-d.ctx.Done():
		return nil, socketxp.ErrDeviceOffline
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answered hands an answer to whoever has asked; the first one counts.
func (d *deviceChannel) answered(q keyQuestion, m control.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answer := d.questions[q]; answer != nil {
		delete(d.questions, q)
		answer <- m
	}
}
