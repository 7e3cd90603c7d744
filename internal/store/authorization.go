package store

import (
	"context"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// CreateAuthorization implements socketxp.AuthorizationStore. On PostgreSQL those
// who ask at the same moment may go beyond the limit by as many as they are.
func (db *DB) CreateAuthorization(ctx context.Context, a socketxp.DeviceAuthorization) error {
	return db.tx(ctx, "create device authorization", func(q *sqlc.Queries) error {
		n, err := q.CountPendingAuthorizations(ctx, micros(a.CreatedAt))
		if err != nil {
			return err
		}
		if n >= socketxp.MaxAuthorizations {
			return socketxp.Errorf(socketxp.CodeRateLimited, "too many sign-ins wait to be confirmed").WithHint("try again in some minutes")
		}
		return q.InsertAuthorization(ctx, sqlc.InsertAuthorizationParams{
			ID:         a.ID,
			DeviceHash: a.DeviceHash[:],
			UserCode:   a.UserCode,
			Host:       a.Host,
			RemoteAddr: a.RemoteAddr,
			TokenLife:  a.TokenLife.Microseconds(),
			CreatedAt:  micros(a.CreatedAt),
			ExpiresAt:  micros(a.ExpiresAt),
		})
	})
}

// AuthorizationByCode implements socketxp.AuthorizationStore.
func (db *DB) AuthorizationByCode(ctx context.Context, userCode string, now time.Time) (socketxp.DeviceAuthorization, error) {
	row, err := db.r.AuthorizationByCode(ctx, userCode, micros(now))
	if err != nil {
		return socketxp.DeviceAuthorization{}, wrap(ctx, "get device authorization by its user code", err)
	}
	return authorization(row), nil
}

// AuthorizationByDevice implements socketxp.AuthorizationStore.
func (db *DB) AuthorizationByDevice(ctx context.Context, deviceHash [32]byte, now time.Time) (socketxp.DeviceAuthorization, error) {
	row, err := db.r.AuthorizationByDevice(ctx, deviceHash[:], micros(now))
	if err != nil {
		return socketxp.DeviceAuthorization{}, wrap(ctx, "get device authorization by its device code", err)
	}
	return authorization(row), nil
}

func authorization(r sqlc.DeviceAuthorization) socketxp.DeviceAuthorization {
	a := socketxp.DeviceAuthorization{
		ID:         r.ID,
		UserCode:   r.UserCode,
		Host:       r.Host,
		RemoteAddr: r.RemoteAddr,
		TokenLife:  time.Duration(r.TokenLife) * time.Microsecond,
		CreatedAt:  timeOf(r.CreatedAt),
		ExpiresAt:  timeOf(r.ExpiresAt),
		State:      socketxp.AuthorizationState(r.State),
		AccountID:  r.AccountID,
		Approver: socketxp.Actor{
			Kind: socketxp.Kind(r.ApproverKind), UserID: r.ApproverUser, CredentialID: r.ApproverID, RemoteAddr: r.ApproverAddr,
		},
	}
	copy(a.DeviceHash[:], r.DeviceHash)
	return a
}

// DecideAuthorization implements socketxp.AuthorizationStore.
func (db *DB) DecideAuthorization(ctx context.Context, a socketxp.DeviceAuthorization, now time.Time, entry socketxp.AuditEntry) error {
	if a.State != socketxp.AuthorizationApproved && a.State != socketxp.AuthorizationDenied {
		return socketxp.Errorf(socketxp.CodeInternal, "%q is no decision", a.State)
	}
	return db.act(ctx, "decide device authorization", a.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return affected(q.DecideAuthorization(ctx, sqlc.DecideAuthorizationParams{
			State:        string(a.State),
			AccountID:    a.AccountID,
			ApproverKind: string(a.Approver.Kind),
			ApproverUser: a.Approver.UserID,
			ApproverID:   a.Approver.CredentialID,
			ApproverAddr: a.Approver.RemoteAddr,
			ID:           a.ID,
			Now:          micros(now),
		}))
	})
}

// UseAuthorization implements socketxp.AuthorizationStore.
func (db *DB) UseAuthorization(ctx context.Context, id string, t socketxp.Token, now time.Time, entry socketxp.AuditEntry) error {
	insert, err := insertToken(t)
	if err != nil {
		return err
	}
	return db.act(ctx, "use device authorization", t.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		err := affected(q.UseAuthorization(ctx, sqlc.UseAuthorizationParams{AccountID: t.AccountID, ID: id, Now: micros(now)}))
		if err != nil {
			return err
		}
		return insert(ctx, q)
	})
}
