package store

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// Device implements socketxp.DeviceStore.
func (db *DB) Device(ctx context.Context, accountID, id string) (socketxp.Device, error) {
	row, err := db.r.Device(ctx, accountID, id)
	return db.deviceOf(ctx, "get device", row, err)
}

// DeviceByName implements socketxp.DeviceStore.
func (db *DB) DeviceByName(ctx context.Context, accountID, name string) (socketxp.Device, error) {
	row, err := db.r.DeviceByName(ctx, accountID, name)
	return db.deviceOf(ctx, "get device by name", row, err)
}

// DeviceByKey implements socketxp.DeviceStore.
func (db *DB) DeviceByKey(ctx context.Context, key ed25519.PublicKey) (socketxp.Device, socketxp.DeviceKeyState, error) {
	row, err := db.r.DeviceByKey(ctx, key)
	d, err := db.deviceOf(ctx, "get device by key", row.Device, err)
	return d, socketxp.DeviceKeyState(row.State), err
}

func (db *DB) deviceOf(ctx context.Context, op string, row sqlc.Device, err error) (d socketxp.Device, _ error) {
	if err == nil {
		d, err = deviceIn(ctx, db.r, row)
	}
	if err != nil {
		return socketxp.Device{}, wrap(ctx, op, err)
	}
	return d, nil
}

// deviceIn returns the device of row with its tunnels.
func deviceIn(ctx context.Context, q *sqlc.Queries, row sqlc.Device) (socketxp.Device, error) {
	d, err := device(row)
	if err != nil {
		return socketxp.Device{}, err
	}
	tunnels, err := q.DeviceTunnels(ctx, d.AccountID, d.ID)
	if err != nil {
		return socketxp.Device{}, err
	}
	for _, t := range tunnels {
		tunnel, err := tunnel(t.Destination, t.SSH)
		if err != nil {
			return socketxp.Device{}, err
		}
		d.Tunnels = append(d.Tunnels, tunnel)
	}
	return d, nil
}

// device returns the device of row, without tunnels.
func device(r sqlc.Device) (socketxp.Device, error) {
	addrs, err := parseList(r.LocalAddrs)
	if err != nil {
		return socketxp.Device{}, fmt.Errorf("addresses of device %s: %w", r.ID, err)
	}
	return socketxp.Device{
		ID:          r.ID,
		AccountID:   r.AccountID,
		Name:        r.Name,
		DisplayName: r.DisplayName,
		Group:       r.GroupName,
		PublicKey:   r.PublicKey,
		CreatedAt:   timeOf(r.CreatedAt),
		CreatedBy:   r.CreatedBy,
		TokenID:     r.TokenID,
		DisabledAt:  timeOf(r.DisabledAt),
		LastSeenAt:  timeOf(r.LastSeenAt),
		RemoteAddr:  r.RemoteAddr,
		Facts: socketxp.Facts{
			OS: r.OS, Arch: r.Arch, Kernel: r.Kernel, Hostname: r.Hostname, Version: r.Version, LocalAddrs: addrs,
		},
		SSHHostKey:       r.SSHHostKey,
		GatewayKnownBy:   r.GatewayKnownBy,
		KeySince:         timeOf(r.KeySince),
		QuarantinedAt:    timeOf(r.QuarantinedAt),
		QuarantineReason: r.QuarantineReason,
		Sequence:         socketxp.Sequence{Current: bytesOf(r.Seq), Next: bytesOf(r.SeqNext)},
	}, nil
}

func tunnel(destination string, ssh bool) (socketxp.Tunnel, error) {
	d, err := socketxp.ParseDestination(destination)
	if err != nil {
		return socketxp.Tunnel{}, fmt.Errorf("stored destination: %s", err.Error()) // cut from the chain: it is no fault of a client
	}
	return socketxp.Tunnel{Destination: d, SSH: ssh}, nil
}

// formatList and parseList keep a list of strings as JSON; no list is an empty one.
func formatList(list []string) (string, error) {
	if len(list) == 0 {
		return "[]", nil
	}
	b, err := json.Marshal(list)
	return string(b), err
}

func parseList(text string) ([]string, error) {
	var list []string
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 {
		return nil, err
	}
	return list, nil
}

