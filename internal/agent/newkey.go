package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
)

// A device gets a new key in two ways: RotateKey, by which the old one vouches for
// it, and Relogin, by a token, when the old one is in other hands. In both the new key
// is on disk, beside device.key, before any gateway hears of it, and takes its place
// only when the gateway has answered: a machine that stops anywhere between has a key
// that the gateway knows.

// nextKeyFile holds the key that is about to take the place of device.key's, in the
// same form, without id, name and group.
const nextKeyFile = "device.key.next"

// rotateWithin bounds a change of the key, with the connection that ends it.
const rotateWithin = 50 * time.Second

// keyPause is how long a device that was asked for another key lets no further
// request of the gateway do anything.
const keyPause = time.Hour

// errNewKey ends a channel because the device has a new key.
var errNewKey = errors.New("the device has a new key")

// nextKey returns the key that was made for the place of k's, or fs.ErrNotExist.
func (d *Dir) nextKey(k DeviceKey) (ed25519.PrivateKey, error) {
	data, err := d.read(nextKeyFile, maxDeviceKey, true)
	if err != nil {
		return nil, err
	}
	next, err := ParseDeviceKey(data)
	if err != nil {
		return nil, hinted("remove it", "%s is damaged: %v", d.file(nextKeyFile), err)
	}
	if next.Key.Equal(k.Key) {
		return nil, fs.ErrNotExist // it has taken the place already, and the machine stopped before it was removed
	}
	return next.Key, nil
}

// makeNextKey returns the key that is to take the place of k's, on disk: the one that
// was made before, if any, unless fresh.
func (d *Dir) makeNextKey(k DeviceKey, fresh bool) (ed25519.PrivateKey, error) {
	if !fresh {
		key, err := d.nextKey(k)
		if !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err := DeviceKey{Key: key, Gateway: k.Gateway}.text()
	if err == nil {
		err = d.write(nextKeyFile, data)
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", d.file(nextKeyFile), err)
	}
	return key, nil
}

// replaceKey makes k the device's. With anew, its sequence begins anew.
func (d *Dir) replaceKey(k DeviceKey, anew bool) error {
	if err := d.writeKey(k); err != nil {
		return err
	}
	if anew {
		if err := d.wipe(sequenceFileName); err != nil {
			return err
		}
	}
	return d.wipe(nextKeyFile)
}

// openAny opens the device's channel with its key, or, if the gateway does not let
// that in any more, with the one that was made for its place: then a relogin was
// answered by nobody but the gateway's database.
func (d *device) openAny(ctx context.Context, report control.Report) (*control.Conn, control.Welcome, error) {
	key := d.keyNow()
	conn, welcome, err := d.dir.openDevice(ctx, d.gateway, key, report, d.version)
	var no *RefusedError
	if !errors.As(err, &no) {
		return conn, welcome, err
	}
	switch no.reason.Code {
	case socketxp.CodeDeviceUnknown, socketxp.CodeKeyRetired, socketxp.CodeQuarantined:
	default:
		return nil, welcome, err
	}
	next, nextErr := d.dir.nextKey(key)
	if nextErr != nil {
		return nil, welcome, err
	}
	old := key.Key
	key.Key = next
	conn, welcome, nextErr = d.dir.openDevice(ctx, d.gateway, key, report, d.version)
	if nextErr != nil {
		return nil, welcome, err
	}
	key.ID, key.Name, key.Group = welcome.DeviceID, welcome.DeviceName, welcome.DeviceGroup
	if err := d.useKey(old, key, false); err != nil {
		_ = conn.Close()
		return nil, welcome, err
	}
	return conn, welcome, nil
}

func (d *device) keyNow() DeviceKey {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.key
}

// useKey makes k the device's in the place of old.
func (d *device) useKey(old ed25519.PrivateKey, k DeviceKey, anew bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forgotten || !d.key.Key.Equal(old) {
		return errors.New("the device has changed meanwhile")
	}
	k.Gateway = d.key.Gateway // it may have announced another key of its own
	if err := d.dir.replaceKey(k, anew); err != nil {
		return err
	}
	d.key = k
	return nil
}

// connected waits until the agent is connected by another channel than not, and
// returns that, or why the agent is not connected.
func (d *device) connected(ctx context.Context, not *deviceChannel) (*deviceChannel, error) {
	for {
		now := d.connection()
		switch {
		case now.channel != nil && now.channel != not:
			return now.channel, nil
		case now.channel == nil && now.trouble != nil && !errors.Is(now.trouble, errNewKey):
			return nil, now.trouble
		}
		select {
		case <-now.turned:
		case <-ctx.Done():
			return nil, unreachable(d.gateway.addr.URL, errors.New("it did not answer"))
		}
	}
}

// rotate changes the device's key and returns when the gateway has let it in with
// the new one.
func (d *device) rotate(ctx context.Context) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, rotateWithin)
	defer cancel()
	c, err := d.connected(ctx, nil)
	if err != nil {
		return err
	}
	if len(c.nonce) == 0 {
		return hinted("its operator installs a newer one", "the gateway is too old to change the key of a device")
	}
	key := d.keyNow()
	next, err := d.dir.makeNextKey(key, false)
	if err != nil {
		return err
	}
	if err := d.stage(ctx, c, key, next); err != nil {
		return err
	}
	old := key.Key
	key.Key = next
	if err := d.useKey(old, key, false); err != nil {
		return err
	}
	d.log.Info("the device has a new key", "fingerprint", key.Fingerprint())
	c.end(errNewKey)
	if _, err := d.connected(ctx, c); err != nil {
		return fmt.Errorf("the new key is in its place, and the gateway learns of it at the next connection: %w", err)
	}
	return nil
}

