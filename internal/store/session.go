package store

import (
	"context"
	"errors"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// CreateSession implements socketxp.SessionStore.
func (db *DB) CreateSession(ctx context.Context, s socketxp.Session, entry socketxp.AuditEntry) error {
	return db.act(ctx, "create session", s.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return q.InsertSession(ctx, sqlc.InsertSessionParams{
			ID:          s.ID,
			AccountID:   s.AccountID,
			DeviceID:    s.DeviceID,
			DeviceName:  s.DeviceName,
			UserID:      s.UserID,
			TokenID:     s.TokenID,
			Destination: s.Destination,
			RemoteAddr:  s.RemoteAddr,
			StartedAt:   micros(s.StartedAt),
			EndedAt:     micros(s.EndedAt),
			EndReason:   string(s.EndReason),
			Links:       s.Links,
			BytesUp:     s.BytesUp,
			BytesDown:   s.BytesDown,
		})
	})
}

// CountSession implements socketxp.SessionStore. Counting a session that has ended changes nothing.
func (db *DB) CountSession(ctx context.Context, accountID, id string, links, up, down int64) error {
	n, err := db.w.CountSession(ctx, sqlc.CountSessionParams{AccountID: accountID, ID: id, Links: links, BytesUp: up, BytesDown: down})
	if err == nil && n == 0 {
		_, err = db.r.Session(ctx, accountID, id) // ended, or not there?
	}
	return wrap(ctx, "count session", err)
}

// EndSession implements socketxp.SessionStore.
func (db *DB) EndSession(ctx context.Context, s socketxp.Session, entry socketxp.AuditEntry) error {
	if s.EndedAt.IsZero() {
		return errors.New("end session: no time")
	}
	return db.act(ctx, "end session", s.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		n, err := q.EndSession(ctx, sqlc.EndSessionParams{
			AccountID: s.AccountID,
			ID:        s.ID,
			EndedAt:   micros(s.EndedAt),
			EndReason: string(s.EndReason),
			Links:     s.Links,
			BytesUp:   s.BytesUp,
			BytesDown: s.BytesDown,
		})
		if err != nil || n > 0 {
			return err
		}
		if _, err := q.Session(ctx, s.AccountID, s.ID); err != nil {
			return err
		}
		return errUnchanged
	})
}

// EndAllSessions implements socketxp.SessionStore.
func (db *DB) EndAllSessions(ctx context.Context, at time.Time, reason socketxp.Code) (int, error) {
	if at.IsZero() {
		return 0, errors.New("end all sessions: no time")
	}
	n, err := db.w.EndAllSessions(ctx, micros(at), string(reason))
	return int(n), wrap(ctx, "end all sessions", err)
}

// Session implements socketxp.SessionStore.
func (db *DB) Session(ctx context.Context, accountID, id string) (socketxp.Session, error) {
	s, err := db.r.Session(ctx, accountID, id)
	if err != nil {
		return socketxp.Session{}, wrap(ctx, "get session", err)
	}
	return session(s), nil
}

// Sessions implements socketxp.SessionStore.
func (db *DB) Sessions(ctx context.Context, accountID string, query socketxp.SessionQuery) ([]socketxp.Session, error) {
	limit, err := pageSize(query.Limit)
	if err != nil {
		return nil, err
	}
	state := ""
	if query.Live != nil && *query.Live {
		state = "live"
	} else if query.Live != nil {
		state = "ended"
	}
	var rows []sqlc.Session
	if query.DeviceID != "" { // apart, for its own index
		rows, err = db.r.SessionsOfDevice(ctx, sqlc.SessionsOfDeviceParams{
			AccountID: accountID, DeviceID: query.DeviceID, Before: before(query.After),
			UserID: query.UserID, TokenID: query.TokenID, State: state, Count: limit,
		})
	} else {
		rows, err = db.r.Sessions(ctx, sqlc.SessionsParams{
			AccountID: accountID, Before: before(query.After),
			UserID: query.UserID, TokenID: query.TokenID, State: state, Count: limit,
		})
	}
	if err != nil {
		return nil, wrap(ctx, "list sessions", err)
	}
	return convert(rows, session), nil
}

func session(s sqlc.Session) socketxp.Session {
	return socketxp.Session{
		ID:          s.ID,
		AccountID:   s.AccountID,
		DeviceID:    s.DeviceID,
		DeviceName:  s.DeviceName,
		UserID:      s.UserID,
		TokenID:     s.TokenID,
		Destination: s.Destination,
		RemoteAddr:  s.RemoteAddr,
		StartedAt:   timeOf(s.StartedAt),
		EndedAt:     timeOf(s.EndedAt),
		EndReason:   socketxp.Code(s.EndReason),
		Links:       s.Links,
		BytesUp:     s.BytesUp,
		BytesDown:   s.BytesDown,
	}
}