// fold prepares text for a search that is blind to case. It is done here and not
// by lower(), which knows ASCII only on SQLite and asks the locale on PostgreSQL.
func fold(s string) string { return strings.ToLower(s) }

// UpdateDevice implements socketxp.DeviceStore. A group that isn't there yet is made.
func (db *DB) UpdateDevice(ctx context.Context, accountID, id string, u socketxp.DeviceUpdate, entry socketxp.AuditEntry) (d socketxp.Device, err error) {
	err = db.act(ctx, "update device", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		row, err := q.Device(ctx, accountID, id)
		if err != nil {
			return err
		}
		if u.Name != nil {
			row.Name = *u.Name
		}
		if u.DisplayName != nil {
			row.DisplayName, row.DisplayNameFolded = *u.DisplayName, fold(*u.DisplayName)
		}
		if u.DisabledAt != nil {
			row.DisabledAt = micros(*u.DisabledAt)
		}
		if u.Group != nil && *u.Group != row.GroupName {
			if err := joinGroup(ctx, q, accountID, *u.Group, entry.At); err != nil {
				return err
			}
			if err := q.AddToGroup(ctx, sqlc.AddToGroupParams{AccountID: accountID, Name: row.GroupName, Change: -1}); err != nil {
				return err
			}
			row.GroupName = *u.Group
		}
		if err := q.UpdateDevice(ctx, sqlc.UpdateDeviceParams{
			AccountID:         accountID,
			ID:                id,
			Name:              row.Name,
			DisplayName:       row.DisplayName,
			DisplayNameFolded: row.DisplayNameFolded,
			GroupName:         row.GroupName,
			DisabledAt:        row.DisabledAt,
		}); err != nil {
			return err
		}
		d, err = deviceIn(ctx, q, row)
		return err
	})
	if err != nil {
		return socketxp.Device{}, err
	}
	return d, nil
}

// DeleteDevice implements socketxp.DeviceStore.
func (db *DB) DeleteDevice(ctx context.Context, accountID, id string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "delete device", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		group, err := q.DeleteDevice(ctx, accountID, id) // its tunnels go with it
		if err != nil {
			return err
		}
		return q.AddToGroup(ctx, sqlc.AddToGroupParams{AccountID: accountID, Name: group, Change: -1})
	})
}

// DeviceConnected implements socketxp.DeviceStore.
func (db *DB) DeviceConnected(ctx context.Context, accountID, id string, r socketxp.DeviceReport) error {
	if len(r.Tunnels) > socketxp.MaxTunnels {
		return socketxp.Errorf(socketxp.CodeInvalid, "a device can publish at most %d tunnels", socketxp.MaxTunnels)
	}
	addrs, err := formatList(r.Facts.LocalAddrs)
	if err != nil {
		return fmt.Errorf("report device: %w", err)
	}
	return db.tx(ctx, "report device", func(q *sqlc.Queries) error {
		// First, so that two reports of one device don't mix their tunnels: the row is held.
		if err := affected(q.ReportDevice(ctx, sqlc.ReportDeviceParams{
			AccountID:      accountID,
			ID:             id,
			At:             micros(r.At),
			RemoteAddr:     r.RemoteAddr,
			OS:             r.Facts.OS,
			Arch:           r.Facts.Arch,
			Kernel:         r.Facts.Kernel,
			Hostname:       r.Facts.Hostname,
			HostnameFolded: fold(r.Facts.Hostname),
			Version:        r.Facts.Version,
			LocalAddrs:     addrs,
			SSHHostKey:     r.SSHHostKey,
			GatewayKnownBy: r.GatewayKnownBy,
		})); err != nil {
			return err
		}
		return replaceTunnels(ctx, q, accountID, id, r.Tunnels)
	})
}

