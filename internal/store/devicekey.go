package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"slices"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// errKeyKnown is for a key that is, or was, somebody's: keys are used once.
var errKeyKnown = socketxp.Errorf(socketxp.CodeConflict, "the device key is in use")

// StageKey implements socketxp.DeviceStore.
func (db *DB) StageKey(ctx context.Context, accountID, id string, s socketxp.KeySuccession, entry socketxp.AuditEntry) error {
	return db.act(ctx, "stage key", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		row, err := q.Device(ctx, accountID, id)
		switch {
		case err != nil:
			return err
		case !bytes.Equal(row.PublicKey, s.Current):
			return socketxp.Errorf(socketxp.CodeConflict, "the device has another key now")
		}
		keys, err := q.DeviceKeys(ctx, accountID, id)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.State != string(socketxp.DeviceKeyNext) {
				continue
			}
			if bytes.Equal(k.Key, s.Next) {
				return errUnchanged
			}
			if entry.At.Sub(timeOf(k.Since)) < socketxp.KeyStageLife {
				return socketxp.Errorf(socketxp.CodeConflict, "another new key of the device waits for its first use").
					WithHint("a device that has lost its new key can have another one a day later")
			}
			if err := setKeyState(ctx, q, k, socketxp.DeviceKeyVoid, timeOf(k.Since)); err != nil {
				return err
			}
		}
		return insertKey(ctx, q, sqlc.InsertDeviceKeyParams{
			Key: s.Next, AccountID: accountID, DeviceID: id, State: string(socketxp.DeviceKeyNext), Since: micros(entry.At), Vouch: blob(s.Vouch),
		})
	})
}

// insertKey is errKeyKnown for a key that any device has, or had.
func insertKey(ctx context.Context, q *sqlc.Queries, p sqlc.InsertDeviceKeyParams) error {
	switch _, err := q.DeviceKey(ctx, p.Key); {
	case err == nil:
		return errKeyKnown
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	err := q.InsertDeviceKey(ctx, p)
	if meaning(err) == socketxp.ErrConflict {
		return withCause(errKeyKnown, err)
	}
	return err
}

func setKeyState(ctx context.Context, q *sqlc.Queries, k sqlc.DeviceKey, state socketxp.DeviceKeyState, since time.Time) error {
	return affected(q.SetDeviceKeyState(ctx, sqlc.SetDeviceKeyStateParams{
		AccountID: k.AccountID, DeviceID: k.DeviceID, Key: k.Key, State: string(state), Since: micros(since),
	}))
}

// PromoteKey implements socketxp.DeviceStore.
func (db *DB) PromoteKey(ctx context.Context, accountID, id string, next ed25519.PublicKey, entry socketxp.AuditEntry) (d socketxp.Device, err error) {
	err = db.act(ctx, "promote key", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		keys, err := q.DeviceKeys(ctx, accountID, id)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(keys, func(k sqlc.DeviceKey) bool {
			return k.State == string(socketxp.DeviceKeyNext) && bytes.Equal(k.Key, next)
		}) {
			return socketxp.Errorf(socketxp.CodeConflict, "the key is not the device's next one")
		}
		d, err = makeCurrent(ctx, q, accountID, id, keys, next, entry.At)
		return err
	})
	if err != nil {
		return socketxp.Device{}, err
	}
	return d, nil
}

// makeCurrent makes one of a device's keys the current one, retires the others, and
// forgets those that are older than anybody has to know.
func makeCurrent(ctx context.Context, q *sqlc.Queries, accountID, id string, keys []sqlc.DeviceKey, current ed25519.PublicKey, at time.Time) (socketxp.Device, error) {
	for i, k := range keys {
		switch {
		case bytes.Equal(k.Key, current):
			if err := setKeyState(ctx, q, k, socketxp.DeviceKeyCurrent, at); err != nil {
				return socketxp.Device{}, err
			}
		case k.State == string(socketxp.DeviceKeyCurrent):
			if err := setKeyState(ctx, q, k, socketxp.DeviceKeyRetired, timeOf(k.Since)); err != nil {
				return socketxp.Device{}, err
			}
		case k.State == string(socketxp.DeviceKeyNext):
			if err := setKeyState(ctx, q, k, socketxp.DeviceKeyVoid, timeOf(k.Since)); err != nil {
				return socketxp.Device{}, err
			}
		case i < len(keys)-socketxp.MaxVouchers-1:
			if err := q.DeleteDeviceKey(ctx, sqlc.DeleteDeviceKeyParams{AccountID: accountID, DeviceID: id, Key: k.Key}); err != nil {
				return socketxp.Device{}, err
			}
		}
	}
	if err := q.SetPublicKey(ctx, sqlc.SetPublicKeyParams{AccountID: accountID, ID: id, Key: current, Since: micros(at)}); err != nil {
		return socketxp.Device{}, err
	}
	row, err := q.Device(ctx, accountID, id)
	if err != nil {
		return socketxp.Device{}, err
	}
	return deviceIn(ctx, q, row)
}

