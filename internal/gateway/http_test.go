package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"socketxp"
	"socketxp/portal"
)

func TestSecurityHeaders(t *testing.T) {
	w := start(t)
	c := w.rest()
	for name, a := range map[string]restAnswer{
		"a page":         c.do(get, "/", ""),
		"the set-up":     c.do(get, "/setup", ""),
		"the API's page": c.do(get, "/api/docs", ""),
		"a device":       c.do(get, "/devices/x", ""),
		"an answer":      c.do(get, "/api/v1/gateway", ""),
		"401":            c.do(get, "/api/v1/me", ""),
		"404":            c.do(get, "/nothing", ""),
		"405":            c.do(put, "/api/v1/devices", ""),
		"403":            c.do(post, "/api/v1/signin", "{}", "Sec-Fetch-Site", "cross-site"),
		"400":            c.do(get, "/api/v1/gateway?x=%zz", ""),
	} {
		t.Run("W-14 W-11 "+name, func(t *testing.T) {
			for header, want := range map[string]string{
				"Content-Security-Policy":    "frame-ancestors 'none'",
				"X-Content-Type-Options":     "nosniff",
				"Referrer-Policy":            "no-referrer",
				"Cross-Origin-Opener-Policy": "same-origin",
				"X-Frame-Options":            "DENY",
			} {
				if got := a.header.Get(header); !strings.Contains(got, want) {
					t.Errorf("%s is %q", header, got)
				}
			}
			csp := a.header.Get("Content-Security-Policy")
			if !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
				t.Errorf("the policy is %q", csp)
			}
			for name := range a.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("W-16 it has %s", name)
				}
			}
			if a.status >= 400 && (a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Cache-Control") != "no-store") {
				t.Errorf("it is %s, %s", a.header.Get("Content-Type"), a.header.Get("Cache-Control"))
			}
		})
	}
	t.Run("pages have no inline script or style and load from here alone", func(t *testing.T) {
		for _, path := range []string{"/", "/setup", "/api/docs"} {
			body := c.do(get, path, "").body
			for _, bad := range []string{"<script>", " onclick=", " onload=", " style=", "<style", "http://", "//cdn", "javascript:", portal.Nonce} {
				if strings.Contains(body, bad) {
					t.Errorf("%s has %s", path, bad)
				}
			}
		}
	})
	t.Run("a name of its own gets HSTS, localhost does not", func(t *testing.T) {
		if a := c.do(get, "/", ""); a.header.Get("Strict-Transport-Security") != "" {
			t.Error("localhost got it")
		}
		for url, want := range map[string]bool{"https://gateway.example.com": true, "https://localhost:8443": false, "https://192.0.2.1": false, "https://[2001:db8::1]": false} {
			g := &Gateway{url: url}
			if got := g.newRouter().hsts; got != want {
				t.Errorf("%s: %v", url, got)
			}
		}
	})
	t.Run("W-11 a path with markup comes back as JSON", func(t *testing.T) {
		a := c.do(get, "/%3Cscript%3Ealert(1)%3C/script%3E", "").want(t, http.StatusNotFound, socketxp.CodeNotFound)
		if strings.Contains(a.body, "<script>") {
			t.Fatal(a.body)
		}
		a = c.do(get, "/api/v1/gateway?%3Cscript%3E=1", "").want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		if strings.Contains(a.body, "<script>") {
			t.Fatal(a.body)
		}
	})
	t.Run("405 says what is taken", func(t *testing.T) {
		if allow := c.do(put, "/api/v1/devices", "").header.Get("Allow"); allow != "GET, HEAD, POST" {
			t.Fatalf("got %q", allow)
		}
	})
}

