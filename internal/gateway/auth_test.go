package gateway

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/token"
)

// claimsOf are what the text of a token of the owner would say.
func (w *world) claimsOf(t socketxp.Token) token.Claims {
	return token.Claims{ID: t.ID, Kind: t.Kind, AccountID: t.AccountID, UserID: t.CreatedBy, IssuedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, Gateway: w.g.Address()}
}

func TestTokenAgainstItsRow(t *testing.T) {
	w := start(t)
	other := w.otherTenant("umbrella")
	tok, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
	c := w.rest()
	c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusOK, "")

	// Texts that our own key signed, but not for this row.
	for name, change := range map[string]func(*token.Claims){
		"T-22 kind":      func(c *token.Claims) { c.Kind = socketxp.TokenBasic },
		"T-22 account":   func(c *token.Claims) { c.AccountID = other.account.ID },
		"T-22 maker":     func(c *token.Claims) { c.UserID = other.owner.ID },
		"T-22 expiry":    func(c *token.Claims) { c.ExpiresAt = c.ExpiresAt.Add(time.Hour) },
		"T-22 issue":     func(c *token.Claims) { c.IssuedAt = c.IssuedAt.Add(-time.Second) },
		"T-22 no row":    func(c *token.Claims) { c.ID = unknownID },
		"T-33 no tenant": func(c *token.Claims) { c.AccountID = unknownID },
	} {
		t.Run(name, func(t *testing.T) {
			claims := w.claimsOf(tok)
			change(&claims)
			forged := must[string](t)(w.g.tokens.Sign(claims))
			a := c.do(get, "/api/v1/me", "", bearer(forged)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
			garbage := c.do(get, "/api/v1/me", "", bearer("garbage")...)
			if a.body != garbage.body {
				t.Fatalf("T-33 it is told from garbage: %s and %s", a.body, garbage.body)
			}
		})
	}
	t.Run("T-16 another installation", func(t *testing.T) {
		foreign := must[*token.Authority](t)(token.NewAuthority(w.g.id, newKey(t)))
		c.do(get, "/api/v1/me", "", bearer(must[string](t)(foreign.Sign(w.claimsOf(tok))))...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	})
	t.Run("T-09 T-12 expired", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights}, time.Second)
		eventually(t, patience, "it expires", func() bool { return c.do(get, "/api/v1/me", "", bearer(text)...).code == socketxp.CodeTokenExpired })
	})
	t.Run("T-19 revoked", func(t *testing.T) {
		_, admin := w.newSignIn(0)
		c.do(post, "/api/v1/tokens/"+tok.ID+"/revoke", "", cookie(admin)...).want(t, http.StatusNoContent, "")
		c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
		if n := w.audited(w.account.ID, "token.use", socketxp.CodeTokenRevoked); n != 1 {
			t.Fatalf("%d audit records", n)
		}
	})
	t.Run("J12 a database that does not answer lets nobody in", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
		w.store.down.Store(true)
		defer w.store.down.Store(false)
		a := c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	})
}

// otherMembership is a store whose answers about memberships can be changed: roles
// below owner, and the removal of a last owner, can't be made otherwise.
type otherMembership struct {
	socketxp.Store
	change atomic.Pointer[func(socketxp.Membership) (socketxp.Membership, error)]
}

func (s *otherMembership) Membership(ctx context.Context, accountID, userID string) (socketxp.Membership, error) {
	m, err := s.Store.Membership(ctx, accountID, userID)
	if f := s.change.Load(); err == nil && f != nil {
		return (*f)(m)
	}
	return m, err
}

// startWithMembers starts a gateway on such a store.
func startWithMembers(t *testing.T) (*world, *otherMembership) {
	var s otherMembership
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		s.Store = d.Store
		d.Store = &s
	})
	return w, &s
}

// callerAddr is where a token is used from that does not come by HTTP.
var callerAddr = netip.MustParseAddr("192.0.2.7")