// replaceTunnels writes only if something changed: after a restart of the gateway
// all devices report at once, and nearly all what is known.
func replaceTunnels(ctx context.Context, q *sqlc.Queries, accountID, deviceID string, tunnels []socketxp.Tunnel) error {
	want := make(map[string]bool, len(tunnels))
	for _, t := range tunnels {
		want[t.Destination.String()] = t.SSH
	}
	rows, err := q.DeviceTunnels(ctx, accountID, deviceID)
	if err != nil {
		return err
	}
	have := make(map[string]bool, len(rows))
	for _, r := range rows {
		have[r.Destination] = r.SSH
	}
	if maps.Equal(want, have) {
		return nil
	}
	if err := q.DeleteTunnels(ctx, accountID, deviceID); err != nil {
		return err
	}
	for _, destination := range slices.Sorted(maps.Keys(want)) {
		if err := q.InsertTunnel(ctx, sqlc.InsertTunnelParams{
			AccountID: accountID, DeviceID: deviceID, Destination: destination, SSH: want[destination],
		}); err != nil {
			return err
		}
	}
	return nil
}

// KeyKnowledge implements socketxp.DeviceStore.
func (db *DB) KeyKnowledge(ctx context.Context, pin string, seenSince time.Time) ([]socketxp.KeyKnowledge, error) {
	if err := socketxp.CheckPin(pin); err != nil {
		return nil, err
	}
	rows, err := db.r.KeyKnowledge(ctx, sqlc.KeyKnowledgeParams{
		Pin: pin, Authorities: socketxp.KnownByAuthorities, SeenSince: micros(seenSince),
	})
	if err != nil {
		return nil, wrap(ctx, "count devices that know a key", err)
	}
	out := make([]socketxp.KeyKnowledge, len(rows))
	for i, r := range rows {
		out[i] = socketxp.KeyKnowledge{
			AccountID: r.ID, AccountName: r.Name, Devices: int(r.Devices), Know: int(r.Know), RecentDont: int(r.RecentDont),
		}
	}
	return out, nil
}

// TouchDevices implements socketxp.DeviceStore.
func (db *DB) TouchDevices(ctx context.Context, seen []socketxp.DeviceSeen) error {
	// In the order of ids, so that two gateways at it can't deadlock; in portions, so
	// that no other write waits for all of 10,000.
	seen = slices.Clone(seen)
	slices.SortFunc(seen, func(a, b socketxp.DeviceSeen) int { return strings.Compare(a.DeviceID, b.DeviceID) })
	for portion := range slices.Chunk(seen, 500) {
		err := db.tx(ctx, "touch devices", func(q *sqlc.Queries) error {
			for _, s := range portion {
				if err := q.TouchDevice(ctx, sqlc.TouchDeviceParams{AccountID: s.AccountID, ID: s.DeviceID, At: micros(s.At)}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tunnelsOf is Tunnels for one device, which has at most a page of them: the devices
// of the account are not looked through for it.
func (db *DB) tunnelsOf(ctx context.Context, accountID, deviceID, afterDevice, afterDestination string, limit int) ([]socketxp.DeviceTunnel, error) {
	out := make([]socketxp.DeviceTunnel, 0)
	d, err := db.Device(ctx, accountID, deviceID)
	if errors.Is(err, socketxp.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, t := range d.Tunnels {
		if dest := t.Destination.String(); (d.Name > afterDevice || d.Name == afterDevice && dest > afterDestination) && len(out) < limit {
			out = append(out, socketxp.DeviceTunnel{DeviceID: d.ID, DeviceName: d.Name, Tunnel: t})
		}
	}
	return out, nil
}

// Tunnels implements socketxp.DeviceStore.
func (db *DB) Tunnels(ctx context.Context, accountID, deviceID, afterDevice, afterDestination string, limit int) ([]socketxp.DeviceTunnel, error) {
	count, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	if deviceID != "" {
		return db.tunnelsOf(ctx, accountID, deviceID, afterDevice, afterDestination, limit)
	}
	rows, err := db.r.Tunnels(ctx, sqlc.TunnelsParams{
		AccountID: accountID, DeviceID: deviceID, AfterName: afterDevice, AfterDestination: afterDestination, Count: count,
	})
	if err != nil {
		return nil, wrap(ctx, "list tunnels", err)
	}
	out := make([]socketxp.DeviceTunnel, len(rows))
	for i, r := range rows {
		t, err := tunnel(r.Destination, r.SSH)
		if err != nil {
			return nil, wrap(ctx, "list tunnels", err)
		}
		out[i] = socketxp.DeviceTunnel{DeviceID: r.ID, DeviceName: r.Name, Tunnel: t}
	}
	return out, nil
}
