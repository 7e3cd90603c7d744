package store_test

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
)

func (ten *tenant) newAuthorization(change ...func(*socketxp.DeviceAuthorization)) socketxp.DeviceAuthorization {
	ten.t.Helper()
	id := ten.ids.next()
	a := socketxp.DeviceAuthorization{
		ID: id, DeviceHash: sha256.Sum256([]byte(id)), UserCode: socketxp.NewUserCode(), Host: "laptop", RemoteAddr: "192.0.2.7",
		TokenLife: time.Hour, CreatedAt: t0, ExpiresAt: t0.Add(socketxp.AuthorizationLife), State: socketxp.AuthorizationPending,
	}
	for _, c := range change {
		c(&a)
	}
	ten.must(ten.store.CreateAuthorization(ten.t.Context(), a))
	return a
}

// decide has the tenant's owner decide, and returns the row as it is then.
func (ten *tenant) decide(a socketxp.DeviceAuthorization, s socketxp.AuthorizationState) socketxp.DeviceAuthorization {
	ten.t.Helper()
	a.State, a.AccountID = s, ten.id
	a.Approver = socketxp.Actor{Kind: socketxp.KindSignIn, UserID: ten.owner.ID, CredentialID: "s1", RemoteAddr: "192.0.2.1"}
	ten.must(ten.store.DecideAuthorization(ten.t.Context(), a, t0, ten.entry("authorization.approve")))
	return a
}

func (ten *tenant) authorizedToken() socketxp.Token {
	return socketxp.Token{
		ID: ten.ids.next(), AccountID: ten.id, Kind: socketxp.TokenAPI, Name: "CLI on laptop", CreatedBy: ten.owner.ID, KeyID: "k1",
		CreatedAt: t0.Truncate(time.Second), ExpiresAt: t0.Truncate(time.Second).Add(time.Hour), KeyUntil: socketxp.EndOfTime, Scope: socketxp.TokenScope{Rights: socketxp.Rights},
	}
}

func TestAuthorizations(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		byDevice := func(a socketxp.DeviceAuthorization, at time.Time) (socketxp.DeviceAuthorization, error) {
			return s.AuthorizationByDevice(t.Context(), a.DeviceHash, at)
		}
		byCode := func(a socketxp.DeviceAuthorization, at time.Time) (socketxp.DeviceAuthorization, error) {
			return s.AuthorizationByCode(t.Context(), a.UserCode, at)
		}
		t.Run("from asking to the token", func(t *testing.T) {
			a := acme.newAuthorization()
			for _, get := range []func(socketxp.DeviceAuthorization, time.Time) (socketxp.DeviceAuthorization, error){byDevice, byCode} {
				got, err := get(a, a.ExpiresAt.Add(-time.Microsecond))
				acme.must(err)
				wantEqual(t, got, a)
				_, err = get(a, a.ExpiresAt)
				wantCode(t, err, socketxp.CodeNotFound)
			}
			wantCode(t, s.UseAuthorization(t.Context(), a.ID, acme.authorizedToken(), t0, acme.entry("token.create")), socketxp.CodeNotFound)
			a = acme.decide(a, socketxp.AuthorizationApproved)
			got, err := byDevice(a, t0)
			acme.must(err)
			wantEqual(t, got, a)
			_, err = byCode(a, t0)
			wantCode(t, err, socketxp.CodeNotFound)
			tok := acme.authorizedToken()
			// Another account can neither decide again nor take it.
			b := a
			b.AccountID = other.id
			wantCode(t, s.DecideAuthorization(t.Context(), b, t0, other.entry("authorization.approve")), socketxp.CodeNotFound)
			foreign := other.authorizedToken()
			wantCode(t, s.UseAuthorization(t.Context(), a.ID, foreign, t0, other.entry("token.create")), socketxp.CodeNotFound)
			wantCode(t, s.UseAuthorization(t.Context(), a.ID, tok, a.ExpiresAt, acme.entry("token.create")), socketxp.CodeNotFound)
			acme.must(s.UseAuthorization(t.Context(), a.ID, tok, t0, acme.entry("token.create")))
			wantEqual(t, acme.token(tok.ID), tok)
			wantCode(t, s.UseAuthorization(t.Context(), a.ID, acme.authorizedToken(), t0, acme.entry("token.create")), socketxp.CodeNotFound)
			a.State = socketxp.AuthorizationUsed
			got, err = byDevice(a, t0)
			acme.must(err)
			wantEqual(t, got, a)
		})
		t.Run("denied is for good", func(t *testing.T) {
			a := acme.decide(acme.newAuthorization(), socketxp.AuthorizationDenied)
			wantCode(t, s.UseAuthorization(t.Context(), a.ID, acme.authorizedToken(), t0, acme.entry("token.create")), socketxp.CodeNotFound)
			a.State = socketxp.AuthorizationApproved
			wantCode(t, s.DecideAuthorization(t.Context(), a, t0, acme.entry("authorization.approve")), socketxp.CodeNotFound)
		})
		t.Run("too late", func(t *testing.T) {
			a := acme.newAuthorization()
			a.State, a.AccountID = socketxp.AuthorizationApproved, acme.id
			wantCode(t, s.DecideAuthorization(t.Context(), a, a.ExpiresAt, acme.entry("authorization.approve")), socketxp.CodeNotFound)
		})
		t.Run("no decision", func(t *testing.T) {
			a := acme.newAuthorization()
			for _, state := range []socketxp.AuthorizationState{"", socketxp.AuthorizationPending, socketxp.AuthorizationUsed} {
				a.State, a.AccountID = state, acme.id
				wantCode(t, s.DecideAuthorization(t.Context(), a, t0, acme.entry("authorization.approve")), socketxp.CodeInternal)
			}
		})
		t.Run("a user code is in use once", func(t *testing.T) {
			a := acme.newAuthorization()
			b := a
			b.ID, b.DeviceHash = acme.ids.next(), sha256.Sum256([]byte("another"))
			wantCode(t, s.CreateAuthorization(t.Context(), b), socketxp.CodeConflict)
		})
		t.Run("A-23 a token's child ends with it", func(t *testing.T) {
			parent := acme.newToken(socketxp.TokenAPI)
			a := acme.decide(acme.newAuthorization(), socketxp.AuthorizationApproved)
			b := acme.decide(acme.newAuthorization(), socketxp.AuthorizationApproved)
			child := acme.authorizedToken()
			child.ParentID = parent.ID
			acme.must(s.UseAuthorization(t.Context(), a.ID, child, t0, acme.entry("token.create")))
			revoked, err := s.RevokeToken(t.Context(), acme.id, parent.ID, t0, acme.entry("token.revoke"))
			acme.must(err)
			wantEqual(t, len(revoked), 2)
			late := acme.authorizedToken()
			late.ParentID = parent.ID
			wantCode(t, s.UseAuthorization(t.Context(), b.ID, late, t0, acme.entry("token.create")), socketxp.CodeTokenRevoked)
			got, err := byDevice(b, t0)
			acme.must(err)
			wantEqual(t, got.State, socketxp.AuthorizationApproved) // all or nothing
		})
		t.Run("pruned when they have run out", func(t *testing.T) {
			a := acme.newAuthorization()
			later := acme.newAuthorization(func(a *socketxp.DeviceAuthorization) { a.ExpiresAt = a.ExpiresAt.Add(time.Second) })
			acme.must(s.Prune(t.Context(), a.ExpiresAt))
			_, err := byDevice(a, t0)
			wantCode(t, err, socketxp.CodeNotFound)
			_, err = byDevice(later, t0)
			acme.must(err)
		})
	})
}

