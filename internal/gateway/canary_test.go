package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to read a database as a thief would

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
)

// canaries are secrets, each in all ways in which it could be written down.
type canaries struct {
	t     *testing.T
	forms map[string][]string // by what it is
	// kept are those that the database has to have in clear.
	kept []string
}

// text adds a secret that is text.
func (c *canaries) text(what, secret string) string {
	c.t.Helper()
	if len(secret) < 8 {
		c.t.Fatalf("the %s is %q", what, secret)
	}
	c.forms[what] = append(c.forms[what], secret, base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret)))
	return secret
}

// token adds a token: the part that nobody could make up, and the beginning of its
// claims, which are no secret but show that it was written down and cut off.
func (c *canaries) token(what, text string) string {
	c.t.Helper()
	parts := strings.Split(text, ".")
	c.text(what, parts[2])
	c.forms[what] = append(c.forms[what], parts[1][:40])
	return text
}

// bytes adds a secret that isn't text.
func (c *canaries) bytes(what string, secret []byte) {
	c.t.Helper()
	if len(secret) < 16 {
		c.t.Fatalf("the %s is %x", what, secret)
	}
	list := strings.Trim(fmt.Sprintf("%d", secret), "[]") // as %v and JSON lists have it
	c.forms[what] = append(c.forms[what], string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		strings.TrimRight(base64.StdEncoding.EncodeToString(secret), "="), strings.TrimRight(base64.URLEncoding.EncodeToString(secret), "="),
		list, strings.ReplaceAll(list, " ", ","))
}

// findIn returns what is found in a text.
func (c *canaries) findIn(text string, but ...string) (found []string) {
	for what, forms := range c.forms {
		if !slices.Contains(but, what) && slices.ContainsFunc(forms, func(f string) bool { return strings.Contains(text, f) }) {
			found = append(found, what)
		}
	}
	slices.Sort(found)
	return found
}

// listening keeps all that the gateway answers, but for what it is to tell: the
// answers for which a secret was asked.
type listening struct {
	http.RoundTripper
	mu    sync.Mutex // guards heard
	heard bytes.Buffer
}

// tells are the requests whose good answers have a secret in them.
var tells = regexp.MustCompile(`^/api/v1/(tokens|tokens/[^/]*/reveal|devices|device-authorization|device-authorization/(token|show))$`)

func (l *listening) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err != nil || resp.Header.Get("Content-Type") == "text/event-stream" {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, values := range resp.Header {
		if name != "Set-Cookie" {
			fmt.Fprintln(&l.heard, name, values)
		}
	}
	if resp.StatusCode >= 300 || req.Method == get || !tells.MatchString(req.URL.Path) {
		l.heard.Write(body)
	}
	return resp, err
}

func (l *listening) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard.String()
}

// signedIn returns the cookie of an answer.
func (c *canaries) signedIn(what string, a restAnswer) []string {
	c.t.Helper()
	cookies := (&http.Response{Header: a.header}).Cookies()
	if a.status >= 300 || len(cookies) != 2 {
		c.t.Fatalf("%s: %d %s", what, a.status, a.body)
	}
	return []string{"Cookie", cookieName + "=" + c.text(what, cookies[0].Value) + "; " + api.KnownCookie + "=" + c.text("what the browser is known by, with the "+what, cookies[1].Value)}
}

