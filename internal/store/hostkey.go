package store

import (
	"context"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// HostKey implements socketxp.HostKeyStore.
func (db *DB) HostKey(ctx context.Context, accountID, deviceID string, port int) (socketxp.HostKey, error) {
	k, err := db.r.HostKey(ctx, sqlc.HostKeyParams{AccountID: accountID, DeviceID: deviceID, Port: int64(port)})
	if err != nil {
		return socketxp.HostKey{}, wrap(ctx, "get host key", err)
	}
	return socketxp.HostKey{
		AccountID: k.AccountID, DeviceID: k.DeviceID, Port: int(k.Port), Key: k.Key, TrustedAt: timeOf(k.TrustedAt), TrustedBy: k.TrustedBy,
	}, nil
}

// TrustHostKey implements socketxp.HostKeyStore.
func (db *DB) TrustHostKey(ctx context.Context, k socketxp.HostKey, entry socketxp.AuditEntry) error {
	return db.act(ctx, "trust host key", k.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return affected(q.TrustHostKey(ctx, sqlc.TrustHostKeyParams{
			AccountID: k.AccountID, DeviceID: k.DeviceID, Port: int64(k.Port), Key: k.Key, At: micros(k.TrustedAt), TrustedBy: k.TrustedBy,
		}))
	})
}
