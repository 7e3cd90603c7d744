package store_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"socketxp"
)

// addOwner makes a user an owner of the account too; the product can't yet.
func (ten *tenant) addOwner(url, userID string) {
	ten.t.Helper()
	mustExec(ten.t, raw(ten.t, url), `INSERT INTO memberships (account_id, user_id, role, created_at) VALUES ($1, $2, 'owner', 1)`, ten.id, userID)
}

func (ten *tenant) newSignIn(u socketxp.User, accountID string) socketxp.SignIn {
	ten.t.Helper()
	id := ten.ids.next()
	s := socketxp.SignIn{
		ID: id, SecretHash: sha256.Sum256([]byte(id)), AccountID: accountID, UserID: u.ID,
		CreatedAt: t0, LastSeenAt: t0, ExpiresAt: t0.Add(socketxp.SignInLife), AuthAt: t0, RemoteAddr: "192.0.2.1", UserAgent: "test",
	}
	entry := ten.entry("user.sign_in")
	entry.AccountID = accountID
	ten.must(ten.store.CreateSignIn(ten.t.Context(), s, entry))
	return s
}

func TestUsers(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		for how, get := range map[string]func() (socketxp.User, error){
			"id":    func() (socketxp.User, error) { return s.User(t.Context(), acme.owner.ID) },
			"email": func() (socketxp.User, error) { return s.UserByEmail(t.Context(), acme.owner.Email) },
		} {
			u, err := get()
			if err != nil {
				t.Fatalf("by %s: %v", how, err)
			}
			wantEqual(t, u, acme.owner)
		}
		users, err := s.Users(t.Context())
		acme.must(err)
		if len(users) != 2 {
			t.Errorf("%d users", len(users))
		}
		_, err = s.UserByEmail(t.Context(), "nobody@example.com")
		wantCode(t, err, socketxp.CodeNotFound)
		_, err = s.User(t.Context(), other.id)
		wantCode(t, err, socketxp.CodeNotFound)
		wantCode(t, s.SetPassword(t.Context(), acme.id, "x", "", acme.entry("user.password")), socketxp.CodeNotFound)
		wantCode(t, s.SetUserDisabled(t.Context(), acme.id, t0, acme.entry("user.disable")), socketxp.CodeNotFound)
		_, err = s.SignInFailed(t.Context(), acme.id, t0)
		wantCode(t, err, socketxp.CodeNotFound)
	})
}

func TestFailedSignIns(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		for want := 1; want <= 3; want++ {
			if n, err := s.SignInFailed(t.Context(), acme.owner.ID, t0.Add(time.Minute)); n != want || err != nil {
				t.Errorf("failure %d counts as %d, %v", want, n, err)
			}
		}
		want := acme.owner
		want.FailedSignIns, want.RetryAt = 3, t0.Add(time.Minute)
		u, err := s.User(t.Context(), acme.owner.ID)
		acme.must(err)
		wantEqual(t, u, want)
		acme.newSignIn(acme.owner, acme.id)
		u, err = s.User(t.Context(), acme.owner.ID)
		acme.must(err)
		wantEqual(t, u, acme.owner)
	})
}

func TestSignInLife(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		in := acme.newSignIn(acme.owner, acme.id)
		live := func(at time.Time, want bool) {
			t.Helper()
			got, err := s.SignInBySecret(t.Context(), in.SecretHash, at)
			list, errList := s.SignIns(t.Context(), acme.id, acme.owner.ID, at)
			acme.must(errList)
			if !want {
				wantCode(t, err, socketxp.CodeNotFound)
				wantEqual(t, len(list), 0)
				return
			}
			acme.must(err)
			wantEqual(t, got, in)
			wantEqual(t, list, []socketxp.SignIn{in})
		}
		touch := func(at time.Time, fresh bool) {
			t.Helper()
			acme.must(s.TouchSignIn(t.Context(), in.ID, at, fresh))
			in.LastSeenAt = at
			if fresh {
				in.AuthAt = at
			}
		}
		live(t0, true)
		live(t0.Add(socketxp.SignInIdle-time.Microsecond), true)
		live(t0.Add(socketxp.SignInIdle), false)
		touch(t0.Add(time.Hour), false)
		live(t0.Add(socketxp.SignInIdle), true)
		touch(t0.Add(2*time.Hour), true)
		live(t0.Add(2*time.Hour), true)
		acme.must(s.TouchSignIn(t.Context(), in.ID, t0, false)) // late: nothing runs backwards
		live(t0.Add(2*time.Hour), true)
		touch(in.ExpiresAt.Add(-time.Microsecond), false)
		live(in.ExpiresAt.Add(-time.Microsecond), true)
		live(in.ExpiresAt, false)
		wantCode(t, s.TouchSignIn(t.Context(), acme.id, t0, false), socketxp.CodeNotFound)
	})
}

func TestSignInsEnd(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		ended := func(in socketxp.SignIn, want bool) {
			t.Helper()
			_, err := s.SignInBySecret(t.Context(), in.SecretHash, t0)
			if got := err != nil; got != want {
				t.Errorf("ended: %v, want %v (%v)", got, want, err)
			}
		}
		one, two, three := acme.newSignIn(acme.owner, acme.id), acme.newSignIn(acme.owner, acme.id), acme.newSignIn(acme.owner, acme.id)
		theirs := other.newSignIn(other.owner, other.id)

		acme.must(s.DeleteSignIn(t.Context(), acme.id, acme.owner.ID, one.ID, acme.entry("signin.delete")))
		ended(one, true)
		ended(two, false)
		wantCode(t, s.DeleteSignIn(t.Context(), acme.id, acme.owner.ID, one.ID, acme.entry("signin.delete")), socketxp.CodeNotFound)
		wantCode(t, s.DeleteSignIn(t.Context(), acme.id, other.owner.ID, two.ID, acme.entry("signin.delete")), socketxp.CodeNotFound)

		if _, err := s.SignInFailed(t.Context(), acme.owner.ID, t0); err != nil {
			t.Fatal(err)
		}
		acme.must(s.SetPassword(t.Context(), acme.owner.ID, "$argon2id$new", three.ID, acme.entry("user.password")))
		ended(two, true)
		ended(three, false)
		u, err := s.User(t.Context(), acme.owner.ID)
		acme.must(err)
		if u.PasswordHash != "$argon2id$new" || u.FailedSignIns != 0 || !u.RetryAt.IsZero() {
			t.Errorf("after a new password: %+v", u)
		}

		acme.must(s.SetUserDisabled(t.Context(), acme.owner.ID, t0, acme.entry("user.disable")))
		ended(three, true)
		_, err = s.Membership(t.Context(), acme.id, acme.owner.ID)
		wantCode(t, err, socketxp.CodeNotFound)
		again := three
		again.ID = acme.ids.next()
		wantCode(t, s.CreateSignIn(t.Context(), again, acme.entry("user.sign_in")), socketxp.CodeNotFound)
		acme.must(s.SetUserDisabled(t.Context(), acme.owner.ID, time.Time{}, acme.entry("user.enable")))
		ended(three, true)
		if _, err := s.Membership(t.Context(), acme.id, acme.owner.ID); err != nil {
			t.Errorf("after enabling: %v", err)
		}
		stranger := again
		stranger.UserID = other.owner.ID
		wantCode(t, s.CreateSignIn(t.Context(), stranger, acme.entry("user.sign_in")), socketxp.CodeNotFound)
		ended(theirs, false)
	})
}
