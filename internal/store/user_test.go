package store_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
	ten.must(ten.store.CreateSignIn(ten.t.Context(), s, ten.by(u), entry))
	return s
}

// by is what a sign-in of the user rests on who has just entered the right password.
func (ten *tenant) by(u socketxp.User) socketxp.Entrance {
	ten.t.Helper()
	u, err := ten.store.User(ten.t.Context(), u.ID)
	ten.must(err)
	return socketxp.Entrance{PasswordHash: u.PasswordHash}
}

// take takes a try of the owner's password.
func (ten *tenant) take(known [32]byte, now time.Time) socketxp.Try {
	ten.t.Helper()
	try, err := ten.store.TakeTry(ten.t.Context(), ten.owner.ID, known, now)
	ten.must(err)
	return try
}

// enter signs the owner in with a browser that shows one value and is given another.
func (ten *tenant) enter(shown, given [32]byte, at time.Time) {
	ten.t.Helper()
	id := ten.ids.next()
	s := socketxp.SignIn{
		ID: id, SecretHash: sha256.Sum256([]byte(id)), AccountID: ten.id, UserID: ten.owner.ID,
		CreatedAt: at, LastSeenAt: at, ExpiresAt: at.Add(socketxp.SignInLife), AuthAt: at,
	}
	by := ten.by(ten.owner)
	by.Shown, by.Given = shown, given
	ten.must(ten.store.CreateSignIn(ten.t.Context(), s, by, ten.entry("signin.create")))
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
		wantCode(t, s.SetPassword(t.Context(), acme.id, "", "x", acme.entry("user.password")), socketxp.CodeNotFound)
		wantCode(t, s.SetUserDisabled(t.Context(), acme.id, t0, acme.entry("user.disable")), socketxp.CodeNotFound)
		_, err = s.TakeTry(t.Context(), acme.id, [32]byte{}, t0)
		wantCode(t, err, socketxp.CodeNotFound)
	})
}

