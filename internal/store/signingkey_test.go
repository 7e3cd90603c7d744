package store_test

import (
	"crypto/ed25519"
	"testing"
	"time"

	"socketxp"
)

func TestSigningKeys(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		entry := socketxp.AuditEntry{At: t0, Action: "key.rotate"}
		rotate := func(r socketxp.KeyRotation) error { return s.RotateSigningKey(t.Context(), r, entry) }
		added := func(id string) *socketxp.SigningKey {
			return &socketxp.SigningKey{ID: id, PublicKey: ed25519.PublicKey(id + "0123456789012345678901234567")[:32]}
		}
		old := acme.newToken(socketxp.TokenAccess)
		usable := func(tok socketxp.Token, at time.Time, want socketxp.Code) {
			t.Helper()
			if err := acme.token(tok.ID).Usable(at); socketxp.CodeOf(err) != want {
				t.Errorf("at %v: %v, want %q", at.Sub(t0), err, want)
			}
		}
		usable(old, t0, "")

		at, until := t0.Add(time.Minute), t0.Add(10*time.Minute)
		acme.must(rotate(socketxp.KeyRotation{At: at, Add: added("k2"), Retire: []string{"k1"}, Until: until}))
		usable(old, until.Add(-1), "")
		usable(old, until, socketxp.CodeTokenRevoked)
		if live, err := s.Tokens(t.Context(), acme.id, socketxp.TokenQuery{Live: until, Limit: 10}); err != nil || len(live) > 0 {
			t.Errorf("T-17 listed as live: %v, %v", live, err)
		}

		tok := old
		tok.ID = acme.ids.next()
		err := s.CreateToken(t.Context(), tok, acme.entry("token.create"))
		if wantCode(t, err, socketxp.CodeUnavailable); socketxp.CodeOf(err) == "" {
			t.Error("T-17 a token was made under a key that is retired")
		}
		tok.KeyID = "k2"
		acme.must(s.CreateToken(t.Context(), tok, acme.entry("token.create")))
		uses, err := s.KeyUses(t.Context(), at, until)
		acme.must(err)
		wantEqual(t, uses, []socketxp.KeyUse{
			{KeyID: "k1", Kind: socketxp.TokenAccess, Tokens: 1, Later: 1}, {KeyID: "k2", Kind: socketxp.TokenAccess, Tokens: 1, Later: 1},
		})

		// All or nothing: the unknown key undoes the new one.
		wantCode(t, rotate(socketxp.KeyRotation{At: at, Add: added("k3"), Compromise: "nobody's"}), socketxp.CodeNotFound)
		wantCode(t, rotate(socketxp.KeyRotation{At: at, Add: added("k1"), Compromise: "k2"}), socketxp.CodeConflict)
		usable(tok, at, "")
		acme.must(rotate(socketxp.KeyRotation{At: at, Add: added("k3"), Compromise: "k2"}))
		usable(tok, at, socketxp.CodeTokenRevoked)
		acme.must(rotate(socketxp.KeyRotation{At: at.Add(time.Hour), Retire: []string{"k2"}, Until: socketxp.EndOfTime, Compromise: "k2"}))
		usable(tok, at, socketxp.CodeTokenRevoked) // what is compromised stays so

		keys, err := s.SigningKeys(t.Context())
		acme.must(err)
		states := map[string]socketxp.SigningKeyState{}
		for _, k := range keys {
			states[k.ID] = k.State(at)
		}
		wantEqual(t, states, map[string]socketxp.SigningKeyState{"k1": socketxp.KeyRetired, "k2": socketxp.KeyCompromised, "k3": socketxp.KeyActive})

		records, err := s.Audit(t.Context(), "", socketxp.AuditQuery{Limit: 100})
		acme.must(err)
		if n := len(records); n != 4 {
			t.Errorf("%d records of the gateway's own chain, want one for each act that was done", n)
		}
	})
}
