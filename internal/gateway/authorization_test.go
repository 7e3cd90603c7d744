package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

const authorizationPath = "/api/v1/device-authorization"

// authorize asks for a sign-in as a program does.
func (c *restClient) authorize(body string) api.DeviceAuthorization {
	c.w.Helper()
	return into[api.DeviceAuthorization](c.w.T, c.do(post, authorizationPath, body))
}

func (c *restClient) poll(deviceCode string) restAnswer {
	c.w.Helper()
	return c.do(post, authorizationPath+"/token", fmt.Sprintf(`{"device_code":%q}`, deviceCode))
}

func (c *restClient) confirm(userCode string, approve bool, credential []string) restAnswer {
	c.w.Helper()
	return c.do(post, authorizationPath+"/confirm", fmt.Sprintf(`{"user_code":%q,"approve":%v}`, userCode, approve), credential...)
}

func TestAuthorization(t *testing.T) {
	w := start(t, func(l *limits) { l.http.poll = quota{1000, 1000} })
	c := w.rest()
	owner := w.tenant()
	signedIn := cookie(owner.cookie)

	t.Run("approved by a sign-in", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop"}`)
		if asked.ExpiresIn != 600 || asked.Interval != 5 || asked.VerificationURI != w.g.Address().URL+"/cli" || asked.VerificationURIComplete != asked.VerificationURI+"#"+asked.UserCode {
			t.Fatalf("%+v", asked)
		}
		if secret, err := base64.RawURLEncoding.DecodeString(asked.DeviceCode); err != nil || len(secret) < 16 {
			t.Fatalf("the device code has %d bytes, %v", len(secret), err)
		}
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
		shown := into[api.PendingAuthorization](t, c.do(post, authorizationPath+"/show", `{"user_code":"`+strings.ToLower(asked.UserCode)+`"}`, signedIn...))
		if shown.Host != "laptop" || shown.RemoteAddr != "127.0.0.1" || shown.UserCode != asked.UserCode {
			t.Fatalf("%+v", shown)
		}
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNoContent, "")
		got := into[api.DeviceToken](t, c.poll(asked.DeviceCode))
		if got.TokenType != "Bearer" || got.ExpiresIn < 30*24*3600-60 || got.ExpiresIn > 30*24*3600 {
			t.Fatalf("%+v", got)
		}
		row := must[socketxp.Token](t)(w.store.Token(t.Context(), w.account.ID, got.TokenID))
		if row.Kind != socketxp.TokenAPI || row.Name != "CLI on laptop" || row.CreatedBy != w.owner.ID || row.ParentID != "" || !slices.Equal(row.Scope.Rights, socketxp.RoleOwner.Rights()) {
			t.Fatalf("%+v", row)
		}
		me := into[api.Me](t, c.do(get, "/api/v1/me", "", bearer(got.AccessToken)...))
		if me.User.ID != w.owner.ID || me.Credential.ID != got.TokenID {
			t.Fatalf("%+v", me)
		}
		// Once.
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeExpiredToken)
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		if n := w.audited(w.account.ID, "authorization.approve", ""); n != 1 {
			t.Errorf("%d audit records of the approval", n)
		}
		if n := w.audited(w.account.ID, "authorization.confirm", socketxp.CodeNotFound); n != 1 {
			t.Errorf("%d audit records of the refusal", n)
		}
		// It makes access tokens, which reach no further and end with it.
		child := into[api.CreatedToken](t, c.do(post, "/api/v1/tokens", `{"kind":"access","name":"ssh"}`, bearer(got.AccessToken)...))
		if child.ParentID != got.TokenID || child.ExpiresAt.After(row.ExpiresAt) {
			t.Fatalf("A-23 %+v", child)
		}
	})
	t.Run("a life of its own, up to the longest", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop","expires_in":3600}`)
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNoContent, "")
		if got := into[api.DeviceToken](t, c.poll(asked.DeviceCode)); got.ExpiresIn < 3500 || got.ExpiresIn > 3600 {
			t.Fatalf("%+v", got)
		}
		for _, n := range []string{"0", "-1", "31536001", "1e30"} {
			c.do(post, authorizationPath, `{"expires_in":`+n+`}`).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
	})
	t.Run("denied", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop"}`)
		c.confirm(asked.UserCode, false, signedIn).want(t, http.StatusNoContent, "")
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAccessDenied)
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		if n := w.audited(w.account.ID, "authorization.deny", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
	})
	t.Run("device codes that are none", func(t *testing.T) {
		asked := c.authorize(`{}`)
		for _, code := range []string{"", "x", asked.UserCode, asked.DeviceCode[1:], asked.DeviceCode + "A", asked.DeviceCode + "=", base64.RawURLEncoding.EncodeToString(make([]byte, deviceCodeSize))} {
			c.poll(code).want(t, http.StatusBadRequest, socketxp.CodeExpiredToken)
		}
	})
	t.Run("run out", func(t *testing.T) {
		now := w.g.now()
		secret := make([]byte, deviceCodeSize)
		secret[0] = 7
		a := socketxp.DeviceAuthorization{
			ID: socketxp.NewID(now), DeviceHash: sha256.Sum256(secret), UserCode: socketxp.NewUserCode(), Host: "laptop", TokenLife: time.Hour,
			CreatedAt: now.Add(-socketxp.AuthorizationLife), ExpiresAt: now,
		}
		if err := w.store.CreateAuthorization(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		c.confirm(a.UserCode, true, signedIn).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		c.poll(base64.RawURLEncoding.EncodeToString(secret)).want(t, http.StatusBadRequest, socketxp.CodeExpiredToken)
	})
	t.Run("A-23 approved by a token: no more and no longer than that", func(t *testing.T) {
		parent, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{
			Rights: []socketxp.Right{socketxp.RightAccountRead, socketxp.RightTokensAdmin, socketxp.RightTokensWrite}, Networks: []string{"127.0.0.0/8"},
		}, time.Hour)
		asked := c.authorize(`{"host":"second"}`)
		c.confirm(asked.UserCode, true, bearer(text)).want(t, http.StatusNoContent, "")
		got := into[api.DeviceToken](t, c.poll(asked.DeviceCode))
		row := must[socketxp.Token](t)(w.store.Token(t.Context(), w.account.ID, got.TokenID))
		if row.ParentID != parent.ID || !row.ExpiresAt.Equal(parent.ExpiresAt) || !slices.Equal(row.Scope.Rights, parent.Scope.Rights) || !slices.Equal(row.Scope.Networks, parent.Scope.Networks) {
			t.Fatalf("%+v", row)
		}
		c.do(post, "/api/v1/tokens/"+parent.ID+"/revoke", "", signedIn...).want(t, http.StatusNoContent, "")
		c.do(get, "/api/v1/me", "", bearer(got.AccessToken)...).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
	})
	t.Run("A-23 not by a token that may make no api tokens", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.TokenAPI.DefaultRights()})
		asked := c.authorize(`{"host":"second"}`)
		c.confirm(asked.UserCode, true, bearer(text)).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
	})
	t.Run("the approving token was revoked before the poll", func(t *testing.T) {
		parent, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
		asked := c.authorize(`{"host":"second"}`)
		c.confirm(asked.UserCode, true, bearer(text)).want(t, http.StatusNoContent, "")
		c.do(post, "/api/v1/tokens/"+parent.ID+"/revoke", "", signedIn...).want(t, http.StatusNoContent, "")
		c.poll(asked.DeviceCode).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
	})
	t.Run("the approver was removed before the poll", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop"}`)
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNoContent, "")
		w.store.removed.Store(true)
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAccessDenied)
		w.store.removed.Store(false)
		into[api.DeviceToken](t, c.poll(asked.DeviceCode))
	})
	t.Run("R-08 polled by many at once, one gets the token", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop"}`)
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNoContent, "")
		var won atomic.Int32
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if a := c.poll(asked.DeviceCode); a.status == http.StatusOK {
					won.Add(1)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d got it", won.Load())
		}
	})
	t.Run("W-19 neither the page nor a GET decides", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop"}`)
		for _, path := range []string{"/cli", "/cli?user_code=" + asked.UserCode, "/cli?code=" + asked.UserCode + "&approve=true"} {
			if a := c.do(get, path, "", signedIn...); a.status != http.StatusOK || strings.Contains(a.body, asked.UserCode) {
				t.Errorf("%s: %d", path, a.status)
			}
		}
		c.do(get, authorizationPath+"/confirm", "", signedIn...).want(t, http.StatusMethodNotAllowed, socketxp.CodeInvalid)
		a := c.do(post, authorizationPath+"/confirm", `{"user_code":"`+asked.UserCode+`"}`, signedIn...)
		a.want(t, http.StatusBadRequest, socketxp.CodeInvalid) // no decision is none
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
	})
	t.Run("W-06 nor does another site", func(t *testing.T) {
		asked := c.authorize(`{"host":"laptop"}`)
		body := `{"user_code":"` + asked.UserCode + `","approve":true}`
		c.do(post, authorizationPath+"/confirm", body, append([]string{"Sec-Fetch-Site", "cross-site"}, signedIn...)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		c.do(post, authorizationPath+"/confirm", body, append([]string{"Content-Type", "text/plain"}, signedIn...)...).want(t, http.StatusUnsupportedMediaType, socketxp.CodeInvalid)
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
	})
}

