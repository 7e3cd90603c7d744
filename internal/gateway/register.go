package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path"

	"socketxp"
	"socketxp/internal/api"
)

type registerIn struct{ Body api.RegisterRequest }

type registerOut struct{ Body api.RegisterResponse }

// register adds a device by a registration or basic token.
func (g *Gateway) register(ctx context.Context, who caller, in *registerIn) (*registerOut, error) {
	for _, v := range []verdict{
		g.rest.registrations.take(network(who.remote)),
		g.rest.tokenRegistrations.take(who.credentialID),
		g.rest.accountRegistrations.take(who.accountID),
	} {
		if err := v.err(); err != nil {
			return nil, err
		}
	}
	req := in.Body
	key := ed25519.PublicKey(req.PublicKey)
	switch {
	case len(key) != ed25519.PublicKeySize:
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "the public key is not an Ed25519 key")
	case !ed25519.Verify(key, socketxp.RegistrationProof(callOf(ctx).bearer, key), req.Proof):
		return nil, socketxp.Errorf(socketxp.CodeForbidden, "the proof is not a signature by the device's key over this token")
	}
	r, err := g.registration(ctx, who, req)
	if err != nil {
		return nil, err
	}
	now := g.now()
	r.Device.ID, r.Device.CreatedAt = socketxp.NewID(now), now
	entry := socketxp.AuditEntry{
		AccountID: who.accountID, At: now, Actor: who.actor(), Action: "device.register", ObjectKind: "device",
		Detail: "key " + socketxp.Fingerprint(key),
	}
	d, again, err := g.store.RegisterDevice(ctx, r, now, entry)
	if err != nil {
		return nil, err
	}
	if !again {
		g.publishEvent(ctx, socketxp.Event{
			AccountID: d.AccountID, Type: socketxp.EventDeviceRegistered, DeviceID: d.ID, DeviceName: d.Name,
			Message: "the device " + d.Name + " was registered",
		})
	}
	return &registerOut{api.RegisterResponse{DeviceID: d.ID, Name: d.Name, Group: d.Group, Again: again}}, nil
}

// registration checks what a device asks for against what the token is for. What a
// token is tied to is never put in the place of something else that was asked for.
func (g *Gateway) registration(ctx context.Context, who caller, req api.RegisterRequest) (socketxp.Registration, error) {
	r := socketxp.Registration{
		TokenID: who.credentialID,
		Device: socketxp.Device{
			AccountID: who.accountID, Name: req.Name, Group: req.Group, PublicKey: req.PublicKey,
			CreatedBy: who.userID, RemoteAddr: who.remote.String(),
		},
	}
	if req.Name != "" {
		if err := socketxp.CheckDeviceName(req.Name); err != nil {
			return r, err
		}
	}
	if req.Group != "" {
		if err := socketxp.CheckGroup(req.Group); err != nil {
			return r, err
		}
	}
	scope := who.token.Scope
	if req.Group != "" && scope.Group != "" && req.Group != scope.Group {
		return r, socketxp.Errorf(socketxp.CodeForbidden, "the token is for devices of the group %s", scope.Group).WithHint("leave the group out")
	}
	known, state, err := g.store.DeviceByKey(ctx, r.Device.PublicKey)
	if err != nil && !errors.Is(err, socketxp.ErrNotFound) {
		return r, err
	}
	if err == nil && state == socketxp.DeviceKeyCurrent && known.AccountID == who.accountID {
		// It registers again. What it does not ask for stays as it is by now.
		r.AnyName = req.Name == ""
		if r.AnyName {
			r.Device.Name = known.Name
		}
		return r, nil
	}
	if r.Device.Group == "" {
		r.Device.Group = scope.Group
	}
	if r.Device.Name == "" {
		r.AnyName = true
		if r.Device.Name = socketxp.MakeLabel(req.NameHint); r.Device.Name == "" {
			r.Device.Name = "device"
		}
	}
	if scope.NamePattern == "" {
		return r, nil
	}
	r.AnyName = false // a number at its end could take the name out of the pattern
	if ok, err := path.Match(scope.NamePattern, r.Device.Name); err != nil || !ok {
		return r, socketxp.Errorf(socketxp.CodeForbidden, "the token is for device names like %s, not for %s", scope.NamePattern, r.Device.Name).
			WithHint("ask for a name like that: --iot-device-name")
	}
	return r, nil
}
