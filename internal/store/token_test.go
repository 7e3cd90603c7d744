package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"socketxp"
)

func TestTokenRoundTrip(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		parent := acme.newToken(socketxp.TokenAPI)
		full := acme.newToken(socketxp.TokenRegistration, func(tok *socketxp.Token) {
			tok.ParentID, tok.MaxUses = parent.ID, 3
			tok.Scope = socketxp.TokenScope{
				Rights: []socketxp.Right{socketxp.RightDevicesRead}, Group: "g", NamePattern: "s-*", Networks: []string{"10.0.0.0/8"},
				Devices: []string{"d"}, Groups: []string{"g1", "g2"}, Ports: []int{22, 80},
			}
		})
		wantEqual(t, acme.token(full.ID), full)
		wantEqual(t, acme.token(parent.ID), parent)

		for _, at := range []time.Time{t0.Add(time.Minute), t0} { // the second comes late
			acme.must(s.TouchToken(t.Context(), acme.id, full.ID, at))
		}
		full.LastUsedAt = t0.Add(time.Minute)
		wantEqual(t, acme.token(full.ID), full)
		_, err := s.Token(t.Context(), acme.id, acme.ids.next())
		wantCode(t, err, socketxp.CodeNotFound)
	})
}

func TestTokenRefused(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		base := acme.newToken(socketxp.TokenAccess)
		revoked := acme.newToken(socketxp.TokenAPI)
		if _, err := s.RevokeToken(t.Context(), acme.id, revoked.ID, t0, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		expired := acme.newToken(socketxp.TokenAPI, func(tok *socketxp.Token) {
			tok.CreatedAt, tok.ExpiresAt = tok.CreatedAt.Add(-2*time.Hour), tok.CreatedAt.Add(-time.Hour)
		})
		for _, c := range []struct {
			name   string
			as     *tenant
			change func(*socketxp.Token)
			want   socketxp.Code
		}{
			{"T-22 the same id", acme, func(tok *socketxp.Token) { tok.ID = base.ID }, socketxp.CodeConflict},
			{"T-22 the same id in another account", other, func(tok *socketxp.Token) { tok.ID = base.ID }, socketxp.CodeConflict},
			{"J4 made with a revoked token", acme, func(tok *socketxp.Token) { tok.ParentID = revoked.ID }, socketxp.CodeTokenRevoked},
			{"J4 made with an expired token", acme, func(tok *socketxp.Token) { tok.ParentID = expired.ID }, socketxp.CodeTokenExpired},
			{"A-05 made with another account's token", other, func(tok *socketxp.Token) { tok.ParentID = base.ID }, socketxp.CodeNotFound},
			{"T-09 without an expiry", acme, func(tok *socketxp.Token) { tok.ExpiresAt = time.Time{} }, socketxp.CodeInvalid},
			{"expired when made", acme, func(tok *socketxp.Token) { tok.ExpiresAt = tok.CreatedAt }, socketxp.CodeInvalid},
			{"more uses than it has", acme, func(tok *socketxp.Token) { tok.Uses = 1 }, socketxp.CodeInvalid},
			{"made by nobody", acme, func(tok *socketxp.Token) { tok.CreatedBy = "" }, socketxp.CodeNotFound},
		} {
			t.Run(c.name, func(t *testing.T) {
				tok := base
				tok.ID, tok.AccountID, tok.CreatedBy = c.as.ids.next(), c.as.id, c.as.owner.ID
				c.change(&tok)
				wantCode(t, s.CreateToken(t.Context(), tok, c.as.entry("token.create")), c.want)
				wantEqual(t, acme.token(base.ID), base)
			})
		}
	})
}

