package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"socketxp"
	device "socketxp/internal/agent"
	"socketxp/internal/api"
	"socketxp/internal/control"
	"socketxp/internal/terminal"
)

// agentDevice registers a device by the real agent and has it publish the
// destinations; those that end in "+ssh" as the built-in SSH server.
func (w *world) agentDevice(name string, destinations ...string) socketxp.Device {
	w.Helper()
	_, text := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
	dir := must[*device.Dir](w.T)(device.OpenDir(w.TempDir() + "/work"))
	key := must[device.DeviceKey](w.T)(device.Login(w.Context(), device.LoginOptions{Target: device.Target{Token: text}, Dir: dir, Name: name}))
	var tunnels []device.Tunnel
	for _, d := range destinations {
		d, builtIn := strings.CutSuffix(d, "+ssh")
		t := device.Tunnel{Destination: must[socketxp.Destination](w.T)(socketxp.ParseDestination(d)), SSH: builtIn}
		if builtIn {
			t.Policy = device.DefaultSSHPolicy()
		}
		tunnels = append(tunnels, t)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, connected := make(chan error, 1), make(chan struct{}, 100)
	go func() {
		ended <- device.Connect(ctx, device.ConnectOptions{Dir: dir, Tunnels: tunnels, Version: "test", Connected: func() {
			select {
			case connected <- struct{}{}:
			default:
			}
		}})
	}()
	w.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("the agent ended with: %v", err)
		}
	})
	select {
	case <-connected:
	case <-time.After(patience):
		w.Fatal("the agent is not connected")
	}
	return must[socketxp.Device](w.T)(w.store.Device(w.Context(), w.account.ID, key.ID))
}

// person is somebody with a browser, who is signed in.
type person struct {
	tenant
	w    *world
	rest *restClient
}

func (w *world) person() *person {
	w.Helper()
	return &person{tenant: w.tenant(), w: w, rest: w.rest()}
}

// origin is the portal's, as a browser says it.
func (w *world) origin() string { return "https://" + w.g.Addr().String() }

func (p *person) open(d socketxp.Device, body string) api.Terminal {
	p.w.Helper()
	return into[api.Terminal](p.w.T, p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", body, cookie(p.cookie)...))
}

// screen is a browser's end of a terminal.
type screen struct {
	w       *world
	conn    *websocket.Conn
	control context.CancelFunc
	reading sync.WaitGroup

	mu      sync.Mutex // guards the following
	output  []byte
	from    int64 // number of the first byte of output; -1 before it is known
	states  []string
	last    map[string]any // the last state message
	notices []string
	over    bool
	err     error
	noAcks  bool
}

// request asks for the WebSocket of a terminal, with these headers in place of a
// browser's.
func (p *person) request(id, ticket string, headers map[string]string) (*websocket.Conn, *http.Response, error) {
	p.w.Helper()
	h := http.Header{"Origin": {p.w.origin()}, "Cookie": {cookieName + "=" + p.cookie}}
	for name, value := range headers {
		if h.Set(name, value); value == "" {
			h.Del(name)
		}
	}
	cfg := must[*tls.Config](p.w.T)(p.w.g.Address().TLSConfig(nil))
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "wss"+strings.TrimPrefix(p.w.url("/api/v1/terminals/"+id+"/attach"), "https"), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: tr}, HTTPHeader: h, Subprotocols: []string{terminalProtocol, ticketPrefix + ticket},
	})
	return conn, resp, err
}

