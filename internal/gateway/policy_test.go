package gateway

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"socketxp"
)

// routes are all routes there are.
func routes() []route { return newTestRouter().routes }

func TestPolicies(t *testing.T) {
	t.Run("A-09 a route without a policy stops the program", func(t *testing.T) {
		for name, p := range map[string]policy{
			"zero":             {},
			"no right":         {purpose: socketxp.PurposeAPI},
			"unknown right":    {purpose: socketxp.PurposeAPI, right: "devices:everything"},
			"unknown purpose":  {purpose: "anything"},
			"another door's":   {purpose: socketxp.PurposeControl},
			"public with more": {purpose: socketxp.PurposePublic, right: socketxp.RightAuditRead},
		} {
			r := newTestRouter()
			if !panics(func() {
				r.handle(route{method: get, path: "/x", policy: p}, func(http.ResponseWriter, *http.Request) error { return nil })
			}) {
				t.Errorf("%s: it was registered", name)
			}
		}
	})
	t.Run("A-09 an operation that didn't come by a route stops the program", func(t *testing.T) {
		r := newTestRouter()
		if !panics(func() { r.Handle(&operationWithoutRoute, nil) }) {
			t.Error("it was registered")
		}
	})
	t.Run("A-09 the mux has no other way in", func(t *testing.T) {
		// The mux can't be walked, so the source is: only router.handle may register.
		for _, file := range must[[]string](t)(filepath.Glob("*.go")) {
			if file == "stats.go" || strings.HasSuffix(file, "_test.go") { // the loopback listener's own mux
				continue
			}
			text := string(must[[]byte](t)(os.ReadFile(file)))
			if n := len(regexp.MustCompile(`mux\.Handle(Func)?\(`).FindAllString(strings.ReplaceAll(text, "r.mux.Handler(", ""), -1)); file == "http.go" && n != 1 || file != "http.go" && n != 0 {
				t.Errorf("%s registers %d routes past router.handle", file, n)
			}
		}
	})
	t.Run("A-09 the description has every API route with its policy, and no other", func(t *testing.T) {
		r := newTestRouter()
		var doc struct {
			OpenAPI string
			Paths   map[string]map[string]struct {
				Purpose  socketxp.Purpose            `json:"x-purpose"`
				Right    socketxp.Right              `json:"x-right"`
				Security []map[string][]string       `json:"security"`
				Params   []struct{ Name, In string } `json:"parameters"`
			}
		}
		if err := json.Unmarshal(must[[]byte](t)(r.openAPI()), &doc); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
			t.Errorf("it is OpenAPI %s", doc.OpenAPI)
		}
		described := 0
		for _, methods := range doc.Paths {
			described += len(methods)
		}
		for _, rt := range r.routes {
			if !strings.HasPrefix(rt.path, "/api/v1/") {
				if rt.policy != public {
					t.Errorf("%s is a page that is not public", rt.pattern())
				}
				continue
			}
			op, ok := doc.Paths[rt.path][strings.ToLower(rt.method)]
			if !ok || op.Purpose != rt.policy.purpose || op.Right != rt.policy.right {
				t.Errorf("%s is described as %+v", rt.pattern(), op)
			}
			for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(rt.path, -1) {
				if !slices.Contains(op.Params, struct{ Name, In string }{m[1], "path"}) {
					t.Errorf("%s does not read %s", rt.pattern(), m[1])
				}
			}
			if len(op.Security) == 0 {
				t.Errorf("%s has no security in the description", rt.pattern())
			}
			described--
		}
		if described != 0 {
			t.Errorf("%d routes are described but not there", described)
		}
	})
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// TestPurposes tries every kind of credential on every route, as the one table
// says.
func TestPurposes(t *testing.T) {
	w := start(t)
	c := w.rest()
	texts := make(map[socketxp.Kind]string)
	for _, kind := range socketxp.TokenKinds {
		scope := socketxp.TokenScope{Rights: kind.DefaultRights()}
		_, texts[socketxp.Kind(kind)] = w.newToken(kind, scope)
	}
	texts[socketxp.KindTicket] = base64.RawURLEncoding.EncodeToString(make([]byte, socketxp.LinkTicketSize))
	texts[socketxp.KindDeviceKey] = base64.RawURLEncoding.EncodeToString(newKey(t).Seed())
	before := w.refusals()
	refused := 0
	for _, rt := range routes() {
		for _, kind := range socketxp.Kinds {
			t.Run("T-13 "+string(kind)+" "+rt.pattern(), func(t *testing.T) {
				path, body := example(rt, unknownID)
				credential := bearer(texts[kind])
				if kind == socketxp.KindSignIn {
					_, value := w.newSignIn(0) // some of the routes end it
					credential = cookie(value)
				}
				a := c.do(rt.method, path, body, credential...)
				if rt.policy == public {
					if a.code == socketxp.CodeWrongPurpose {
						t.Fatalf("a public route asked for a credential: %s", a.body)
					}
					return
				}
				switch may := socketxp.MayUse(kind, rt.policy.purpose); {
				case kind == socketxp.KindTicket || kind == socketxp.KindDeviceKey: // they are no credential here at all
					a.want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
				case may && (a.code == socketxp.CodeWrongPurpose || a.code == socketxp.CodeUnauthenticated):
					t.Fatalf("refused: %s", a.body)
				case !may:
					a.want(t, http.StatusForbidden, socketxp.CodeWrongPurpose)
					refused++
				}
			})
		}
		t.Run("no credential "+rt.pattern(), func(t *testing.T) {
			path, body := example(rt, unknownID)
			a := c.do(rt.method, path, body)
			if rt.policy != public {
				a.want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
			}
		})
	}
	t.Run("T-13 refusals are audited, sampled, and none is lost count of", func(t *testing.T) {
		if refused == 0 {
			t.Fatal("nothing was refused")
		}
		if n := w.refusals() - before; n == 0 || n > refused {
			t.Fatalf("%d of %d refusals are in the audit", n, refused)
		}
	})
}

