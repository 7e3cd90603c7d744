package store_test

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"socketxp"
)

// countRows returns how many rows each table has.
func countRows(t testing.TB, db *sql.DB, tables ...string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, table := range tables {
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		out[table] = n
	}
	return out
}

// A gateway that goes on for months: what is made all the time does not pile up, and
// no revocation is forgotten while its token could still pass. The audit grows for
// ever; that is what it is for.
func TestMonthsOfUse(t *testing.T) {
	url := sqliteURL(t)
	s, db := open(t, url), raw(t, url)
	acme := newTenant(t, s, "acme")
	device := acme.newDevice("cam")
	const day, step = 24 * time.Hour, 6 * time.Hour
	now := t0
	token := func(kind socketxp.TokenKind, life time.Duration) socketxp.Token {
		return acme.newToken(kind, func(tok *socketxp.Token) {
			tok.CreatedAt = now.Truncate(time.Second)
			tok.ExpiresAt = tok.CreatedAt.Add(life)
		})
	}
	revoke := func(tok socketxp.Token) {
		if _, err := s.RevokeToken(t.Context(), acme.id, tok.ID, now, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
	}
	// The most dangerous ones: they live for a year, and were revoked at once.
	longRevoked := token(socketxp.TokenAPI, 365*day)
	revoke(longRevoked)
	keyWithdrawn := token(socketxp.TokenAPI, 365*day)
	acme.must(s.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: now, Compromise: "k1"}, socketxp.AuditEntry{At: now}))
	longLiving := func() socketxp.Token {
		rotation := socketxp.KeyRotation{At: now, Add: &socketxp.SigningKey{ID: "k2", PublicKey: make([]byte, 32)}}
		acme.must(s.RotateSigningKey(t.Context(), rotation, socketxp.AuditEntry{At: now}))
		return acme.newToken(socketxp.TokenAPI, func(tok *socketxp.Token) { tok.KeyID, tok.ExpiresAt = "k2", tok.CreatedAt.Add(365*day) })
	}()

	// aStep is what comes and goes in six hours.
	n := 0
	aStep := func() {
		n++
		acme.ids.at = now
		tok := acme.newToken(socketxp.TokenAccess, func(tok *socketxp.Token) {
			tok.KeyID, tok.CreatedAt = "k2", now.Truncate(time.Second)
			tok.ExpiresAt = tok.CreatedAt.Add(8 * time.Hour)
		})
		if n%3 == 0 {
			revoke(tok)
		}
		session := acme.newSession(device, func(x *socketxp.Session) { x.StartedAt = now })
		session.EndedAt = now.Add(time.Hour)
		acme.must(s.EndSession(t.Context(), session, acme.entry("session.end")))
		signIn := socketxp.SignIn{
			ID: acme.ids.next(), SecretHash: sha256.Sum256([]byte(fmt.Sprint(n))), AccountID: acme.id, UserID: acme.owner.ID,
			CreatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(socketxp.SignInLife), AuthAt: now,
		}
		acme.must(s.CreateSignIn(t.Context(), signIn, socketxp.Entrance{PasswordHash: acme.owner.PasswordHash, Given: signIn.SecretHash}, acme.entry("signin.create")))
		acme.must(s.AddEvent(t.Context(), socketxp.Event{ID: acme.ids.next(), AccountID: acme.id, At: now, Type: socketxp.EventDeviceOnline}))
		if _, _, err := s.BeginIdempotent(t.Context(), socketxp.IdempotentRequest{KeyHash: signIn.SecretHash, At: now}); err != nil {
			t.Fatal(err)
		}
		acme.newAuthorization(func(a *socketxp.DeviceAuthorization) {
			a.CreatedAt, a.ExpiresAt = now, now.Add(socketxp.AuthorizationLife)
		})
		now = now.Add(step)
		acme.must(s.Prune(t.Context(), now))
	}
	refused := func() {
		t.Helper()
		for name, tok := range map[string]socketxp.Token{"was revoked": longRevoked, "whose key was withdrawn": keyWithdrawn} {
			if row := acme.token(tok.ID); row.Usable(now) == nil {
				t.Fatalf("X-20 on day %d a token that %s is good again", int(now.Sub(t0)/day), name)
			}
		}
		if now.Before(longLiving.ExpiresAt) && acme.token(longLiving.ID).Usable(now) != nil {
			t.Fatalf("X-20 on day %d a token that lives is good for nothing", int(now.Sub(t0)/day))
		}
	}
	temporary := []string{"tokens", "sessions", "sign_ins", "known_browsers", "events", "idempotency", "device_authorizations", "signing_keys", "settings", "clock", "epoch"}
	perDay := int(day / step)

	for now.Before(t0.Add(30 * day)) {
		aStep()
		refused()
	}
	t.Run("X-20 P-19 after 30 days", func(t *testing.T) {
		rows := countRows(t, db, temporary...)
		for table, most := range map[string]int{
			"sign_ins": int(socketxp.SignInIdle/step) + 1, "known_browsers": socketxp.MaxKnownBrowsers, "events": 30*perDay + 1, "idempotency": perDay + 1, "device_authorizations": 1,
			"tokens": 30*perDay + 3, "sessions": 30 * perDay, "signing_keys": 2, "clock": 1, "epoch": 1, "settings": 2,
		} {
			if rows[table] > most {
				t.Errorf("%d rows of %s, want at most %d", rows[table], table, most)
			}
			delete(rows, table)
		}
		if len(rows) > 0 {
			t.Errorf("nobody has said how many rows there may be of %v", rows)
		}
	})
	t.Run("X-20 the tables stop growing", func(t *testing.T) {
		// Past all lives: a token's row 90 days after its end, a session's after 400.
		mark := map[string]int{}
		for now.Before(t0.Add(500 * day)) {
			if row := acme.token(longRevoked.ID, errNotFoundIsFine); row.ID == "" {
				if now.Before(longRevoked.ExpiresAt.Add(90 * day)) {
					t.Fatalf("X-20 a revocation was forgotten on day %d", int(now.Sub(t0)/day))
				}
			} else if row.Usable(now) == nil {
				t.Fatal("X-20 a revoked token is good again")
			}
			for range 4 {
				aStep()
			}
			// One of 5 days is lived through, so that this test is done today.
			now = now.Add(4 * day)
			if d := int(now.Sub(t0) / day); d > 460 && mark["tokens"] == 0 {
				mark = countRows(t, db, temporary...)
			}
		}
		after := countRows(t, db, temporary...)
		for table, rows := range mark {
			if after[table] > rows+perDay {
				t.Errorf("%s has grown from %d to %d rows", table, rows, after[table])
			}
		}
		if records := countRows(t, db, "audit")["audit"]; records < 4*n {
			t.Errorf("only %d audit records of %d steps are left", records, n)
		}
		acme.must(func() error {
			// The chain is longer than one page: from its end.
			tail, err := s.Audit(t.Context(), acme.id, socketxp.AuditQuery{Newest: true, Limit: 1000})
			for i := len(tail) - 1; i > 0 && err == nil; i-- {
				err = socketxp.VerifyChain(tail[i], tail[i-1])
			}
			return err
		}())
	})
}
