package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

func signUpBody(email, password, account string) string {
	return fmt.Sprintf(`{"email":%q,"password":%q,"account":%q}`, email, password, account)
}

func signingUp(t *testing.T, change ...func(*limits)) *world {
	t.Helper()
	return startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.SignUp = true }, change...)
}

func TestSignUp(t *testing.T) {
	t.Run("it is off unless it is turned on", func(t *testing.T) {
		w := start(t)
		c := w.rest()
		a := c.do(post, "/api/v1/signup", signUpBody("new@example.com", goodPassword, "mine")).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		if !strings.Contains(a.body, "nobody can sign up") || !strings.Contains(a.body, "ask its owner") {
			t.Errorf("it says %s", a.body)
		}
		if g := into[api.Gateway](t, c.do(get, "/api/v1/gateway", "")); g.SignUp {
			t.Error("the gateway says that it is on")
		}
		if n := must[int](t)(w.store.CountUsers(t.Context())); n != 1 {
			t.Errorf("there are %d users", n)
		}
	})
	t.Run("X-19 it makes nobody the first owner", func(t *testing.T) {
		w := startEmpty(t, t.TempDir(), func(c *Config, _ *Deps) { c.SignUp = true })
		c := w.rest()
		c.do(post, "/api/v1/signup", signUpBody("new@example.com", goodPassword, "mine")).want(t, http.StatusConflict, socketxp.CodeConflict)
		if g := into[api.Gateway](t, c.do(get, "/api/v1/gateway", "")); g.SignUp || g.SetUp {
			t.Errorf("it says %+v", g)
		}
		if n := must[int](t)(w.store.CountUsers(t.Context())); n != 0 {
			t.Errorf("there are %d users", n)
		}
	})
	w := signingUp(t)
	w.setOwnerPassword(goodPassword)
	c := w.rest()
	signIn := func(email, password string) restAnswer {
		return c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, email, password))
	}
	t.Run("A-30 the account is a new one, whatever the address", func(t *testing.T) {
		if g := into[api.Gateway](t, c.do(get, "/api/v1/gateway", "")); !g.SignUp {
			t.Error("the gateway does not say that it is on")
		}
		// The same domain and the same name as the account that is there.
		c.do(post, "/api/v1/signup", signUpBody(" Colleague@Example.com", "another good password", w.account.Name)).want(t, http.StatusAccepted, "")
		value := valueOf(t, signIn("colleague@example.com", "another good password").want(t, http.StatusOK, ""))
		me := into[api.Me](t, c.do(get, "/api/v1/me", "", cookie(value)...))
		if me.Account.ID == w.account.ID || me.Role != socketxp.RoleOwner || me.Account.Name != w.account.Name {
			t.Fatalf("got %+v", me)
		}
		if members := must[[]socketxp.Membership](t)(w.store.MembershipsOf(t.Context(), me.User.ID)); len(members) != 1 {
			t.Errorf("memberships %+v", members)
		}
		d, _ := w.register("secret-device", "default")
		if list := c.do(get, "/api/v1/devices", "", cookie(value)...); strings.Contains(list.body, d.Name) {
			t.Errorf("it sees %s", list.body)
		}
		if n := w.audited(me.Account.ID, "account.create", ""); n != 1 {
			t.Errorf("%d records of it", n)
		}
	})
	t.Run("X-03 an address that has an account is answered as one that has none, and stays as it is", func(t *testing.T) {
		var answers []string
		for _, email := range []string{"owner@example.com", "nobody-yet@example.com", "OWNER@example.com "} {
			begun := time.Now()
			a := c.do(post, "/api/v1/signup", signUpBody(email, "the password of a thief", "mine")).want(t, http.StatusAccepted, "")
			if took := time.Since(begun); took < w.g.rest.limits.refuseAfter {
				t.Errorf("%s: told after %v", email, took)
			}
			if a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s: a cookie was set", email)
			}
			for _, own := range []string{"Date", "Ratelimit-Remaining", "Ratelimit-Reset"} {
				a.header.Del(own)
			}
			answers = append(answers, fmt.Sprint(a.status, a.header, a.body))
		}
		if answers[0] != answers[1] || answers[1] != answers[2] {
			t.Errorf("got %q", answers)
		}
		signIn("owner@example.com", "the password of a thief").want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		value := valueOf(t, signIn("owner@example.com", goodPassword).want(t, http.StatusOK, ""))
		if me := into[api.Me](t, c.do(get, "/api/v1/me", "", cookie(value)...)); me.Account.ID != w.account.ID {
			t.Errorf("the owner is now %+v", me)
		}
		if n := w.audited(w.account.ID, "account.create", socketxp.CodeConflict); n != 2 {
			t.Errorf("%d records where the owner sees them", n)
		}
	})
	for name, bad := range map[string]string{
		"a short password":           signUpBody("b@example.com", "short", "mine"),
		"the address as password":    signUpBody("averylongaddress@example.com", "averylongaddress", "mine"),
		"no address":                 signUpBody("nobody", goodPassword, "mine"),
		"no account":                 signUpBody("b@example.com", goodPassword, " "),
		"an account with a trick":    signUpBody("b@example.com", goodPassword, "a\u202eb"),
		"an account of one's choice": `{"email":"b@example.com","password":"` + goodPassword + `","account":"x","account_id":"` + w.account.ID + `"}`,
		"a role":                     `{"email":"b@example.com","password":"` + goodPassword + `","account":"x","role":"owner"}`,
	} {
		t.Run("A-30 refused: "+name, func(t *testing.T) {
			c.do(post, "/api/v1/signup", bad).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		})
	}
	t.Run("W-06 another site can't", func(t *testing.T) {
		c.do(post, "/api/v1/signup", signUpBody("c@example.com", goodPassword, "mine"), "Origin", "https://evil.example").want(t, http.StatusForbidden, socketxp.CodeForbidden)
	})
	t.Run("X-17 what was typed as a password is nowhere", func(t *testing.T) {
		for _, account := range []string{"", w.account.ID} {
			for _, r := range must[[]socketxp.AuditRecord](t)(w.store.Audit(t.Context(), account, socketxp.AuditQuery{Limit: 1000})) {
				if strings.Contains(fmt.Sprint(r), "thief") {
					t.Fatalf("got %+v", r)
				}
			}
		}
	})
}

