package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

const goodPassword = "correct horse battery staple"

// valueOf returns the value of the cookie that an answer sets.
func valueOf(t *testing.T, a restAnswer) string {
	t.Helper()
	cookies := must[[]*http.Cookie](t)(http.ParseCookie(strings.Split(a.header.Get("Set-Cookie"), ";")[0]))
	return cookies[0].Value
}

func TestSignIn(t *testing.T) {
	w := start(t)
	w.setOwnerPassword(goodPassword)
	c := w.rest()
	signIn := func(email, password string, headers ...string) restAnswer {
		return c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, email, password), headers...)
	}
	t.Run("W-17 the cookie", func(t *testing.T) {
		a := signIn("Owner@Example.com ", goodPassword).want(t, http.StatusOK, "")
		set := must[*http.Cookie](t)(http.ParseSetCookie(a.header.Get("Set-Cookie")))
		if set.Name != "__Host-socketxp" || !set.Secure || !set.HttpOnly || set.SameSite != http.SameSiteStrictMode || set.Path != "/" || set.Domain != "" || set.MaxAge <= 0 {
			t.Fatalf("got %s", a.header.Get("Set-Cookie"))
		}
		me := into[api.Me](t, c.do(get, "/api/v1/me", "", cookie(set.Value)...))
		if me.User.Email != "owner@example.com" || me.Role != socketxp.RoleOwner || me.Credential.Kind != socketxp.KindSignIn || me.Credential.FreshUntil == nil || len(me.Rights) != len(socketxp.Rights) {
			t.Fatalf("got %+v", me)
		}
	})
	t.Run("X-03 a wrong password, an unknown address and one that is none are told alike", func(t *testing.T) {
		var bodies []string
		for _, email := range []string{"owner@example.com", "nobody@example.com", "not an address"} {
			start := time.Now()
			a := signIn(email, "wrong wrong wrong").want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
			if took := time.Since(start); took < w.g.rest.limits.refuseAfter {
				t.Errorf("%s: told after %v", email, took)
			}
			if a.header.Get("Set-Cookie") != "" {
				t.Error("a cookie was set")
			}
			bodies = append(bodies, a.body)
		}
		if bodies[0] != bodies[1] || bodies[1] != bodies[2] {
			t.Fatalf("got %q", bodies)
		}
	})
	t.Run("X-03 a disabled user, too", func(t *testing.T) {
		other := w.as(w.otherTenant("umbrella"))
		other.setOwnerPassword(goodPassword)
		signIn("umbrella@example.com", goodPassword).want(t, http.StatusOK, "")
		if err := w.store.SetUserDisabled(t.Context(), other.owner.ID, w.g.now(), other.entry("user.disable")); err != nil {
			t.Fatal(err)
		}
		if a := signIn("umbrella@example.com", goodPassword); a.body != signIn("nobody2@example.com", goodPassword).body {
			t.Fatalf("got %s", a.body)
		}
	})
	t.Run("X-17 nothing that was typed is in the audit", func(t *testing.T) {
		signIn("my-secret-by-mistake@example.com", "typed-in-the-wrong-field")
		for _, account := range []string{"", w.account.ID} {
			for _, r := range must[[]socketxp.AuditRecord](t)(w.store.Audit(t.Context(), account, socketxp.AuditQuery{Limit: 1000})) {
				if strings.Contains(fmt.Sprint(r), "secret-by-mistake") || strings.Contains(fmt.Sprint(r), "typed-in") {
					t.Fatalf("got %+v", r)
				}
			}
		}
		if n := w.audited(w.account.ID, "signin.create", socketxp.CodeUnauthenticated); n == 0 {
			t.Fatal("a wrong password of a user is not recorded with the account")
		}
	})
	t.Run("W-15 a new value each time, and the one of before is good no more", func(t *testing.T) {
		first := valueOf(t, signIn("owner@example.com", goodPassword))
		second := valueOf(t, signIn("owner@example.com", goodPassword, cookie(first)...))
		third := valueOf(t, c.do(post, "/api/v1/reauth", `{"password":"`+goodPassword+`"}`, cookie(second)...))
		fourth := valueOf(t, c.do(put, "/api/v1/me/password", `{"current_password":"`+goodPassword+`","new_password":"another good password"}`, cookie(third)...))
		for _, old := range []string{first, second, third} {
			c.do(get, "/api/v1/me", "", cookie(old)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		}
		c.do(get, "/api/v1/me", "", cookie(fourth)...).want(t, http.StatusOK, "")
		c.do(put, "/api/v1/me/password", `{"current_password":"another good password","new_password":"`+goodPassword+`"}`, cookie(fourth)...).want(t, http.StatusOK, "")
	})
	t.Run("W-15 a value that was planted is not taken over", func(t *testing.T) {
		planted := strings.Repeat("A", 43)
		if got := valueOf(t, signIn("owner@example.com", goodPassword, cookie(planted)...)); got == planted {
			t.Fatal("it was")
		}
		c.do(get, "/api/v1/me", "", cookie(planted)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	})
	t.Run("another's new password ends all sign-ins", func(t *testing.T) {
		value := valueOf(t, signIn("owner@example.com", goodPassword))
		other := valueOf(t, signIn("owner@example.com", goodPassword))
		for _, tc := range []struct {
			body string
			code socketxp.Code
		}{
			{`{"current_password":"wrong wrong wrong","new_password":"a good one indeed"}`, socketxp.CodeForbidden},
			{`{"current_password":"` + goodPassword + `","new_password":"short"}`, socketxp.CodeInvalid},
			{`{"current_password":"` + goodPassword + `","new_password":"owner@example.com"}`, socketxp.CodeInvalid},
		} {
			if a := c.do(put, "/api/v1/me/password", tc.body, cookie(value)...); a.code != tc.code {
				t.Fatalf("got %s", a.body)
			}
		}
		c.do(put, "/api/v1/me/password", `{"current_password":"`+goodPassword+`","new_password":"`+goodPassword+`2"}`, cookie(value)...).want(t, http.StatusOK, "")
		c.do(get, "/api/v1/me", "", cookie(other)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		signIn("owner@example.com", goodPassword).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		w.setOwnerPassword(goodPassword)
	})
	t.Run("sign-ins are listed and ended one by one, and by signing out", func(t *testing.T) {
		client := w.client("")
		must[api.Me](t)(client.SignIn(t.Context(), "owner@example.com", goodPassword))
		_, other := w.newSignIn(0)
		list := must[[]api.SignIn](t)(client.SignIns(t.Context()))
		current, ended := 0, 0
		for _, s := range list {
			if s.Current {
				current++
			} else if err := client.EndSignIn(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			} else {
				ended++
			}
		}
		if current != 1 || ended == 0 {
			t.Fatalf("got %+v", list)
		}
		c.do(get, "/api/v1/me", "", cookie(other)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		if err := client.SignOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := client.Me(t.Context())
		wantCode(t, err, socketxp.CodeUnauthenticated)
	})
	t.Run("idle for too long, or too old", func(t *testing.T) {
		_, value := w.newSignIn(0)
		for _, later := range []time.Duration{socketxp.SignInIdle, 2 * time.Hour} {
			hash, _ := parseCookie(value)
			if _, err := w.store.SignInBySecret(t.Context(), hash, w.g.now().Add(later)); socketxp.CodeOf(err) != socketxp.CodeNotFound {
				t.Errorf("after %v: %v", later, err)
			}
		}
	})
}

func TestPasswordThrottle(t *testing.T) {
	w := start(t, func(l *limits) { l.http.signIn, l.http.refuseAfter = quota{1000, 1000}, 0 })
	w.setOwnerPassword(goodPassword)
	c := w.rest()
	for _, email := range []string{"owner@example.com", "nobody@example.com"} {
		t.Run("X-01 X-03 "+email, func(t *testing.T) {
			try := func(password string) restAnswer {
				return c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, email, password))
			}
			for range freeTries {
				try("wrong wrong wrong").want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
			}
			a := try(goodPassword).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
			if a.header.Get("Retry-After") != "1" {
				t.Fatalf("Retry-After %q", a.header.Get("Retry-After"))
			}
		})
	}
	t.Run("X-01 tries at the same time are no more than tries in a row", func(t *testing.T) {
		w := start(t, func(l *limits) { l.http.signIn, l.http.refuseAfter = quota{1000, 1000}, 0 })
		w.setOwnerPassword(goodPassword)
		c := w.rest()
		var mu sync.Mutex
		judged := 0
		var all sync.WaitGroup
		for range 30 {
			all.Go(func() {
				if a := c.do(post, "/api/v1/signin", `{"email":"owner@example.com","password":"wrong wrong wrong"}`); a.code == socketxp.CodeUnauthenticated {
					mu.Lock()
					defer mu.Unlock()
					judged++
				}
			})
		}
		all.Wait()
		if judged > freeTries+1 {
			t.Fatalf("%d passwords were judged", judged)
		}
	})
	t.Run("X-01 an address that tries too often", func(t *testing.T) {
		w := start(t, func(l *limits) { l.http.signIn = quota{1e-9, 2} })
		c := w.rest()
		for i := range 3 {
			a := c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":"user%d@example.com","password":"wrong wrong wrong"}`, i))
			if (a.status == http.StatusTooManyRequests) != (i == 2) {
				t.Fatalf("try %d: %s", i, a.body)
			}
		}
	})
}

func TestHold(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 4: 0, 5: time.Second, 6: 2 * time.Second, 10: 32 * time.Second, 14: 512 * time.Second, 15: longestHold, 99: longestHold, 1 << 20: longestHold} {
		if got := holdAfter(n); got != want {
			t.Errorf("after %d failures %v, want %v", n, got, want)
		}
	}
	now := time.Now()
	if err := held(now, maxTries, time.Time{}); socketxp.CodeOf(err) != socketxp.CodeRateLimited {
		t.Errorf("X-01 after %d failures: %v", maxTries, err)
	}
	s := newStrangers()
	for i := range maxStrangers + 100 {
		_ = s.try([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, now)
	}
	if len(s.tries) > maxStrangers {
		t.Errorf("X-01 %d strangers are remembered", len(s.tries))
	}
}

func TestPasswordQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := defaultHTTPLimits()
		l.passwords, l.passwordQueue = 1, 1
		p := newPasswords(l)
		leave, err := p.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() {
			_, err := p.enter(t.Context())
			waiting <- err
		}()
		synctest.Wait()
		if _, err := p.enter(t.Context()); socketxp.CodeOf(err) != socketxp.CodeUnavailable {
			t.Fatalf("X-01 the queue is full, and got %v", err)
		}
		if err := <-waiting; socketxp.CodeOf(err) != socketxp.CodeUnavailable { // after passwordWait
			t.Fatalf("X-01 waited too long, and got %v", err)
		}
		leave()
		leave, err = p.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.enter(gone); err == nil {
			t.Fatal("a client that left got a place")
		}
		leave()
	})
}