// TestX17Canaries sends a secret of each kind through all that is done with it, right
// and wrong, and then looks for it in all that the gateway has written and said.
func TestX17Canaries(t *testing.T) {
	var log lockedBuffer
	dir := t.TempDir()
	w := startEmpty(t, dir, func(_ *Config, d *Deps) {
		d.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}, func(l *limits) {
		l.http.signIn, l.http.poll, l.http.authorize, l.http.codes = quota{1000, 1000}, quota{1000, 1000}, quota{1000, 1000}, quota{1000, 1000}
		l.http.refuseAfter, l.http.refusals = 0, quota{1000, 10_000}
	})
	dir = filepath.Join(dir, "data")
	c := &canaries{t: t, forms: make(map[string][]string)}
	client := w.rest()
	answers := &listening{RoundTripper: client.http.Transport}
	client.http.Transport = answers
	do := func(method, path string, body any, headers ...string) restAnswer {
		t.Helper()
		text := ""
		if body != nil {
			text = string(must[[]byte](t)(json.Marshal(body)))
		}
		return client.do(method, "/api/v1"+path, text, headers...)
	}
	type object = map[string]any

	// People.
	link := must[string](t)(w.g.SetUpLink(t.Context()))
	secret := c.text("set-up secret", link[strings.Index(link, "#")+1:])
	password := c.text("password", "canary of the first password")
	wrong := c.text("wrong set-up secret", base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, setUpSecretSize)))
	setUp := object{"secret": wrong, "email": "owner@example.com", "password": password, "account": "acme"}
	do(post, "/setup", setUp).want(t, http.StatusForbidden, socketxp.CodeForbidden)
	setUp["secret"] = secret
	first := c.signedIn("cookie of the set-up", do(post, "/setup", setUp))
	do(post, "/setup", setUp).want(t, http.StatusConflict, socketxp.CodeConflict)
	w.owner = must[[]socketxp.User](t)(w.store.Users(t.Context()))[0]
	w.account.ID = must[[]socketxp.Membership](t)(w.store.MembershipsOf(t.Context(), w.owner.ID))[0].AccountID
	c.text("password's hash", must[socketxp.User](t)(w.store.User(t.Context(), w.owner.ID)).PasswordHash)
	c.kept = append(c.kept, "password's hash")

	typed := c.text("password typed as an address", "canary.password@example.com")
	do(post, "/signin", object{"email": typed, "password": c.text("wrong password", "canary of a wrong password")}).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	do(post, "/signin", object{"email": "owner@example.com", "password": "canary of a wrong password"}).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	do(post, "/signin", object{"email": "owner@example.com", "password": "canary of a wrong password"}, first...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	replaced := c.signedIn("cookie that is replaced", do(post, "/signin", object{"email": "owner@example.com", "password": password}))
	second := c.signedIn("cookie of a sign-in", do(post, "/signin", object{"email": "owner@example.com", "password": password}, replaced...))
	do(post, "/reauth", object{"password": "canary of a wrong password"}, second...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
	second = c.signedIn("cookie of a reauth", do(post, "/reauth", object{"password": password}, second...))
	do(put, "/me/password", object{"current_password": password, "new_password": "owner@example.com"}, second...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	me := c.signedIn("cookie of a new password", do(put, "/me/password", object{"current_password": password, "new_password": c.text("new password", "canary of the next password")}, second...))
	c.text("new password's hash", must[socketxp.User](t)(w.store.User(t.Context(), w.owner.ID)).PasswordHash)
	c.kept = append(c.kept, "new password's hash")
	do(get, "/me", nil, first...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	do(post, "/reauth", `"canary of a wrong password`, me...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	do(post, "/reauth", object{"password": []string{"canary of a wrong password"}}, me...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)

	// Tokens of all kinds, made, shown, used for what they are and for all else.
	tokens := make(map[socketxp.TokenKind]string)
	for _, kind := range socketxp.TokenKinds {
		key := c.text("idempotency key", "canary-"+rand.Text())
		ask := object{"kind": kind, "name": "a " + string(kind) + " token"}
		if kind == socketxp.TokenRegistration {
			ask["max_uses"] = 100
		}
		made := into[api.CreatedToken](t, do(post, "/tokens", ask, append(me, "Idempotency-Key", key)...))
		tokens[kind] = c.token(string(kind)+" token", made.Text)
		if again := into[api.CreatedToken](t, do(post, "/tokens", ask, append(me, "Idempotency-Key", key)...)); again.Text != made.Text {
			t.Fatal("an Idempotency-Key did not hold")
		}
		if shown := into[api.CreatedToken](t, do(post, "/tokens/"+made.ID+"/reveal", nil, me...)); shown.Text != made.Text {
			t.Fatal("another token was shown")
		}
		for _, rt := range routes() {
			path, body := example(rt, unknownID)
			if rt.stream || rt.method != get && rt.policy.purpose == socketxp.PurposePublic {
				continue
			}
			client.do(rt.method, path, body, bearer(made.Text)...)
		}
		client.do(get, "/api/v1/tokens/"+made.Text, "", me...)
		client.do(remove, "/api/v1/groups/x", "", append(bearer(made.Text), me...)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		client.do(get, "/api/v1/me?token="+made.Text, "")
		client.do(get, "/api/v1/devices?search="+made.Text, "", me...) // longer than a search may be
		for _, bad := range []string{made.Text + "A", made.Text[:len(made.Text)-8] + "AAAAAAAA", strings.ToLower(made.Text), "." + made.Text} {
			client.do(get, "/api/v1/me", "", bearer(bad)...).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
		}
		client.do(get, "/api/v1/me", "", cookie(made.Text)...)
		client.do(get, doorPath, "", bearer(made.Text)...)
	}

	// A sign-in by codes.
	asked := into[api.DeviceAuthorization](t, do(post, "/device-authorization", object{"host": "laptop"}))
	c.text("device code", asked.DeviceCode)
	c.text("user code", asked.UserCode)
	c.kept = append(c.kept, "user code") // it is looked up by what a person has typed, for ten minutes
	poll := func() restAnswer {
		return do(post, "/device-authorization/token", object{"device_code": asked.DeviceCode})
	}
	poll().want(t, http.StatusBadRequest, socketxp.CodeAuthorizationPending)
	for _, path := range []string{"/tokens/", "/devices/", "/sessions/"} { // as somebody might who takes it for an id
		do(get, path+asked.DeviceCode, nil, me...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
	}
	do(post, "/device-authorization/show", object{"user_code": asked.UserCode}, me...)
	do(post, "/device-authorization/confirm", object{"user_code": asked.UserCode, "approve": true}, bearer(tokens[socketxp.TokenAccess])...).want(t, http.StatusForbidden, socketxp.CodeWrongPurpose)
	do(post, "/device-authorization/confirm", object{"user_code": asked.UserCode, "approve": true}, me...).want(t, http.StatusNoContent, "")
	c.token("token of a device authorization", into[api.DeviceToken](t, poll()).AccessToken)
	poll().want(t, http.StatusBadRequest, socketxp.CodeExpiredToken)
	do(post, "/device-authorization/confirm", object{"user_code": asked.UserCode, "approve": true}, me...).want(t, http.StatusNotFound, socketxp.CodeNotFound)

	// Devices: registered, registered ahead, with a new key, and by the wrong.
	registration := tokens[socketxp.TokenRegistration]
	key := newKey(t)
	c.bytes("device's private key", key.Seed())
	registered := must[api.RegisterResponse](t)(w.client(registration).Register(t.Context(), request(registration, key, "cam", "")))
	bad := request(registration, newKey(t), "other", "")
	bad.Proof = ed25519.Sign(key, []byte(registration))
	do(post, "/register", bad, bearer(registration)...)
	ahead := into[api.PreRegistered](t, do(post, "/devices", object{"name": "ahead"}, append(me, "Idempotency-Key", "canary-of-"+rand.Text())...))
	c.text("factory key", ahead.DeviceKey.DeviceKey)
	c.bytes("factory key's seed", must[[]byte](t)(base64.RawURLEncoding.DecodeString(ahead.DeviceKey.DeviceKey)))
	next := newKey(t)
	c.bytes("device's next private key", next.Seed())

	// Channels, visits and links.
	d := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, registered.DeviceID))
	a, welcome := w.online(d, key)
	c.bytes("nonce of a change of keys", welcome.Nonce)
	c.bytes("value of a sequence", w.held.get(key))
	c.kept = append(c.kept, "value of a sequence") // it finds copies of a key, and opens nothing
	a.send(keyChange(d, key, next, append(bytes.Clone(welcome.Nonce), 1)))
	expect[control.KeyRefused](a)
	a.send(keyChange(d, key, next, welcome.Nonce))
	expect[control.KeyStaged](a)
	_ = a.conn.Close()
	eventually(t, patience, "the device is offline", func() bool { return !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) })
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22")
	c.bytes("value of a sequence", w.held.get(key))
	v := w.visitor()
	for _, kind := range []socketxp.TokenKind{socketxp.TokenAPI, socketxp.TokenRegistration} {
		if answer := v.visit(control.Visit{Token: tokens[kind], DeviceID: d.ID, Port: 22}); answer.(control.Ended).Code != socketxp.CodeWrongPurpose {
			t.Fatalf("%+v", answer)
		}
	}
	v.visit(control.Visit{Token: tokens[socketxp.TokenAccess] + "A", DeviceID: d.ID, Port: 22})
	v.visit(control.Visit{Token: strings.ReplaceAll(me[1], " ", ""), DeviceID: d.ID, Port: 22})
	v.visit(control.Visit{Token: tokens[socketxp.TokenAccess], DeviceName: "nobody", Port: 22})
	g := v.grant(tokens[socketxp.TokenAccess], d, 22)
	v.next++
	v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
	ticket := expect[control.LinkTicket](v.agent).Ticket
	offer := <-td.offers
	c.bytes("visitor's ticket", ticket)
	c.bytes("device's ticket", offer.Ticket)
	l := v.join(g, ticket)
	joins(t, w, ticket)
	joins(t, w, offer.Ticket)
	_ = l.Close()

	// Without its database, the gateway says so.
	w.store.down.Store(true)
	for _, kind := range []socketxp.TokenKind{socketxp.TokenAPI, socketxp.TokenBasic} {
		client.do(get, "/api/v1/me", "", bearer(tokens[kind])...).want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
	}
	v.visit(control.Visit{Token: tokens[socketxp.TokenAccess], DeviceID: d.ID, Port: 22})
	w.store.down.Store(false)
	must[struct{}](t)(struct{}{}, w.g.Reload())

	// What the gateway itself has.
	for _, file := range []string{signingKeyFile, certKeyFile} {
		block, _ := pem.Decode(must[[]byte](t)(os.ReadFile(filepath.Join(dir, file))))
		c.bytes(file, block.Bytes)
		if k, ok := must[any](t)(x509.ParsePKCS8PrivateKey(block.Bytes)).(ed25519.PrivateKey); ok {
			c.bytes(file+"'s seed", k.Seed())
		}
	}

	said := map[string]string{}
	for _, path := range []string{"/audit?limit=200", "/audit/export", "/events?limit=200", "/tokens", "/devices", "/tunnels", "/sessions", "/groups", "/me", "/me/signins", "/gateway"} { //nolint:misspell // the plural of sign-in
		said["GET "+path] = client.do(get, "/api/v1"+path, "", me...).body
	}
	said["stream of events"] = w.streamed(t, me)
	said["metrics"] = w.get(w.httpClient("http/1.1"), "http://"+w.g.MetricsAddr().String()+"/metrics").body
	cfg := w.g.cfg
	cfg.Listen, cfg.MetricsListen, cfg.PublicURL = w.g.Addr().String(), w.g.MetricsAddr().String(), w.g.Address().URL
	said["doctor"] = string(must[[]byte](t)(json.Marshal(doctorOf(cfg).Diagnose(t.Context()))))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	said["log"], said["answers"] = log.String(), answers.String()
	for where, text := range said {
		t.Run("X-17 "+where, func(t *testing.T) {
			if len(text) < 50 {
				t.Fatalf("it is %q: this test means nothing", text)
			}
			if found := c.findIn(text); len(found) > 0 {
				t.Errorf("it has the %s", strings.Join(found, ", the "))
			}
		})
	}
	t.Run("X-17 K-16 the database", func(t *testing.T) {
		dump := dumpOf(t, filepath.Join(dir, databaseFile))
		for _, file := range must[[]string](t)(filepath.Glob(filepath.Join(dir, "gateway.db*"))) {
			dump += string(must[[]byte](t)(os.ReadFile(file)))
		}
		if found := c.findIn(dump, c.kept...); len(found) > 0 {
			t.Errorf("it has the %s", strings.Join(found, ", the "))
		}
		if found := c.findIn(dump); !slices.Contains(found, "new password's hash") || !slices.Contains(found, "value of a sequence") {
			t.Errorf("the dump has only %v: this test means nothing", found)
		}
	})
	t.Run("X-17 every other file but the keys", func(t *testing.T) {
		for _, entry := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
			if strings.HasPrefix(entry.Name(), "gateway.db") || entry.Name() == signingKeyFile || entry.Name() == certKeyFile {
				continue
			}
			if found := c.findIn(string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, entry.Name()))))); len(found) > 0 {
				t.Errorf("%s has the %s", entry.Name(), strings.Join(found, ", the "))
			}
		}
	})
	t.Run("X-16 secrets are in no address", func(t *testing.T) {
		var d description
		if err := json.Unmarshal(must[[]byte](t)(newTestRouter().openAPI()), &d); err != nil {
			t.Fatal(err)
		}
		for path, methods := range d.Paths {
			for _, op := range methods {
				for _, p := range op.Parameters {
					if p.In != "header" && !strings.HasSuffix(p.Name, "_id") && regexp.MustCompile(`(?i)token|secret|password|code|key|cookie`).MatchString(p.Name) {
						t.Errorf("%s takes %s in its address", path, p.Name)
					}
				}
			}
		}
		for _, address := range []string{link, asked.VerificationURIComplete, asked.VerificationURI} {
			before, _, _ := strings.Cut(address, "#") // what follows is sent to nobody
			if found := c.findIn(before); len(found) > 0 {
				t.Errorf("%s has the %s", before, strings.Join(found, ", the "))
			}
		}
	})
}