func TestSignUpLimits(t *testing.T) {
	t.Run("one network makes so many accounts", func(t *testing.T) {
		w := signingUp(t, func(l *limits) { l.http.signUp, l.http.refuseAfter = quota{1.0 / 360, 2}, 0 })
		c := w.rest()
		for i := range 2 {
			c.do(post, "/api/v1/signup", signUpBody(fmt.Sprintf("a%d@example.com", i), goodPassword, "mine")).want(t, http.StatusAccepted, "")
		}
		a := c.do(post, "/api/v1/signup", signUpBody("a2@example.com", goodPassword, "mine")).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		if a.header.Get("Retry-After") == "" {
			t.Error("it does not say when to come again")
		}
		if n := must[int](t)(w.store.CountUsers(t.Context())); n != 3 {
			t.Errorf("there are %d users", n)
		}
	})
	t.Run("X-01 its passwords wait in the one queue", func(t *testing.T) {
		w := signingUp(t, func(l *limits) { l.http.passwords, l.http.passwordQueue, l.http.passwordWait = 1, 0, time.Millisecond })
		leave := must[func()](t)(w.g.rest.passwords.enter(t.Context()))
		w.rest().do(post, "/api/v1/signup", signUpBody("a@example.com", goodPassword, "mine")).want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
		leave()
		w.rest().do(post, "/api/v1/signup", signUpBody("a@example.com", goodPassword, "mine")).want(t, http.StatusAccepted, "")
	})
}
