package store_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"
)

func TestAuditRoundTrip(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		want := socketxp.AuditEntry{
			At: t0, Actor: socketxp.Actor{Kind: socketxp.KindBasic, UserID: "u", DeviceID: "d", CredentialID: "c", RemoteAddr: "2001:db8::1"},
			Action: "device.delete", ObjectKind: "device", ObjectID: "o", ObjectName: "n", Reason: socketxp.CodeForbidden, Detail: "why",
		}
		acme := &tenant{t: t, store: s} // the gateway's own chain, which needs no account
		for i, entry := range []socketxp.AuditEntry{want, {}, {At: time.Unix(0, 0)}, {At: t0.Add(999 * time.Nanosecond).In(time.FixedZone("", 3600))}} {
			written, err := s.AppendAudit(t.Context(), entry)
			acme.must(err)
			read := acme.lastRecord()
			wantEqual(t, read, written)
			if written.Seq != int64(i+1) || written.Hash != read.ChainHash() {
				t.Errorf("record %d has number %d", i+1, written.Seq)
			}
		}
		records := acme.chain()
		wantEqual(t, records[0].AuditEntry, want)
		if !records[1].At.IsZero() || !records[2].At.Equal(time.Unix(0, 0)) || !records[3].At.Equal(t0) {
			t.Errorf("times: %v, %v, %v", records[1].At, records[2].At, records[3].At)
		}
	})
}

// Strange text from outside must not keep an act from being audited, and with it
// from being done.
func TestAuditTakesAnyText(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		for _, text := range []string{"a\x00b", "\xff\xfe", "\xed\xa0\x80", strings.Repeat("ä", 1000), "x" + strings.Repeat("ä", 1000), "\u202egnp"} {
			entry := acme.entry("test." + text)
			entry.Detail, entry.ObjectName, entry.Actor.RemoteAddr = text, text, text
			r, err := s.AppendAudit(t.Context(), entry)
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			if len(r.Detail) > 500 || strings.ContainsRune(r.Detail, 0) {
				t.Errorf("stored as %q", r.Detail)
			}
			wantEqual(t, acme.lastRecord(), r)
		}
	})
}

func TestListAudit(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := &tenant{t: t, store: s}
		for i := range 10 {
			entry := socketxp.AuditEntry{At: t0, Action: "even", Actor: socketxp.Actor{UserID: "u"}}
			if i%2 == 1 {
				entry.Action, entry.Actor = "odd", socketxp.Actor{DeviceID: "d"}
			}
			if _, err := s.AppendAudit(t.Context(), entry); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 4 { // 11 to 14; one id as user, as device, and as both
			actor := []socketxp.Actor{{UserID: "both"}, {DeviceID: "both"}, {UserID: "both", DeviceID: "both"}, {UserID: "both"}}[i]
			if _, err := s.AppendAudit(t.Context(), socketxp.AuditEntry{At: t0, Action: "other", Actor: actor}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name string
			q    socketxp.AuditQuery
			want []int64
		}{
			{"from the start", socketxp.AuditQuery{Limit: 3}, []int64{1, 2, 3}},
			{"upwards", socketxp.AuditQuery{After: 3, Limit: 3}, []int64{4, 5, 6}},
			{"to the end", socketxp.AuditQuery{After: 12, Limit: 1000}, []int64{13, 14}},
			{"from the end", socketxp.AuditQuery{Newest: true, Limit: 3}, []int64{14, 13, 12}},
			{"downwards", socketxp.AuditQuery{Newest: true, After: 3, Limit: 3}, []int64{2, 1}},
			{"action", socketxp.AuditQuery{Action: "odd", Limit: 3}, []int64{2, 4, 6}},
			{"action downwards", socketxp.AuditQuery{Action: "odd", Newest: true, After: 6, Limit: 3}, []int64{4, 2}},
			{"user", socketxp.AuditQuery{ActorID: "u", After: 6, Limit: 3}, []int64{7, 9}},
			{"device", socketxp.AuditQuery{ActorID: "d", Newest: true, Limit: 2}, []int64{10, 8}},
			{"device by action", socketxp.AuditQuery{ActorID: "d", Action: "odd", Newest: true, After: 5, Limit: 3}, []int64{4, 2}},
			{"actor by another's action", socketxp.AuditQuery{ActorID: "d", Action: "even", Newest: true, Limit: 3}, nil},
			{"user downwards, by both", socketxp.AuditQuery{ActorID: "both", Newest: true, Limit: 3}, []int64{14, 13, 12}},
			{"nobody", socketxp.AuditQuery{ActorID: "x", Newest: true, Limit: 3}, nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				records, err := s.Audit(t.Context(), "", c.q)
				acme.must(err)
				var got []int64
				for _, r := range records {
					got = append(got, r.Seq)
				}
				wantEqual(t, got, c.want)
			})
		}
	})
}