// However many decide and take at the same time, one does.
func TestAuthorizationRaces(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		race := func(one func(i int) error) int {
			var won atomic.Int32
			var all sync.WaitGroup
			for i := range 16 {
				all.Go(func() {
					switch err := one(i); socketxp.CodeOf(err) {
					case "":
						won.Add(1)
					case socketxp.CodeNotFound:
					default:
						t.Error(err)
					}
				})
			}
			all.Wait()
			return int(won.Load())
		}
		a := acme.newAuthorization()
		n := race(func(i int) error {
			a := a
			a.AccountID, a.State = acme.id, socketxp.AuthorizationApproved
			if i%2 == 1 {
				a.State = socketxp.AuthorizationDenied
			}
			return s.DecideAuthorization(t.Context(), a, t0, acme.entry("authorization.approve"))
		})
		if n != 1 {
			t.Errorf("R-08 %d decided", n)
		}
		b := acme.decide(acme.newAuthorization(), socketxp.AuthorizationApproved)
		tokens := make([]socketxp.Token, 16)
		for i := range tokens {
			tokens[i] = acme.authorizedToken()
		}
		n = race(func(i int) error {
			return s.UseAuthorization(t.Context(), b.ID, tokens[i], t0, acme.entry("token.create"))
		})
		if n != 1 {
			t.Errorf("R-08 %d took the token", n)
		}
		list, err := s.Tokens(t.Context(), acme.id, socketxp.TokenQuery{Limit: 100})
		acme.must(err)
		wantEqual(t, len(list), 1)
	})
}

func TestAuthorizationsAreLimited(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		acme := newTenant(t, s, "acme")
		fill := `INSERT INTO device_authorizations (id, device_hash, user_code, host, remote_addr, token_life, created_at, expires_at, state, account_id, approver_kind, approver_user, approver_id, approver_addr)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
			SELECT 'x' || i, CAST('x' || i AS BLOB), 'x' || i, '', '', 1, 0, $1, 'pending', '', '', '', '', '' FROM n`
		if url[:6] != "sqlite" {
			fill = `INSERT INTO device_authorizations SELECT 'x' || i, convert_to('x' || i, 'UTF8'), 'x' || i, '', '', 1, 0, $1, 'pending', '', '', '', '', '' FROM generate_series(1, 9999) i`
		}
		mustExec(t, db, fill, t0.Add(time.Minute).UnixMicro())
		acme.newAuthorization()
		a := acme.authorizedToken()
		full := socketxp.DeviceAuthorization{ID: a.ID, UserCode: socketxp.NewUserCode(), CreatedAt: t0, ExpiresAt: t0.Add(time.Minute), TokenLife: time.Hour}
		wantCode(t, s.CreateAuthorization(t.Context(), full), socketxp.CodeRateLimited)
		full.CreatedAt = t0.Add(time.Minute) // those have run out
		acme.must(s.CreateAuthorization(t.Context(), full))
	})
}