func TestCrossSite(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, session := w.newSignIn(0)
	group := func(n int) string { return fmt.Sprintf(`{"name":"g%d"}`, n) }
	for i, tc := range []struct {
		name    string
		method  string
		headers []string
		status  int
	}{
		{"same origin", post, []string{"Sec-Fetch-Site", "same-origin"}, http.StatusCreated},
		{"same origin by Origin", post, []string{"Origin", "SELF"}, http.StatusCreated},
		{"typed in", post, []string{"Sec-Fetch-Site", "none"}, http.StatusCreated},
		{"no browser", post, nil, http.StatusCreated},
		{"W-06 cross-site", post, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{"W-06 same site, another host", post, []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{"W-06 another origin", post, []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{"W-06 origin null", post, []string{"Origin", "null"}, http.StatusForbidden},
		{"W-06 another port", post, []string{"Origin", "https://localhost:444"}, http.StatusForbidden},
		{"W-06 text/plain", post, []string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType},
		{"W-06 a form", post, []string{"Content-Type", "application/x-www-form-urlencoded"}, http.StatusUnsupportedMediaType},
		{"W-06 no type", post, []string{"Content-Type", ""}, http.StatusUnsupportedMediaType},
		{"W-06 +json", post, []string{"Content-Type", "text/x+json"}, http.StatusUnsupportedMediaType},
		{"X-06 compressed", post, []string{"Content-Encoding", "gzip"}, http.StatusUnsupportedMediaType},
		{"with a charset", post, []string{"Content-Type", "application/json; charset=utf-8"}, http.StatusCreated},
		{"W-06 another method by header", get, []string{"X-HTTP-Method-Override", "POST"}, http.StatusOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for n, h := range tc.headers {
				if h == "SELF" {
					tc.headers[n] = "https://" + w.g.Addr().String()
				}
			}
			a := c.do(tc.method, "/api/v1/groups", group(i), append(cookie(session), tc.headers...)...)
			if a.status != tc.status {
				t.Fatalf("got %d: %s", a.status, a.body)
			}
			groups := must[[]socketxp.Group](t)(w.store.Groups(t.Context(), w.account.ID))
			made := false
			for _, g := range groups {
				made = made || g.Name == fmt.Sprintf("g%d", i)
			}
			if made != (tc.status == http.StatusCreated) {
				t.Fatalf("made: %v", made)
			}
		})
	}
	t.Run("W-06 sign-in and sign-out from another site", func(t *testing.T) {
		c.do(post, "/api/v1/signin", `{"email":"a@example.com","password":"x"}`, "Sec-Fetch-Site", "cross-site").want(t, http.StatusForbidden, socketxp.CodeForbidden)
		c.do(post, "/api/v1/signout", "", append(cookie(session), "Sec-Fetch-Site", "cross-site")...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		c.do(get, "/api/v1/me", "", cookie(session)...).want(t, http.StatusOK, "")
	})
	t.Run("W-06 W-19 no GET changes anything", func(t *testing.T) {
		for _, rt := range routes() {
			if rt.method == get && rt.action != "" {
				t.Errorf("%s does %s", rt.pattern(), rt.action)
			}
		}
	})
	t.Run("W-16 a preflight gets no permission", func(t *testing.T) {
		a := c.do(http.MethodOptions, "/api/v1/groups", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST")
		if a.status < 400 || a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Fatalf("got %d %v", a.status, a.header)
		}
	})
}

// endless is a body that never ends.
type endless struct{ sent atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	e.sent.Add(int64(len(b)))
	return len(b), nil
}

func TestBodies(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, session := w.newSignIn(0)
	t.Run("X-06 without an end", func(t *testing.T) {
		for _, protocol := range []string{"h2", "http/1.1"} {
			var body endless
			req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), post, w.url("/api/v1/groups"), &body))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Cookie", cookieName+"="+session)
			resp, err := w.httpClient(protocol).Do(req)
			if err == nil { // the connection may be cut instead
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusRequestEntityTooLarge {
					t.Fatalf("%s: got %d", protocol, resp.StatusCode)
				}
			}
			if n := body.sent.Load(); n > 64<<20 {
				t.Fatalf("%s: %d bytes were taken", protocol, n)
			}
		}
	})
	t.Run("X-06 1 MiB and a byte", func(t *testing.T) {
		c.do(post, "/api/v1/groups", `{"name":"`+strings.Repeat("a", 1<<20)+`"}`, cookie(session)...).
			want(t, http.StatusRequestEntityTooLarge, socketxp.CodeInvalid)
	})
	t.Run("X-06 no body, and what is no JSON", func(t *testing.T) {
		for _, body := range []string{"", "{", `{"name":"x"} {}`, "\xff\xfe", `"x"`, `{"name":1e999}`, `{"name":"\ud800"}`, strings.Repeat("[", 1e6)} {
			c.do(post, "/api/v1/groups", body, cookie(session)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
	})
	t.Run("X-06 memory is bounded", func(t *testing.T) {
		body := `{"name":` + strings.Repeat("[", 1<<19)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			c.do(post, "/api/v1/groups", body, cookie(session)...)
		}
		runtime.ReadMemStats(&after)
		if per := (after.TotalAlloc - before.TotalAlloc) / 20; per > 16<<20 {
			t.Fatalf("%d bytes for each request of 512 KiB", per)
		}
	})
	t.Run("an error names what is wrong but does not repeat it", func(t *testing.T) {
		a := c.do(post, "/api/v1/reauth", `{"password":["my secret"]}`, cookie(session)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		if strings.Contains(a.body, "my secret") || !strings.Contains(a.body, "body.password") {
			t.Fatal(a.body)
		}
	})
}

func TestRateLimits(t *testing.T) {
	w := start(t, func(l *limits) { l.http.credential = quota{1e-9, 3} })
	c := w.rest()
	_, first := w.newSignIn(0)
	_, second := w.newSignIn(0)
	for i := range 3 {
		a := c.do(get, "/api/v1/me", "", cookie(first)...).want(t, http.StatusOK, "")
		if got := a.header.Get("RateLimit-Remaining"); got != fmt.Sprint(2-i) || a.header.Get("RateLimit-Limit") != "3" {
			t.Fatalf("got %q of %q", got, a.header.Get("RateLimit-Limit"))
		}
	}
	a := c.do(get, "/api/v1/me", "", cookie(first)...).want(t, http.StatusTooManyRequests, socketxp.CodeRateLimited)
	if a.header.Get("Retry-After") == "" || a.header.Get("RateLimit-Reset") == "" || a.header.Get("RateLimit-Remaining") != "0" {
		t.Fatalf("got %v", a.header)
	}
	c.do(get, "/api/v1/me", "", cookie(second)...).want(t, http.StatusOK, "")

	t.Run("X-14 by address, /64 for IPv6", func(t *testing.T) {
		r := newRates[netip.Prefix](quota{1e-9, 1})
		for i, addr := range []string{"2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"} {
			want := []bool{true, false, true, true, false, true}[i]
			if got := r.take(network(netip.MustParseAddr(addr))).ok; got != want {
				t.Errorf("%s: %v", addr, got)
			}
		}
	})
	t.Run("J11 memory is bounded", func(t *testing.T) {
		r := newRates[int](quota{1e-9, 1})
		for i := range maxBuckets + 1000 {
			r.take(i)
		}
		if len(r.buckets) > maxBuckets {
			t.Fatalf("%d buckets", len(r.buckets))
		}
		if r.take(maxBuckets + 2000).ok {
			t.Fatal("those beyond have no limit")
		}
	})
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestPanics(t *testing.T) {
	var log lockedBuffer
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) { d.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	r := w.g.newRouter()
	r.handle(route{method: get, path: "/panics", policy: public}, func(http.ResponseWriter, *http.Request) error { panic("kaboom") })
	r.handle(route{method: get, path: "/panics-late", policy: public}, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "begun")
		panic(errors.New("kaboom"))
	})
	r.handle(route{method: get, path: "/fails", policy: public}, func(http.ResponseWriter, *http.Request) error {
		return errors.New("pq: password authentication failed for user admin")
	})
	serve := func(path string) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(get, path, nil)
		r.ServeHTTP(rec, req)
		return rec
	}
	t.Run("P-22 one answer is lost, with the stack in the log", func(t *testing.T) {
		if rec := serve("/panics"); rec.Code != http.StatusInternalServerError || strings.Contains(rec.Body.String(), "kaboom") {
			t.Fatalf("got %d %s", rec.Code, rec.Body)
		}
		if !strings.Contains(log.String(), "http_test.go") || strings.Contains(log.String(), "kaboom") {
			t.Fatalf("the log has %s", log.String())
		}
	})
	t.Run("P-22 an answer that has begun is cut off", func(t *testing.T) {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // it is that very value
				t.Fatalf("got %v", v)
			}
		}()
		serve("/panics-late")
	})
	t.Run("what is unknown is internal, and only the log has it", func(t *testing.T) {
		rec := serve("/fails")
		if rec.Code != http.StatusInternalServerError || strings.Contains(rec.Body.String(), "admin") || !strings.Contains(rec.Body.String(), `"internal"`) {
			t.Fatalf("got %d %s", rec.Code, rec.Body)
		}
		if !strings.Contains(log.String(), "password authentication failed") {
			t.Fatal("the log does not have it")
		}
	})
}

