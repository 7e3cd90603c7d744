package store

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// blob returns b as the database keeps it: nothing is an empty one, never NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// bytesOf is the inverse of blob.
func bytesOf(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// MoveSequences implements socketxp.DeviceStore.
func (db *DB) MoveSequences(ctx context.Context, moves []socketxp.SequenceMove) ([]bool, error) {
	// In the order of ids, so that two gateways at it can't deadlock.
	order := make([]int, len(moves))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(moves[a].DeviceID, moves[b].DeviceID) })
	moved := make([]bool, len(moves))
	err := db.tx(ctx, "move sequences", func(q *sqlc.Queries) error {
		for _, i := range order {
			m := moves[i]
			n, err := q.MoveSequence(ctx, sqlc.MoveSequenceParams{
				AccountID: m.AccountID, ID: m.DeviceID,
				FromCurrent: blob(m.From.Current), FromNext: blob(m.From.Next),
				ToCurrent: blob(m.To.Current), ToNext: blob(m.To.Next),
			})
			if err != nil {
				return err
			}
			moved[i] = n == 1
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return moved, nil
}

// QuarantineDevice implements socketxp.DeviceStore.
func (db *DB) QuarantineDevice(ctx context.Context, accountID, id string, seen socketxp.Sequence, reason string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "quarantine device", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		err := affected(q.QuarantineDevice(ctx, sqlc.QuarantineDeviceParams{
			AccountID: accountID, ID: id, At: micros(entry.At), Reason: reason,
			FromCurrent: blob(seen.Current), FromNext: blob(seen.Next),
		}))
		if !errors.Is(err, socketxp.ErrNotFound) {
			return err
		}
		if _, err := q.Device(ctx, accountID, id); err != nil {
			return err
		}
		return socketxp.ErrConflict
	})
}

// ReleaseDevice implements socketxp.DeviceStore.
func (db *DB) ReleaseDevice(ctx context.Context, accountID, id string, entry socketxp.AuditEntry) (d socketxp.Device, err error) {
	err = db.act(ctx, "release device", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if err := affected(q.ReleaseDevice(ctx, sqlc.ReleaseDeviceParams{AccountID: accountID, ID: id, Nothing: []byte{}})); err != nil {
			return err
		}
		row, err := q.Device(ctx, accountID, id)
		if err != nil {
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