// stage tells the gateway the next key on a channel, and waits for its answer.
func (d *device) stage(ctx context.Context, c *deviceChannel, key DeviceKey, next ed25519.PrivateKey) error {
	public, _ := next.Public().(ed25519.PublicKey)
	// Under the agent's context: a send that is given up closes the channel.
	if err := c.conn.Send(d.ctx, control.KeyChange{
		Next:  public,
		Proof: ed25519.Sign(next, socketxp.KeyChangeProof(key.ID, key.public(), public, c.nonce)),
		Vouch: ed25519.Sign(key.Key, socketxp.KeyVouch(key.ID, key.public(), public)),
	}); err != nil {
		return unreachable(d.gateway.addr.URL, err)
	}
	for {
		select {
		case m := <-c.keyAnswers:
			switch m := m.(type) {
			case control.KeyRefused:
				return refused(m.Code, m.Message, m.Hint, 0)
			case control.KeyStaged:
				if bytes.Equal(m.Next, public) {
					return nil
				}
			}
		case <-c.ended:
			return unreachable(d.gateway.addr.URL, errors.New("the control channel is closed"))
		case <-ctx.Done():
			return unreachable(d.gateway.addr.URL, errors.New("it did not answer"))
		}
	}
}

// keyIsDue changes the key because the gateway asks for it. A gateway that asks
// again and again has no more of it.
func (d *device) keyIsDue() {
	d.mu.Lock()
	again := !d.keyAsked.IsZero() && time.Since(d.keyAsked) < keyPause
	if !again {
		d.keyAsked = time.Now()
	}
	d.mu.Unlock()
	if again {
		return
	}
	d.working.Go(func() {
		if err := d.rotate(d.ctx); err != nil && d.ctx.Err() == nil {
			d.log.Warn("the device's key was not changed, and will be when the gateway asks again", "err", err)
		}
	})
}

// RotateKey changes the key of the registered device, by the agent that runs in the
// folder or on a channel of its own, and returns how the new one is shown. The old one
// is refused from then on.
func RotateKey(ctx context.Context, dir *Dir, version string, log *slog.Logger) (fingerprint string, err error) {
	for tries := 0; ; tries++ {
		key, err := dir.Key()
		if err != nil {
			return "", err
		}
		release, err := dir.lock()
		if err == nil {
			defer release()
			return rotateAlone(ctx, dir, key, version, log)
		}
		if !errors.Is(err, errLocked) {
			return "", err
		}
		reply, err := dir.askOnce(ctx, localRequest{Op: opRotate})
		if err == nil && reply.Status == nil {
			err = errors.New("the agent that runs gave no answer")
		}
		switch {
		case err == nil:
			return reply.Status.Fingerprint, nil
		case !errors.Is(err, errNoAgent) || tries == joinTries:
			return "", err
		}
		if !sleep(ctx, joinPause) {
			return "", ctx.Err()
		}
	}
}

// rotateAlone is an agent that publishes nothing, and ends when the key is changed.
func rotateAlone(ctx context.Context, dir *Dir, key DeviceKey, version string, log *slog.Logger) (string, error) {
	o := ConnectOptions{Dir: dir, Version: version, Log: log}
	o.withDefaults()
	d, err := newDevice(ctx, key, o)
	if err != nil {
		return "", err
	}
	defer d.stop(nil)
	var running sync.WaitGroup
	running.Go(func() { _ = d.stayConnected() })
	err = d.rotate(ctx)
	d.stop(nil)
	running.Wait()
	d.working.Wait()
	return d.keyNow().Fingerprint(), err
}