func TestStatuses(t *testing.T) {
	for _, code := range []socketxp.Code{
		socketxp.CodeInvalid, socketxp.CodeUnauthenticated, socketxp.CodeTokenExpired, socketxp.CodeTokenNotYet, socketxp.CodeTokenRevoked,
		socketxp.CodeUsesExhausted, socketxp.CodeWrongPurpose, socketxp.CodeForbidden, socketxp.CodeReauthRequired, socketxp.CodeNotFound,
		socketxp.CodeConflict, socketxp.CodeAlreadyRegister, socketxp.CodeQuota, socketxp.CodeRateLimited, socketxp.CodeUnavailable,
		socketxp.CodeDeviceOffline, socketxp.CodeDeviceDisabled, socketxp.CodeQuarantined, socketxp.CodeKeyRetired, socketxp.CodeDeviceUnknown, socketxp.CodeNotPublished, socketxp.CodeDialFailed,
		socketxp.CodeTooManyLinks, socketxp.CodeSessionEnded, socketxp.CodeReplaced, socketxp.CodeGoingAway, socketxp.CodeVersion, socketxp.CodeProtocol,
	} {
		if got := statusOf(fmt.Errorf("wrapped: %w", socketxp.Errorf(code, "x"))); got < 400 || got == http.StatusInternalServerError {
			t.Errorf("%s is %d", code, got)
		}
	}
	if got := statusOf(errors.New("x")); got != http.StatusInternalServerError {
		t.Errorf("an unknown error is %d", got)
	}
}

func TestHealth(t *testing.T) {
	var down failingPing
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		down.Store = d.Store
		d.Store = &down
	})
	c := w.rest()
	c.do(get, "/healthz", "").want(t, http.StatusOK, "")
	c.do(get, "/readyz", "").want(t, http.StatusOK, "")
	down.yes.Store(true)
	c.do(get, "/healthz", "").want(t, http.StatusOK, "")
	c.do(get, "/readyz", "").want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
}

// failingPing is a store whose database can be made not to answer.
type failingPing struct {
	socketxp.Store
	yes atomic.Bool
}

func (s *failingPing) Ping(ctx context.Context) error {
	if s.yes.Load() {
		return errDown
	}
	return s.Store.Ping(ctx)
}
