package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

func TestTokenLife(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, session := w.newSignIn(0)
	const day = 24 * 3600
	for _, tc := range []struct {
		kind    socketxp.TokenKind
		cap     int
		normal  time.Duration
		capText string
	}{
		{socketxp.TokenBasic, 7 * day, 24 * time.Hour, "7 days"},
		{socketxp.TokenAPI, 365 * day, 30 * 24 * time.Hour, "365 days"},
		{socketxp.TokenRegistration, 30 * day, time.Hour, "30 days"},
		{socketxp.TokenAccess, 30 * day, 8 * time.Hour, "30 days"},
	} {
		create := func(life string) restAnswer {
			return c.do(post, "/api/v1/tokens", fmt.Sprintf(`{"kind":%q,"name":"t"%s}`, tc.kind, life), cookie(session)...)
		}
		for _, life := range []string{"0", "-1", fmt.Sprint(tc.cap + 1), fmt.Sprint(100 * 365 * day), "9223372036854775807"} {
			t.Run("T-10 "+string(tc.kind)+" for "+life, func(t *testing.T) {
				a := create(`,"expires_in":`+life).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
				if !strings.Contains(a.detail+a.hint, tc.capText) && !strings.Contains(a.hint, fmt.Sprint(tc.cap)) {
					t.Fatalf("the cap is not named: %s", a.body)
				}
			})
		}
		for _, life := range []string{"1.5", `"1h"`, "1e400", "9223372036854775808"} {
			t.Run("T-10 "+string(tc.kind)+" for "+life, func(t *testing.T) {
				create(`,"expires_in":`+life).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
			})
		}
		t.Run(string(tc.kind)+" for the longest time", func(t *testing.T) {
			got := into[api.CreatedToken](t, create(fmt.Sprintf(`,"expires_in":%d`, tc.cap)))
			if d := got.ExpiresAt.Sub(got.CreatedAt); d != time.Duration(tc.cap)*time.Second {
				t.Fatalf("it lives for %v", d)
			}
		})
		t.Run(string(tc.kind)+" without saying for how long", func(t *testing.T) {
			got := into[api.CreatedToken](t, create(""))
			if d := got.ExpiresAt.Sub(got.CreatedAt); d != tc.normal || got.State != api.TokenLive || got.Kind != tc.kind {
				t.Fatalf("got %+v", got)
			}
		})
	}
}

