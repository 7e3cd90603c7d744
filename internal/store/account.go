package store

import (
	"context"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// firstAccount is the setting that only one set-up of the gateway can insert.
const firstAccount = "store.first_account"

// CreateAccount implements socketxp.AccountStore.
func (db *DB) CreateAccount(ctx context.Context, a socketxp.Account, owner socketxp.User, onlyFirst bool, entry socketxp.AuditEntry) error {
	return db.act(ctx, "create account", entry.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if onlyFirst {
			// Of two that are about to be the first, one waits here for the other's end,
			// and then counts its user.
			if _, err := q.InitSetting(ctx, firstAccount, a.ID); err != nil {
				return err
			}
			users, err := q.CountUsers(ctx)
			if err != nil {
				return err
			}
			if users > 0 {
				return socketxp.Errorf(socketxp.CodeConflict, "the gateway is set up already")
			}
		}
		if err := q.InsertAccount(ctx, sqlc.InsertAccountParams{
			ID:          a.ID,
			Name:        a.Name,
			CreatedAt:   micros(a.CreatedAt),
			BasicTokens: a.BasicTokens,
			BasicLife:   a.BasicLife.Microseconds(),
			DeviceQuota: int64(a.DeviceQuota),
		}); err != nil {
			return err
		}
		if err := q.InsertUser(ctx, sqlc.InsertUserParams{
			ID:            owner.ID,
			Email:         owner.Email,
			Name:          owner.Name,
			PasswordHash:  owner.PasswordHash,
			CreatedAt:     micros(owner.CreatedAt),
			DisabledAt:    micros(owner.DisabledAt),
			FailedSignIns: int64(owner.Strangers.Wrong),
			RetryAt:       micros(owner.Strangers.RetryAt),
		}); err != nil {
			return err
		}
		return q.InsertMembership(ctx, sqlc.InsertMembershipParams{
			AccountID: a.ID, UserID: owner.ID, Role: string(socketxp.RoleOwner), CreatedAt: micros(a.CreatedAt),
		})
	})
}

// Account implements socketxp.AccountStore.
func (db *DB) Account(ctx context.Context, id string) (socketxp.Account, error) {
	a, err := db.r.Account(ctx, id)
	if err != nil {
		return socketxp.Account{}, wrap(ctx, "get account", err)
	}
	return socketxp.Account{
		ID:          a.ID,
		Name:        a.Name,
		CreatedAt:   timeOf(a.CreatedAt),
		BasicTokens: a.BasicTokens,
		BasicLife:   time.Duration(a.BasicLife) * time.Microsecond,
		DeviceQuota: int(a.DeviceQuota),
	}, nil
}

// Membership implements socketxp.AccountStore.
func (db *DB) Membership(ctx context.Context, accountID, userID string) (socketxp.Membership, error) {
	m, err := db.r.Membership(ctx, accountID, userID)
	if err != nil {
		return socketxp.Membership{}, wrap(ctx, "get membership", err)
	}
	return membership(m), nil
}

// MembershipsOf implements socketxp.AccountStore.
func (db *DB) MembershipsOf(ctx context.Context, userID string) ([]socketxp.Membership, error) {
	rows, err := db.r.MembershipsOf(ctx, userID)
	if err != nil {
		return nil, wrap(ctx, "list memberships", err)
	}
	return convert(rows, membership), nil
}

func membership(m sqlc.Membership) socketxp.Membership {
	return socketxp.Membership{AccountID: m.AccountID, UserID: m.UserID, Role: socketxp.Role(m.Role), CreatedAt: timeOf(m.CreatedAt)}
}

// DeleteMembership implements socketxp.AccountStore.
func (db *DB) DeleteMembership(ctx context.Context, accountID, userID string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "delete membership", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		role, err := q.DeleteMembership(ctx, accountID, userID) // its sign-ins go with it
		if err != nil {
			return err
		}
		if socketxp.Role(role) != socketxp.RoleOwner {
			return nil
		}
		owners, err := q.CountMembers(ctx, accountID, string(socketxp.RoleOwner))
		if err == nil && owners == 0 {
			return socketxp.Errorf(socketxp.CodeConflict, "the last owner of an account can't be removed")
		}
		return err
	})
}
