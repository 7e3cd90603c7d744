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
		for _, out := range []func(context.Context) error{client.SignOut, client.SignOutEverywhere} {
			if err := out(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := client.Me(t.Context())
			wantCode(t, err, socketxp.CodeUnauthenticated)
			must[api.Me](t)(client.SignIn(t.Context(), "owner@example.com", goodPassword))
		}
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
			for range socketxp.FreeTries {
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
		if judged > socketxp.FreeTries+1 {
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

func TestStrangersAreBounded(t *testing.T) {
	s, now := newStrangers(), time.Now()
	for i := range maxStrangers + 100 {
		s.take([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, now)
	}
	if len(s.tries) > maxStrangers {
		t.Errorf("X-01 %d strangers are remembered", len(s.tries))
	}
}

// shown is the cookies of a browser that an answer has made known, and that is not
// signed in.
func shown(t *testing.T, a restAnswer) []string {
	t.Helper()
	for _, line := range a.header.Values("Set-Cookie") {
		if c := must[*http.Cookie](t)(http.ParseSetCookie(line)); c.Name == api.KnownCookie {
			return []string{"Cookie", c.Name + "=" + c.Value}
		}
	}
	t.Fatalf("no browser is known by %q", a.header.Values("Set-Cookie"))
	return nil
}

// flood has strangers guess the owner's password until they may not any more.
func (w *world) flood() {
	w.Helper()
	for i := range socketxp.MaxTries {
		try := must[socketxp.Try](w.T)(w.store.TakeTry(w.Context(), w.owner.ID, [32]byte{}, w.g.now().Add(time.Duration(i)*socketxp.LongestHold)))
		if try.Wait > 0 {
			w.Fatalf("try %d: %+v", i, try)
		}
	}
}

func TestKnownBrowser(t *testing.T) {
	newWorld := func(t *testing.T) (*world, *restClient, func(password string, headers ...string) restAnswer) {
		w := start(t, func(l *limits) { l.http.signIn, l.http.refuseAfter = quota{1000, 1000}, 0 })
		w.setOwnerPassword(goodPassword)
		c := w.rest()
		return w, c, func(password string, headers ...string) restAnswer {
			return c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":"owner@example.com","password":%q}`, password), headers...)
		}
	}
	const wrong = "wrong wrong wrong"
	t.Run("X-04 the cookie", func(t *testing.T) {
		_, c, signIn := newWorld(t)
		lines := signIn(goodPassword).want(t, http.StatusOK, "").header.Values("Set-Cookie")
		if len(lines) != 2 {
			t.Fatalf("got %q", lines)
		}
		set := must[*http.Cookie](t)(http.ParseSetCookie(lines[1]))
		if set.Name != "__Host-socketxp-known" || len(set.Value) != 43 || !set.Secure || !set.HttpOnly || set.SameSite != http.SameSiteStrictMode || set.Path != "/" || set.Domain != "" || set.MaxAge != 90*24*3600 {
			t.Fatalf("got %s", lines[1])
		}
		// It is no credential, by neither name.
		c.do(get, "/api/v1/me", "", "Cookie", lines[1]).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		c.do(get, "/api/v1/me", "", cookie(set.Value)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	})
	t.Run("X-04 a flood of strangers does not lock the owner out where the owner is known", func(t *testing.T) {
		w, c, signIn := newWorld(t)
		browser := shown(t, signIn(goodPassword).want(t, http.StatusOK, ""))
		w.flood()
		signIn(goodPassword).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		signIn(goodPassword, "Cookie", api.KnownCookie+"="+strings.Repeat("A", 43)).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		signIn(goodPassword, "Cookie", browser[1]+"; "+browser[1]).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited) // which of them?
		signIn(wrong, browser...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		a := signIn(goodPassword, browser...).want(t, http.StatusOK, "")
		// What has to be entered again is, and the next time the browser is known by another.
		again := shown(t, c.do(post, "/api/v1/reauth", `{"password":"`+goodPassword+`"}`, "Cookie", cookieName+"="+valueOf(t, a)+"; "+shown(t, a)[1]).want(t, http.StatusOK, ""))
		if again[1] == browser[1] {
			t.Fatal("the value stays")
		}
		signIn(goodPassword, browser...).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		signIn(goodPassword, again...).want(t, http.StatusOK, "")
	})
	t.Run("X-04 the owner ends a flood by a new password", func(t *testing.T) {
		w, c, signIn := newWorld(t)
		a := signIn(goodPassword).want(t, http.StatusOK, "")
		stolen := shown(t, a)
		w.flood()
		c.do(put, "/api/v1/me/password", `{"current_password":"`+goodPassword+`","new_password":"another good password"}`, "Cookie", cookieName+"="+valueOf(t, a)+"; "+stolen[1]).want(t, http.StatusOK, "")
		for range socketxp.FreeTries {
			signIn(wrong, stolen...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		}
		signIn("another good password").want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited) // the stolen one is a stranger's now
	})
	t.Run("X-01 a stolen cookie is held up by itself, and holds nobody up", func(t *testing.T) {
		_, _, signIn := newWorld(t)
		mine, stolen := shown(t, signIn(goodPassword)), shown(t, signIn(goodPassword))
		for range socketxp.FreeTries {
			signIn(wrong, stolen...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		}
		if a := signIn(goodPassword, stolen...).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited); a.header.Get("Retry-After") != "1" {
			t.Fatalf("Retry-After %q", a.header.Get("Retry-After"))
		}
		signIn(goodPassword, mine...).want(t, http.StatusOK, "")
		signIn(goodPassword).want(t, http.StatusOK, "")
	})
	t.Run("X-03 X-04 what is shown says nothing of an address that is not its own", func(t *testing.T) {
		w, c, signIn := newWorld(t)
		browser := shown(t, signIn(goodPassword))
		other := w.as(w.otherTenant("umbrella"))
		other.setOwnerPassword(goodPassword)
		bodies := map[string]bool{}
		for _, email := range []string{"umbrella@example.com", "nobody@example.com"} {
			try := func(headers ...string) restAnswer {
				return c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, email, wrong), headers...)
			}
			for range socketxp.FreeTries {
				bodies[try(browser...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated).body] = true
			}
			for _, headers := range [][]string{nil, browser} {
				a := try(headers...).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
				bodies[a.body+a.header.Get("Retry-After")] = true
			}
		}
		if len(bodies) != 2 {
			t.Fatalf("got %v", bodies)
		}
	})
	t.Run("X-04 signed out everywhere, no browser is known", func(t *testing.T) {
		w, c, signIn := newWorld(t)
		lost := signIn(goodPassword).want(t, http.StatusOK, "")
		a := signIn(goodPassword).want(t, http.StatusOK, "")
		out := c.do(remove, "/api/v1/me/signins", "", cookie(valueOf(t, a))...).want(t, http.StatusNoContent, "") //nolint:misspell // the plural of sign-in
		if set := must[*http.Cookie](t)(http.ParseSetCookie(out.header.Get("Set-Cookie"))); set.Name != cookieName || set.MaxAge >= 0 {
			t.Errorf("got %v", set)
		}
		for _, value := range []string{valueOf(t, lost), valueOf(t, a)} {
			c.do(get, "/api/v1/me", "", cookie(value)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		}
		w.flood()
		signIn(goodPassword, shown(t, lost)...).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
		if n := w.audited(w.account.ID, "signin.end-all", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
	})
	t.Run("X-01 what was not judged is not counted", func(t *testing.T) {
		w, c, signIn := newWorld(t)
		for range cap(w.g.rest.passwords.queue) {
			w.g.rest.passwords.queue <- struct{}{}
		}
		for range 2 * socketxp.FreeTries {
			signIn(goodPassword).want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
			c.do(post, "/api/v1/signin", `{"email":"nobody@example.com","password":"`+wrong+`"}`).want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
		}
		for range cap(w.g.rest.passwords.queue) {
			<-w.g.rest.passwords.queue
		}
		signIn(goodPassword).want(t, http.StatusOK, "")
	})
}

// overtaken is a store on which the password is another by the time a sign-in or a new
// password is to be written.
type overtaken struct {
	socketxp.Store
	by func()
}

func (s *overtaken) CreateSignIn(ctx context.Context, in socketxp.SignIn, by socketxp.Entrance, e socketxp.AuditEntry) error {
	s.once()
	return s.Store.CreateSignIn(ctx, in, by, e)
}

func (s *overtaken) SetPassword(ctx context.Context, userID, old, hash string, e socketxp.AuditEntry) error {
	s.once()
	return s.Store.SetPassword(ctx, userID, old, hash, e)
}

func (s *overtaken) once() {
	if by := s.by; by != nil {
		s.by = nil
		by()
	}
}

func TestPasswordChangedMeanwhile(t *testing.T) {
	s := &overtaken{}
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		s.Store = d.Store
		d.Store = s
	}, func(l *limits) { l.http.refuseAfter = 0 })
	c := w.rest()
	const reset = "set at the console meanwhile"
	meanwhile := func() {
		w.setOwnerPassword(goodPassword)
		s.by = func() { w.setOwnerPassword(reset) }
	}
	signIns := func() int {
		return len(must[[]socketxp.SignIn](t)(w.store.SignIns(t.Context(), w.account.ID, w.owner.ID, w.g.now())))
	}
	t.Run("a sign-in", func(t *testing.T) {
		meanwhile()
		a := c.do(post, "/api/v1/signin", `{"email":"owner@example.com","password":"`+goodPassword+`"}`).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		if len(a.header.Values("Set-Cookie")) > 0 || signIns() > 0 {
			t.Errorf("%d sign-ins are there", signIns())
		}
		if n := w.audited(w.account.ID, "signin.create", socketxp.CodeUnauthenticated); n != 1 {
			t.Errorf("%d refusals are recorded", n)
		}
	})
	t.Run("a password entered again", func(t *testing.T) {
		w.setOwnerPassword(goodPassword)
		_, session := w.newSignIn(0)
		s.by = func() { w.setOwnerPassword(reset) }
		c.do(post, "/api/v1/reauth", `{"password":"`+goodPassword+`"}`, cookie(session)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		if signIns() > 0 {
			t.Errorf("%d sign-ins are there", signIns())
		}
	})
	t.Run("a new password", func(t *testing.T) {
		w.setOwnerPassword(goodPassword)
		_, session := w.newSignIn(0)
		s.by = func() { w.setOwnerPassword(reset) }
		c.do(put, "/api/v1/me/password", `{"current_password":"`+goodPassword+`","new_password":"another good password"}`, cookie(session)...).want(t, http.StatusConflict, socketxp.CodeConflict)
		c.do(post, "/api/v1/signin", `{"email":"owner@example.com","password":"`+reset+`"}`).want(t, http.StatusOK, "")
	})
}

func TestPasswordQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := defaultHTTPLimits()
		l.passwords, l.passwordQueue = 1, 1
		p := newPasswords(l.passwords, l)
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
