package store_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
)

func TestCreateAccount(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		if n, err := s.CountUsers(t.Context()); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		acme := newTenant(t, s, "acme")
		account, err := s.Account(t.Context(), acme.id)
		acme.must(err)
		wantEqual(t, account, socketxp.Account{ID: acme.id, Name: "acme", CreatedAt: t0, BasicTokens: true, BasicLife: socketxp.DefaultBasicLife, DeviceQuota: 100})
		want := socketxp.Membership{AccountID: acme.id, UserID: acme.owner.ID, Role: socketxp.RoleOwner, CreatedAt: t0}
		m, err := s.Membership(t.Context(), acme.id, acme.owner.ID)
		acme.must(err)
		wantEqual(t, m, want)
		ms, err := s.MembershipsOf(t.Context(), acme.owner.ID)
		acme.must(err)
		wantEqual(t, ms, []socketxp.Membership{want})

		// All or nothing: the address is taken, so neither account nor membership is there.
		ids := &idSource{at: t0.Add(time.Hour)}
		second := socketxp.Account{ID: ids.next(), Name: "second", CreatedAt: t0}
		thief := socketxp.User{ID: ids.next(), Email: acme.owner.Email, CreatedAt: t0}
		wantCode(t, s.CreateAccount(t.Context(), second, thief, false, socketxp.AuditEntry{AccountID: second.ID, At: t0}), socketxp.CodeConflict)
		_, err = s.Account(t.Context(), second.ID)
		wantCode(t, err, socketxp.CodeNotFound)
		if records, err := s.Audit(t.Context(), second.ID, socketxp.AuditQuery{Limit: 1}); len(records) != 0 || err != nil {
			t.Errorf("audit of an account that is not there: %v, %v", records, err)
		}

		first := socketxp.User{ID: ids.next(), Email: "late@example.com", CreatedAt: t0}
		wantCode(t, s.CreateAccount(t.Context(), second, first, true, socketxp.AuditEntry{AccountID: second.ID, At: t0}), socketxp.CodeConflict)
	})
}

func TestSetUpOnce(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		ids := &idSource{at: t0}
		failed := socketxp.AuditEntry{AccountID: ids.next(), At: t0}
		if err := s.CreateAccount(t.Context(), socketxp.Account{ID: ""}, socketxp.User{}, true, failed); err == nil {
			t.Fatal("an account without an id")
		}
		var done atomic.Int64
		var wg sync.WaitGroup
		const tries = 16
		var ready sync.WaitGroup
		ready.Add(tries)
		for range tries {
			a := socketxp.Account{ID: ids.next(), Name: "a", CreatedAt: t0}
			u := socketxp.User{ID: ids.next(), Email: ids.next() + "@example.com", CreatedAt: t0}
			wg.Go(func() {
				// All begin with a connection: none is ahead by the time it takes to open one.
				for range 20 {
					if err := s.Ping(t.Context()); err != nil {
						t.Error(err)
					}
				}
				ready.Done()
				ready.Wait()
				switch err := s.CreateAccount(t.Context(), a, u, true, socketxp.AuditEntry{AccountID: a.ID, At: t0}); socketxp.CodeOf(err) {
				case "":
					done.Add(1)
				case socketxp.CodeConflict:
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, err := s.CountUsers(t.Context()); done.Load() != 1 || n != 1 || err != nil {
			t.Errorf("set up %d times, %d users, %v", done.Load(), n, err)
		}
	})
}

func TestDeleteMembership(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s := open(t, url)
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		wantCode(t, s.DeleteMembership(t.Context(), acme.id, acme.owner.ID, acme.entry("member.remove")), socketxp.CodeConflict)
		wantCode(t, s.DeleteMembership(t.Context(), acme.id, other.owner.ID, acme.entry("member.remove")), socketxp.CodeNotFound)

		acme.addOwner(url, other.owner.ID)
		elsewhere := other.newSignIn(other.owner, other.id)
		here := other.newSignIn(other.owner, acme.id)
		acme.must(s.DeleteMembership(t.Context(), acme.id, other.owner.ID, acme.entry("member.remove")))
		_, err := s.Membership(t.Context(), acme.id, other.owner.ID)
		wantCode(t, err, socketxp.CodeNotFound)
		_, err = s.SignInBySecret(t.Context(), here.SecretHash, t0)
		wantCode(t, err, socketxp.CodeNotFound)
		if _, err = s.SignInBySecret(t.Context(), elsewhere.SecretHash, t0); err != nil {
			t.Errorf("the sign-in to another account ended too: %v", err)
		}
	})
}

// Two owners who remove one another at once: one of them stays.
func TestLastOwnerRace(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s := open(t, url)
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		for range 10 {
			acme.addOwner(url, other.owner.ID)
			var done atomic.Int64
			var wg sync.WaitGroup
			for _, user := range []string{acme.owner.ID, other.owner.ID} {
				wg.Go(func() {
					switch err := s.DeleteMembership(t.Context(), acme.id, user, acme.entry("member.remove")); socketxp.CodeOf(err) {
					case "":
						done.Add(1)
					case socketxp.CodeConflict:
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if done.Load() != 1 {
				t.Fatalf("%d of 2 owners were removed", done.Load())
			}
			if _, err := s.Membership(t.Context(), acme.id, acme.owner.ID); err != nil {
				acme.owner, other.owner = other.owner, acme.owner
			}
		}
	})
}
