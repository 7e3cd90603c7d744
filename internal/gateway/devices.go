package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

type devicesIn struct {
	Name    string           `query:"name" doc:"the one device of exactly this name; the other filters and the sort order then do not count" maxLength:"63"`
	Search  string           `query:"search" doc:"part of name, display name, group, host name or id; case does not matter" maxLength:"128"`
	Group   string           `query:"group" maxLength:"63"`
	Status  api.DeviceStatus `query:"status" enum:"online,offline,disabled,quarantined"`
	Version string           `query:"version" doc:"of the agent, exactly" maxLength:"256"`
	Sort    string           `query:"sort" default:"name" enum:"name,-name,group,-group,created_at,-created_at,last_seen_at,-last_seen_at" doc:"- before it turns the order round"`
	Cursor  string           `query:"cursor" maxLength:"2048"`
	Limit   int              `query:"limit" default:"50" minimum:"1" maximum:"200"`
}

type devicesOut struct{ Body api.DevicePage }

func (g *Gateway) listDevices(ctx context.Context, who caller, in *devicesIn) (*devicesOut, error) {
	if in.Name != "" {
		return g.deviceNamed(ctx, who, in.Name)
	}
	after, err := decodeDeviceCursor(in.Cursor, in.Sort)
	if err != nil {
		return nil, err
	}
	if err := socketxp.CheckDisplayText("search", in.Search, 128); err != nil {
		return nil, err
	}
	if err := socketxp.CheckDisplayText("version", in.Version, 256); err != nil {
		return nil, err
	}
	q := socketxp.DeviceQuery{
		Search: in.Search, Group: in.Group, Version: in.Version, Limit: in.Limit + 1, After: after,
		Sort: socketxp.DeviceSort(strings.TrimPrefix(in.Sort, "-")), Desc: strings.HasPrefix(in.Sort, "-"),
	}
	if in.Status == api.DeviceOnline || in.Status == api.DeviceOffline {
		if q.Online, err = g.cluster.OnlineDevices(ctx); err != nil {
			return nil, unavailable(err)
		}
	}
	yes, no := true, false
	switch in.Status {
	case api.DeviceOnline:
		q.Disabled, q.Quarantined = &no, &no
	case api.DeviceOffline:
		q.Disabled, q.Quarantined, q.Offline = &no, &no, true
	case api.DeviceDisabled:
		q.Disabled = &yes
	case api.DeviceQuarantined:
		q.Disabled, q.Quarantined = &no, &yes
	}
	found, total, err := g.store.Devices(ctx, who.accountID, q)
	if err != nil {
		return nil, err
	}
	found, next := cut(found, in.Limit, func(d socketxp.Device) string { return encodeDeviceCursor(in.Sort, d) })
	items := make([]api.Device, 0, len(found))
	for _, d := range found {
		isOnline, err := g.cluster.Online(ctx, d.ID)
		if err != nil {
			return nil, unavailable(err)
		}
		items = append(items, api.NewDevice(d, isOnline))
	}
	return &devicesOut{api.DevicePage{Items: items, Total: total.Devices, TotalOrMore: total.OrMore, NextCursor: next}}, nil
}

