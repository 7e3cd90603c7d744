package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"socketxp"
	"socketxp/internal/api"
)

// tampered is a store whose audit can be read with changes.
type tampered struct {
	socketxp.Store
	change atomic.Pointer[func(*socketxp.AuditRecord)]
	fail   atomic.Int64 // the page that can't be read, counted from 1; 0 for none
	page   atomic.Int64
}

func (s *tampered) Audit(ctx context.Context, accountID string, q socketxp.AuditQuery) ([]socketxp.AuditRecord, error) {
	if n := s.page.Add(1); n == s.fail.Load() {
		return nil, errDown
	}
	records, err := s.Store.Audit(ctx, accountID, q)
	if f := s.change.Load(); f != nil {
		for i := range records {
			(*f)(&records[i])
		}
	}
	return records, err
}

func TestAudit(t *testing.T) {
	var s tampered
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		s.Store = d.Store
		d.Store = &s
	})
	client := w.owns()
	for i := range 1200 { // more than a page of the export
		if _, err := w.store.AppendAudit(t.Context(), w.entry(fmt.Sprintf("test.%d", i%7))); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("A-27 an export is verified elsewhere", func(t *testing.T) {
		var out bytes.Buffer
		if err := client.ExportAudit(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		var prev socketxp.AuditRecord
		lines := json.NewDecoder(&out)
		for {
			var r api.AuditRecord
			if err := lines.Decode(&r); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if err := socketxp.VerifyChain(prev, r.Domain()); err != nil {
				t.Fatal(err)
			}
			prev = r.Domain()
		}
		v := must[api.AuditVerification](t)(client.VerifyAudit(t.Context()))
		if !v.OK || v.Records != prev.Seq || v.LastHash != fmt.Sprintf("%x", prev.Hash) || prev.Seq < 1200 {
			t.Fatalf("got %+v, the export ends at %d", v, prev.Seq)
		}
	})
	for name, change := range map[string]func(*socketxp.AuditRecord){
		"changed":    func(r *socketxp.AuditRecord) { r.Detail += "?" },
		"back-dated": func(r *socketxp.AuditRecord) { r.At = r.At.Add(-1) },
		"missing":    func(r *socketxp.AuditRecord) { r.Seq++ },
	} {
		t.Run("A-27 "+name, func(t *testing.T) {
			f := func(r *socketxp.AuditRecord) {
				if r.Seq >= 1100 {
					change(r)
					if name == "back-dated" {
						r.At = r.At.Add(-1000)
					}
				}
			}
			s.change.Store(&f)
			defer s.change.Store(nil)
			v := must[api.AuditVerification](t)(client.VerifyAudit(t.Context()))
			if v.OK || v.Records != 1099 || !strings.Contains(v.Broken, "110") {
				t.Fatalf("got %+v", v)
			}
		})
	}
	t.Run("an export that can't be finished does not look finished", func(t *testing.T) {
		s.page.Store(0)
		s.fail.Store(2)
		defer s.fail.Store(0)
		if err := client.ExportAudit(t.Context(), io.Discard); err == nil {
			t.Fatal("it does")
		}
	})
	t.Run("an export that can't begin says so", func(t *testing.T) {
		s.page.Store(0)
		s.fail.Store(1)
		defer s.fail.Store(0)
		wantCode(t, client.ExportAudit(t.Context(), io.Discard), socketxp.CodeUnavailable)
	})
	t.Run("pages, newest first, by action", func(t *testing.T) {
		var last int64
		list := api.AuditList{Action: "test.3", Limit: 100}
		n := 0
		for {
			page := must[api.Page[api.AuditRecord]](t)(client.Audit(t.Context(), list))
			for _, r := range page.Items {
				if r.Action != "test.3" || last != 0 && r.Seq >= last {
					t.Fatalf("got %+v after %d", r, last)
				}
				last = r.Seq
				n++
			}
			if list.Cursor = page.NextCursor; list.Cursor == "" {
				break
			}
		}
		if n != 171 {
			t.Fatalf("%d records", n)
		}
	})
	t.Run("A-27 nothing changes or removes a record", func(t *testing.T) {
		c := w.rest()
		_, session := w.newSignIn(0)
		for _, method := range []string{post, put, patch, remove} {
			for _, path := range []string{"/api/v1/audit", "/api/v1/audit/1", "/api/v1/events"} {
				if a := c.do(method, path, "", cookie(session)...); a.status != http.StatusMethodNotAllowed && a.status != http.StatusNotFound {
					t.Errorf("%s %s: %d", method, path, a.status)
				}
			}
		}
	})
	t.Run("X-10 exports of one account at a time", func(t *testing.T) {
		leave, err := w.g.rest.exports.enter(w.account.ID, "exports")
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		leave2, err := w.g.rest.exports.enter(w.account.ID, "exports")
		if err != nil {
			t.Fatal(err)
		}
		defer leave2()
		_, err = client.VerifyAudit(t.Context())
		wantCode(t, err, socketxp.CodeRateLimited)
	})
}

func TestSessionsByAPI(t *testing.T) {
	w := start(t)
	client := w.owns()
	d, key := w.register("host", "")
	w.connect(d, key, flood, "tcp://localhost:22")
	_, text := w.access()
	v := w.visitor()
	g := v.grant(text, d, 22)
	s := v.read(v.open(g))
	s.flows(t)
	live := true
	page := must[api.Page[api.Session]](t)(client.Sessions(t.Context(), api.SessionList{Live: &live, DeviceID: d.ID}))
	if len(page.Items) != 1 || page.Items[0].ID != g.SessionID || !page.Items[0].Live {
		t.Fatalf("got %+v", page)
	}
	if err := client.EndSession(t.Context(), g.SessionID); err != nil {
		t.Fatal(err)
	}
	s.isCut(t)
	w.session(g.SessionID, func(s socketxp.Session) bool { return !s.EndedAt.IsZero() && s.EndReason == socketxp.CodeSessionEnded })
	got := must[api.Session](t)(client.Session(t.Context(), g.SessionID))
	if got.Live || got.BytesDown == 0 || got.EndReason != socketxp.CodeSessionEnded {
		t.Fatalf("got %+v", got)
	}
	if err := client.EndSession(t.Context(), g.SessionID); err != nil { // it is over already
		t.Fatal(err)
	}
	if n := w.audited(w.account.ID, "session.cut", ""); n != 1 {
		t.Fatalf("%d audit records", n)
	}
}

func TestIdempotency(t *testing.T) {
	w := start(t)
	client := w.owns()
	const key = "a-key-of-some-random-text-01"
	t.Run("R-09 the same write again is not done again", func(t *testing.T) {
		once := client.WithIdempotencyKey(key)
		first := must[api.CreatedToken](t)(once.CreateToken(t.Context(), api.CreateTokenRequest{Kind: socketxp.TokenAccess, Name: "x"}))
		again := must[api.CreatedToken](t)(once.CreateToken(t.Context(), api.CreateTokenRequest{Kind: socketxp.TokenAccess, Name: "x"}))
		if first.ID != again.ID || first.Text != again.Text {
			t.Fatal("there are two tokens")
		}
		_, err := once.CreateToken(t.Context(), api.CreateTokenRequest{Kind: socketxp.TokenAccess, Name: "y"})
		wantCode(t, err, socketxp.CodeConflict)
	})
	t.Run("X-17 the database can't read the answer", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
		c := w.rest()
		a := c.do(post, "/api/v1/tokens", `{"kind":"access","name":"sealed"}`, append(bearer(text), "Idempotency-Key", key)...).want(t, http.StatusCreated, "")
		me := into[api.Me](t, c.do(get, "/api/v1/me", "", bearer(text)...))
		keys := must[sealKeys](t)(newSealKeys(key, me.Credential.ID, "POST /api/v1/tokens"))
		stored, fresh, err := w.store.BeginIdempotent(t.Context(), socketxp.IdempotentRequest{KeyHash: keys.name, At: w.g.now()})
		if err != nil || fresh || stored.Status != http.StatusCreated {
			t.Fatalf("got %+v, %v, %v", stored, fresh, err)
		}
		if bytes.Contains(stored.Body, []byte("sealed")) || stored.RequestHash == keys.hashOf([]byte("other")) {
			t.Fatal("it is readable")
		}
		if got := must[[]byte](t)(keys.open(stored.Body)); string(got) != a.body {
			t.Fatalf("got %s", got)
		}
		for _, wrong := range []sealKeys{
			must[sealKeys](t)(newSealKeys(key+"x", me.Credential.ID, "POST /api/v1/tokens")),
			must[sealKeys](t)(newSealKeys(key, unknownID, "POST /api/v1/tokens")),
		} {
			if _, err := wrong.open(stored.Body); err == nil || wrong.name == keys.name {
				t.Fatal("another key opens it")
			}
		}
		again := c.do(post, "/api/v1/tokens", `{"kind":"access","name":"sealed"}`, append(bearer(text), "Idempotency-Key", key)...)
		if again.body != a.body || again.status != a.status || again.header.Get("Idempotent-Replayed") != "true" {
			t.Fatalf("got %d %s", again.status, again.body)
		}
	})
	t.Run("another credential with the same key gets an answer of its own", func(t *testing.T) {
		first := must[api.CreatedToken](t)(client.WithIdempotencyKey(key+"2").CreateToken(t.Context(), api.CreateTokenRequest{Kind: socketxp.TokenAccess, Name: "x"}))
		second := must[api.CreatedToken](t)(w.owns().WithIdempotencyKey(key+"2").CreateToken(t.Context(), api.CreateTokenRequest{Kind: socketxp.TokenAccess, Name: "x"}))
		if first.ID == second.ID {
			t.Fatal("it is the same")
		}
	})
	t.Run("a write that was refused is tried anew", func(t *testing.T) {
		once := client.WithIdempotencyKey(key + "3")
		_, err := once.PreRegister(t.Context(), api.PreRegisterRequest{Name: "No Name"})
		wantCode(t, err, socketxp.CodeInvalid)
		must[api.PreRegistered](t)(once.PreRegister(t.Context(), api.PreRegisterRequest{Name: "good-name"}))
	})
	t.Run("at the same time: one is done, the others wait", func(t *testing.T) {
		once := client.WithIdempotencyKey(key + "4")
		var all sync.WaitGroup
		ids := make(chan string, 20)
		for range 20 {
			all.Go(func() {
				switch d, err := once.PreRegister(t.Context(), api.PreRegisterRequest{Name: "just-one"}); socketxp.CodeOf(err) {
				case "":
					ids <- d.ID
				case socketxp.CodeConflict: // still being served
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		close(ids)
		first := <-ids
		for id := range ids {
			if id != first || first == "" {
				t.Fatal("there are two devices")
			}
		}
	})
	t.Run("keys that are none", func(t *testing.T) {
		_, session := w.newSignIn(0)
		c := w.rest()
		for _, bad := range []string{"", "short", strings.Repeat("k", 129), "with a space in it, alas"} {
			c.do(post, "/api/v1/groups", `{"name":"g"}`, append(cookie(session), "Idempotency-Key", bad)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
		c.do(post, "/api/v1/groups", `{"name":"g"}`, append(cookie(session), "Idempotency-Key", key, "Idempotency-Key", key)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	})
	t.Run("an answer without a body", func(t *testing.T) {
		tok, _ := w.access()
		for range 2 {
			if err := client.WithIdempotencyKey(key+"5").RevokeToken(t.Context(), tok.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
}
