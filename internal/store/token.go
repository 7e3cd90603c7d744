package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// CreateToken implements socketxp.TokenStore. A token made with another one is
// refused with that one's error if it is no longer usable, so that a revocation
// can't be outrun by making a child. One whose signing key is not active any more
// is refused with ErrKeyNotActive: it may be dead before its maker has it.
func (db *DB) CreateToken(ctx context.Context, t socketxp.Token, entry socketxp.AuditEntry) error {
	insert, err := insertToken(t)
	if err != nil {
		return err
	}
	return db.act(ctx, "create token", t.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return insert(ctx, q)
	})
}

// insertToken returns what adds a token in an act of its account.
func insertToken(t socketxp.Token) (func(context.Context, *sqlc.Queries) error, error) {
	scope, err := json.Marshal(t.Scope)
	if err != nil {
		return nil, fmt.Errorf("create token: %w", err)
	}
	return func(ctx context.Context, q *sqlc.Queries) error {
		if t.ParentID != "" {
			parent, err := tokenIn(ctx, q, t.AccountID, t.ParentID)
			if err != nil {
				return err
			}
			if err := parent.Usable(t.CreatedAt); err != nil {
				return err
			}
		}
		switch active, err := q.SigningKeyIsActive(ctx, t.KeyID); {
		case err != nil:
			return err
		case active == 0:
			return socketxp.ErrKeyNotActive
		}
		return q.InsertToken(ctx, sqlc.InsertTokenParams{
			ID:         t.ID,
			AccountID:  t.AccountID,
			Kind:       string(t.Kind),
			Name:       t.Name,
			CreatedBy:  t.CreatedBy,
			ParentID:   t.ParentID,
			KeyID:      t.KeyID,
			CreatedAt:  micros(t.CreatedAt),
			ExpiresAt:  micros(t.ExpiresAt),
			RevokedAt:  micros(t.RevokedAt),
			LastUsedAt: micros(t.LastUsedAt),
			MaxUses:    int64(t.MaxUses),
			Uses:       int64(t.Uses),
			Scope:      string(scope),
		})
	}, nil
}

// Token implements socketxp.TokenStore.
func (db *DB) Token(ctx context.Context, accountID, id string) (socketxp.Token, error) {
	t, err := tokenIn(ctx, db.r, accountID, id)
	if err != nil {
		return socketxp.Token{}, wrap(ctx, "get token", err)
	}
	return t, nil
}

func tokenIn(ctx context.Context, q *sqlc.Queries, accountID, id string) (socketxp.Token, error) {
	row, err := q.Token(ctx, accountID, id)
	if err != nil {
		return socketxp.Token{}, err
	}
	return token(row)
}

func token(row sqlc.TokenRow) (socketxp.Token, error) {
	t := row.Token
	out := socketxp.Token{
		ID:         t.ID,
		AccountID:  t.AccountID,
		Kind:       socketxp.TokenKind(t.Kind),
		Name:       t.Name,
		CreatedBy:  t.CreatedBy,
		ParentID:   t.ParentID,
		KeyID:      t.KeyID,
		CreatedAt:  timeOf(t.CreatedAt),
		ExpiresAt:  timeOf(t.ExpiresAt),
		RevokedAt:  timeOf(t.RevokedAt),
		LastUsedAt: timeOf(t.LastUsedAt),
		MaxUses:    int(t.MaxUses),
		Uses:       int(t.Uses),

		KeyUntil:    timeOf(row.KeyUntil),
		Unconfirmed: row.Unconfirmed,
	}
	// Strictly: a narrowing that this program doesn't know must not be dropped.
	if err := socketxp.StrictUnmarshal([]byte(t.Scope), &out.Scope); err != nil {
		return socketxp.Token{}, fmt.Errorf("scope of token %s: %w", t.ID, err)
	}
	return out, nil
}

// Tokens implements socketxp.TokenStore.
func (db *DB) Tokens(ctx context.Context, accountID string, query socketxp.TokenQuery) ([]socketxp.Token, error) {
	limit, err := pageSize(query.Limit)
	if err != nil {
		return nil, err
	}
	liveAt, madeBy := micros(query.Live), micros(query.Live.Add(socketxp.ClockLeeway)) // as Token.Usable has it
	var rows []sqlc.TokenRow
	if query.Kind != "" { // apart, for its own index
		var found []sqlc.TokensOfKindRow
		found, err = db.r.TokensOfKind(ctx, sqlc.TokensOfKindParams{
			AccountID: accountID, Kind: string(query.Kind), Before: before(query.After), LiveAt: liveAt, MadeBy: madeBy, Count: limit,
		})
		rows = convert(found, func(r sqlc.TokensOfKindRow) sqlc.TokenRow { return sqlc.TokenRow(r) })
	} else {
		var found []sqlc.TokensRow
		found, err = db.r.Tokens(ctx, sqlc.TokensParams{
			AccountID: accountID, Before: before(query.After), LiveAt: liveAt, MadeBy: madeBy, Count: limit,
		})
		rows = convert(found, func(r sqlc.TokensRow) sqlc.TokenRow { return sqlc.TokenRow(r) })
	}
	if err != nil {
		return nil, wrap(ctx, "list tokens", err)
	}
	out := make([]socketxp.Token, len(rows))
	for i, r := range rows {
		if out[i], err = token(r); err != nil {
			return nil, wrap(ctx, "list tokens", err)
		}
	}
	return out, nil
}

// RevokeToken implements socketxp.TokenStore. A call that revokes nothing, since
// all is revoked, writes no audit entry.
func (db *DB) RevokeToken(ctx context.Context, accountID, id string, at time.Time, entry socketxp.AuditEntry) (revoked []string, err error) {
	if at.IsZero() {
		return nil, errors.New("revoke token: no time")
	}
	err = db.act(ctx, "revoke token", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if _, err := q.Token(ctx, accountID, id); err != nil {
			return err
		}
		revoked, err = q.RevokeTokens(ctx, sqlc.RevokeTokensParams{AccountID: accountID, ID: id, RevokedAt: micros(at)})
		if err == nil && len(revoked) == 0 {
			return errUnchanged
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(revoked)
	return revoked, nil
}

// TouchToken implements socketxp.TokenStore.
func (db *DB) TouchToken(ctx context.Context, accountID, id string, at time.Time) error {
	err := affected(db.w.TouchToken(ctx, sqlc.TouchTokenParams{AccountID: accountID, ID: id, At: micros(at)}))
	return wrap(ctx, "touch token", err)
}