// deviceNamed answers with the page of one device, or none.
func (g *Gateway) deviceNamed(ctx context.Context, who caller, name string) (*devicesOut, error) {
	page := api.DevicePage{Items: []api.Device{}}
	d, err := g.store.DeviceByName(ctx, who.accountID, name)
	if errors.Is(err, socketxp.ErrNotFound) || socketxp.CodeOf(err) == socketxp.CodeInvalid { // of text that no database holds
		return &devicesOut{page}, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := g.answerDevice(ctx, d)
	if err != nil {
		return nil, err
	}
	page.Items, page.Total = append(page.Items, out.Body), 1
	return &devicesOut{page}, nil
}

type deviceOut struct{ Body api.Device }

func (g *Gateway) showDevice(ctx context.Context, who caller, in *idIn) (*deviceOut, error) {
	d, err := g.deviceOf(ctx, who, in.ID)
	if err != nil {
		return nil, err
	}
	return g.answerDevice(ctx, d)
}

// deviceOf returns a device of the caller's account.
func (g *Gateway) deviceOf(ctx context.Context, who caller, id string) (socketxp.Device, error) {
	if !socketxp.ValidID(id) {
		return socketxp.Device{}, missing("device")
	}
	d, err := g.store.Device(ctx, who.accountID, id)
	return d, orMissing(err, "device")
}

func (g *Gateway) answerDevice(ctx context.Context, d socketxp.Device) (*deviceOut, error) {
	online, err := g.cluster.Online(ctx, d.ID)
	if err != nil {
		return nil, unavailable(err)
	}
	return &deviceOut{api.NewDevice(d, online && d.DisabledAt.IsZero() && d.QuarantinedAt.IsZero())}, nil
}

type preRegisterIn struct{ Body api.PreRegisterRequest }

type preRegisteredOut struct{ Body api.PreRegistered }

// preRegister registers a device for a factory: the gateway makes its key pair,
// answers it, and keeps the public half alone.
func (g *Gateway) preRegister(ctx context.Context, who caller, in *preRegisterIn) (*preRegisteredOut, error) {
	req := in.Body
	if err := checkDeviceFields(&req.Name, &req.DisplayName, nonEmpty(req.Group)); err != nil {
		return nil, err
	}
	if err := g.rest.accountRegistrations.take(who.accountID).err(); err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	now := g.now()
	entry := g.entry(who, "device.pre-register", "device", "", req.Name)
	entry.Detail = "key " + socketxp.Fingerprint(public)
	d, _, err := g.store.RegisterDevice(ctx, socketxp.Registration{Device: socketxp.Device{
		ID: socketxp.NewID(now), AccountID: who.accountID, Name: req.Name, DisplayName: req.DisplayName, Group: req.Group,
		PublicKey: public, CreatedAt: now, CreatedBy: who.userID,
	}}, now, entry)
	if err != nil {
		return nil, err
	}
	g.publishEvent(ctx, socketxp.Event{
		AccountID: d.AccountID, Type: socketxp.EventDeviceRegistered, DeviceID: d.ID, DeviceName: d.Name,
		Message: "the device " + d.Name + " was registered ahead of time",
	})
	addr := g.Address()
	return &preRegisteredOut{api.PreRegistered{
		Device: api.NewDevice(d, false),
		DeviceKey: api.DeviceKey{
			DeviceID: d.ID, DeviceKey: base64.RawURLEncoding.EncodeToString(private.Seed()), DeviceName: d.Name, DeviceGroup: d.Group,
			Gateway: addr.URL, GatewayPin: addr.Pin, GatewayNextPin: addr.NextPin,
		},
	}}, nil
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// checkDeviceFields checks what is not nil.
func checkDeviceFields(name, displayName, group *string) error {
	if name != nil {
		if err := socketxp.CheckDeviceName(*name); err != nil {
			return err
		}
	}
	if group != nil {
		if err := socketxp.CheckGroup(*group); err != nil {
			return err
		}
	}
	if displayName != nil {
		return socketxp.CheckDisplayText("display name", *displayName, 128)
	}
	return nil
}

type updateDeviceIn struct {
	ID   string `path:"id" maxLength:"100"`
	Body api.UpdateDeviceRequest
}

func (g *Gateway) updateDevice(ctx context.Context, who caller, in *updateDeviceIn) (*deviceOut, error) {
	u := socketxp.DeviceUpdate{Name: in.Body.Name, DisplayName: in.Body.DisplayName, Group: in.Body.Group}
	if u == (socketxp.DeviceUpdate{}) {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "nothing is to be changed").WithHint("set name, display_name or group")
	}
	if err := checkDeviceFields(u.Name, u.DisplayName, u.Group); err != nil {
		return nil, err
	}
	old, err := g.deviceOf(ctx, who, in.ID)
	if err != nil {
		return nil, err
	}
	return g.changeDevice(ctx, who, old, u, "device.update", changes(old, u))
}

// changes says for people what an update changes.
func changes(old socketxp.Device, u socketxp.DeviceUpdate) string {
	var out []string
	for _, f := range []struct {
		what, from string
		to         *string
	}{{"name", old.Name, u.Name}, {"display name", old.DisplayName, u.DisplayName}, {"group", old.Group, u.Group}} {
		if f.to != nil && *f.to != f.from {
			out = append(out, f.what+" from "+quote(f.from)+" to "+quote(*f.to))
		}
	}
	return strings.Join(out, ", ")
}

func quote(s string) string { return "“" + s + "”" }

// changeDevice makes a change and tells everyone.
func (g *Gateway) changeDevice(ctx context.Context, who caller, old socketxp.Device, u socketxp.DeviceUpdate, action, detail string) (*deviceOut, error) {
	entry := g.entry(who, action, "device", old.ID, old.Name)
	entry.Detail = detail
	d, err := g.store.UpdateDevice(ctx, who.accountID, old.ID, u, entry)
	if err != nil {
		if socketxp.CodeOf(err) == socketxp.CodeConflict && u.Name != nil {
			return nil, &socketxp.Error{Code: socketxp.CodeConflict, Message: "the device name " + *u.Name + " is taken", Err: err}
		}
		return nil, orMissing(err, "device")
	}
	g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: d.AccountID, ID: d.ID})
	_, what, _ := strings.Cut(action, ".")
	g.publishEvent(ctx, socketxp.Event{
		AccountID: d.AccountID, Type: socketxp.EventDeviceChanged, DeviceID: d.ID, DeviceName: d.Name,
		Message: "the device " + d.Name + " was changed: " + what,
	})
	return g.answerDevice(ctx, d)
}

