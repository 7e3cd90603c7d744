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

// sessionColumns are the fields of sqlc.Session in their order.
const sessionColumns = `id, account_id, device_id, device_name, user_id, token_id, destination, remote_addr, started_at, ended_at, end_reason, links, bytes_up, bytes_down`

// Sessions implements socketxp.SessionStore.
func (db *DB) Sessions(ctx context.Context, accountID string, query socketxp.SessionQuery) (page []socketxp.Session, err error) {
	s, err := db.sessionStatement(accountID, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = wrap(ctx, "list sessions", err) }()
	rows, err := db.query(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s sqlc.Session
		if err := rows.Scan(&s.ID, &s.AccountID, &s.DeviceID, &s.DeviceName, &s.UserID, &s.TokenID, &s.Destination, &s.RemoteAddr,
			&s.StartedAt, &s.EndedAt, &s.EndReason, &s.Links, &s.BytesUp, &s.BytesDown); err != nil {
			return nil, err
		}
		page = append(page, session(s))
	}
	return page, rows.Err()
}

// sessionStatement has only the conditions of query in it, so that each combination
// finds its own index. Of all filters, that for live ones leaves the fewest.
func (db *DB) sessionStatement(accountID string, query socketxp.SessionQuery) (*statement, error) {
	limit, err := pageSize(query.Limit)
	if err != nil {
		return nil, err
	}
	s := new(statement)
	s.add(`SELECT ` + sessionColumns + ` FROM sessions`)
	if query.Live != nil && *query.Live && db.engine.indexedBy != "" {
		s.add(db.engine.indexedBy + `sessions_live`)
	}
	s.add(` WHERE account_id = ? AND id < ?`, accountID, before(query.After))
	if query.DeviceID != "" {
		s.add(` AND device_id = ?`, query.DeviceID)
	}
	if query.UserID != "" {
		s.add(` AND user_id = ?`, query.UserID)
	}
	if query.TokenID != "" {
		s.add(` AND token_id = ?`, query.TokenID)
	}
	if query.Live != nil && *query.Live {
		s.add(` AND ended_at = 0`)
	} else if query.Live != nil {
		s.add(` AND ended_at <> 0`)
	}
	s.add(` ORDER BY id DESC LIMIT ?`, limit)
	return s, nil
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