// refusals counts wrong purposes in the account's audit.
func (w *world) refusals() int {
	return w.audited(w.account.ID, "token.use", socketxp.CodeWrongPurpose) + w.audited(w.account.ID, "signin.use", socketxp.CodeWrongPurpose)
}

// TestForeignIDs uses the ids of another account on every route that takes one.
func TestForeignIDs(t *testing.T) {
	w := start(t)
	own, other := w.tenant(), w.otherTenant("umbrella")
	c := w.rest()
	theirs := w.as(other)
	device, _ := theirs.register("pump-1", "their-group")
	token, _ := theirs.access()
	now := w.g.now()
	session := socketxp.Session{
		ID: socketxp.NewID(now), AccountID: other.account.ID, DeviceID: device.ID, DeviceName: device.Name, UserID: other.owner.ID, TokenID: token.ID,
		Destination: "tcp://localhost:22", RemoteAddr: "192.0.2.1", StartedAt: now,
	}
	if err := w.store.CreateSession(t.Context(), session, theirs.entry("session.start")); err != nil {
		t.Fatal(err)
	}
	foreign := map[string]string{
		"/terminals/": (&person{tenant: other, w: w}).fakeTerminal(),
		"/devices/":   device.ID, "/tokens/": token.ID, "/sessions/": session.ID, "/signins/": other.signIn.ID, "/groups/": "their-group", //nolint:misspell // the plural of sign-in
	}
	_, basic := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
	_, apiToken := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
	credentials := map[string][]string{"signin": append(cookie(own.cookie), "Origin", w.origin()), "basic": bearer(basic), "api": bearer(apiToken)}

	snapshot := func() []any {
		groups := must[[]socketxp.Group](t)(w.store.Groups(t.Context(), other.account.ID))
		return []any{
			must[socketxp.Device](t)(w.store.Device(t.Context(), other.account.ID, device.ID)).DisplayName,
			must[socketxp.Token](t)(w.store.Token(t.Context(), other.account.ID, token.ID)).RevokedAt,
			must[socketxp.Session](t)(w.store.Session(t.Context(), other.account.ID, session.ID)).EndedAt,
			len(must[[]socketxp.SignIn](t)(w.store.SignIns(t.Context(), other.account.ID, other.owner.ID, w.g.now()))),
			len(must[[]socketxp.AuditRecord](t)(w.store.Audit(t.Context(), other.account.ID, socketxp.AuditQuery{Limit: 1000}))),
			len(groups), groups[0].Name,
		}
	}
	before := snapshot()
	tried := 0
	for _, rt := range routes() {
		if !strings.Contains(rt.path, "{id}") && !strings.Contains(rt.path, "{name}") || rt.policy == public {
			continue // the portal's page is the same for every id
		}
		var id string
		for part, v := range foreign {
			if strings.Contains(rt.path, part) {
				id = v
			}
		}
		if id == "" {
			t.Fatalf("%s: this test has no id for it", rt.pattern())
		}
		missing := unknownID
		if strings.Contains(rt.path, "{name}") {
			missing = "no-such-group"
		}
		for kind, credential := range credentials {
			if rt.policy.purpose == socketxp.PurposePortal && kind != "signin" {
				continue
			}
			t.Run("A-01 A-02 A-10 "+kind+" "+rt.pattern(), func(t *testing.T) {
				path, body := example(rt, id)
				got := c.do(rt.method, path, body, credential...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
				path, body = example(rt, missing)
				want := c.do(rt.method, path, body, credential...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
				if got.body != want.body {
					t.Fatalf("another account's: %s, nobody's: %s", got.body, want.body)
				}
				for name := range got.header {
					if name != "Date" && !strings.HasPrefix(name, "Ratelimit-") && !slices.Equal(got.header[name], want.header[name]) {
						t.Errorf("%s differs: %q and %q", name, got.header[name], want.header[name])
					}
				}
				path, body = example(rt, "..%2f"+id)
				c.do(rt.method, path, body, credential...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
			})
			tried++
		}
	}
	if tried < 20 {
		t.Fatalf("only %d were tried", tried)
	}
	if after := snapshot(); !slices.Equal(before, after) {
		t.Fatalf("A-10 the other account changed: %v, was %v", after, before)
	}
	t.Run("A-01 lists show own rows only", func(t *testing.T) {
		for _, path := range []string{"/devices", "/devices?search=pump", "/tunnels", "/sessions", "/sessions?device_id=" + device.ID, "/sessions?token_id=" + token.ID, "/events", "/events?device_id=" + device.ID, "/audit?actor_id=" + other.owner.ID, "/groups"} {
			a := c.do(get, "/api/v1"+path, "", credentials["signin"]...)
			if a.status != http.StatusOK || strings.Contains(a.body, device.ID) || strings.Contains(a.body, "their-group") || strings.Contains(a.body, other.owner.ID) {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
		c.do(get, "/api/v1/tunnels?device_id="+device.ID, "", credentials["signin"]...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
	})
	t.Run("A-05 another account's id in a body", func(t *testing.T) {
		mine, _ := w.register("mine", "")
		a := c.do(post, "/api/v1/tokens", `{"kind":"access","name":"mixed","scope":{"devices":["`+mine.ID+`","`+device.ID+`"]}}`, credentials["signin"]...)
		b := c.do(post, "/api/v1/tokens", `{"kind":"access","name":"mixed","scope":{"devices":["`+mine.ID+`","`+unknownID+`"]}}`, credentials["signin"]...)
		if a.want(t, http.StatusNotFound, socketxp.CodeNotFound).body != b.body {
			t.Fatalf("another account's: %s, nobody's: %s", a.body, b.body)
		}
		if a := c.do(get, "/api/v1/tokens", "", credentials["signin"]...); strings.Contains(a.body, "mixed") {
			t.Fatal("the token was made")
		}
	})
	t.Run("A-15 the same names in two accounts", func(t *testing.T) {
		d, _ := w.register("pump-1", "their-group")
		c.do(patch, "/api/v1/groups/their-group", `{"name":"ours"}`, credentials["signin"]...).want(t, http.StatusOK, "")
		c.do(remove, "/api/v1/devices/"+d.ID, "", credentials["signin"]...).want(t, http.StatusNoContent, "")
		if after := snapshot(); !slices.Equal(before, after) {
			t.Fatalf("the other account changed: %v, was %v", after, before)
		}
	})
}

func TestFreshAuth(t *testing.T) {
	w := start(t)
	c := w.rest()
	tok, text := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{})
	_, fresh := w.newSignIn(0)
	_, stale := w.newSignIn(socketxp.FreshAuth + time.Second)
	path := "/api/v1/tokens/" + tok.ID + "/reveal"
	t.Run("T-32 a token's text is shown again after a fresh password, and is the same", func(t *testing.T) {
		got := into[struct{ Token string }](t, c.do(post, path, "", cookie(fresh)...))
		if got.Token != text {
			t.Fatal("it is another text")
		}
		if n := w.audited(w.account.ID, "token.reveal", ""); n != 1 {
			t.Fatalf("%d audit records", n)
		}
	})
	t.Run("T-32 not with a stale one", func(t *testing.T) {
		c.do(post, path, "", cookie(stale)...).want(t, http.StatusForbidden, socketxp.CodeReauthRequired)
	})
	t.Run("T-32 not with a token", func(t *testing.T) {
		_, strong := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
		c.do(post, path, "", bearer(strong)...).want(t, http.StatusForbidden, socketxp.CodeWrongPurpose)
	})
	t.Run("T-32 not a token that is over", func(t *testing.T) {
		c.do(post, "/api/v1/tokens/"+tok.ID+"/revoke", "", cookie(fresh)...).want(t, http.StatusNoContent, "")
		c.do(post, path, "", cookie(fresh)...).want(t, http.StatusConflict, socketxp.CodeConflict)
	})
}

var operationWithoutRoute = huma.Operation{Method: get, Path: "/x"}
