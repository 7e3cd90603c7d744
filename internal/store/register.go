package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// RegisterDevice implements socketxp.DeviceStore. The audit entry's object is set
// to the device that was added; registering again adds no entry.
//
// The steps stand in the order in which they may refuse: the token, the key, the
// use, the quota, the name. All is undone if a later one does.
func (db *DB) RegisterDevice(ctx context.Context, r socketxp.Registration, now time.Time, entry socketxp.AuditEntry) (d socketxp.Device, again bool, err error) {
	addrs, err := formatList(r.Device.Facts.LocalAddrs)
	if err != nil {
		return socketxp.Device{}, false, wrap(ctx, "register device", err)
	}
	accountID := r.Device.AccountID
	err = db.act(ctx, "register device", accountID, entry, func(q *sqlc.Queries, entry *socketxp.AuditEntry) error {
		d, again = r.Device, false
		kind, err := registeringToken(ctx, q, accountID, r.TokenID, now)
		if err != nil {
			return err
		}
		known, err := q.DeviceByKey(ctx, d.PublicKey)
		if err == nil && known.State != string(socketxp.DeviceKeyCurrent) {
			return socketxp.Errorf(socketxp.CodeConflict, "the device key is in use")
		}
		if err == nil {
			if d, err = registeredBefore(ctx, q, r, known.Device); err != nil {
				return err
			}
			again = true
			return errUnchanged
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if kind == socketxp.TokenRegistration {
			taken, err := q.TakeUse(ctx, sqlc.TakeUseParams{AccountID: accountID, ID: r.TokenID, Now: micros(now)})
			if err != nil {
				return err
			}
			if taken == 0 {
				return socketxp.ErrUsesExhausted
			}
		}
		if err := checkQuota(ctx, q, accountID); err != nil {
			return err
		}
		if r.AnyName {
			if d.Name, err = freeName(ctx, q, accountID, d.Name); err != nil {
				return err
			}
		}
		if d.Group == "" {
			d.Group = socketxp.DefaultGroup
		}
		d.TokenID, d.Tunnels = r.TokenID, nil
		if err := joinGroup(ctx, q, accountID, d.Group, now); err != nil {
			return err
		}
		entry.ObjectKind, entry.ObjectID, entry.ObjectName = "device", d.ID, d.Name
		err = q.InsertDevice(ctx, sqlc.InsertDeviceParams{
			ID:                d.ID,
			AccountID:         accountID,
			Name:              d.Name,
			DisplayName:       d.DisplayName,
			DisplayNameFolded: fold(d.DisplayName),
			GroupName:         d.Group,
			PublicKey:         d.PublicKey,
			CreatedAt:         micros(d.CreatedAt),
			CreatedBy:         d.CreatedBy,
			TokenID:           d.TokenID,
			DisabledAt:        micros(d.DisabledAt),
			LastSeenAt:        micros(d.LastSeenAt),
			RemoteAddr:        d.RemoteAddr,
			OS:                d.Facts.OS,
			Arch:              d.Facts.Arch,
			Kernel:            d.Facts.Kernel,
			Hostname:          d.Facts.Hostname,
			HostnameFolded:    fold(d.Facts.Hostname),
			Version:           d.Facts.Version,
			LocalAddrs:        addrs,
			SSHHostKey:        d.SSHHostKey,
			KeySince:          micros(d.CreatedAt),
		})
		if meaning(err) == socketxp.ErrConflict {
			return withCause(socketxp.Errorf(socketxp.CodeConflict, "the device name %q is taken", d.Name), err)
		}
		if err != nil {
			return err
		}
		d.KeySince = d.CreatedAt
		return q.InsertDeviceKey(ctx, sqlc.InsertDeviceKeyParams{
			Key: d.PublicKey, AccountID: accountID, DeviceID: d.ID, State: string(socketxp.DeviceKeyCurrent), Since: micros(d.CreatedAt), Vouch: []byte{},
		})
	})
	if err != nil {
		return socketxp.Device{}, false, err
	}
	return d, again, nil
}

// registeringToken returns the kind of the token that is used, "" if there is
// none, or why it can't be used.
func registeringToken(ctx context.Context, q *sqlc.Queries, accountID, id string, now time.Time) (socketxp.TokenKind, error) {
	if id == "" {
		return "", nil
	}
	t, err := tokenIn(ctx, q, accountID, id)
	if err != nil {
		return "", err
	}
	if !socketxp.MayUse(socketxp.Kind(t.Kind), socketxp.PurposeRegister) {
		return "", socketxp.Errorf(socketxp.CodeWrongPurpose, "this kind of token can't register a device")
	}
	return t.Kind, t.Usable(now)
}

// registeredBefore returns the device that the key has, if the registration asks
// for nothing else.
func registeredBefore(ctx context.Context, q *sqlc.Queries, r socketxp.Registration, known sqlc.Device) (socketxp.Device, error) {
	otherName := !r.AnyName && r.Device.Name != known.Name
	otherGroup := r.Device.Group != "" && r.Device.Group != known.GroupName
	switch {
	case known.AccountID != r.Device.AccountID:
		return socketxp.Device{}, socketxp.Errorf(socketxp.CodeConflict, "the device key is in use")
	case otherName || otherGroup:
		return socketxp.Device{}, socketxp.Errorf(socketxp.CodeAlreadyRegister, "the device is registered as %q in group %q", known.Name, known.GroupName).
			WithHint("change its name or group in the portal or by the API")
	}
	return deviceIn(ctx, q, known)
}

func checkQuota(ctx context.Context, q *sqlc.Queries, accountID string) error {
	account, err := q.Account(ctx, accountID)
	if err != nil {
		return err
	}
	devices, err := q.CountInGroups(ctx, accountID, "")
	if err == nil && devices >= account.DeviceQuota {
		return socketxp.Errorf(socketxp.CodeQuota, "the account has reached its limit of %d devices", account.DeviceQuota).
			WithHint("delete devices that are gone")
	}
	return err
}

// freeName returns name, or name-2, name-3 … with the first number that is free.
func freeName(ctx context.Context, q *sqlc.Queries, accountID, name string) (string, error) {
	const longest = 63 // of CheckDeviceName
	stem := name
	if room := longest - len("-1000000"); len(stem) > room {
		stem = strings.TrimRight(stem[:room], "-")
	}
	// The names that begin with stem: "." follows "-" in the order of bytes, and all
	// that can stand in a name after that (0-9, a-z) belongs to another stem.
	taken, err := q.DeviceNames(ctx, sqlc.DeviceNamesParams{AccountID: accountID, First: stem, EndBefore: stem + "."})
	if err != nil {
		return "", err
	}
	if stem != name {
		_, err := q.DeviceByName(ctx, accountID, name)
		if errors.Is(err, sql.ErrNoRows) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	} else if !slices.Contains(taken, name) {
		return name, nil
	}
	set := make(map[string]bool, len(taken))
	for _, t := range taken {
		set[t] = true
	}
	for n := 2; n < 1_000_000; n++ {
		if candidate := stem + "-" + strconv.Itoa(n); !set[candidate] {
			return candidate, nil
		}
	}
	return "", errors.New("a million devices have the same name")
}