func TestTries(t *testing.T) {
	strangers, mine, never := [32]byte{}, [32]byte{1}, [32]byte{9}
	ages := t0.Add(1000 * time.Hour) // no hold of before lasts until then
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		t.Run("X-01 strangers share a count, whatever they show", func(t *testing.T) {
			other.enter(strangers, [32]byte{2}, t0)
			for _, shown := range [][32]byte{strangers, never, {2}, strangers, never} { // the third is known, as another's
				if try := acme.take(shown, t0); try != (socketxp.Try{}) {
					t.Errorf("got %+v", try)
				}
			}
			for _, shown := range [][32]byte{strangers, never, {2}} {
				if try := acme.take(shown, t0); try != (socketxp.Try{Wait: time.Second}) {
					t.Errorf("after %d: %+v", socketxp.FreeTries, try)
				}
			}
			u, err := s.User(t.Context(), acme.owner.ID)
			acme.must(err)
			wantEqual(t, u.Strangers, socketxp.Tries{Wrong: socketxp.FreeTries, RetryAt: t0.Add(time.Second)})
		})
		t.Run("X-04 a known browser has a count of its own", func(t *testing.T) {
			acme.enter(strangers, mine, t0)
			for range socketxp.FreeTries {
				if try := acme.take(mine, t0); try != (socketxp.Try{Known: mine}) {
					t.Errorf("got %+v", try)
				}
			}
			if try := acme.take(mine, t0); try.Wait != time.Second {
				t.Errorf("after %d of its own: %+v", socketxp.FreeTries, try)
			}
			if try := acme.take(strangers, t0.Add(time.Second)); try.Wait > 0 {
				t.Errorf("strangers have to wait for it: %+v", try)
			}
		})
		t.Run("X-04 a sign-in sets no count of strangers back", func(t *testing.T) {
			before, err := s.User(t.Context(), acme.owner.ID)
			acme.must(err)
			acme.enter(mine, [32]byte{3}, t0)
			after, err := s.User(t.Context(), acme.owner.ID)
			acme.must(err)
			wantEqual(t, after, before)
		})
		t.Run("X-04 a value that was replaced is a stranger's", func(t *testing.T) {
			if try := acme.take(mine, ages); try.Known != strangers {
				t.Errorf("got %+v", try)
			}
		})
		t.Run("X-04 for 90 days", func(t *testing.T) {
			end := t0.Add(socketxp.KnownBrowserLife)
			if try := acme.take([32]byte{3}, end.Add(-time.Microsecond)); try.Known == strangers {
				t.Errorf("got %+v", try)
			}
			if try := acme.take([32]byte{3}, end); try.Known != strangers {
				t.Errorf("got %+v", try)
			}
		})
	})
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		count := func(known [32]byte) (judged int) {
			t.Helper()
			for i := range 2 * socketxp.MaxTries {
				now := t0.Add(time.Duration(i) * socketxp.LongestHold) // it waits as long as it has to
				if try := acme.take(known, now); try.Wait == 0 && try.Known == known {
					judged++
				}
			}
			return judged
		}
		acme.enter(strangers, mine, t0.Add(40*24*time.Hour))
		t.Run("X-01 a stolen value guesses 100 times, and is a stranger then", func(t *testing.T) {
			if n := count(mine); n != socketxp.MaxTries {
				t.Errorf("%d were judged", n)
			}
			if u, err := s.User(t.Context(), acme.owner.ID); err != nil || u.Strangers.Wrong != socketxp.MaxTries {
				t.Errorf("strangers: %+v, %v", u.Strangers, err)
			}
		})
		t.Run("X-01 strangers guess 100 times between two passwords", func(t *testing.T) {
			acme.enter(mine, [32]byte{2}, ages)
			if n := count(strangers); n != 0 {
				t.Errorf("%d more were judged", n)
			}
			if try := acme.take([32]byte{2}, ages); try.Wait > 0 {
				t.Errorf("X-04 the owner waits for them: %+v", try)
			}
			acme.must(s.SetPassword(t.Context(), acme.owner.ID, "", "$argon2id$new", acme.entry("user.password")))
			if n := count(strangers); n != socketxp.MaxTries {
				t.Errorf("%d were judged after a new password", n)
			}
		})
	})
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		acme.enter(strangers, mine, t0)
		for name, known := range map[string][32]byte{"strangers": strangers, "a known browser": mine} {
			t.Run("X-01 at the same time no more than in a row: "+name, func(t *testing.T) {
				var judged, held atomic.Int32
				var all sync.WaitGroup
				for range 30 {
					all.Go(func() {
						switch try, err := s.TakeTry(t.Context(), acme.owner.ID, known, t0); {
						case err != nil:
							t.Error(err)
						case try.Wait == 0:
							judged.Add(1)
						case try.Wait == time.Second:
							held.Add(1)
						}
					})
				}
				all.Wait()
				if judged.Load() != socketxp.FreeTries || held.Load() != 30-socketxp.FreeTries {
					t.Errorf("%d were judged, %d held up", judged.Load(), held.Load())
				}
			})
		}
	})
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		acme.enter(strangers, mine, t0)
		back := func(hash string, try socketxp.Try) {
			t.Helper()
			acme.must(s.ReturnTry(t.Context(), acme.owner.ID, hash, try))
		}
		for name, known := range map[string][32]byte{"strangers": strangers, "a known browser": mine} {
			t.Run("one that was right does not count: "+name, func(t *testing.T) {
				for range 3 * socketxp.FreeTries {
					try := acme.take(known, t0)
					if try.Wait > 0 {
						t.Fatalf("got %+v", try)
					}
					back(acme.owner.PasswordHash, try)
				}
				back(acme.owner.PasswordHash, socketxp.Try{Known: known}) // there is none: it is no credit
				for range socketxp.FreeTries {
					acme.take(known, t0)
				}
				if try := acme.take(known, t0); try.Wait != time.Second {
					t.Errorf("got %+v", try)
				}
				back(acme.owner.PasswordHash, socketxp.Try{Known: known})
				if try := acme.take(known, t0); try.Wait != time.Second {
					t.Errorf("X-01 a hold moved earlier: %+v", try)
				}
			})
		}
		t.Run("X-01 nor is one of before given back to those of another password", func(t *testing.T) {
			acme.must(s.SetPassword(t.Context(), acme.owner.ID, "", "$argon2id$new", acme.entry("user.password")))
			acme.take(strangers, t0)
			back(acme.owner.PasswordHash, socketxp.Try{})
			if u, err := s.User(t.Context(), acme.owner.ID); err != nil || u.Strangers.Wrong != 1 {
				t.Errorf("%+v, %v", u.Strangers, err)
			}
		})
	})
}