// A flood has limits, of whatever it is made.
func TestAuthorizationLimits(t *testing.T) {
	t.Run("asking, by address", func(t *testing.T) {
		w := start(t)
		c := w.rest()
		for range defaultHTTPLimits().authorize.burst {
			c.authorize(`{}`)
		}
		a := c.do(post, authorizationPath, `{}`)
		if a.want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited).header.Get("Retry-After") == "" {
			t.Error("it does not say when to come again")
		}
	})
	t.Run("slow_down for who polls too fast", func(t *testing.T) {
		w := start(t)
		c := w.rest()
		asked := c.authorize(`{}`)
		for range defaultHTTPLimits().poll.burst {
			c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
		}
		c.poll(asked.DeviceCode).want(t, http.StatusBadRequest, socketxp.CodeSlowDown)
	})
	t.Run("guessing user codes, one after the other or all at once", func(t *testing.T) {
		w := start(t)
		c := w.rest()
		signedIn := cookie(w.tenant().cookie)
		asked := c.authorize(`{"host":"laptop"}`)
		for range 20 { // right ones cost nothing
			into[api.PendingAuthorization](t, c.do(post, authorizationPath+"/show", `{"user_code":"`+asked.UserCode+`"}`, signedIn...))
		}
		tries := defaultHTTPLimits().codes.burst
		var judged, held atomic.Int32
		var all sync.WaitGroup
		for range 5 * tries {
			all.Go(func() {
				switch a := c.confirm(socketxp.NewUserCode(), true, signedIn); a.code {
				case socketxp.CodeNotFound:
					judged.Add(1)
				case socketxp.CodeRateLimited:
					held.Add(1)
				}
			})
		}
		all.Wait()
		if int(judged.Load()) > tries || int(judged.Load()+held.Load()) != 5*tries {
			t.Fatalf("%d guesses were judged, %d were held up", judged.Load(), held.Load())
		}
		// Then the right one helps neither this person nor another one from there.
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		other := w.otherTenant("umbrella")
		c.confirm(asked.UserCode, true, cookie(other.cookie)).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
	})
	t.Run("guessing from many addresses, by person", func(t *testing.T) {
		w := start(t)
		c := w.rest()
		asked := c.authorize(`{"host":"laptop"}`)
		for range defaultHTTPLimits().codes.burst { // from elsewhere
			w.g.rest.codesByUser.take(w.owner.ID)
		}
		c.confirm(asked.UserCode, true, cookie(w.tenant().cookie)).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		other := w.otherTenant("umbrella")
		c.confirm(asked.UserCode, true, cookie(other.cookie)).want(t, http.StatusNoContent, "")
	})
	t.Run("W-08 hostile names of machines are text", func(t *testing.T) {
		w := start(t)
		c := w.rest()
		signedIn := cookie(w.tenant().cookie)
		asked := c.authorize(`{"host":"\u001b]0;x\u0007\u202e<img src=x onerror=alert(1)>` + strings.Repeat("ä", 200) + `"}`)
		shown := into[api.PendingAuthorization](t, c.do(post, authorizationPath+"/show", `{"user_code":"`+asked.UserCode+`"}`, signedIn...))
		if !strings.HasPrefix(shown.Host, "?]0;x??<img") || len([]rune(shown.Host)) > 128 {
			t.Fatalf("%q", shown.Host)
		}
		c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNoContent, "")
		got := into[api.DeviceToken](t, c.poll(asked.DeviceCode))
		row := must[socketxp.Token](t)(w.store.Token(t.Context(), w.account.ID, got.TokenID))
		if socketxp.CheckDisplayText("name", row.Name, 128) != nil {
			t.Fatalf("%q", row.Name)
		}
		c.do(post, authorizationPath, `{"host":"`+strings.Repeat("x", 256)+`"}`).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	})
}

// Neither code is found where somebody could read it who has not asked or decided.
func TestAuthorizationSecrets(t *testing.T) {
	w := start(t)
	c := w.rest()
	signedIn := cookie(w.tenant().cookie)
	asked := c.authorize(`{"host":"laptop"}`)
	c.confirm(asked.UserCode, true, signedIn).want(t, http.StatusNoContent, "")
	got := into[api.DeviceToken](t, c.poll(asked.DeviceCode))
	for _, path := range []string{"/audit", "/tokens", "/events", "/audit/export"} {
		body := c.do(get, "/api/v1"+path, "", signedIn...).body
		for what, secret := range map[string]string{"device code": asked.DeviceCode, "user code": asked.UserCode, "token": got.AccessToken} {
			if strings.Contains(body, secret) {
				t.Errorf("X-17 %s shows the %s", path, what)
			}
		}
	}
}
