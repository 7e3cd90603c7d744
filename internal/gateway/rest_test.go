package gateway

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// tenant is an account with its owner signed in.
type tenant struct {
	account socketxp.Account
	owner   socketxp.User
	signIn  socketxp.SignIn
	cookie  string
}

// as returns the world as the tenant sees it.
func (w *world) as(t tenant) *world {
	c := *w
	c.account, c.owner = t.account, t.owner
	return &c
}

// tenant signs in the owner of the world's account.
func (w *world) tenant() tenant {
	w.Helper()
	t := tenant{account: w.account, owner: w.owner}
	t.signIn, t.cookie = w.newSignIn(0)
	return t
}

// otherTenant makes another account.
func (w *world) otherTenant(name string) tenant {
	w.Helper()
	t := tenant{}
	t.account, t.owner = w.newAccount(name, name+"@example.com")
	t.signIn, t.cookie = w.as(t).newSignIn(0)
	return t
}

// newSignIn makes a sign-in of the owner whose password was entered so long ago.
func (w *world) newSignIn(ago time.Duration) (socketxp.SignIn, string) {
	w.Helper()
	return w.newSignInFor(ago, time.Hour)
}

// newSignInFor is newSignIn for one that ends after life.
func (w *world) newSignInFor(ago, life time.Duration) (socketxp.SignIn, string) {
	w.Helper()
	secret := make([]byte, cookieSecretSize)
	_, _ = rand.Read(secret)
	now := w.g.now()
	s := socketxp.SignIn{
		ID: socketxp.NewID(now), SecretHash: sha256.Sum256(secret), AccountID: w.account.ID, UserID: w.owner.ID,
		CreatedAt: now.Add(-ago), LastSeenAt: now, ExpiresAt: now.Add(life), AuthAt: now.Add(-ago), RemoteAddr: "192.0.2.1", UserAgent: "test",
	}
	user := must[socketxp.User](w.T)(w.store.User(w.Context(), w.owner.ID))
	if err := w.store.CreateSignIn(w.Context(), s, socketxp.Entrance{PasswordHash: user.PasswordHash}, w.entry("signin.create")); err != nil {
		w.Fatal(err)
	}
	return s, base64.RawURLEncoding.EncodeToString(secret)
}

// setOwnerPassword lets the owner sign in by a password.
func (w *world) setOwnerPassword(password string) {
	w.Helper()
	hash := must[string](w.T)(HashPassword(password))
	if err := w.store.SetPassword(w.Context(), w.owner.ID, "", hash, w.entry("user.set-password")); err != nil {
		w.Fatal(err)
	}
}

// rest sends requests to the gateway's HTTPS door.
type restClient struct {
	w    *world
	http *http.Client
}

func (w *world) rest() *restClient {
	w.Helper()
	c := w.httpClient("h2")
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &restClient{w: w, http: c}
}

type restAnswer struct {
	status int
	header http.Header
	body   string
	code   socketxp.Code // of a problem
	detail string
	hint   string
}

// A credential is put on a request by one of these.
func bearer(text string) []string { return []string{"Authorization", "Bearer " + text} }

func cookie(value string) []string {
	return []string{"Cookie", cookieName + "=" + value}
}

// do sends a request with a JSON body, unless that is "", and headers by name and
// value.
func (c *restClient) do(method, path, body string, headers ...string) restAnswer {
	c.w.Helper()
	req := must[*http.Request](c.w.T)(http.NewRequestWithContext(c.w.Context(), method, c.w.url(path), strings.NewReader(body)))
	if body == "" {
		req.Body = http.NoBody
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Del(headers[i])
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return c.send(req)
}

func (c *restClient) send(req *http.Request) restAnswer {
	c.w.Helper()
	resp, err := c.http.Do(req)
	if err != nil {
		c.w.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer func() { _ = resp.Body.Close() }()
	a := restAnswer{status: resp.StatusCode, header: resp.Header}
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		return a // has no end
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		c.w.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	a.body = string(b)
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		var p api.Problem
		if err := json.NewDecoder(bytes.NewReader(b)).Decode(&p); err != nil || p.Code == "" || p.Detail == "" || p.Status != a.status {
			c.w.Fatalf("%s %s: not a problem: %v: %s", req.Method, req.URL, err, b)
		}
		a.code, a.detail, a.hint = p.Code, p.Detail, p.Hint
	} else if a.status >= 400 {
		c.w.Fatalf("%s %s: status %d without a problem: %s", req.Method, req.URL, a.status, b)
	}
	return a
}

// want fails unless the answer has this status and code.
func (a restAnswer) want(t *testing.T, status int, code socketxp.Code) restAnswer {
	t.Helper()
	if a.status != status || a.code != code {
		t.Fatalf("got %d %q, want %d %q: %s", a.status, a.code, status, code, a.body)
	}
	return a
}

// into decodes the answer's body.
func into[T any](t *testing.T, a restAnswer) (v T) {
	t.Helper()
	if a.status >= 300 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return v
}

const unknownID = "01900000-0000-7000-8000-000000000000"

// example fills in a route's path, and gives a body that the route takes.
func example(rt route, id string) (path, body string) {
	path = strings.NewReplacer("{id}", id, "{name}", id, "{$}", "").Replace(rt.path)
	switch strings.TrimPrefix(rt.pattern(), "") {
	case "POST /api/v1/devices":
		body = `{"name":"never-made","group":"Not A Group"}` // is refused by its form
	case "PATCH /api/v1/devices/{id}":
		body = `{"display_name":"changed"}`
	case "POST /api/v1/groups":
		body = `{"name":"Not A Group"}`
	case "PATCH /api/v1/groups/{name}":
		body = `{"name":"renamed"}`
	case "POST /api/v1/tokens":
		body = `{"kind":"access","name":"x","expires_in":0}`
	case "POST /api/v1/register":
		body = `{"public_key":"","proof":""}`
	case "POST /api/v1/signin":
		body = `{"email":"","password":""}`
	case "POST /api/v1/reauth":
		body = `{"password":"wrong"}`
	case "PUT /api/v1/me/password":
		body = `{"current_password":"wrong","new_password":"wrong"}`
	case "POST /api/v1/device-authorization":
		body = `{"host":"x"}`
	case "POST /api/v1/device-authorization/token":
		body = `{"device_code":"x"}`
	case "POST /api/v1/device-authorization/show":
		body = `{"user_code":"BBBB-BBBB"}`
	case "POST /api/v1/device-authorization/confirm":
		body = `{"user_code":"BBBB-BBBB","approve":true}`
	case "POST /api/v1/devices/{id}/terminals":
		body = `{"port":22}`
	case "POST /api/v1/terminals/{id}/files/directory":
		body = `{"path":"x"}`
	case "POST /api/v1/signup":
		body = `{"email":"","password":"","account":"x"}`
	case "POST /api/v1/setup":
		body = `{"secret":"","email":"","password":"","account":"x"}`
	}
	return path, body
}
