package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/store"
)

func TestEpoch(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		old, second := acme.newToken(socketxp.TokenAccess), acme.newToken(socketxp.TokenRegistration)
		revoked := acme.newToken(socketxp.TokenAPI)
		if _, err := s.RevokeToken(t.Context(), acme.id, revoked.ID, t0, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		signIn := socketxp.SignIn{ID: acme.ids.next(), SecretHash: [32]byte{1}, AccountID: acme.id, UserID: acme.owner.ID, CreatedAt: t0, LastSeenAt: t0, ExpiresAt: t0.Add(time.Hour), AuthAt: t0}
		acme.must(s.CreateSignIn(t.Context(), signIn, socketxp.Entrance{PasswordHash: acme.owner.PasswordHash, Given: signIn.SecretHash}, acme.entry("signin.create")))

		approved := acme.decide(acme.newAuthorization(), socketxp.AuthorizationApproved)

		meter := acme.newDevice("meter")
		if _, err := s.MoveSequences(t.Context(), []socketxp.SequenceMove{{AccountID: acme.id, DeviceID: meter.ID, To: socketxp.Sequence{Current: value(1), Next: value(2)}}}); err != nil {
			t.Fatal(err)
		}
		e, err := s.BeginEpoch(t.Context(), t0, socketxp.AuditEntry{At: t0, Action: "gateway.restore"})
		acme.must(err)
		wantEqual(t, e, socketxp.Epoch{Number: 1, Tokens: 2, SignIns: 1})
		if acme.device("meter").Sequence.Begun() {
			t.Error("a device that has gone on since the backup would be taken for a copy")
		}
		usable := func(tok socketxp.Token, want socketxp.Code) {
			t.Helper()
			if err := acme.token(tok.ID).Usable(t0); socketxp.CodeOf(err) != want {
				t.Errorf("L-10 %v, want %q", err, want)
			}
		}
		usable(old, socketxp.CodeTokenRevoked)
		if live, err := s.Tokens(t.Context(), acme.id, socketxp.TokenQuery{Live: t0, Limit: 10}); err != nil || len(live) > 0 {
			t.Errorf("L-10 listed as live: %v, %v", live, err)
		}
		_, err = s.SignInBySecret(t.Context(), signIn.SecretHash, t0)
		wantCode(t, err, socketxp.CodeNotFound)
		if try := acme.take(signIn.SecretHash, t0); try.Known != ([32]byte{}) {
			t.Error("L-10 a browser of before is known, that may have been stolen since")
		}
		_, err = s.AuthorizationByDevice(t.Context(), approved.DeviceHash, t0)
		wantCode(t, err, socketxp.CodeNotFound)
		_, _, err = acme.register(acme.registration("cam", second.ID))
		wantCode(t, err, socketxp.CodeTokenRevoked)
		child := old
		child.ID, child.ParentID = acme.ids.next(), old.ID
		wantCode(t, s.CreateToken(t.Context(), child, acme.entry("token.create")), socketxp.CodeTokenRevoked)
		usable(acme.newToken(socketxp.TokenAccess), "")

		wantCode(t, s.ConfirmToken(t.Context(), other.id, old.ID, other.entry("token.confirm")), socketxp.CodeNotFound)
		usable(old, socketxp.CodeTokenRevoked)
		records := len(acme.chain())
		for range 2 {
			acme.must(s.ConfirmToken(t.Context(), acme.id, old.ID, acme.entry("token.confirm")))
		}
		if n := len(acme.chain()) - records; n != 1 {
			t.Errorf("%d audit records of one confirmation", n)
		}
		usable(old, "")
		acme.must(s.ConfirmToken(t.Context(), acme.id, revoked.ID, acme.entry("token.confirm")))
		usable(revoked, socketxp.CodeTokenRevoked) // it was revoked before: that is never undone

		if e, err = s.BeginEpoch(t.Context(), t0, socketxp.AuditEntry{At: t0, Action: "gateway.restore"}); err != nil || e.Number != 2 {
			t.Errorf("the second restore: %+v, %v", e, err)
		}
		usable(old, socketxp.CodeTokenRevoked)
	})
}

