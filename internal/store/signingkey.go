package store

import (
	"context"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// SigningKeys implements socketxp.SigningKeyStore.
func (db *DB) SigningKeys(ctx context.Context) ([]socketxp.SigningKey, error) {
	rows, err := db.r.SigningKeys(ctx)
	if err != nil {
		return nil, wrap(ctx, "list signing keys", err)
	}
	return convert(rows, func(k sqlc.SigningKey) socketxp.SigningKey {
		return socketxp.SigningKey{
			ID: k.ID, PublicKey: k.PublicKey, CreatedAt: timeOf(k.CreatedAt), RetiredAt: timeOf(k.RetiredAt),
			Until: timeOf(k.UntilAt), CompromisedAt: timeOf(k.CompromisedAt),
		}
	}), nil
}

// RotateSigningKey implements socketxp.SigningKeyStore.
func (db *DB) RotateSigningKey(ctx context.Context, r socketxp.KeyRotation, entry socketxp.AuditEntry) error {
	return db.act(ctx, "rotate signing key", "", entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if r.Compromise != "" {
			if err := affected(q.CompromiseSigningKey(ctx, micros(r.At), r.Compromise)); err != nil {
				return err
			}
		}
		for _, id := range r.Retire {
			if _, err := q.RetireSigningKey(ctx, sqlc.RetireSigningKeyParams{At: micros(r.At), Until: micros(r.Until), ID: id}); err != nil {
				return err
			}
		}
		if r.Add == nil {
			return nil
		}
		return q.InsertSigningKey(ctx, sqlc.InsertSigningKeyParams{
			ID: r.Add.ID, PublicKey: r.Add.PublicKey, CreatedAt: micros(r.At), UntilAt: micros(socketxp.EndOfTime),
		})
	})
}

// KeyUses implements socketxp.SigningKeyStore.
func (db *DB) KeyUses(ctx context.Context, now, until time.Time) ([]socketxp.KeyUse, error) {
	rows, err := db.r.SigningKeyUses(ctx, micros(until), micros(now))
	if err != nil {
		return nil, wrap(ctx, "count tokens by signing key", err)
	}
	return convert(rows, func(r sqlc.SigningKeyUsesRow) socketxp.KeyUse {
		return socketxp.KeyUse{KeyID: r.KeyID, Kind: socketxp.TokenKind(r.Kind), Tokens: int(r.Tokens), Later: int(r.Later)}
	}), nil
}