func TestChildTokens(t *testing.T) {
	w := start(t)
	c := w.rest()
	rights := []socketxp.Right{socketxp.RightTokensWrite, socketxp.RightTokensAdmin, socketxp.RightDevicesRead}
	parent, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: rights, Networks: []string{"127.0.0.0/8", "::1/128"}}, 10*time.Minute)
	_, weak := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: []socketxp.Right{socketxp.RightTokensWrite}})
	create := func(as, body string) restAnswer { return c.do(post, "/api/v1/tokens", body, bearer(as)...) }

	t.Run("A-23 no longer than the parent", func(t *testing.T) {
		a := create(text, `{"kind":"access","name":"x","expires_in":601}`).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		if !strings.Contains(a.detail, "outlive") {
			t.Fatal(a.body)
		}
		got := into[api.CreatedToken](t, create(text, `{"kind":"access","name":"x"}`))
		if got.ExpiresAt.After(parent.ExpiresAt) || got.ParentID != parent.ID {
			t.Fatalf("got %+v, of a parent until %v", got, parent.ExpiresAt)
		}
	})
	t.Run("A-23 no more rights than the parent", func(t *testing.T) {
		create(text, `{"kind":"api","name":"x","scope":{"rights":["audit:read"]}}`).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		got := into[api.CreatedToken](t, create(text, `{"kind":"api","name":"x"}`))
		if !slices.Equal(got.Scope.Rights, []socketxp.Right{socketxp.RightDevicesRead, socketxp.RightTokensWrite}) {
			t.Fatalf("got %v", got.Scope.Rights)
		}
	})
	t.Run("A-23 api and basic tokens only with tokens:admin", func(t *testing.T) {
		for _, kind := range []string{"api", "basic"} {
			create(weak, `{"kind":"`+kind+`","name":"x"}`).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		}
		create(weak, `{"kind":"access","name":"x"}`).want(t, http.StatusCreated, "")
	})
	t.Run("A-23 no wider networks than the parent", func(t *testing.T) {
		got := into[api.CreatedToken](t, create(text, `{"kind":"access","name":"x"}`))
		if !slices.Equal(got.Scope.Networks, []string{"127.0.0.0/8", "::1/128"}) {
			t.Fatalf("got %v", got.Scope.Networks)
		}
		create(text, `{"kind":"access","name":"x","scope":{"networks":["127.1.0.0/16"]}}`).want(t, http.StatusCreated, "")
		for _, n := range []string{"0.0.0.0/0", "10.0.0.0/8", "126.0.0.0/7"} {
			create(text, `{"kind":"access","name":"x","scope":{"networks":["`+n+`"]}}`).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		}
	})
	t.Run("A-23 a basic token narrowed to devices has no way round by the API", func(t *testing.T) {
		create(text, `{"kind":"basic","name":"x","scope":{"ports":[22],"rights":["devices:read"]}}`).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		got := into[api.CreatedToken](t, create(text, `{"kind":"basic","name":"x","scope":{"ports":[22]}}`))
		if len(got.Scope.Rights) != 0 {
			t.Fatalf("got %v", got.Scope.Rights)
		}
		c.do(get, "/api/v1/devices", "", bearer(got.Text)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
	})
	t.Run("J4 a child ends with its parent", func(t *testing.T) {
		child := into[api.CreatedToken](t, create(text, `{"kind":"api","name":"child"}`))
		c.do(get, "/api/v1/devices", "", bearer(child.Text)...).want(t, http.StatusOK, "")
		_, admin := w.newSignIn(0)
		hints := make(chan socketxp.Hint, 100)
		defer w.cluster.Subscribe(func(h socketxp.Hint) { hints <- h })()
		c.do(post, "/api/v1/tokens/"+parent.ID+"/revoke", "", cookie(admin)...).want(t, http.StatusNoContent, "")
		c.do(get, "/api/v1/devices", "", bearer(child.Text)...).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
		for {
			if h := <-hints; h.Kind == socketxp.HintTokenRevoked && h.ID == child.ID {
				break
			}
		}
	})
}

func TestTokenScopes(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, session := w.newSignIn(0)
	for name, tc := range map[string]struct {
		body string
		ok   bool
	}{
		"registration":                 {`{"kind":"registration","name":"x","max_uses":5,"scope":{"group":"g","name_pattern":"meter-[0-9]*","networks":["192.0.2.0/24"]}}`, true},
		"access":                       {`{"kind":"access","name":"x","scope":{"groups":["a","b"],"ports":[22,5432]}}`, true},
		"api without rights":           {`{"kind":"api","name":"x","scope":{"rights":[]}}`, true},
		"no name":                      {`{"kind":"access","name":"  "}`, false},
		"W-08 a name with a trick":     {`{"kind":"access","name":"a\u202eb"}`, false},
		"another kind":                 {`{"kind":"root","name":"x"}`, false},
		"unknown field":                {`{"kind":"access","name":"x","admin":true}`, false},
		"unknown field of the scope":   {`{"kind":"access","name":"x","scope":{"port":[22]}}`, false},
		"a field twice":                {`{"kind":"access","name":"x","name":"y"}`, false},
		"a field in other case":        {`{"kind":"access","name":"x","Expires_In":1}`, false},
		"null":                         {`null`, false},
		"a list":                       {`[]`, false},
		"unknown right":                {`{"kind":"api","name":"x","scope":{"rights":["*"]}}`, false},
		"rights of an access token":    {`{"kind":"access","name":"x","scope":{"rights":["devices:read"]}}`, false},
		"ports of a registration":      {`{"kind":"registration","name":"x","scope":{"ports":[22]}}`, false},
		"uses of an access token":      {`{"kind":"access","name":"x","max_uses":1}`, false},
		"no uses":                      {`{"kind":"registration","name":"x","max_uses":0}`, false},
		"port 0":                       {`{"kind":"access","name":"x","scope":{"ports":[0]}}`, false},
		"a group that is none":         {`{"kind":"registration","name":"x","scope":{"group":"G"}}`, false},
		"a pattern that is none":       {`{"kind":"registration","name":"x","scope":{"name_pattern":"[a"}}`, false},
		"a network with host bits":     {`{"kind":"access","name":"x","scope":{"networks":["192.0.2.1/24"]}}`, false},
		"a network that is none":       {`{"kind":"access","name":"x","scope":{"networks":["all"]}}`, false},
		"a device that is none":        {`{"kind":"access","name":"x","scope":{"devices":["x"]}}`, false},
		"X-06 a thousand ports":        {`{"kind":"access","name":"x","scope":{"ports":[` + strings.Repeat("22,", 999) + `22]}}`, false},
		"X-06 nested deeper than 32":   {`{"kind":` + strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5) + `}`, false},
		"X-06 a hundred thousand keys": {`{` + manyKeys(50_000) + `"kind":"access","name":"x"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.do(post, "/api/v1/tokens", tc.body, cookie(session)...)
			if tc.ok {
				a.want(t, http.StatusCreated, "")
			} else {
				a.want(t, http.StatusBadRequest, socketxp.CodeInvalid)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"k%d":1,`, i)
	}
	return b.String()
}

