package gateway

import (
	"crypto/tls"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/terminal"
)

// TestTerminalOrigin opens the WebSocket with a person's cookie and a good ticket
// from pages that are not the portal's, however the gateway is deployed.
func TestTerminalOrigin(t *testing.T) {
	for _, mode := range []struct {
		name, publicURL string
		host            string // that the browser asks for; "" for the gateway's address
		origin          string // of the portal; "" for the gateway's address
		proxied         bool   // a load balancer asks for another host
	}{
		{name: "a certificate of its own, by address"},
		{name: "no public URL, another name", host: "localhost:8443", origin: "https://localhost:8443"},
		{name: "public URL", publicURL: "https://portal.example.com", host: "portal.example.com", origin: "https://portal.example.com"},
		{name: "public URL with a port", publicURL: "https://portal.example.com:8443", host: "portal.example.com:8443", origin: "https://portal.example.com:8443"},
		{name: "behind a proxy", publicURL: "https://portal.example.com", host: "10.0.0.1:8443", origin: "https://portal.example.com", proxied: true},
		{name: "public address", publicURL: "https://192.0.2.1", host: "192.0.2.1", origin: "https://192.0.2.1"},
		{name: "public IPv6 address", publicURL: "https://[2001:db8::1]:8443", host: "[2001:db8::1]:8443", origin: "https://[2001:db8::1]:8443"},
	} {
		t.Run(mode.name, func(t *testing.T) {
			w := startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.PublicURL = mode.publicURL })
			p := w.person()
			id := p.fakeTerminal()
			host, origin := mode.host, mode.origin
			if host == "" {
				host, origin = w.g.Addr().String(), w.origin()
			}
			name := strings.TrimPrefix(origin, "https://")
			bare, _, _ := strings.Cut(name, ":")
			evil := []string{
				"https://evil.example", "null", "", "https://" + bare + ".evil.example", "https://evil." + name, "https://" + bare + ":444", "https://x" + name,
				"http://" + name, "wss://" + name, "https://" + name + "/", "https://" + name + ".", "https://user@" + name, "https://" + name + "@evil.example", name, "https://", "*",
			}
			if upper := "https://" + strings.ToUpper(name); upper != origin {
				evil = append(evil, upper)
			}
			if mode.proxied {
				evil = append(evil, "https://"+host)
			}
			for _, o := range evil {
				a := p.upgrade(id, host, p.ticket(id), map[string][]string{"Origin": {o}})
				if a.status != http.StatusForbidden || a.code != socketxp.CodeForbidden || !strings.Contains(a.body, "another site") {
					t.Errorf("W-01 W-02 Origin %q: %d %s", o, a.status, a.body)
				}
			}
			for what, headers := range map[string]map[string][]string{
				"no Origin":          {"Origin": nil},
				"two Origins":        {"Origin": {origin, "https://evil.example"}},
				"the same one twice": {"Origin": {origin, origin}},
			} {
				if a := p.upgrade(id, host, p.ticket(id), headers); a.status != http.StatusForbidden {
					t.Errorf("W-01 W-02 %s: %d %s", what, a.status, a.body)
				}
			}
			if a := p.upgrade(id, host, p.ticket(id), map[string][]string{"Origin": {origin}}); a.status != http.StatusSwitchingProtocols {
				t.Errorf("the portal itself: %d %s", a.status, a.body)
			}
		})
	}
}

// fakeTerminal puts a terminal on the books that leads nowhere.
func (p *person) fakeTerminal() string {
	p.w.Helper()
	d, _ := p.w.as(p.tenant).register("fake-"+socketxp.NewID(time.Now())[24:], "fake")
	t := p.w.g.idleTerminal(p.caller(), d)
	if err := p.w.g.terminals.add(t, p.w.g.limits); err != nil {
		p.w.Fatal(err)
	}
	p.w.Cleanup(func() {
		t.term.End(terminal.Ending{Reason: terminal.ReasonClosed})
		t.over()
	})
	return t.id()
}