func (g *Gateway) disableDevice(ctx context.Context, who caller, in *idIn) (*deviceOut, error) {
	return g.switchDevice(ctx, who, in.ID, g.now(), "device.disable")
}

func (g *Gateway) enableDevice(ctx context.Context, who caller, in *idIn) (*deviceOut, error) {
	return g.switchDevice(ctx, who, in.ID, time.Time{}, "device.enable")
}

// switchDevice disables a device, or enables it (at zero). One that is as it is
// asked for stays so, with the time of before.
func (g *Gateway) switchDevice(ctx context.Context, who caller, id string, at time.Time, action string) (*deviceOut, error) {
	d, err := g.deviceOf(ctx, who, id)
	if err != nil {
		return nil, err
	}
	if d.DisabledAt.IsZero() == at.IsZero() {
		return g.answerDevice(ctx, d)
	}
	return g.changeDevice(ctx, who, d, socketxp.DeviceUpdate{DisabledAt: &at}, action, "")
}

func (g *Gateway) deleteDevice(ctx context.Context, who caller, in *idIn) (*struct{}, error) {
	d, err := g.deviceOf(ctx, who, in.ID)
	if err != nil {
		return nil, err
	}
	if err := g.store.DeleteDevice(ctx, who.accountID, d.ID, g.entry(who, "device.delete", "device", d.ID, d.Name)); err != nil {
		return nil, orMissing(err, "device")
	}
	g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceDeleted, AccountID: who.accountID, ID: d.ID})
	g.publishEvent(ctx, socketxp.Event{
		AccountID: who.accountID, Type: socketxp.EventDeviceDeleted, DeviceID: d.ID, DeviceName: d.Name, Message: "the device " + d.Name + " was deleted",
	})
	return nil, nil
}

type tunnelsIn struct {
	DeviceID string `query:"device_id" maxLength:"100"`
	Cursor   string `query:"cursor" maxLength:"2048"`
	Limit    int    `query:"limit" default:"50" minimum:"1" maximum:"200"`
}

type tunnelsOut struct{ Body api.Page[api.DeviceTunnel] }

func (g *Gateway) listTunnels(ctx context.Context, who caller, in *tunnelsIn) (*tunnelsOut, error) {
	after, err := decodeCursor(in.Cursor, "tunnels", 2)
	if err != nil {
		return nil, err
	}
	if after == nil {
		after = []string{"", ""}
	}
	if in.DeviceID != "" {
		if _, err := g.deviceOf(ctx, who, in.DeviceID); err != nil {
			return nil, err
		}
	}
	found, err := g.store.Tunnels(ctx, who.accountID, in.DeviceID, after[0], after[1], in.Limit+1)
	if err != nil {
		return nil, err
	}
	found, next := cut(found, in.Limit, func(t socketxp.DeviceTunnel) string {
		return encodeCursor("tunnels", t.DeviceName, t.Destination.String())
	})
	items := mapped(found, func(t socketxp.DeviceTunnel) api.DeviceTunnel {
		return api.DeviceTunnel{DeviceID: t.DeviceID, DeviceName: t.DeviceName, Tunnel: api.NewTunnel(t.Tunnel)}
	})
	return &tunnelsOut{api.Page[api.DeviceTunnel]{Items: items, NextCursor: next}}, nil
}