// ReloginOptions say how a device gets a new key by a token.
type ReloginOptions struct {
	Dir *Dir
	// Token is a registration or basic token of the account that the device is in.
	Token string
	// Name and Group make this machine a device of its own; both empty keep the one
	// that it is.
	Name, Group string
}

// Relogin gives the registered device a new key, which ends its quarantine and leaves
// every other holder of the old key without one; or, with a name, registers this
// machine as another device. An agent that runs in the folder goes on with the new
// key. It is a *NotRegisteredError if the machine is no device.
func Relogin(ctx context.Context, o ReloginOptions) (DeviceKey, error) {
	for tries := 0; ; tries++ {
		key, err := o.Dir.Key()
		if err != nil {
			return DeviceKey{}, err
		}
		release, err := o.Dir.lock()
		if err == nil {
			defer release()
			gw, err := o.Dir.gateway(key.Gateway)
			if err != nil {
				return DeviceKey{}, err
			}
			gw.remember(o.Dir, nil)
			k, err := relogin(ctx, gw, key, o)
			if err != nil {
				return DeviceKey{}, err
			}
			return k, o.Dir.replaceKey(k, true)
		}
		if !errors.Is(err, errLocked) {
			return DeviceKey{}, err
		}
		reply, err := o.Dir.askOnce(ctx, localRequest{Op: opRelogin, Token: o.Token, Name: o.Name, Group: o.Group})
		switch {
		case err == nil && reply.Status == nil:
			return DeviceKey{}, errors.New("the agent that runs gave no answer")
		case err == nil:
			return DeviceKey{ID: reply.Status.DeviceID, Name: reply.Status.DeviceName, Group: reply.Status.DeviceGroup}, nil
		case !errors.Is(err, errNoAgent) || tries == joinTries:
			return DeviceKey{}, err
		}
		if !sleep(ctx, joinPause) {
			return DeviceKey{}, ctx.Err()
		}
	}
}

// relogin is Relogin in the agent that runs.
func (d *device) relogin(ctx context.Context, o ReloginOptions) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	key := d.keyNow()
	o.Dir = d.dir
	k, err := relogin(ctx, d.gateway, key, o)
	if err != nil {
		return err
	}
	if err := d.useKey(key.Key, k, true); err != nil {
		return err
	}
	d.log.Info("the device has a new key", "device", k.ID, "fingerprint", k.Fingerprint())
	if c := d.connection().channel; c != nil {
		c.end(errNewKey)
	}
	select {
	case d.kicked <- struct{}{}: // it may be waiting to be let in again
	default:
	}
	return nil
}

// relogin asks the gateway for it, and returns the device as it is to be written.
func relogin(ctx context.Context, gw *gateway, key DeviceKey, o ReloginOptions) (DeviceKey, error) {
	addr, ok, err := socketxp.TokenAddress(o.Token)
	switch {
	case err != nil:
		return DeviceKey{}, err
	case ok && addr.URL != key.Gateway.URL && !sharePin(addr, key.Gateway):
		return DeviceKey{}, hinted("socketxp logout, then socketxp login TOKEN, moves it there",
			"the token is for the gateway %s, and this device is registered at %s", addr.URL, key.Gateway.URL)
	}
	for fresh := false; ; fresh = true {
		next, err := o.Dir.makeNextKey(key, fresh)
		if err != nil {
			return DeviceKey{}, err
		}
		answer, err := askRelogin(ctx, gw, key, next, o)
		if socketxp.CodeOf(err) == socketxp.CodeConflict && !fresh && o.Name == "" {
			continue // the next key of before has become somebody's: another device's, say
		}
		if err != nil {
			return DeviceKey{}, err
		}
		return DeviceKey{ID: answer.DeviceID, Name: answer.Name, Group: answer.Group, Key: next, Gateway: key.Gateway}, nil
	}
}

func askRelogin(ctx context.Context, gw *gateway, key DeviceKey, next ed25519.PrivateKey, o ReloginOptions) (api.RegisterResponse, error) {
	if o.Name != "" {
		return register(ctx, gw, next, LoginOptions{Target: Target{Token: o.Token}, Name: o.Name, Group: o.Group})
	}
	public, _ := next.Public().(ed25519.PublicKey)
	text := socketxp.KeyReplaceProof(o.Token, key.public(), public)
	return askRegistration(ctx, gw, o.Token, func(ctx context.Context, client *api.Client) (api.RegisterResponse, error) {
		return client.Relogin(ctx, api.ReloginRequest{
			OldKey: key.public(), OldProof: ed25519.Sign(key.Key, text), PublicKey: public, Proof: ed25519.Sign(next, text),
		})
	})
}