func TestKnownBrowsers(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		value := func(n int) [32]byte { return [32]byte{byte(n), 1} }
		known := func(n int) bool {
			t.Helper()
			return acme.take(value(n), t0.Add(time.Hour)).Known == value(n)
		}
		others := [32]byte{200}
		other.enter([32]byte{}, others, t0)
		t.Run("X-04 20 of a user, and the oldest goes", func(t *testing.T) {
			for n := range socketxp.MaxKnownBrowsers + 2 {
				acme.enter([32]byte{}, value(n), t0.Add(time.Duration(n)*time.Second))
			}
			for n := range socketxp.MaxKnownBrowsers + 2 {
				if known(n) != (n >= 2) {
					t.Errorf("the browser %d is known: %v", n, n < 2)
				}
			}
		})
		again := func() { acme.enter([32]byte{}, value(100), t0.Add(time.Minute)) }
		for name, act := range map[string]func() error{
			"a new password": func() error {
				return s.SetPassword(t.Context(), acme.owner.ID, "", "$argon2id$new", acme.entry("user.password"))
			},
			"a sign-out everywhere": func() error { return s.EndSignIns(t.Context(), acme.id, acme.owner.ID, acme.entry("signin.end-all")) },
			"disabling": func() error {
				return errors.Join(s.SetUserDisabled(t.Context(), acme.owner.ID, t0, acme.entry("user.disable")), s.SetUserDisabled(t.Context(), acme.owner.ID, time.Time{}, acme.entry("user.enable")))
			},
		} {
			t.Run("X-04 forgotten by "+name, func(t *testing.T) {
				again()
				in := acme.newSignIn(acme.owner, acme.id)
				if !known(100) {
					t.Fatal("this test can't tell")
				}
				acme.must(act())
				if known(100) || known(20) {
					t.Error("it is still known")
				}
				_, err := s.SignInBySecret(t.Context(), in.SecretHash, t0)
				wantCode(t, err, socketxp.CodeNotFound)
			})
		}
		t.Run("X-04 but no other user's", func(t *testing.T) {
			if try := other.take(others, t0); try.Known != others {
				t.Errorf("got %+v", try)
			}
			again()
			other.enter(value(100), [32]byte{201}, t0) // a browser of two people
			if !known(100) {
				t.Error("another's sign-in has it forgotten")
			}
		})
		wantCode(t, s.EndSignIns(t.Context(), other.id, acme.owner.ID, other.entry("signin.end-all")), socketxp.CodeNotFound)
	})
}