func TestSnapshot(t *testing.T) {
	url := sqliteURL(t)
	s := open(t, url)
	acme := newTenant(t, s, "acme")
	acme.newDevice("cam")
	path := filepath.Join(t.TempDir(), "copy.db")
	acme.must(store.Snapshot(t.Context(), url, path))
	after := acme.newDevice("later")
	got, err := store.Inspect(t.Context(), "sqlite:"+path, true)
	acme.must(err)
	if got.Devices != 1 || got.Users != 1 || got.Version != got.Newest || got.Version < 2 || got.Size == 0 || got.Engine != "sqlite" {
		t.Errorf("the copy is %+v", got)
	}
	if got, err := store.Inspect(t.Context(), url, false); err != nil || got.Devices != 2 || got.WALSize == 0 {
		t.Errorf("the original is %+v, %v", got, err)
	}
	copied := open(t, "sqlite:"+path)
	if _, err := copied.Device(t.Context(), acme.id, after.ID); socketxp.CodeOf(err) != socketxp.CodeNotFound {
		t.Errorf("the copy has what came later: %v", err)
	}
	if err := store.Snapshot(t.Context(), url, path); err == nil {
		t.Error("a file was written over")
	}
	for _, url := range []string{"sqlite:" + t.TempDir() + "/none.db", "sqlite:" + t.TempDir(), "postgres://localhost/x"} {
		if err := store.Snapshot(t.Context(), url, path+"2"); err == nil {
			t.Errorf("%s was copied", url)
		}
		if _, err := os.Stat(strings.TrimPrefix(url, "sqlite:") + ".db"); err == nil {
			t.Errorf("%s was made", url)
		}
	}
}

func TestInspectRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		statement string
		words     string
	}{
		"P-21 newer schema":          {`INSERT INTO goose_db_version (version_id, is_applied) SELECT MAX(version_id) + 1, TRUE FROM goose_db_version`, "start the newer program"},
		"P-21 missing migration row": {`DELETE FROM goose_db_version WHERE version_id = 1`, "no record of migration 1"},
		"P-21 missing index":         {`DROP INDEX devices_by_name`, "devices_by_name"},
	} {
		t.Run(name, func(t *testing.T) {
			forEachURL(t, func(t *testing.T, url string) {
				open(t, url)
				mustExec(t, raw(t, url), c.statement)
				if _, err := store.Inspect(t.Context(), url, true); err == nil || !strings.Contains(err.Error(), c.words) {
					t.Errorf("%v", err)
				}
			})
		})
	}
	t.Run("nothing is made", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "none.db")
		if _, err := store.Inspect(t.Context(), "sqlite:"+path, true); err == nil {
			t.Error("inspected")
		}
		if left, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(left) > 0 {
			t.Errorf("made %v", left)
		}
	})
	t.Run("P-21 an index that lies", func(t *testing.T) {
		url := sqliteURL(t)
		s := open(t, url)
		newTenant(t, s, "acme").newDevice("cam")
		db := raw(t, url)
		mustExec(t, db, `PRAGMA writable_schema = 1`)
		mustExec(t, db, `UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX devices_by_name ON devices (account_id, hostname)' WHERE name = 'devices_by_name'`)
		if _, err := store.Inspect(t.Context(), url, true); err == nil {
			t.Error("not seen")
		}
	})
}