func TestAuditInParallel(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		one, two := newTenant(t, s, "one"), newTenant(t, s, "two")
		var wg sync.WaitGroup
		for _, ten := range []*tenant{one, two} {
			for range 40 {
				wg.Go(func() {
					if _, err := s.AppendAudit(t.Context(), ten.entry("test")); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		for _, ten := range []*tenant{one, two} { // chain verifies: no gap, no fork
			if n := len(ten.chain()); n != 41 {
				t.Errorf("%d records, want 41", n)
			}
		}
	})
}

// J9 Whatever is done to the rows of a chain, its verification finds.
func TestAuditTampering(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		for i, c := range []struct{ name, statement string }{
			{"time", `UPDATE audit SET at = at + 1 WHERE account_id = $1 AND seq = 3`},
			{"actor's kind", `UPDATE audit SET actor_kind = 'basic' WHERE account_id = $1 AND seq = 3`},
			{"user", `UPDATE audit SET user_id = 'x' WHERE account_id = $1 AND seq = 3`},
			{"device", `UPDATE audit SET device_id = 'x' WHERE account_id = $1 AND seq = 3`},
			{"credential", `UPDATE audit SET credential_id = 'x' WHERE account_id = $1 AND seq = 3`},
			{"address", `UPDATE audit SET remote_addr = 'x' WHERE account_id = $1 AND seq = 3`},
			{"action", `UPDATE audit SET action = 'x' WHERE account_id = $1 AND seq = 3`},
			{"object's kind", `UPDATE audit SET object_kind = 'x' WHERE account_id = $1 AND seq = 3`},
			{"object's id", `UPDATE audit SET object_id = 'x' WHERE account_id = $1 AND seq = 3`},
			{"object's name", `UPDATE audit SET object_name = 'x' WHERE account_id = $1 AND seq = 3`},
			{"reason", `UPDATE audit SET reason = 'x' WHERE account_id = $1 AND seq = 3`},
			{"detail", `UPDATE audit SET detail = 'x' WHERE account_id = $1 AND seq = 3`},
			{"text moved between fields", `UPDATE audit SET object_id = 'ab', object_name = '' WHERE account_id = $1 AND seq = 3`},
			{"prev", `UPDATE audit SET prev = hash WHERE account_id = $1 AND seq = 3`},
			{"hash", `UPDATE audit SET hash = prev WHERE account_id = $1 AND seq = 3`},
			{"removed", `DELETE FROM audit WHERE account_id = $1 AND seq = 3`},
			{"first removed", `DELETE FROM audit WHERE account_id = $1 AND seq = 1`},
			{"renumbered", `UPDATE audit SET seq = 30 WHERE account_id = $1 AND seq = 3`},
			{"removed and closed up", `DELETE FROM audit WHERE account_id = $1 AND seq = 4; UPDATE audit SET seq = 4 WHERE account_id = $1 AND seq = 5`},
		} {
			t.Run(c.name, func(t *testing.T) {
				ten := newTenant(t, s, "tenant"+strings.Repeat("x", i))
				for range 4 {
					entry := ten.entry("test")
					entry.ObjectID, entry.ObjectName = "a", "b"
					if _, err := s.AppendAudit(t.Context(), entry); err != nil {
						t.Fatal(err)
					}
				}
				ten.chain()
				for _, statement := range strings.Split(c.statement, ";") {
					mustExec(t, db, statement, ten.id)
				}
				records, err := s.Audit(t.Context(), ten.id, socketxp.AuditQuery{Limit: 100})
				ten.must(err)
				var prev socketxp.AuditRecord
				for _, r := range records {
					if err = socketxp.VerifyChain(prev, r); err != nil {
						return
					}
					prev = r
				}
				t.Error("the chain verifies all the same")
			})
		}
	})
}
