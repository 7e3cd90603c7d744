package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// loginLimit is how long a registration may take as a whole.
const loginLimit = 60 * time.Second

// LoginOptions say how a device is registered.
type LoginOptions struct {
	Target
	Dir *Dir
	// Name and Group are asked for; empty leaves them to the gateway, which then
	// makes a name of this machine's.
	Name, Group string
	Log         *slog.Logger // nil logs nothing
}

// Login registers this device, or a device of the same key again, which changes
// nothing and takes no use of the token. The private key is on disk before the
// request leaves and never leaves this machine; the token is written nowhere. The
// gateway has been verified before it sees the token. Errors of the gateway are
// *RefusedError or *UnreachableError.
func Login(ctx context.Context, o LoginOptions) (DeviceKey, error) {
	for _, check := range []struct {
		value string
		ok    func(string) error
	}{{o.Name, socketxp.CheckDeviceName}, {o.Group, socketxp.CheckGroup}} {
		if check.value != "" {
			if err := check.ok(check.value); err != nil {
				return DeviceKey{}, err
			}
		}
	}
	gw, authorities, err := o.resolve()
	if err != nil {
		return DeviceKey{}, err
	}
	gw.remember(o.Dir, o.Log)

	// An agent that runs holds the lock. Registering its key again is harmless, but
	// the file is that agent's to write.
	release, err := o.Dir.lock()
	running := errors.Is(err, errLocked)
	switch {
	case running:
		k, err := o.Dir.Key()
		switch {
		case errors.As(err, new(*NotRegisteredError)):
			return DeviceKey{}, hinted("try again in a moment", "another socketxp is at work in %s", o.Dir.Path())
		case err != nil:
			return DeviceKey{}, err
		case !sameGateway(k.Gateway, gw.addr) || authorities != nil:
			return DeviceKey{}, hinted("end it first", "an agent runs in %s, by another address or key of the gateway", o.Dir.Path())
		}
	case err != nil:
		return DeviceKey{}, err
	default:
		defer release()
	}

	k, fresh, err := o.Dir.keyFor(gw.addr)
	if err != nil {
		return DeviceKey{}, err
	}
	answer, err := register(ctx, gw, k.Key, o)
	if err != nil {
		var no *RefusedError
		if fresh && errors.As(err, &no) && !no.Passing() {
			// Nobody has registered it: an honest "not registered" is what is left.
			err = errors.Join(err, o.Dir.wipe(keyFile))
		}
		return DeviceKey{}, err
	}
	k.ID, k.Name, k.Group, k.Gateway = answer.DeviceID, answer.Name, answer.Group, gw.addr
	if running {
		return k, nil
	}
	if err := o.Dir.writeAuthorities(authorities); err != nil {
		return k, err
	}
	return k, o.Dir.writeKey(k)
}

// writeAuthorities keeps what the gateway was verified by, if that was a CA file.
func (d *Dir) writeAuthorities(pem []byte) error {
	var err error
	if pem != nil {
		err = d.write(authoritiesFile, pem)
	} else {
		err = d.wipe(authoritiesFile)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.file(authoritiesFile), err)
	}
	return nil
}

// keyFor returns the folder's key for registering at addr, on disk. Fresh is true
// if no gateway can have seen it before.
func (d *Dir) keyFor(addr socketxp.GatewayAddress) (k DeviceKey, fresh bool, err error) {
	k, err = d.anyKey()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return DeviceKey{}, false, err
		}
		k = DeviceKey{Key: key, Gateway: addr}
		return k, true, d.writeKey(k)
	case err != nil:
		return DeviceKey{}, false, err
	case k.ID != "" && k.Gateway.URL != addr.URL && !sharePin(k.Gateway, addr):
		// One key, one gateway: another one's operator could else follow the device.
		return DeviceKey{}, false, hinted("socketxp logout first", "this device is registered at another gateway, %s", k.Gateway.URL)
	}
	return k, false, nil
}

// register asks the gateway to register the key.
func register(ctx context.Context, gw *gateway, key ed25519.PrivateKey, o LoginOptions) (api.RegisterResponse, error) {
	public, _ := key.Public().(ed25519.PublicKey)
	request := api.RegisterRequest{
		PublicKey: public,
		Proof:     ed25519.Sign(key, socketxp.RegistrationProof(o.Token, public)),
		Name:      o.Name, Group: o.Group,
	}
	if o.Name == "" {
		if host, err := os.Hostname(); err == nil {
			request.NameHint = socketxp.MakeLabel(host)
		}
	}
	return askRegistration(ctx, gw, o.Token, func(ctx context.Context, client *api.Client) (api.RegisterResponse, error) {
		return client.Register(ctx, request)
	})
}

// askRegistration has the gateway answer who this device is.
func askRegistration(ctx context.Context, gw *gateway, token string, ask func(context.Context, *api.Client) (api.RegisterResponse, error)) (api.RegisterResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, loginLimit)
	defer cancel()
	client := api.NewClientBy(gw.addr, gw.restTLS, token)
	defer client.Close()
	answer, err := ask(ctx, client)
	var no *socketxp.Error
	var away *UnreachableError
	switch {
	case errors.As(err, &away): // which holds an error of ours, and none of the gateway's
		return answer, away
	case errors.As(err, &no):
		if no.Code == socketxp.CodeAlreadyRegister && no.Hint == "" {
			no = no.WithHint("the name and group of a registered device are changed in the portal or by the API")
		}
		return answer, refused(no.Code, no.Message, no.Hint, 0)
	case err != nil:
		return answer, unreachable(gw.addr.URL, err)
	}
	if !socketxp.ValidID(answer.DeviceID) {
		return answer, unreachable(gw.addr.URL, errors.New("it answered with a device id that is none"))
	}
	if err := errors.Join(socketxp.CheckDeviceName(answer.Name), socketxp.CheckGroup(answer.Group)); err != nil {
		return answer, unreachable(gw.addr.URL, fmt.Errorf("it answered with a name or group that is none: %w", err))
	}
	return answer, nil
}