// attach looks at a terminal, having the first from bytes of its output.
func (p *person) attach(id, ticket string, from int64) *screen {
	p.w.Helper()
	conn, _, err := p.request(id, ticket, nil) //nolint:bodyclose // the connection is what is closed
	if err != nil {
		p.w.Fatal(err)
	}
	if conn.Subprotocol() != terminalProtocol {
		p.w.Fatalf("the subprotocol is %q", conn.Subprotocol())
	}
	conn.SetReadLimit(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	s := &screen{w: p.w, conn: conn, control: cancel, from: -1}
	s.say(map[string]any{"type": "attach", "from": from})
	s.reading.Go(func() { s.read(ctx) })
	p.w.Cleanup(s.drop)
	return s
}

// drop is the network going away.
func (s *screen) drop() {
	s.control()
	_ = s.conn.CloseNow()
	s.reading.Wait()
}

func (s *screen) say(m map[string]any) {
	s.w.Helper()
	_ = s.conn.Write(context.Background(), websocket.MessageText, must[[]byte](s.w.T)(json.Marshal(m)))
}

func (s *screen) typed(text string) {
	_ = s.conn.Write(context.Background(), websocket.MessageBinary, []byte(text))
}

func (s *screen) read(ctx context.Context) {
	for {
		kind, b, err := s.conn.Read(ctx)
		s.mu.Lock()
		if err != nil {
			s.over, s.err = true, err
			s.mu.Unlock()
			return
		}
		var ack int64
		if kind == websocket.MessageBinary {
			s.output = append(s.output, b...)
			if !s.noAcks {
				ack = s.from + int64(len(s.output))
			}
		} else {
			var m map[string]any
			_ = json.Unmarshal(b, &m)
			switch m["type"] {
			case "from":
				s.from = int64(m["offset"].(float64))
			case "state":
				s.states, s.last = append(s.states, m["state"].(string)), m
			case "notice":
				s.notices = append(s.notices, m["message"].(string))
			}
		}
		s.mu.Unlock()
		if ack > 0 {
			s.say(map[string]any{"type": "ack", "bytes": ack})
		}
	}
}

// seen waits for text in the output.
func (s *screen) seen(text string) {
	s.w.Helper()
	eventually(s.w.T, patience, fmt.Sprintf("%q is seen", text), func() bool { return strings.Contains(s.text(), text) })
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.output)
}

// state waits for a state, or for the end, and returns its message.
func (s *screen) state(want string) map[string]any {
	s.w.Helper()
	var last map[string]any
	eventually(s.w.T, patience, "state "+want, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		last = s.last
		return last["state"] == want || s.over
	})
	if last["state"] != want {
		s.w.Fatalf("the state is %v, %v, want %s", last, s.err, want)
	}
	return last
}

