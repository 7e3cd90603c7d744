package store

import (
	"context"
	"database/sql"
	"errors"
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
		ID:           u.ID,
		Email:        u.Email,
		Name:         u.Name,
		PasswordHash: u.PasswordHash,
		CreatedAt:    timeOf(u.CreatedAt),
		DisabledAt:   timeOf(u.DisabledAt),
		Strangers:    socketxp.Tries{Wrong: int(u.FailedSignIns), RetryAt: timeOf(u.RetryAt)},
	}
}

// CountUsers implements socketxp.UserStore.
func (db *DB) CountUsers(ctx context.Context) (int, error) {
	n, err := db.r.CountUsers(ctx)
	return int(n), wrap(ctx, "count users", err)
}

// SetPassword implements socketxp.UserStore.
func (db *DB) SetPassword(ctx context.Context, userID, old, hash string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "set password", entry.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if err := affected(q.SetPassword(ctx, sqlc.SetPasswordParams{ID: userID, Old: old, Hash: hash})); err != nil {
			return err
		}
		return endSignIns(ctx, q, userID)
	})
}

// endSignIns ends all of a user's sign-ins and forgets the known browsers.
func endSignIns(ctx context.Context, q *sqlc.Queries, userID string) error {
	if err := q.DeleteSignIns(ctx, userID); err != nil {
		return err
	}
	return q.ForgetKnownBrowsers(ctx, userID)
}

// SetUserDisabled implements socketxp.UserStore.
func (db *DB) SetUserDisabled(ctx context.Context, userID string, at time.Time, entry socketxp.AuditEntry) error {
	return db.act(ctx, "disable user", entry.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if err := affected(q.SetUserDisabled(ctx, userID, micros(at))); err != nil || at.IsZero() {
			return err
		}
		return endSignIns(ctx, q, userID)
	})
}

// TakeTry implements socketxp.UserStore.
func (db *DB) TakeTry(ctx context.Context, userID string, known [32]byte, now time.Time) (socketxp.Try, error) {
	// Each time that another one was first, that one was counted: they can't be more.
	for range 2 * socketxp.MaxTries {
		t, taken, err := db.takeTry(ctx, userID, known, now)
		if err != nil || taken || t.Wait > 0 {
			return t, wrap(ctx, "count a sign-in", err)
		}
	}
	return socketxp.Try{}, socketxp.Errorf(socketxp.CodeUnavailable, "too many sign-ins of one user at the same time")
}

// takeTry is TakeTry if no other try changed the count meanwhile; else neither taken
// nor t.Wait says anything.
func (db *DB) takeTry(ctx context.Context, userID string, known [32]byte, now time.Time) (t socketxp.Try, taken bool, err error) {
	k, err := db.r.KnownBrowser(ctx, sqlc.KnownBrowserParams{UserID: userID, SecretHash: known[:], Now: micros(now)})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return t, false, err
	}
	// One that was guessed with too often is a stranger from then on: who was here before
	// the thief is not to be worse off than anybody.
	if err == nil && k.Wrong < socketxp.MaxTries {
		tries := socketxp.Tries{Wrong: int(k.Wrong), RetryAt: timeOf(k.RetryAt)}
		next, wait := tries.Take(now)
		if t = (socketxp.Try{Known: known, Wait: wait}); wait > 0 {
			return t, false, nil
		}
		n, err := db.w.CountKnown(ctx, sqlc.CountKnownParams{
			UserID: userID, SecretHash: known[:], Wrong: k.Wrong, RetryAt: k.RetryAt, Next: int64(next.Wrong), NextRetryAt: micros(next.RetryAt),
		})
		return t, n > 0, err
	}
	u, err := db.r.User(ctx, userID)
	if err != nil {
		return t, false, err
	}
	next, wait := user(u).Strangers.Take(now)
	if t.Wait = wait; wait > 0 {
		return t, false, nil
	}
	n, err := db.w.CountStranger(ctx, sqlc.CountStrangerParams{
		ID: userID, Wrong: u.FailedSignIns, RetryAt: u.RetryAt, Next: int64(next.Wrong), NextRetryAt: micros(next.RetryAt),
	})
	return t, n > 0, err
}

// ReturnTry implements socketxp.UserStore.
func (db *DB) ReturnTry(ctx context.Context, userID, passwordHash string, t socketxp.Try) error {
	if t.Known != ([32]byte{}) { // a new password has forgotten it
		return wrap(ctx, "uncount a sign-in", db.w.UncountKnown(ctx, userID, t.Known[:]))
	}
	return wrap(ctx, "uncount a sign-in", db.w.UncountStranger(ctx, userID, passwordHash))
}

// CreateSignIn implements socketxp.UserStore.
func (db *DB) CreateSignIn(ctx context.Context, s socketxp.SignIn, by socketxp.Entrance, entry socketxp.AuditEntry) error {
	return db.act(ctx, "create sign-in", s.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		// First: it waits for an act that disables the user or sets a password, and then
		// finds that done.
		if err := affected(q.HoldPassword(ctx, s.UserID, by.PasswordHash)); err != nil {
			return err
		}
		if err := replaceKnown(ctx, q, s, by); err != nil {
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

// replaceKnown makes what the browser is given known in place of what it has shown.
func replaceKnown(ctx context.Context, q *sqlc.Queries, s socketxp.SignIn, by socketxp.Entrance) error {
	if err := q.ForgetKnownBrowser(ctx, s.UserID, by.Shown[:]); err != nil {
		return err
	}
	if by.Given == ([32]byte{}) {
		return nil
	}
	if err := q.InsertKnownBrowser(ctx, sqlc.InsertKnownBrowserParams{
		SecretHash: by.Given[:], UserID: s.UserID, CreatedAt: micros(s.CreatedAt), ExpiresAt: micros(s.CreatedAt.Add(socketxp.KnownBrowserLife)),
	}); err != nil {
		return err
	}
	return q.ForgetOldKnownBrowsers(ctx, s.UserID, socketxp.MaxKnownBrowsers)
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

// EndSignIns implements socketxp.UserStore.
func (db *DB) EndSignIns(ctx context.Context, accountID, userID string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "end sign-ins", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if _, err := q.Membership(ctx, accountID, userID); err != nil {
			return err
		}
		return endSignIns(ctx, q, userID)
	})
}
