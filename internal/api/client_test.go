package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"socketxp"
	"socketxp/internal/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "header.payload.signature"

// newClient returns a client of a gateway that answers as h does, known by its pin.
func newClient(t *testing.T, credential string, h http.HandlerFunc) *api.Client {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	addr := socketxp.GatewayAddress{URL: s.URL, Pin: socketxp.PinOf(s.Certificate())}
	cfg, err := addr.TLSConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient(addr, cfg, credential)
	t.Cleanup(c.Close)
	return c
}

func TestErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		status      int
		media, body string
		code        socketxp.Code // "" for an error that is not the gateway's
		hint        string
	}{
		"a problem":                       {403, "application/problem+json", `{"status":403,"code":"wrong_purpose","detail":"an api token can't register a device","hint":"use another"}`, socketxp.CodeWrongPurpose, "use another"},
		"a problem with fields":           {400, "application/problem+json; charset=utf-8", `{"code":"invalid","detail":"x","errors":[{"location":"body.name","message":"too long"}]}`, socketxp.CodeInvalid, "body.name: too long"},
		"a problem of a newer gateway":    {418, "application/problem+json", `{"code":"teapot","detail":"x","extra":{"a":1}}`, "teapot", ""},
		"P-12 a captive portal":           {200, "text/html", `<html>Please accept our terms</html>`, "", ""},
		"P-12 an error page":              {502, "text/html", `<html>Bad Gateway</html>`, "", ""},
		"a problem without a code":        {500, "application/problem+json", `{"detail":"x"}`, "", ""},
		"a problem that is no JSON":       {500, "application/problem+json", `<`, "", ""},
		"JSON that is no problem":         {500, "application/json", `{"code":"invalid","detail":"x"}`, "", ""},
		"an answer without an end, or so": {200, "application/json", `{"version":"` + strings.Repeat("a", 9<<20) + `"}`, "", ""},
		"a problem without an end, or so": {400, "application/problem+json", strings.Repeat(" ", 9<<20), "", ""},
		"N-17 a redirect":                 {302, "text/html", ``, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, secret, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/elsewhere" {
					t.Error("the redirect was followed")
				}
				w.Header().Set("Content-Type", tc.media)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, err := c.Gateway(t.Context())
			var e *socketxp.Error
			if got := errors.As(err, &e); err == nil || got != (tc.code != "") {
				t.Fatalf("got %v", err)
			}
			if e != nil && (e.Code != tc.code || e.Hint != tc.hint || e.Message == "") {
				t.Fatalf("got %+v", e)
			}
			if strings.Contains(err.Error(), secret) {
				t.Fatalf("X-17 the token is in %v", err)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	var got *http.Request
	var body string
	answer := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r.Clone(context.Background()), string(b)
		w.Header().Set("Content-Type", "application/json")
		http.SetCookie(w, &http.Cookie{Name: "__Host-socketxp", Value: "v", Path: "/", Secure: true, HttpOnly: true})
		_, _ = io.WriteString(w, `{}`)
	}
	t.Run("a token as bearer, once, and nowhere else", func(t *testing.T) {
		c := newClient(t, secret, answer)
		for range 2 {
			if _, err := c.UpdateDevice(t.Context(), "a/b?c", api.UpdateDeviceRequest{}); err != nil {
				t.Fatal(err)
			}
			if v := got.Header.Values("Authorization"); len(v) != 1 || v[0] != "Bearer "+secret || got.Header.Get("Cookie") != "" {
				t.Fatalf("got %v", got.Header)
			}
			if got.URL.EscapedPath() != "/api/v1/devices/a%2Fb%3Fc" || got.URL.RawQuery != "" || got.Method != http.MethodPatch || body != "{}" || got.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("got %s %s %q", got.Method, got.URL, body)
			}
		}
	})
	t.Run("without one it keeps the cookie", func(t *testing.T) {
		c := newClient(t, "", answer)
		for i := range 2 {
			if _, err := c.SignIn(t.Context(), "a@example.com", "x"); err != nil {
				t.Fatal(err)
			}
			if cookies := got.CookiesNamed("__Host-socketxp"); len(cookies) != i || got.Header.Get("Authorization") != "" {
				t.Fatalf("got %v", got.Header)
			}
		}
	})
	t.Run("an Idempotency-Key on writes alone", func(t *testing.T) {
		c := newClient(t, secret, answer).WithIdempotencyKey("0123456789abcdef")
		if _, err := c.CreateGroup(t.Context(), "g"); err != nil || got.Header.Get("Idempotency-Key") != "0123456789abcdef" {
			t.Fatalf("got %v, %v", got.Header, err)
		}
		if _, err := c.Me(t.Context()); err != nil || got.Header.Get("Idempotency-Key") != "" {
			t.Fatalf("got %v, %v", got.Header, err)
		}
	})
	t.Run("what is not set is no filter", func(t *testing.T) {
		c := newClient(t, secret, answer)
		no := false
		if _, err := c.Sessions(t.Context(), api.SessionList{Live: &no, Limit: 7}); err != nil || got.URL.RawQuery != "limit=7&live=false" {
			t.Fatalf("got %q, %v", got.URL.RawQuery, err)
		}
		if _, err := c.Tokens(t.Context(), api.TokenList{}); err != nil || got.URL.RawQuery != "" {
			t.Fatalf("got %q, %v", got.URL.RawQuery, err)
		}
	})
}

func TestWrongGateway(t *testing.T) {
	reached := false
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer s.Close()
	s.Config.ErrorLog = nil
	addr := socketxp.GatewayAddress{URL: s.URL, Pin: strings.Repeat("A", 43)}
	cfg, err := addr.TLSConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*tls.Config{"R-15 another key": cfg, "R-15 an authority that nobody knows": {MinVersion: tls.VersionTLS13}} {
		t.Run(name, func(t *testing.T) {
			c := api.NewClient(addr, cfg, secret)
			defer c.Close()
			_, err := c.Register(t.Context(), api.RegisterRequest{})
			if err == nil || reached || socketxp.CodeOf(err) != socketxp.CodeInternal {
				t.Fatalf("got %v, reached: %v", err, reached)
			}
			if strings.HasSuffix(name, "key") && !errors.Is(err, socketxp.ErrWrongGateway) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestStream(t *testing.T) {
	var resumed string
	c := newClient(t, secret, func(w http.ResponseWriter, r *http.Request) {
		resumed = r.Header.Get("Last-Event-ID")
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, ": hello\n\n")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "id: %d\nevent: device.online\ndata: {\"id\":\"%d\",\"type\":\"device.online\"}\n\n", i, i)
		}
	})
	var ids []string
	err := c.StreamEvents(t.Context(), "before", func(e api.Event) error {
		ids = append(ids, e.ID)
		return nil
	})
	if err != nil || strings.Join(ids, "") != "012" || resumed != "before" {
		t.Fatalf("got %v, %v, resumed after %q", ids, err, resumed)
	}
	stop := errors.New("enough")
	if err := c.StreamEvents(t.Context(), "", func(api.Event) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	long := newClient(t, secret, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: "+strings.Repeat("a", 1<<20))
	})
	if err := long.StreamEvents(t.Context(), "", func(api.Event) error { return nil }); err == nil {
		t.Fatal("a line without an end was taken")
	}
}