// closed waits until the socket is closed, and returns the reason it was told.
func (s *screen) closed(within time.Duration) string {
	s.w.Helper()
	eventually(s.w.T, within, "the socket is closed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.over
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	reason, _ := s.last["reason"].(string)
	return reason
}

const builtIn = "tcp://localhost:22+ssh"

func TestTerminal(t *testing.T) {
	w := start(t)
	d := w.agentDevice("kiosk", builtIn)
	p := w.person()
	opened := p.open(d, `{"port":22,"columns":100,"rows":30}`)
	if opened.DeviceID != d.ID || opened.DeviceName != "kiosk" || opened.HostKey.State != "known" || !strings.HasPrefix(opened.HostKey.Fingerprint, "SHA256:") {
		t.Fatalf("opened %+v", opened)
	}
	session := w.session(opened.ID, func(socketxp.Session) bool { return true })
	if session.DeviceID != d.ID || session.UserID != w.owner.ID || session.TokenID != "" || session.Destination != "tcp://localhost:22" || session.RemoteAddr != "127.0.0.1" {
		t.Errorf("session %+v", session)
	}
	records := must[[]socketxp.AuditRecord](t)(w.store.Audit(t.Context(), w.account.ID, socketxp.AuditQuery{Action: "session.start", Limit: 10}))
	if len(records) != 1 || records[0].Actor.Kind != socketxp.KindSignIn || records[0].Actor.CredentialID != p.signIn.ID {
		t.Errorf("audited %+v", records)
	}
	s := p.attach(opened.ID, opened.Ticket, 0)
	s.state("open")
	s.typed("echo a$((40+2))b; stty size\n")
	s.seen("a42b")
	s.seen("30 100")

	t.Run("it is resized", func(t *testing.T) {
		s.say(map[string]any{"type": "resize", "columns": 70, "rows": 20})
		eventually(t, patience, "the new size", func() bool {
			s.typed("stty size\n")
			return strings.Contains(s.text(), "20 70")
		})
	})
	t.Run("it is in the list of its sign-in, and of no other", func(t *testing.T) {
		list := into[api.Page[api.OpenTerminal]](t, p.rest.do(get, "/api/v1/terminals", "", cookie(p.cookie)...))
		if len(list.Items) != 1 || list.Items[0].ID != opened.ID || !list.Items[0].Attached || list.Items[0].Port != 22 {
			t.Fatalf("list %+v", list)
		}
		other := into[api.Page[api.OpenTerminal]](t, p.rest.do(get, "/api/v1/terminals", "", cookie(w.tenant().cookie)...))
		if len(other.Items) != 0 {
			t.Fatalf("list %+v", other)
		}
	})
	t.Run("it survives a drop of the network, and not a byte is lost", func(t *testing.T) {
		s.typed("sh -c 'sleep 0.3; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo all''done'\n")
		s.drop()
		s.mu.Lock()
		had, before := s.from+int64(len(s.output)), string(s.output)
		s.mu.Unlock()
		again := p.attach(opened.ID, p.ticket(opened.ID), had)
		again.seen("alldone")
		if again.from != had {
			t.Fatalf("it goes on from %d, not %d", again.from, had)
		}
		whole := before + again.text()
		for i := range 2000 {
			if !strings.Contains(whole, fmt.Sprintf("line %d\r\n", i)) {
				t.Fatalf("line %d is lost", i)
			}
		}
		s = again
	})
	t.Run("a page that is loaded again sees what is kept", func(t *testing.T) {
		again := p.attach(opened.ID, p.ticket(opened.ID), 0)
		again.seen("a42b")
		again.seen("alldone")
		if reason := s.closed(patience); reason != "taken_over" {
			t.Fatalf("the first one was told %q", reason)
		}
		again.typed("echo still\"\" here\n")
		again.seen("still here")
		s = again
	})
	t.Run("its end is told, with the status", func(t *testing.T) {
		s.typed("exit 7\n")
		end := s.state("ended")
		if end["reason"] != "exited" || end["exit_status"] != 7.0 {
			t.Fatalf("ended %v", end)
		}
		s.closed(patience)
		over := w.session(opened.ID, func(s socketxp.Session) bool { return !s.EndedAt.IsZero() })
		if over.EndReason != "" || over.Links != 1 || over.BytesDown < 2000 {
			t.Errorf("session %+v", over)
		}
		eventually(t, patience, "it is forgotten", func() bool {
			return p.rest.do(post, "/api/v1/terminals/"+opened.ID+"/ticket", "", cookie(p.cookie)...).status == http.StatusNotFound
		})
	})
}

func (p *person) ticket(id string) string {
	p.w.Helper()
	return into[api.TerminalTicket](p.w.T, p.rest.do(post, "/api/v1/terminals/"+id+"/ticket", "", cookie(p.cookie)...)).Ticket
}

// shown opens a terminal on which a program runs, and returns its process.
func (p *person) shown(d socketxp.Device) (api.Terminal, *screen, int) {
	p.w.Helper()
	opened := p.open(d, `{"port":22}`)
	s := p.attach(opened.ID, opened.Ticket, 0)
	s.state("open")
	// It takes the shell's place and has no children: whoever starts all else on a machine
	// may reap orphans late.
	s.typed("exec bash -c 'echo pid=$$=; while :; do echo tick; read -t 0.05; done'\n")
	pid := 0
	eventually(p.w.T, patience, "the program runs", func() bool {
		for _, part := range strings.Split(s.text(), "pid=")[1:] {
			if text, _, ok := strings.Cut(part, "="); ok {
				pid, _ = strconv.Atoi(text)
			}
		}
		return pid > 0
	})
	s.seen("tick")
	return opened, s, pid
}

// TestTerminalCut is about all that ends what a person has open.
func TestTerminalCut(t *testing.T) {
	const within = 5 * time.Second
	const password = "the old one, long enough"
	for _, c := range []struct {
		name, reason string
		act          func(w *world, p *person, d socketxp.Device, opened api.Terminal)
	}{
		{"L-01 W-05 signed out in another tab", "unauthenticated", func(w *world, p *person, _ socketxp.Device, _ api.Terminal) {
			p.rest.do(post, "/api/v1/signout", "", cookie(p.cookie)...).want(w.T, http.StatusNoContent, "")
		}},
		{"L-01 the password is changed", "unauthenticated", func(w *world, p *person, _ socketxp.Device, _ api.Terminal) {
			p.changePassword(password, "the new one, long enough")
		}},
		{"L-01 the password is changed in another browser", "unauthenticated", func(w *world, p *person, _ socketxp.Device, _ api.Terminal) {
			other := *p
			_, other.cookie = w.newSignIn(0)
			other.changePassword(password, "the new one, long enough")
			p.cookie = other.cookie
		}},
		{"L-01 the password is set from outside", "unauthenticated", func(w *world, p *person, _ socketxp.Device, _ api.Terminal) {
			w.setOwnerPassword("the new one, long enough")
			p.signIn, p.cookie = w.newSignIn(0)
		}},
		{"L-01 the session is ended by an operator", "session_ended", func(w *world, p *person, _ socketxp.Device, opened api.Terminal) {
			p.rest.do(post, "/api/v1/sessions/"+opened.ID+"/end", "", cookie(p.cookie)...).want(w.T, http.StatusNoContent, "")
		}},
		{"L-01 the device is disabled", "device_disabled", func(w *world, p *person, d socketxp.Device, _ api.Terminal) {
			p.rest.do(post, "/api/v1/devices/"+d.ID+"/disable", "", cookie(p.cookie)...)
		}},
		{"L-01 the person is no member any more", "unauthenticated", func(w *world, _ *person, _ socketxp.Device, _ api.Terminal) {
			w.store.removed.Store(true)
			w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintMemberRemoved, AccountID: w.account.ID, ID: w.owner.ID})
		}},
		{"L-01 a hint was lost, and the sweep finds it", "unauthenticated", func(w *world, p *person, _ socketxp.Device, _ api.Terminal) {
			if err := w.store.DeleteSignIn(w.Context(), w.account.ID, w.owner.ID, p.signIn.ID, w.entry("signin.end")); err != nil {
				w.Fatal(err)
			}
		}},
		{"L-01 the database does not answer any more", "unavailable", func(w *world, _ *person, _ socketxp.Device, _ api.Terminal) {
			w.store.down.Store(true)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(l *limits) {
				l.sweepEvery, l.sweepRetry, l.strictAfter, l.countEvery = time.Second, time.Second, 2*time.Second, 100*time.Millisecond
			})
			if strings.Contains(c.name, "password") { // a hash costs much with the race detector
				w.setOwnerPassword(password)
			}
			d := w.agentDevice("kiosk", builtIn)
			p := w.person()
			opened, s, pid := p.shown(d)
			c.act(w, p, d, opened)
			if reason := s.closed(within); reason != c.reason {
				t.Errorf("it was told %q, not %q", reason, c.reason)
			}
			eventually(t, within, "the program is hung up", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
			w.store.down.Store(false)
			w.store.removed.Store(false)
			over := w.session(opened.ID, func(s socketxp.Session) bool { return !s.EndedAt.IsZero() })
			if string(over.EndReason) != c.reason {
				t.Errorf("the session ended by %q", over.EndReason)
			}
			eventually(t, within, "it is forgotten", func() bool {
				w.g.terminals.mu.Lock()
				defer w.g.terminals.mu.Unlock()
				return len(w.g.terminals.byID) == 0 && len(w.g.terminals.byUser) == 0 && len(w.g.terminals.tickets) == 0
			})
		})
	}
	t.Run("the gateway shuts down", func(t *testing.T) {
		t.Parallel()
		w := start(t)
		p := w.person()
		_, s, _ := p.shown(w.agentDevice("kiosk", builtIn))
		stopped := make(chan error, 1)
		go func() { stopped <- w.stop() }()
		if reason := s.closed(patience); reason != "going_away" {
			t.Errorf("it was told %q", reason)
		}
		if len(s.notices) != 1 || !strings.Contains(s.notices[0], "shutting down") {
			t.Errorf("notices %q", s.notices)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Run("a password that is entered again cuts nothing", func(t *testing.T) {
		t.Parallel()
		w := start(t)
		w.setOwnerPassword("long enough for all")
		p := w.person()
		opened, s, _ := p.shown(w.agentDevice("kiosk", builtIn))
		a := p.rest.do(post, "/api/v1/reauth", `{"password":"long enough for all"}`, cookie(p.cookie)...).want(t, http.StatusOK, "")
		_, p.cookie, _ = strings.Cut(strings.SplitN(a.header.Get("Set-Cookie"), ";", 2)[0], "=")
		w.flush()
		s.mu.Lock()
		n := len(s.output)
		s.mu.Unlock()
		eventually(t, patience, "it goes on", func() bool { return len(s.text()) > n })
		p.ticket(opened.ID)
		p.rest.do(post, "/api/v1/signout", "", cookie(p.cookie)...).want(t, http.StatusNoContent, "")
		if reason := s.closed(within); reason != "unauthenticated" {
			t.Errorf("it was told %q", reason)
		}
	})
}

// changePassword is what the page of the profile does.
func (p *person) changePassword(from, to string) {
	p.w.Helper()
	body := string(must[[]byte](p.w.T)(json.Marshal(map[string]string{"current_password": from, "new_password": to})))
	a := p.rest.do(put, "/api/v1/me/password", body, cookie(p.cookie)...).want(p.w.T, http.StatusOK, "")
	_, p.cookie, _ = strings.Cut(strings.SplitN(a.header.Get("Set-Cookie"), ";", 2)[0], "=")
}

// TestTerminalKeepsSignIn has a person do nothing for hours but type.
func TestTerminalKeepsSignIn(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T, touchEvery time.Duration) (w *world, s *screen, lastSeen func() time.Duration, ahead func(time.Duration)) {
		t.Helper()
		w = start(t, func(l *limits) { l.touchEvery, l.sweepEvery = touchEvery, time.Hour })
		p := w.person()
		p.signIn, p.cookie = w.newSignInFor(0, socketxp.SignInLife)
		opened := p.open(w.agentDevice("kiosk", builtIn), `{"port":22}`)
		s = p.attach(opened.ID, opened.Ticket, 0)
		s.state("open")
		lastSeen = func() time.Duration {
			in := must[socketxp.SignIn](t)(w.store.SignInBySecret(t.Context(), p.signIn.SecretHash, p.signIn.CreatedAt))
			return in.LastSeenAt.Sub(p.signIn.LastSeenAt)
		}
		return w, s, lastSeen, func(d time.Duration) { w.g.clock.high.Store(p.signIn.LastSeenAt.Add(d).UnixMicro()) }
	}
	t.Run("again and again", func(t *testing.T) {
		t.Parallel()
		_, s, lastSeen, ahead := begin(t, 20*time.Millisecond)
		ahead(10 * time.Minute)
		s.typed("echo so''on\n")
		s.seen("soon")
		eventually(t, patience, "it counts", func() bool { return lastSeen() >= 10*time.Minute })
	})
	t.Run("as often as requests, and not too late", func(t *testing.T) {
		t.Parallel()
		w, s, lastSeen, ahead := begin(t, time.Hour)
		typed := func(at time.Duration, word string) {
			t.Helper()
			ahead(at)
			s.typed("echo " + word[:1] + "''" + word[1:] + "\n")
			s.seen(word)
			w.g.touchTypists(t.Context())
		}
		typed(30*time.Second, "soon")
		if d := lastSeen(); d != 0 {
			t.Errorf("it was written after %v", d)
		}
		ahead(10 * time.Minute)
		if w.g.touchTypists(t.Context()); lastSeen() != 0 {
			t.Error("nobody has typed")
		}
		typed(20*time.Minute, "later")
		if d := lastSeen(); d < 20*time.Minute {
			t.Errorf("it was last seen after %v", d)
		}
		before := lastSeen()
		typed(21*time.Minute+socketxp.SignInIdle, "too-late")
		if d := lastSeen(); d != before {
			t.Errorf("a sign-in that was over is in use again, after %v", d)
		}
	})
}

// idleTerminal is a terminal that does nothing, and nobody runs.
func (g *Gateway) idleTerminal(who caller, d socketxp.Device) *webTerminal {
	t := &webTerminal{g: g, answers: make(map[uint32]chan control.Message)}
	t.ctx, t.end = context.WithCancel(context.Background())
	t.visit = g.newVisit(t, who, d, socketxp.Tunnel{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: 22}})
	t.term = terminal.New(terminal.Options{Limits: terminal.DefaultLimits()})
	return t
}

