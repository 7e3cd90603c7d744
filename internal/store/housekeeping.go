package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// Setting implements socketxp.HousekeepingStore.
func (db *DB) Setting(ctx context.Context, key string) (string, error) {
	value, err := db.r.Setting(ctx, key)
	return value, wrap(ctx, "get setting", err)
}

// SetSetting implements socketxp.HousekeepingStore.
func (db *DB) SetSetting(ctx context.Context, key, value string) error {
	return wrap(ctx, "set setting", db.w.SetSetting(ctx, key, value))
}

// InitSetting implements socketxp.HousekeepingStore.
func (db *DB) InitSetting(ctx context.Context, key, value string) (string, error) {
	if _, err := db.w.InitSetting(ctx, key, value); err != nil {
		return "", wrap(ctx, "init setting", err)
	}
	return db.Setting(ctx, key)
}

// RaiseClock implements socketxp.HousekeepingStore.
func (db *DB) RaiseClock(ctx context.Context, at time.Time) (time.Time, error) {
	if err := db.writable(); err != nil {
		return time.Time{}, wrap(ctx, "raise clock", err)
	}
	high, err := db.w.RaiseClock(ctx, micros(at))
	db.note(err)
	if err != nil {
		return time.Time{}, wrap(ctx, "raise clock", err)
	}
	return timeOf(high), nil
}

// abandonedAfter is when a claim with no answer is free again: its gateway died.
// No request is served for longer.
const abandonedAfter = time.Minute

// BeginIdempotent implements socketxp.HousekeepingStore.
func (db *DB) BeginIdempotent(ctx context.Context, r socketxp.IdempotentRequest) (stored socketxp.IdempotentRequest, fresh bool, err error) {
	err = db.tx(ctx, "begin idempotent request", func(q *sqlc.Queries) error {
		stored, fresh = socketxp.IdempotentRequest{}, false
		_, err := q.ClaimKey(ctx, sqlc.ClaimKeyParams{
			KeyHash:     r.KeyHash[:],
			RequestHash: r.RequestHash[:],
			At:          micros(r.At),
			NoBody:      []byte{},
			ExpiredBy:   micros(r.At.Add(-socketxp.IdempotencyLife)),
			AbandonedBy: micros(r.At.Add(-abandonedAfter)),
		})
		if err == nil {
			fresh = true
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		// Even a claim that was lost holds the row: it is still there to be read.
		row, err := q.Key(ctx, r.KeyHash[:])
		if err != nil {
			return err
		}
		stored = socketxp.IdempotentRequest{At: timeOf(row.At), Status: int(row.Status)}
		if len(row.Body) > 0 {
			stored.Body = row.Body
		}
		copy(stored.KeyHash[:], row.KeyHash)
		copy(stored.RequestHash[:], row.RequestHash)
		return nil
	})
	if err != nil {
		return socketxp.IdempotentRequest{}, false, err
	}
	return stored, fresh, nil
}

// FinishIdempotent implements socketxp.HousekeepingStore. If the claim was taken
// over meanwhile by the same request sent again, the first answer stays.
func (db *DB) FinishIdempotent(ctx context.Context, r socketxp.IdempotentRequest) error {
	body := r.Body
	if body == nil {
		body = []byte{} // nil would be NULL
	}
	return wrap(ctx, "finish idempotent request", db.w.FinishKey(ctx, sqlc.FinishKeyParams{
		KeyHash: r.KeyHash[:], RequestHash: r.RequestHash[:], Status: int64(r.Status), Body: body,
	}))
}

// AbandonIdempotent implements socketxp.HousekeepingStore.
func (db *DB) AbandonIdempotent(ctx context.Context, keyHash [32]byte) error {
	return wrap(ctx, "abandon idempotent request", db.w.FreeKey(ctx, keyHash[:]))
}

// Prune implements socketxp.HousekeepingStore.
func (db *DB) Prune(ctx context.Context, now time.Time) error {
	const (
		day   = 24 * time.Hour
		batch = 1000 // rows in one statement, so that no other write waits for long
	)
	ago := func(d time.Duration) int64 { return micros(now.Add(-d)) }
	for _, step := range []struct {
		op  string
		cut func() (int64, error)
	}{
		{"prune sign-ins", func() (int64, error) {
			return db.w.PruneSignIns(ctx, sqlc.PruneSignInsParams{Now: micros(now), IdleSince: ago(socketxp.SignInIdle), Batch: batch})
		}},
		{"prune known browsers", func() (int64, error) { return db.w.PruneKnownBrowsers(ctx, micros(now), batch) }},
		{"prune device authorizations", func() (int64, error) { return db.w.PruneAuthorizations(ctx, micros(now), batch) }},
		{"prune events", func() (int64, error) { return db.w.PruneEvents(ctx, ago(socketxp.EventLife), batch) }},
		{"prune idempotency keys", func() (int64, error) { return db.w.PruneKeys(ctx, ago(socketxp.IdempotencyLife), batch) }},
		{"prune tokens", func() (int64, error) { return db.w.PruneTokens(ctx, ago(90*day), batch) }},
		{"prune sessions", func() (int64, error) { return db.w.PruneSessions(ctx, ago(400*day), batch) }},
		{"prune signing keys", func() (int64, error) { return db.w.PruneSigningKeys(ctx, ago(400*day), batch) }},
	} {
		for {
			n, err := step.cut()
			if err != nil {
				return wrap(ctx, step.op, err)
			}
			if n < batch {
				break
			}
		}
	}
	return nil
}

// Ping implements socketxp.HousekeepingStore.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.writable(); err != nil {
		return wrap(ctx, "ping", err)
	}
	var one int
	return wrap(ctx, "ping", db.reader.QueryRowContext(ctx, `SELECT 1`).Scan(&one))
}