func TestRevokeToken(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		madeWith := func(parent socketxp.Token) func(*socketxp.Token) {
			return func(tok *socketxp.Token) { tok.ParentID = parent.ID }
		}
		root := acme.newToken(socketxp.TokenAPI)
		child := acme.newToken(socketxp.TokenAPI, madeWith(root))
		grandchild := acme.newToken(socketxp.TokenAccess, madeWith(child))
		early := acme.newToken(socketxp.TokenAccess, madeWith(root))
		beside := acme.newToken(socketxp.TokenAPI)

		revoke := func(tok socketxp.Token, at time.Time, want ...string) {
			t.Helper()
			records := len(acme.chain())
			got, err := s.RevokeToken(t.Context(), acme.id, tok.ID, at, acme.entry("token.revoke"))
			acme.must(err)
			if !slices.Equal(got, want) {
				t.Errorf("revoked %v, want %v", got, want)
			}
			if grew := len(acme.chain()) - records; grew > 1 || (grew == 1) != (len(want) > 0) {
				t.Errorf("%d audit records for %d revocations", grew, len(want))
			}
		}
		revoke(early, t0, early.ID)
		revoke(root, t0.Add(time.Minute), root.ID, child.ID, grandchild.ID)
		revoke(root, t0.Add(time.Hour))
		for tok, want := range map[*socketxp.Token]time.Time{&early: t0, &root: t0.Add(time.Minute), &grandchild: t0.Add(time.Minute), &beside: {}} {
			if at := acme.token(tok.ID).RevokedAt; !at.Equal(want) {
				t.Errorf("revoked at %v, want %v", at, want)
			}
		}
		_, err := s.RevokeToken(t.Context(), acme.id, acme.ids.next(), t0, acme.entry("token.revoke"))
		wantCode(t, err, socketxp.CodeNotFound)
		if _, err := s.RevokeToken(t.Context(), acme.id, beside.ID, time.Time{}, acme.entry("token.revoke")); err == nil {
			t.Error("revoked at no time at all")
		}
	})
}

// Making a child and revoking its parent at once: never is there a child left that
// is not revoked.
func TestRevokeWhileMaking(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		for range 10 {
			root := acme.newToken(socketxp.TokenAPI)
			children := make([]socketxp.Token, 6)
			var wg sync.WaitGroup
			for i := range children {
				children[i] = root
				children[i].ID, children[i].ParentID = acme.ids.next(), root.ID
				wg.Go(func() {
					err := s.CreateToken(t.Context(), children[i], acme.entry("token.create"))
					if code := socketxp.CodeOf(err); code != "" && code != socketxp.CodeTokenRevoked {
						t.Error(err)
					}
				})
			}
			wg.Go(func() {
				if _, err := s.RevokeToken(t.Context(), acme.id, root.ID, t0, acme.entry("token.revoke")); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			for _, c := range children {
				if got := acme.token(c.ID, errNotFoundIsFine); got.ID != "" && got.RevokedAt.IsZero() {
					t.Fatal("J4 a child outlives its parent's revocation")
				}
			}
		}
	})
}

func TestListTokens(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		other.newToken(socketxp.TokenAPI)
		var all []string
		for i := range 7 {
			kind := socketxp.TokenAccess
			if i%2 == 0 {
				kind = socketxp.TokenAPI
			}
			all = append(all, acme.newToken(kind, func(tok *socketxp.Token) { tok.ExpiresAt = tok.CreatedAt.Add(time.Duration(i+1) * time.Minute) }).ID)
		}
		slices.Reverse(all) // newest first
		if _, err := s.RevokeToken(t.Context(), acme.id, all[0], t0, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		list := func(q socketxp.TokenQuery) (ids []string) {
			t.Helper()
			tokens, err := s.Tokens(t.Context(), acme.id, q)
			acme.must(err)
			for _, tok := range tokens {
				ids = append(ids, tok.ID)
			}
			return ids
		}
		wantEqual(t, list(socketxp.TokenQuery{Limit: 200}), all)
		wantEqual(t, list(socketxp.TokenQuery{Limit: 3}), all[:3])
		wantEqual(t, list(socketxp.TokenQuery{Limit: 3, After: all[2]}), all[3:6])
		wantEqual(t, list(socketxp.TokenQuery{Limit: 3, After: all[6]}), nil)
		wantEqual(t, list(socketxp.TokenQuery{Limit: 200, Kind: socketxp.TokenAccess}), []string{all[1], all[3], all[5]})

		// Live means what Token.Usable says, at every moment.
		for at := t0.Add(-2 * time.Minute); at.Before(t0.Add(9 * time.Minute)); at = at.Add(10 * time.Second) {
			var want []string
			for _, id := range all {
				if acme.token(id).Usable(at) == nil {
					want = append(want, id)
				}
			}
			wantEqual(t, list(socketxp.TokenQuery{Limit: 200, Live: at}), want)
		}
		for _, limit := range []int{0, -1, 1001} {
			_, err := s.Tokens(t.Context(), acme.id, socketxp.TokenQuery{Limit: limit})
			wantCode(t, err, socketxp.CodeInvalid)
		}
	})
}