func TestMakerOfToken(t *testing.T) {
	w, members := startWithMembers(t)
	purposes := map[socketxp.TokenKind]socketxp.Purpose{
		socketxp.TokenBasic: socketxp.PurposeVisit, socketxp.TokenAPI: socketxp.PurposeAPI,
		socketxp.TokenRegistration: socketxp.PurposeRegister, socketxp.TokenAccess: socketxp.PurposeVisit,
	}
	for _, kind := range socketxp.TokenKinds {
		_, text := w.newToken(kind, socketxp.TokenScope{Rights: kind.DefaultRights()})
		use := func() error {
			_, err := w.g.authenticateToken(t.Context(), text, purposes[kind], callerAddr)
			return err
		}
		refused := func(t *testing.T) {
			t.Helper()
			if err := use(); socketxp.CodeOf(err) != socketxp.CodeTokenRevoked || statusOf(err) != http.StatusUnauthorized {
				t.Fatalf("got %v", err)
			}
		}
		t.Run("T-23 no member any more "+string(kind), func(t *testing.T) {
			gone := func(socketxp.Membership) (socketxp.Membership, error) {
				return socketxp.Membership{}, socketxp.ErrNotFound
			}
			members.change.Store(&gone)
			defer members.change.Store(nil)
			refused(t)
		})
		t.Run("T-23 L-04 disabled "+string(kind), func(t *testing.T) {
			if err := use(); err != nil {
				t.Fatal(err)
			}
			if err := w.store.SetUserDisabled(t.Context(), w.owner.ID, w.g.now(), w.entry("user.disable")); err != nil {
				t.Fatal(err)
			}
			refused(t)
			if err := w.store.SetUserDisabled(t.Context(), w.owner.ID, time.Time{}, w.entry("user.enable")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRightsOfToken(t *testing.T) {
	w, members := startWithMembers(t)
	c := w.rest()
	_, all := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
	_, some := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: []socketxp.Right{socketxp.RightDevicesRead}})
	_, none := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{})
	_, person := w.newSignIn(0)
	for _, rt := range routes() {
		if rt.policy.purpose != socketxp.PurposeAPI {
			continue
		}
		path, body := example(rt, unknownID)
		t.Run("a token without the right "+rt.pattern(), func(t *testing.T) {
			c.do(rt.method, path, body, bearer(none)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
			if a := c.do(rt.method, path, body, bearer(some)...); (a.code == socketxp.CodeForbidden) != (rt.policy.right != socketxp.RightDevicesRead) {
				t.Fatalf("with devices:read alone: %d %s", a.status, a.body)
			}
		})
		t.Run("T-24 the maker's role lowered "+rt.pattern(), func(t *testing.T) {
			lowered := func(m socketxp.Membership) (socketxp.Membership, error) {
				m.Role = "viewer"
				return m, nil
			}
			if a := c.do(rt.method, path, body, bearer(all)...); a.code == socketxp.CodeForbidden {
				t.Fatalf("before: %s", a.body)
			}
			members.change.Store(&lowered)
			defer members.change.Store(nil)
			c.do(rt.method, path, body, bearer(all)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
			c.do(rt.method, path, body, cookie(person)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		})
	}
}

func TestScopeOfToken(t *testing.T) {
	w := start(t)
	c := w.rest()
	t.Run("a network that the caller is not in", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights, Networks: []string{"192.0.2.0/24"}})
		c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		// what a header says of the address counts for nothing.
		c.do(get, "/api/v1/me", "", append(bearer(text), "X-Forwarded-For", "192.0.2.1", "Forwarded", "for=192.0.2.1", "X-Real-IP", "192.0.2.1")...).
			want(t, http.StatusForbidden, socketxp.CodeForbidden)
	})
	t.Run("a network that the caller is in", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights, Networks: []string{"127.0.0.0/8", "::1/128"}})
		c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusOK, "")
	})
	t.Run("basic tokens switched off", func(t *testing.T) {
		var off noBasic
		w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
			off.Store = d.Store
			d.Store = &off
		})
		_, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
		off.yes.Store(true)
		for _, p := range []socketxp.Purpose{socketxp.PurposeAPI, socketxp.PurposeRegister, socketxp.PurposeVisit} {
			if _, err := w.g.authenticateToken(t.Context(), text, p, callerAddr); socketxp.CodeOf(err) != socketxp.CodeForbidden {
				t.Errorf("%s: %v", p, err)
			}
		}
	})
}

// noBasic is a store whose accounts admit no basic tokens.
type noBasic struct {
	socketxp.Store
	yes atomic.Bool
}