func TestCarryOver(t *testing.T) {
	dir := t.TempDir()
	url := "sqlite:" + dir + "/socketxp.db"
	s := open(t, url)
	acme := newTenant(t, s, "acme")
	stays, gone, off := acme.newDevice("stays"), acme.newDevice("gone"), acme.newDevice("off")
	copied, rekeyed := acme.newDevice("copied"), acme.newDevice("rekeyed")
	token, kept := acme.newToken(socketxp.TokenAPI), acme.newToken(socketxp.TokenAPI)
	backup := dir + "/backup.db"
	acme.must(store.Snapshot(t.Context(), url, backup))

	at := t0.Add(time.Hour)
	_, err := s.RevokeToken(t.Context(), acme.id, token.ID, at, acme.entry("token.revoke"))
	acme.must(err)
	acme.must(s.DeleteDevice(t.Context(), acme.id, gone.ID, acme.entry("device.delete")))
	_, err = s.UpdateDevice(t.Context(), acme.id, off.ID, socketxp.DeviceUpdate{DisabledAt: &at}, acme.entry("device.disable"))
	acme.must(err)
	acme.must(s.QuarantineDevice(t.Context(), acme.id, copied.ID, socketxp.Sequence{}, "two", acme.entry("device.quarantine")))
	newer, _ := newKey(t)
	acme.must(s.StageKey(t.Context(), acme.id, rekeyed.ID, socketxp.KeySuccession{Current: rekeyed.PublicKey, Next: newer, Vouch: value(1)}, acme.entry("x")))
	_, err = s.PromoteKey(t.Context(), acme.id, rekeyed.ID, newer, acme.entry("x"))
	acme.must(err)
	acme.must(s.SetPassword(t.Context(), acme.owner.ID, "", "$argon2id$another", acme.entry("user.set-password")))
	acme.must(s.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: at, Compromise: "k1"}, socketxp.AuditEntry{}))
	acme.must(s.SetUserDisabled(t.Context(), acme.owner.ID, at, acme.entry("user.disable")))

	restored := open(t, "sqlite:"+backup)
	got, err := restored.CarryOver(t.Context(), url, socketxp.AuditEntry{At: at, Action: "gateway.carry-over"})
	acme.must(err)
	wantEqual(t, got, store.Carried{
		Tokens: 1, Keys: 1, Devices: []string{"off"}, Users: []string{"acme@example.com"},
		Quarantined: []string{"copied"}, Rekeyed: []string{"rekeyed"},
		Deleted: []string{"gone"}, Passwords: []string{"acme@example.com"},
	})
	acme.store = restored
	if acme.token(token.ID).RevokedAt.IsZero() || !acme.token(kept.ID).RevokedAt.IsZero() {
		t.Error("L-10 the revocation was not carried over, or too much")
	}
	if acme.token(kept.ID).Usable(t0) == nil {
		t.Error("T-18 a compromised key is good again")
	}
	if acme.device("off").DisabledAt.IsZero() || !acme.device("stays").DisabledAt.IsZero() || acme.device("stays").ID != stays.ID {
		t.Error("L-10 what was disabled since is enabled, or too much is disabled")
	}
	if got := acme.device("copied"); got.QuarantinedAt.IsZero() || got.QuarantineReason != "two" {
		t.Error("L-10 what was put in quarantine since is out of it")
	}
	acme.wantKey(rekeyed.PublicKey, rekeyed, socketxp.DeviceKeyRetired)
	acme.wantKey(newer, rekeyed, socketxp.DeviceKeyCurrent)
	if !acme.device("rekeyed").PublicKey.Equal(newer) {
		t.Error("L-10 a retired key is good again")
	}
	if u, err := restored.User(t.Context(), acme.owner.ID); err != nil || u.DisabledAt.IsZero() {
		t.Errorf("L-10 the user can sign in again: %v", err)
	}
	acme.chain()
	if got, err = restored.CarryOver(t.Context(), url, socketxp.AuditEntry{At: at}); err != nil || got.Tokens+got.Keys+len(got.Devices)+len(got.Users)+len(got.Quarantined)+len(got.Rekeyed) > 0 {
		t.Errorf("again: %+v, %v", got, err)
	}
	if _, err := restored.CarryOver(t.Context(), "sqlite:"+dir+"/none.db", socketxp.AuditEntry{At: at}); err == nil {
		t.Error("from nothing")
	}
	junk := dir + "/junk.db"
	if err := os.WriteFile(junk, []byte(strings.Repeat("junk", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restored.CarryOver(t.Context(), "sqlite:"+junk, socketxp.AuditEntry{At: at}); err == nil {
		t.Error("from junk")
	}
}