// A sign-in that began before a new password does not come after it.
func TestSignInWithOldPassword(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		given := [32]byte{7}
		in := socketxp.SignIn{ID: acme.ids.next(), SecretHash: [32]byte{8}, AccountID: acme.id, UserID: acme.owner.ID, CreatedAt: t0, LastSeenAt: t0, ExpiresAt: t0.Add(time.Hour), AuthAt: t0}
		by := socketxp.Entrance{PasswordHash: acme.owner.PasswordHash, Given: given}
		acme.must(s.SetPassword(t.Context(), acme.owner.ID, acme.owner.PasswordHash, "$argon2id$new", acme.entry("user.password")))
		wantCode(t, s.CreateSignIn(t.Context(), in, by, acme.entry("signin.create")), socketxp.CodeNotFound)
		wantCode(t, s.CreateSignIn(t.Context(), in, socketxp.Entrance{}, acme.entry("signin.create")), socketxp.CodeNotFound)
		if _, err := s.SignInBySecret(t.Context(), in.SecretHash, t0); socketxp.CodeOf(err) != socketxp.CodeNotFound {
			t.Errorf("there is a sign-in: %v", err)
		}
		if try := acme.take(given, t0); try.Known == given {
			t.Error("the browser is known")
		}
		wantCode(t, s.SetPassword(t.Context(), acme.owner.ID, acme.owner.PasswordHash, "$argon2id$late", acme.entry("user.password")), socketxp.CodeNotFound)
		by.PasswordHash = "$argon2id$new"
		acme.must(s.CreateSignIn(t.Context(), in, by, acme.entry("signin.create")))
	})
	t.Run("at the same time", func(t *testing.T) {
		forEachBackend(t, func(t *testing.T, s socketxp.Store) {
			acme := newTenant(t, s, "acme")
			hash := acme.owner.PasswordHash
			for i := range 20 {
				id := acme.ids.next()
				in := socketxp.SignIn{ID: id, SecretHash: sha256.Sum256([]byte(id)), AccountID: acme.id, UserID: acme.owner.ID, CreatedAt: t0, LastSeenAt: t0, ExpiresAt: t0.Add(time.Hour), AuthAt: t0}
				next := fmt.Sprintf("$argon2id$%d", i)
				var both sync.WaitGroup
				entry := acme.entry("signin.create")
				both.Go(func() {
					err := s.CreateSignIn(t.Context(), in, socketxp.Entrance{PasswordHash: hash}, entry)
					if err != nil && !errors.Is(err, socketxp.ErrNotFound) {
						t.Error(err)
					}
				})
				acme.must(s.SetPassword(t.Context(), acme.owner.ID, hash, next, acme.entry("user.password")))
				both.Wait()
				if _, err := s.SignInBySecret(t.Context(), in.SecretHash, t0); !errors.Is(err, socketxp.ErrNotFound) {
					t.Fatalf("a sign-in by the password of before is there: %v", err)
				}
				hash = next
			}
		})
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

		acme.take([32]byte{}, t0)
		acme.must(s.SetPassword(t.Context(), acme.owner.ID, "", "$argon2id$new", acme.entry("user.password")))
		ended(three, true)
		ended(two, true)
		u, err := s.User(t.Context(), acme.owner.ID)
		acme.must(err)
		if u.PasswordHash != "$argon2id$new" || u.Strangers != (socketxp.Tries{}) {
			t.Errorf("after a new password: %+v", u)
		}

		three = acme.newSignIn(acme.owner, acme.id)
		acme.must(s.SetUserDisabled(t.Context(), acme.owner.ID, t0, acme.entry("user.disable")))
		ended(three, true)
		_, err = s.Membership(t.Context(), acme.id, acme.owner.ID)
		wantCode(t, err, socketxp.CodeNotFound)
		again := three
		again.ID = acme.ids.next()
		wantCode(t, s.CreateSignIn(t.Context(), again, acme.by(acme.owner), acme.entry("user.sign_in")), socketxp.CodeNotFound)
		acme.must(s.SetUserDisabled(t.Context(), acme.owner.ID, time.Time{}, acme.entry("user.enable")))
		ended(three, true)
		if _, err := s.Membership(t.Context(), acme.id, acme.owner.ID); err != nil {
			t.Errorf("after enabling: %v", err)
		}
		stranger := again
		stranger.UserID = other.owner.ID
		wantCode(t, s.CreateSignIn(t.Context(), stranger, acme.by(other.owner), acme.entry("user.sign_in")), socketxp.CodeNotFound)
		ended(theirs, false)
	})
}