func (s *noBasic) Account(ctx context.Context, id string) (socketxp.Account, error) {
	a, err := s.Store.Account(ctx, id)
	a.BasicTokens = a.BasicTokens && !s.yes.Load()
	return a, err
}

func TestCredentialForms(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
	_, session := w.newSignIn(0)
	for _, tc := range []struct {
		name    string
		path    string
		headers []string
		status  int
	}{
		{"bearer", "/me", bearer(text), http.StatusOK},
		{"bearer in other case", "/me", []string{"Authorization", "bearer " + text}, http.StatusOK},
		{"cookie", "/me", cookie(session), http.StatusOK},
		{"T-28 two headers", "/me", append(bearer(text), bearer(text)...), http.StatusBadRequest},
		{"T-28 header and cookie", "/me", append(bearer(text), cookie(session)...), http.StatusBadRequest},
		{"T-28 two cookies", "/me", append(cookie(session), cookie(session)...), http.StatusBadRequest},
		{"T-28 two cookies in one header", "/me", []string{"Cookie", cookieName + "=" + session + "; " + cookieName + "=" + session}, http.StatusBadRequest},
		{"T-28 query alone", "/me?access_token=" + text, nil, http.StatusUnauthorized},
		{"T-28 query and header", "/me?access_token=" + text, bearer(text), http.StatusBadRequest},
		{"basic authentication", "/me", []string{"Authorization", "Basic dXNlcjpwYXNz"}, http.StatusUnauthorized},
		{"empty", "/me", []string{"Authorization", ""}, http.StatusUnauthorized},
		{"a space too many", "/me", []string{"Authorization", "Bearer  " + text}, http.StatusUnauthorized},
		{"T-26 another account of the same looks", "/me", bearer(text + "\u200b"), http.StatusUnauthorized},
		{"T-27 5 KiB", "/me", bearer(strings.Repeat("a", 5<<10)), http.StatusBadRequest},
		{"T-27 4 KiB of dots", "/me", bearer(strings.Repeat(".", 4<<10)), http.StatusUnauthorized},
		{"a cookie of another length", "/me", cookie(session + "AA"), http.StatusUnauthorized},
		{"a cookie that is none", "/me", cookie("x"), http.StatusUnauthorized},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if a := c.do(get, "/api/v1"+tc.path, "", tc.headers...); a.status != tc.status {
				t.Fatalf("got %d: %s", a.status, a.body)
			}
		})
	}
	t.Run("T-27 64 KiB does not reach a handler", func(t *testing.T) {
		raw := w.httpClient("http/1.1")
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), get, w.url("/api/v1/me"), nil))
		req.Header.Set("Authorization", "Bearer "+strings.Repeat("a", 64<<10))
		resp, err := raw.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Fatalf("got %d", resp.StatusCode)
		}
	})
}

func TestRefusalsAreSampled(t *testing.T) {
	w := start(t, func(l *limits) { l.http.refusals = quota{perSecond: 1e-9, burst: 3} })
	for range 20 {
		w.g.auditRefusal(t.Context(), w.entry("device.update"), missing("device"))
	}
	if n := w.audited(w.account.ID, "device.update", socketxp.CodeNotFound); n != 3 {
		t.Fatalf("A-27 %d records of 20 refusals, want 3", n)
	}
	w.g.rest.refusals.accounts[w.account.ID].limiter.SetBurst(1000)
	w.g.rest.refusals.accounts[w.account.ID].limiter.SetLimit(1e9)
	eventually(t, patience, "it is recorded again", func() bool {
		w.g.auditRefusal(t.Context(), w.entry("device.update"), missing("device"))
		return w.audited(w.account.ID, "device.update", socketxp.CodeNotFound) > 3
	})
	records := must[[]socketxp.AuditRecord](t)(w.store.Audit(t.Context(), w.account.ID, socketxp.AuditQuery{Action: "device.update", Limit: 100}))
	if !strings.Contains(records[3].Detail, "17 refusals before this one were not recorded") {
		t.Fatalf("A-27 what was left out is not counted: %q", records[3].Detail)
	}
	w.g.auditRefusal(t.Context(), w.entry("device.delete"), errDown)
	if n := w.audited(w.account.ID, "device.delete", socketxp.CodeUnavailable); n != 0 {
		t.Fatal("a database that did not answer was recorded as a refusal")
	}
}