// ReplaceKey implements socketxp.DeviceStore. The audit entry's object is set to the
// device.
func (db *DB) ReplaceKey(ctx context.Context, r socketxp.KeyReplacement, now time.Time, entry socketxp.AuditEntry) (d socketxp.Device, again bool, err error) {
	err = db.act(ctx, "replace key", r.AccountID, entry, func(q *sqlc.Queries, entry *socketxp.AuditEntry) error {
		d, again = socketxp.Device{}, false
		kind, err := registeringToken(ctx, q, r.AccountID, r.TokenID, now)
		if err != nil {
			return err
		}
		known, err := q.DeviceByKey(ctx, r.Old)
		switch {
		case err != nil:
			return err
		case known.Device.AccountID != r.AccountID:
			return socketxp.ErrNotFound
		}
		device, err := deviceIn(ctx, q, known.Device)
		if err != nil {
			return err
		}
		entry.ObjectKind, entry.ObjectID, entry.ObjectName = "device", device.ID, device.Name
		if err := r.Allow(device); err != nil {
			return err
		}
		if bytes.Equal(device.PublicKey, r.New) && !bytes.Equal(r.Old, r.New) {
			d, again = device, true
			return errUnchanged
		}
		if kind == socketxp.TokenRegistration {
			taken, err := q.TakeUse(ctx, sqlc.TakeUseParams{AccountID: r.AccountID, ID: r.TokenID, Now: micros(now)})
			switch {
			case err != nil:
				return err
			case taken == 0:
				return socketxp.ErrUsesExhausted
			}
		}
		d, err = replaceKey(ctx, q, device, r.New, now)
		return err
	})
	if err != nil {
		return socketxp.Device{}, false, err
	}
	return d, again, nil
}

func replaceKey(ctx context.Context, q *sqlc.Queries, d socketxp.Device, key ed25519.PublicKey, now time.Time) (socketxp.Device, error) {
	keys, err := q.DeviceKeys(ctx, d.AccountID, d.ID)
	if err != nil {
		return d, err
	}
	// Nobody vouches for it: who knows the device by an older key is to be told.
	fresh := sqlc.DeviceKey{Key: key, AccountID: d.AccountID, DeviceID: d.ID, State: string(socketxp.DeviceKeyNext), Since: micros(now), Vouch: []byte{}}
	for i, k := range keys {
		if bytes.Equal(k.Key, key) {
			if k.State != string(socketxp.DeviceKeyNext) {
				return d, errKeyKnown
			}
			// One that was made for a change which was never finished. The old key's word for
			// it is worth nothing by now.
			if err := q.DeleteDeviceKey(ctx, sqlc.DeleteDeviceKeyParams{AccountID: d.AccountID, DeviceID: d.ID, Key: key}); err != nil {
				return d, err
			}
			keys = slices.Delete(keys, i, i+1)
			break
		}
	}
	if err := insertKey(ctx, q, sqlc.InsertDeviceKeyParams(fresh)); err != nil {
		return d, err
	}
	if err := affected(q.ReleaseDevice(ctx, sqlc.ReleaseDeviceParams{AccountID: d.AccountID, ID: d.ID, Nothing: []byte{}})); err != nil {
		return d, err
	}
	return makeCurrent(ctx, q, d.AccountID, d.ID, append(keys, fresh), key, now)
}

// KeyVouchers implements socketxp.DeviceStore.
func (db *DB) KeyVouchers(ctx context.Context, accountID, id string) ([]socketxp.KeyVoucher, error) {
	keys, err := db.r.DeviceKeys(ctx, accountID, id)
	if err != nil {
		return nil, wrap(ctx, "list key vouchers", err)
	}
	var chain []sqlc.DeviceKey
	for _, k := range keys {
		switch socketxp.DeviceKeyState(k.State) {
		case socketxp.DeviceKeyRetired, socketxp.DeviceKeyCurrent:
			if len(k.Vouch) == 0 {
				chain = chain[:0] // nobody has vouched for it
			}
			chain = append(chain, k)
		case socketxp.DeviceKeyNext, socketxp.DeviceKeyVoid:
		}
	}
	var out []socketxp.KeyVoucher
	for i := range max(0, len(chain)-1) {
		out = append(out, socketxp.KeyVoucher{Key: chain[i].Key, Vouch: chain[i+1].Vouch})
	}
	return out[max(0, len(out)-socketxp.MaxVouchers):], nil
}