func TestSetUp(t *testing.T) {
	w := start(t)
	t.Run("X-19 not when there is a user", func(t *testing.T) {
		if link := must[string](t)(w.g.SetUpLink(t.Context())); link != "" {
			t.Fatal("there is a link")
		}
		w.rest().do(post, "/api/v1/setup", `{"secret":"","email":"a@example.com","password":"`+goodPassword+`","account":"x"}`).
			want(t, http.StatusConflict, socketxp.CodeConflict)
	})
	empty := startEmpty(t, t.TempDir(), nil)
	c := empty.rest()
	link := must[string](t)(empty.g.SetUpLink(t.Context()))
	old := link[strings.Index(link, "#")+1:]
	link = must[string](t)(empty.g.SetUpLink(t.Context()))
	page, secret, _ := strings.Cut(link, "#")
	body := func(secret, email, password, account string) string {
		return fmt.Sprintf(`{"secret":%q,"email":%q,"password":%q,"account":%q}`, secret, email, password, account)
	}
	t.Run("X-19 the link", func(t *testing.T) {
		if page != empty.g.url+"/setup" || len(secret) != 43 || secret == old {
			t.Fatalf("got %s", link)
		}
		if kept := must[string](t)(empty.store.Setting(t.Context(), setUpSetting)); strings.Contains(kept, secret) || len(kept) != 64 {
			t.Fatal("the secret itself is kept")
		}
		if s := into[api.SetUpState](t, c.do(get, "/api/v1/setup", "")); !s.Needed {
			t.Fatal("it is not needed")
		}
		if g := into[api.Gateway](t, c.do(get, "/api/v1/gateway", "")); g.SetUp || g.Version != "test" {
			t.Fatalf("got %+v", g)
		}
	})
	for name, bad := range map[string]string{"none": "", "the one of before": old, "another": strings.Repeat("A", 43), "with more": secret + "A"} {
		t.Run("X-19 a secret that is "+name, func(t *testing.T) {
			c.do(post, "/api/v1/setup", body(bad, "a@example.com", goodPassword, "home")).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		})
	}
	for name, bad := range map[string]string{
		"a short password":          body(secret, "a@example.com", "short", "home"),
		"the address as password":   body(secret, "averylongaddress@example.com", "averylongaddress@example.com", "home"),
		"no address":                body(secret, "nobody", goodPassword, "home"),
		"no account":                body(secret, "a@example.com", goodPassword, " "),
		"an account with a trick":   body(secret, "a@example.com", goodPassword, "a\u202eb"),
		"a field that is not there": `{"secret":"` + secret + `","email":"a@example.com","password":"` + goodPassword + `","account":"x","role":"owner"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c.do(post, "/api/v1/setup", bad).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		})
	}
	t.Run("X-19 once, also when tried at the same time", func(t *testing.T) {
		var mu sync.Mutex
		var good []restAnswer
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if a := c.do(post, "/api/v1/setup", body(secret, fmt.Sprintf("a%d@example.com", i), goodPassword, "home")); a.status == http.StatusOK {
					mu.Lock()
					defer mu.Unlock()
					good = append(good, a)
				} else if a.code != socketxp.CodeConflict && a.code != socketxp.CodeForbidden {
					t.Error(a.body)
				}
			})
		}
		all.Wait()
		if len(good) != 1 {
			t.Fatalf("%d succeeded", len(good))
		}
		me := into[api.Me](t, c.do(get, "/api/v1/me", "", cookie(valueOf(t, good[0]))...))
		if me.Role != socketxp.RoleOwner || me.Account.Name != "home" {
			t.Fatalf("got %+v", me)
		}
		c.do(post, "/api/v1/setup", body(secret, "late@example.com", goodPassword, "home")).want(t, http.StatusConflict, socketxp.CodeConflict)
		if s := into[api.SetUpState](t, c.do(get, "/api/v1/setup", "")); s.Needed {
			t.Fatal("it is still needed")
		}
	})
}