// streamed returns what the stream of events says of all that has happened.
func (w *world) streamed(t *testing.T, credential []string) string {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req := must[*http.Request](t)(http.NewRequestWithContext(ctx, get, w.url("/api/v1/events/stream"), nil))
	req.Header.Set(credential[0], credential[1])
	req.Header.Set("Last-Event-ID", firstID(time.Unix(1, 0)))
	resp, err := w.httpClient("h2").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var text strings.Builder
	last := must[[]socketxp.Event](t)(w.store.Events(ctx, w.account.ID, socketxp.EventQuery{Limit: 1}))[0].ID
	for block := make([]byte, 4096); !strings.Contains(text.String(), "id: "+last+"\n"); {
		n, err := resp.Body.Read(block)
		text.Write(block[:n])
		if err != nil {
			t.Fatalf("after %q: %v", text.String(), err)
		}
	}
	return text.String()
}

// dumpOf returns every value of a SQLite database.
func dumpOf(t *testing.T, file string) string {
	t.Helper()
	db := must[*sql.DB](t)(sql.Open("sqlite", "file:"+file+"?mode=ro"))
	defer func() { _ = db.Close() }()
	column := func(query string) (out []string) {
		rows, err := db.QueryContext(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		columns := must[[]string](t)(rows.Columns())
		for rows.Next() {
			values := make([][]byte, len(columns))
			into := make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			out = append(out, string(bytes.Join(values, []byte("|"))))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	var dump []string
	for _, table := range column(`SELECT name FROM sqlite_schema WHERE type = 'table'`) {
		dump = append(dump, table)
		dump = append(dump, column(`SELECT * FROM "`+table+`"`)...)
	}
	return strings.Join(dump, "\n")
}