// upgrade asks for a WebSocket as raw as can be, so that every header is what the test
// says.
func (p *person) upgrade(id, host, ticket string, headers map[string][]string) restAnswer {
	p.w.Helper()
	return p.upgradeAt("/api/v1/terminals/"+id+"/attach", host, ticket, headers)
}

func (p *person) upgradeAt(path, host, ticket string, headers map[string][]string) restAnswer {
	p.w.Helper()
	cfg := must[*tls.Config](p.w.T)(p.w.g.Address().TLSConfig(nil))
	cfg.NextProtos = []string{"http/1.1"}
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	req := must[*http.Request](p.w.T)(http.NewRequestWithContext(p.w.Context(), get, p.w.url(path), nil))
	if host != "" {
		req.Host = host
	}
	req.Header = http.Header{
		"Cookie": {cookieName + "=" + p.cookie}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {base64.StdEncoding.EncodeToString(make([]byte, 16))}, "Sec-Websocket-Protocol": {terminalProtocol + ", " + ticketPrefix + ticket},
		"Origin": {p.w.origin()},
	}
	for name, values := range headers {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	resp := must[*http.Response](p.w.T)(tr.RoundTrip(req)) //nolint:bodyclose // it is, below
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols || resp.Header.Get("Content-Type") == "text/event-stream" { // without an end
		return restAnswer{status: resp.StatusCode, header: resp.Header}
	}
	body := string(must[[]byte](p.w.T)(io.ReadAll(io.LimitReader(resp.Body, 1<<20))))
	a := restAnswer{status: resp.StatusCode, header: resp.Header, body: body}
	if m := regexp.MustCompile(`"code":"(\w+)"`).FindStringSubmatch(body); m != nil {
		a.code = socketxp.Code(m[1])
	}
	return a
}

// TestWebSockets finds the WebSockets that there are by asking every route for one.
func TestWebSockets(t *testing.T) {
	w := start(t)
	p := w.person()
	id := p.fakeTerminal()
	var opened []string
	for _, rt := range routes() {
		if rt.method != get {
			continue
		}
		path, _ := example(rt, id)
		headers := map[string][]string{}
		if rt.path == doorPath {
			headers = map[string][]string{"Cookie": nil, "Origin": nil, "Sec-WebSocket-Protocol": {"socketxp-door/1"}}
		}
		if a := p.upgradeAt(path, "", p.ticket(id), headers); a.status == http.StatusSwitchingProtocols {
			opened = append(opened, rt.path)
		}
		for what, headers := range map[string]map[string][]string{
			"the Origin of another site": {"Origin": {"https://evil.example"}},
			"no Origin":                  {"Origin": nil},
			"no ticket":                  {"Sec-WebSocket-Protocol": {terminalProtocol}},
			"no ticket for the doors":    {"Sec-WebSocket-Protocol": {"socketxp-door/1"}},
		} {
			if a := p.upgradeAt(path, "", p.ticket(id), headers); a.status == http.StatusSwitchingProtocols {
				t.Errorf("W-03 %s is opened by a browser with a cookie and %s", rt.path, what)
			}
		}
	}
	if want := []string{doorPath, "/api/v1/terminals/{id}/attach"}; !slices.Equal(opened, want) {
		t.Errorf("W-03 the WebSockets are %q, want %q", opened, want)
	}
	t.Run("W-03 nothing else upgrades", func(t *testing.T) {
		for _, file := range must[[]string](t)(filepath.Glob("*.go")) {
			text := string(must[[]byte](t)(os.ReadFile(file)))
			if !strings.HasSuffix(file, "_test.go") && file != "tunnel.go" && file != "terminalsocket.go" && regexp.MustCompile(`websocket\.Accept\(|Hijack\(\)`).MatchString(text) && file != "http.go" {
				t.Errorf("%s makes a WebSocket that this test does not know", file)
			}
		}
	})
}

func TestTerminalTickets(t *testing.T) {
	w := start(t)
	p := w.person()
	one, two := p.fakeTerminal(), p.fakeTerminal()
	good := func(t *testing.T) {
		t.Helper()
		if a := p.upgrade(one, "", p.ticket(one), nil); a.status != http.StatusSwitchingProtocols {
			t.Fatalf("a good ticket: %d %s", a.status, a.body)
		}
	}
	good(t)
	t.Run("W-04 twice", func(t *testing.T) {
		ticket := p.ticket(one)
		if a := p.upgrade(one, "", ticket, nil); a.status != http.StatusSwitchingProtocols {
			t.Fatal(a.status)
		}
		p.upgrade(one, "", ticket, nil).want(t, http.StatusForbidden, socketxp.CodeForbidden)
	})
	t.Run("W-04 of another terminal, which uses it up", func(t *testing.T) {
		ticket := p.ticket(two)
		p.upgrade(one, "", ticket, nil).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		p.upgrade(two, "", ticket, nil).want(t, http.StatusForbidden, socketxp.CodeForbidden)
	})
	t.Run("W-04 with the cookie of another person", func(t *testing.T) {
		other := &person{tenant: w.otherTenant("umbrella"), w: w, rest: p.rest}
		other.upgrade(one, "", p.ticket(one), nil).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		theirs := other.fakeTerminal()
		p.upgrade(one, "", other.ticket(theirs), nil).want(t, http.StatusForbidden, socketxp.CodeForbidden)
		good(t)
	})
	t.Run("W-04 with another sign-in of the same person", func(t *testing.T) {
		other := w.person()
		other.upgrade(one, "", p.ticket(one), nil).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		p.rest.do(post, "/api/v1/terminals/"+one+"/ticket", "", cookie(other.cookie)...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		p.rest.do(remove, "/api/v1/terminals/"+one, "", cookie(other.cookie)...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
	})
	t.Run("W-04 after 31 s", func(t *testing.T) {
		now := w.g.now()
		terminal := must[*webTerminal](t)(w.g.terminals.find(p.caller(), one))
		for age, ok := range map[time.Duration]bool{0: true, 29 * time.Second: true, ticketLife: false, 31 * time.Second: false} {
			ticket := w.g.terminals.issue(terminal, p.caller(), now)
			if err := w.g.terminals.use(ticket.Ticket, terminal, p.caller(), now.Add(age)); (err == nil) != ok {
				t.Errorf("after %v: %v", age, err)
			}
		}
	})
	t.Run("W-04 in the address", func(t *testing.T) {
		ticket := p.ticket(one)
		a := p.upgradeAt("/api/v1/terminals/"+one+"/attach?ticket="+ticket, "", ticket, map[string][]string{"Sec-WebSocket-Protocol": {terminalProtocol}})
		a.want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	})
	t.Run("W-04 with a token", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
		a := p.upgrade(one, "", p.ticket(one), map[string][]string{"Cookie": nil, "Authorization": {"Bearer " + text}})
		a.want(t, http.StatusForbidden, socketxp.CodeWrongPurpose)
	})
	t.Run("W-04 no cookie", func(t *testing.T) {
		p.upgrade(one, "", p.ticket(one), map[string][]string{"Cookie": nil}).want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	})
	t.Run("no WebSocket", func(t *testing.T) {
		p.upgrade(one, "", p.ticket(one), map[string][]string{"Upgrade": nil}).want(t, http.StatusUpgradeRequired, socketxp.CodeInvalid)
	})
	t.Run("one person has no more than 20", func(t *testing.T) {
		for range w.g.limits.terminalsPerUser - 2 {
			p.fakeTerminal()
		}
		t21 := w.g.idleTerminal(p.caller(), socketxp.Device{})
		defer t21.term.End(terminal.Ending{Reason: terminal.ReasonClosed})
		if err := w.g.terminals.add(t21, w.g.limits); socketxp.CodeOf(err) != socketxp.CodeTooManyLinks {
			t.Errorf("the 21st: %v", err)
		}
	})
}

func (p *person) caller() caller {
	return caller{kind: socketxp.KindSignIn, accountID: p.account.ID, userID: p.owner.ID, credentialID: p.signIn.ID, signIn: p.signIn}
}
