package store

import (
	"context"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// User implements socketxp.UserStore.
func (db *DB) User(ctx context.Context, id string) (socketxp.User, error) {
	u, err := db.r.User(ctx, id)
	if err != nil {
		return socketxp.User{}, wrap(ctx, "get user", err)
	}
	return user(u), nil
}

// UserByEmail implements socketxp.UserStore.
func (db *DB) UserByEmail(ctx context.Context, email string) (socketxp.User, error) {
	u, err := db.r.UserByEmail(ctx, email)
	if err != nil {
		return socketxp.User{}, wrap(ctx, "get user by email", err)
	}
	return user(u), nil
}

// Users implements socketxp.UserStore.
func (db *DB) Users(ctx context.Context) ([]socketxp.User, error) {
	rows, err := db.r.Users(ctx)
	if err != nil {
		return nil, wrap(ctx, "list users", err)
	}
	return convert(rows, user), nil
}

func user(u sqlc.User) socketxp.User {
	return socketxp.User{
		ID:            u.ID,
		Email:         u.Email,
		Name:          u.Name,
		PasswordHash:  u.PasswordHash,
		CreatedAt:     timeOf(u.CreatedAt),
		DisabledAt:    timeOf(u.DisabledAt),
		FailedSignIns: int(u.FailedSignIns),
		RetryAt:       timeOf(u.RetryAt),
	}
}

// CountUsers implements socketxp.UserStore.
func (db *DB) CountUsers(ctx context.Context) (int, error) {
	n, err := db.r.CountUsers(ctx)
	return int(n), wrap(ctx, "count users", err)
}

// SetPassword implements socketxp.UserStore.
func (db *DB) SetPassword(ctx context.Context, userID, hash, keepSignIn string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "set password", entry.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if err := affected(q.SetPassword(ctx, userID, hash)); err != nil {
			return err
		}
		return q.DeleteSignInsBut(ctx, userID, keepSignIn)
	})
}

// SetUserDisabled implements socketxp.UserStore.
func (db *DB) SetUserDisabled(ctx context.Context, userID string, at time.Time, entry socketxp.AuditEntry) error {
	return db.act(ctx, "disable user", entry.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if err := affected(q.SetUserDisabled(ctx, userID, micros(at))); err != nil || at.IsZero() {
			return err
		}
		return q.DeleteSignInsBut(ctx, userID, "")
	})
}

// SignInFailed implements socketxp.UserStore.
func (db *DB) SignInFailed(ctx context.Context, userID string, retryAt time.Time) (int, error) {
	if err := db.writable(); err != nil {
		return 0, wrap(ctx, "count failed sign-in", err)
	}
	n, err := db.w.CountFailedSignIn(ctx, userID, micros(retryAt))
	db.note(err)
	return int(n), wrap(ctx, "count failed sign-in", err)
}

// CreateSignIn implements socketxp.UserStore.
func (db *DB) CreateSignIn(ctx context.Context, s socketxp.SignIn, entry socketxp.AuditEntry) error {
	return db.act(ctx, "create sign-in", s.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		// First: it waits for an act that disables the user, and then finds it disabled.
		if err := affected(q.ClearFailedSignIns(ctx, s.UserID)); err != nil {
			return err
		}
		return q.InsertSignIn(ctx, sqlc.InsertSignInParams{
			ID:         s.ID,
			SecretHash: s.SecretHash[:],
			AccountID:  s.AccountID,
			UserID:     s.UserID,
			CreatedAt:  micros(s.CreatedAt),
			LastSeenAt: micros(s.LastSeenAt),
			ExpiresAt:  micros(s.ExpiresAt),
			AuthAt:     micros(s.AuthAt),
			RemoteAddr: s.RemoteAddr,
			UserAgent:  s.UserAgent,
		})
	})
}

// SignInBySecret implements socketxp.UserStore.
func (db *DB) SignInBySecret(ctx context.Context, secretHash [32]byte, now time.Time) (socketxp.SignIn, error) {
	s, err := db.r.SignInBySecret(ctx, sqlc.SignInBySecretParams{
		SecretHash: secretHash[:], Now: micros(now), IdleSince: micros(now.Add(-socketxp.SignInIdle)),
	})
	if err != nil {
		return socketxp.SignIn{}, wrap(ctx, "get sign-in", err)
	}
	return signIn(s), nil
}

// SignIns implements socketxp.UserStore.
func (db *DB) SignIns(ctx context.Context, accountID, userID string, now time.Time) ([]socketxp.SignIn, error) {
	rows, err := db.r.SignIns(ctx, sqlc.SignInsParams{
		UserID: userID, AccountID: accountID, Now: micros(now), IdleSince: micros(now.Add(-socketxp.SignInIdle)),
	})
	if err != nil {
		return nil, wrap(ctx, "list sign-ins", err)
	}
	return convert(rows, signIn), nil
}

func signIn(s sqlc.SignIn) socketxp.SignIn {
	out := socketxp.SignIn{
		ID:         s.ID,
		AccountID:  s.AccountID,
		UserID:     s.UserID,
		CreatedAt:  timeOf(s.CreatedAt),
		LastSeenAt: timeOf(s.LastSeenAt),
		ExpiresAt:  timeOf(s.ExpiresAt),
		AuthAt:     timeOf(s.AuthAt),
		RemoteAddr: s.RemoteAddr,
		UserAgent:  s.UserAgent,
	}
	copy(out.SecretHash[:], s.SecretHash)
	return out
}

// TouchSignIn implements socketxp.UserStore.
func (db *DB) TouchSignIn(ctx context.Context, id string, now time.Time, freshAuth bool) error {
	err := affected(db.w.TouchSignIn(ctx, sqlc.TouchSignInParams{ID: id, Now: micros(now), FreshAuth: freshAuth}))
	return wrap(ctx, "touch sign-in", err)
}

// DeleteSignIn implements socketxp.UserStore.
func (db *DB) DeleteSignIn(ctx context.Context, accountID, userID, id string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "delete sign-in", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return affected(q.DeleteSignIn(ctx, sqlc.DeleteSignInParams{AccountID: accountID, UserID: userID, ID: id}))
	})
}