func TestTerminalFiles(t *testing.T) {
	w := start(t)
	d := w.agentDevice("kiosk", builtIn)
	p := w.person()
	opened := p.open(d, `{"port":22}`)
	base := "/api/v1/terminals/" + opened.ID + "/files"
	p.attach(opened.ID, opened.Ticket, 0).state("open")
	dir := t.TempDir()
	at := func(name string) string { return "?path=" + url.QueryEscape(filepath.Join(dir, name)) }
	upload := func(name, query string, body io.Reader) restAnswer {
		t.Helper()
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), put, w.url(base+"/content"+at(name)+query), body))
		req.Header.Set("Cookie", cookieName+"="+p.cookie)
		return p.rest.send(req)
	}
	content := func(name string) string { return string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, name)))) }
	const strange = `a "b"; ü ; <script>.txt`
	large := strings.Repeat("0123456789abcdef", 200<<10)

	t.Run("up, down and listed", func(t *testing.T) {
		upload(strange, "", strings.NewReader(large)).want(t, http.StatusNoContent, "")
		if content(strange) != large {
			t.Fatal("it is another content")
		}
		a := p.rest.do(get, base+"/content"+at(strange), "", cookie(p.cookie)...).want(t, http.StatusOK, "")
		if a.body != large || a.header.Get("Content-Type") != "application/octet-stream" || !strings.Contains(a.header.Get("Content-Security-Policy"), "sandbox") || a.header.Get("Content-Length") != strconv.Itoa(len(large)) {
			t.Errorf("%d bytes, %v", len(a.body), a.header)
		}
		if kind, params, err := mime.ParseMediaType(a.header.Get("Content-Disposition")); err != nil || kind != "attachment" || params["filename"] != strange {
			t.Errorf("%q: %q %v", a.header.Get("Content-Disposition"), params["filename"], err)
		}
		list := into[api.Files](t, p.rest.do(get, base+at(""), "", cookie(p.cookie)...))
		if list.Path != dir || list.Truncated || len(list.Entries) != 1 || list.Entries[0].Name != strange || list.Entries[0].Type != "file" || list.Entries[0].Size != int64(len(large)) {
			t.Errorf("list %+v", list)
		}
		for _, action := range []string{"file.upload", "file.upload-end", "file.download", "file.download-end"} {
			if w.audited(w.account.ID, action, "") != 1 {
				t.Errorf("%s is not audited", action)
			}
		}
	})
	t.Run("home", func(t *testing.T) {
		if list := into[api.Files](t, p.rest.do(get, base, "", cookie(p.cookie)...)); !filepath.IsAbs(list.Path) {
			t.Errorf("list %q", list.Path)
		}
	})
	t.Run("what is there stays, unless it is to be overwritten", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "there"), []byte("old"), 0o640); err != nil {
			t.Fatal(err)
		}
		upload("there", "", strings.NewReader("new")).want(t, http.StatusConflict, socketxp.CodeConflict)
		upload("there", "&overwrite=false", strings.NewReader("new")).want(t, http.StatusConflict, socketxp.CodeConflict)
		if content("there") != "old" {
			t.Fatal("it was overwritten")
		}
		upload("there", "&overwrite=true", strings.NewReader("new")).want(t, http.StatusNoContent, "")
		if st := must[os.FileInfo](t)(os.Stat(filepath.Join(dir, "there"))); content("there") != "new" || st.Mode().Perm() != 0o640 {
			t.Errorf("%q of mode %v", content("there"), st.Mode())
		}
		upload("", "&overwrite=true", strings.NewReader("new")).want(t, http.StatusConflict, socketxp.CodeConflict)
	})
	t.Run("a private file is nobody else's while it is overwritten", func(t *testing.T) {
		private := filepath.Join(dir, "private")
		if err := os.WriteFile(private, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		owner := os.Geteuid()
		if owner == 0 {
			owner = 12345
			if err := os.Chown(private, owner, owner); err != nil {
				t.Fatal(err)
			}
		}
		theirs := func(path string) bool {
			st, err := os.Stat(path)
			return err == nil && st.Mode().Perm() == 0o600 && int(st.Sys().(*syscall.Stat_t).Uid) == owner
		}
		r, in := io.Pipe()
		sent := make(chan restAnswer, 1)
		go func() { sent <- upload("private", "&overwrite=true", r) }()
		_, _ = io.WriteString(in, "new")
		eventually(t, patience, "what is being written is private", func() bool {
			parts := must[[]string](t)(filepath.Glob(filepath.Join(dir, ".*.part")))
			if len(parts) != 1 {
				return false
			}
			if st, err := os.Stat(parts[0]); err == nil && st.Size() > 0 && !theirs(parts[0]) {
				t.Errorf("it is %v", st.Mode())
			}
			return theirs(parts[0])
		})
		_ = in.Close()
		(<-sent).want(t, http.StatusNoContent, "")
		if content("private") != "new" || !theirs(private) {
			t.Error("it is another's now")
		}
		if err := os.Remove(private); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a link stays one", func(t *testing.T) {
		link := filepath.Join(dir, "link")
		for _, target := range []string{filepath.Join(dir, "there"), filepath.Join(dir, "nothing")} {
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			upload("link", "&overwrite=true", strings.NewReader("x")).want(t, http.StatusConflict, socketxp.CodeConflict)
			if now, err := os.Readlink(link); err != nil || now != target {
				t.Errorf("it leads to %q, %v", now, err)
			}
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("an upload that is called off leaves nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, in := io.Pipe()
		req := must[*http.Request](t)(http.NewRequestWithContext(ctx, put, w.url(base+"/content"+at("half")), r))
		req.Header.Set("Cookie", cookieName+"="+p.cookie)
		ended := make(chan error, 1)
		go func() {
			resp, err := p.rest.http.Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			ended <- err
		}()
		names := func() string {
			var names []string
			for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
				names = append(names, e.Name())
			}
			return strings.Join(names, " ")
		}
		_, _ = in.Write([]byte(large))
		eventually(t, patience, "it has begun", func() bool { return strings.Contains(names(), ".part") })
		cancel()
		_ = in.CloseWithError(io.ErrClosedPipe)
		if err := <-ended; err == nil {
			t.Error("it was answered")
		}
		eventually(t, patience, "nothing is left", func() bool { return !strings.Contains(names(), ".part") && !strings.Contains(names(), "half") })
	})
	t.Run("folders", func(t *testing.T) {
		body := string(must[[]byte](t)(json.Marshal(map[string]string{"path": filepath.Join(dir, "folder")})))
		p.rest.do(post, base+"/directory", body, cookie(p.cookie)...).want(t, http.StatusCreated, "")
		p.rest.do(post, base+"/directory", body, cookie(p.cookie)...).want(t, http.StatusConflict, socketxp.CodeConflict)
		p.rest.do(get, base+"/content"+at("folder"), "", cookie(p.cookie)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	})
	t.Run("what is not there, and no path", func(t *testing.T) {
		p.rest.do(get, base+at("nothing"), "", cookie(p.cookie)...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		p.rest.do(get, base+"/content"+at("nothing"), "", cookie(p.cookie)...).want(t, http.StatusNotFound, socketxp.CodeNotFound)
		for _, query := range []string{"", "?path=", "?path=%00", "?path=a&more=1", "?path=" + strings.Repeat("a", 4097)} {
			p.rest.do(get, base+"/content"+query, "", cookie(p.cookie)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
	})
	t.Run("after the end of the terminal", func(t *testing.T) {
		p.rest.do(remove, "/api/v1/terminals/"+opened.ID, "", cookie(p.cookie)...).want(t, http.StatusNoContent, "")
		eventually(t, patience, "it is forgotten", func() bool {
			return p.rest.do(get, base, "", cookie(p.cookie)...).status == http.StatusNotFound
		})
	})
}