func TestTokenLists(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, session := w.newSignIn(0)
	created := into[api.CreatedToken](t, c.do(post, "/api/v1/tokens", `{"kind":"access","name":"laptop"}`, cookie(session)...))
	_, own := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
	t.Run("T-32 no text in lists, in what is shown, or in the database's answers", func(t *testing.T) {
		signature := created.Text[strings.LastIndex(created.Text, ".")+1:]
		for _, path := range []string{"/tokens", "/tokens/" + created.ID, "/audit", "/events", "/me"} {
			if a := c.do(get, "/api/v1"+path, "", bearer(own)...); a.status != http.StatusOK || strings.Contains(a.body, signature) {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
	})
	t.Run("T-20 by its owner, a second time, and by another account", func(t *testing.T) {
		other := w.otherTenant("umbrella")
		path := "/api/v1/tokens/" + created.ID + "/revoke"
		c.do(post, path, "", cookie(other.cookie)...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		_, weak := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: []socketxp.Right{socketxp.RightTokensRead}})
		c.do(post, path, "", bearer(weak)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		if got := into[api.Token](t, c.do(get, "/api/v1/tokens/"+created.ID, "", cookie(session)...)); got.State != api.TokenLive {
			t.Fatalf("A-10 it is %s", got.State)
		}
		for range 2 {
			c.do(post, path, "", cookie(session)...).want(t, http.StatusNoContent, "")
		}
		if got := into[api.Token](t, c.do(get, "/api/v1/tokens/"+created.ID, "", cookie(session)...)); got.State != api.TokenRevoked || got.RevokedAt == nil {
			t.Fatalf("got %+v", got)
		}
	})
	t.Run("pages, by kind, and those that are live", func(t *testing.T) {
		for range 5 {
			w.access()
		}
		client := w.client(own)
		var ids []string
		list := api.TokenList{Kind: socketxp.TokenAccess, Limit: 2}
		for {
			page := must[api.Page[api.Token]](t)(client.Tokens(t.Context(), list))
			for _, tok := range page.Items {
				ids = append(ids, tok.ID)
			}
			if list.Cursor = page.NextCursor; list.Cursor == "" {
				break
			}
		}
		if len(ids) != 6 || !slices.IsSortedFunc(ids, func(a, b string) int { return strings.Compare(b, a) }) {
			t.Fatalf("got %v", ids)
		}
		live := must[api.Page[api.Token]](t)(client.Tokens(t.Context(), api.TokenList{Kind: socketxp.TokenAccess, Live: true}))
		if len(live.Items) != 5 {
			t.Fatalf("%d are live", len(live.Items))
		}
	})
	t.Run("the time of last use", func(t *testing.T) {
		me := must[api.Me](t)(w.client(own).Me(t.Context()))
		got := into[api.Token](t, c.do(get, "/api/v1/tokens/"+me.Credential.ID, "", bearer(own)...))
		if got.LastUsedAt == nil {
			t.Fatal("it was never used")
		}
	})
}

func TestRevealSwitchedOff(t *testing.T) {
	w := startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.RevealTokens = false })
	tok, _ := w.access()
	_, session := w.newSignIn(0)
	w.rest().do(post, "/api/v1/tokens/"+tok.ID+"/reveal", "", cookie(session)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
}

func TestConfirmToken(t *testing.T) {
	w := start(t)
	c := w.rest()
	tok, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
	s := w.play(socketxp.TokenScope{})
	_, before := w.newSignIn(0)
	if _, err := w.store.BeginEpoch(t.Context(), w.g.now(), socketxp.AuditEntry{At: w.g.now(), Action: "gateway.restore"}); err != nil {
		t.Fatal(err)
	}
	w.cluster.Publish(socketxp.Hint{})
	s.isCut(t, socketxp.CodeTokenRevoked)
	path := "/api/v1/tokens/" + tok.ID
	refused := c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
	if !strings.Contains(refused.detail, "restored from a backup") || refused.hint == "" {
		t.Errorf("L-10 it is told %q, %q", refused.detail, refused.hint)
	}
	c.do(post, path+"/confirm", "", cookie(before)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	_, stale := w.newSignIn(socketxp.FreshAuth + time.Second)
	c.do(post, path+"/confirm", "", cookie(stale)...).want(t, http.StatusForbidden, socketxp.CodeReauthRequired)
	_, admin := w.newSignIn(0)
	if got := into[api.Token](t, c.do(get, path, "", cookie(admin)...)); got.State != api.TokenUnconfirmed {
		t.Errorf("it is listed as %s", got.State)
	}
	if got := into[api.Token](t, c.do(post, path+"/confirm", "", cookie(admin)...)); got.State != api.TokenLive {
		t.Errorf("after it was confirmed it is listed as %s", got.State)
	}
	c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusOK, "")
	if n := w.audited(w.account.ID, "token.confirm", ""); n != 1 {
		t.Errorf("%d audit records", n)
	}
	t.Run("L-10 what a confirmation changes nothing of", func(t *testing.T) {
		again := c.do(post, path+"/confirm", "", cookie(admin)...).want(t, http.StatusConflict, socketxp.CodeConflict)
		if !strings.Contains(again.detail, "nothing to confirm") {
			t.Errorf("it is told %q", again.detail)
		}
		revoked, _ := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{})
		kept, _ := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{})
		if _, err := w.store.BeginEpoch(t.Context(), w.g.now(), socketxp.AuditEntry{At: w.g.now(), Action: "gateway.restore"}); err != nil {
			t.Fatal(err)
		}
		_, admin := w.newSignIn(0)
		c.do(post, "/api/v1/tokens/"+revoked.ID+"/revoke", "", cookie(admin)...).want(t, http.StatusNoContent, "")
		refused := c.do(post, "/api/v1/tokens/"+revoked.ID+"/confirm", "", cookie(admin)...).want(t, http.StatusConflict, socketxp.CodeConflict)
		if !strings.Contains(refused.detail, "the token is revoked") || refused.hint == "" {
			t.Errorf("it is told %q, %q", refused.detail, refused.hint)
		}
		if got := into[api.Token](t, c.do(get, "/api/v1/tokens/"+revoked.ID, "", cookie(admin)...)); got.State != api.TokenRevoked {
			t.Errorf("it is %s", got.State)
		}
		c.do(post, "/api/v1/tokens/"+kept.ID+"/confirm", "", cookie(admin)...).want(t, http.StatusOK, "")
		if n := w.audited(w.account.ID, "token.confirm", ""); n != 2 {
			t.Errorf("%d audit records", n)
		}
	})
}
