package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"socketxp"
	"socketxp/internal/link"
)

// hostile stands in front of a gateway, where only the gateway's operator could
// stand, and sees the link door's connections; the others pass.
type hostile struct {
	l       net.Listener
	gateway string
	// flip corrupts one byte of what each end of a link says, after this many bytes.
	flip int

	mu sync.Mutex // guards the following
	// onLink handles one connection to the link door whose preface was read; nil
	// passes it on and records it.
	onLink func(agent net.Conn, preface []byte)
	seen   bytes.Buffer
	links  int
	open   map[net.Conn]bool // and whether it is known to be a link
	closed bool
}

// newHostile listens on a loopback port; its gateway is set later.
func newHostile(t *testing.T) *hostile {
	t.Helper()
	h, err := listenHostile()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

// listenHostile is newHostile whose end is close.
func listenHostile() (*hostile, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hostile{l: l, open: make(map[net.Conn]bool)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	return h, nil
}

func (h *hostile) close() {
	_ = h.l.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.open {
		_ = c.Close()
	}
}

// treat has links be handled by onLink from now on, or be passed on if that is nil.
// Those that are open are cut.
func (h *hostile) treat(onLink func(agent net.Conn, preface []byte)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onLink = onLink
	for c, isLink := range h.open {
		if isLink {
			_ = c.Close()
		}
	}
}

func (h *hostile) url() string {
	_, port, _ := net.SplitHostPort(h.l.Addr().String())
	return "https://localhost:" + port
}

// own keeps a connection so that the test's end closes it.
func (h *hostile) own(c net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		_ = c.Close()
		return false
	}
	h.open[c] = false
	return true
}

func (h *hostile) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	if !h.own(c) {
		return
	}
	first := make([]byte, len(link.Magic))
	if _, err := io.ReadFull(c, first); err != nil {
		return
	}
	isLink := string(first) == link.Magic
	if isLink {
		preface := make([]byte, link.PrefaceSize)
		n := copy(preface, first)
		if _, err := io.ReadFull(c, preface[n:]); err != nil {
			return
		}
		if link.IsProbe(preface) { // answered, so that agents don't look for another door
			if _, err := c.Write(preface); err != nil {
				return
			}
			if _, err := io.ReadFull(c, preface); err != nil {
				return
			}
		}
		first = preface
		h.mu.Lock()
		h.links++
		h.open[c] = true
		onLink := h.onLink
		h.mu.Unlock()
		if onLink != nil {
			onLink(c, first)
			return
		}
	}
	up, err := net.Dial("tcp", h.gateway)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	if !h.own(up) {
		return
	}
	if _, err := up.Write(first); err != nil {
		return
	}
	var both sync.WaitGroup
	flip := 0
	if isLink { // on its way to the gateway only: on its way back it would be mended
		flip = h.flip
	}
	both.Go(func() { h.copy(up, c, isLink, flip) })
	both.Go(func() { h.copy(c, up, isLink, 0) })
	both.Wait()
}

func (h *hostile) copy(dst, src net.Conn, isLink bool, flip int) {
	defer func() {
		if tcp, ok := dst.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	buf := make([]byte, 64<<10)
	passed := 0
	for {
		n, err := src.Read(buf)
		if isLink {
			h.mu.Lock()
			h.seen.Write(buf[:n])
			h.mu.Unlock()
			if flip > 0 && passed <= flip && flip < passed+n {
				buf[flip-passed] ^= 0x01
			}
			passed += n
		}
		if _, werr := dst.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

// reached is a device with an echo service behind a gateway, and a laptop that
// reaches it.
type reached struct {
	stage   *stage
	env     []string
	gateway string // the URL that agents know
	token   string // a basic one
	service string // the echo service's port
	port    string // the laptop's local port
}

// reachThrough starts all of it; h stands between the agents and the gateway
// unless it is nil.
func reachThrough(t testing.TB, h *hostile) reached {
	t.Helper()
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	r := reached{stage: s, env: append(os.Environ(), "HOME="+s.work, "GORACE=halt_on_error=1 exitcode=66")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(s.work, "gateway")
	must(createOwner(dir, r.env))
	var err error
	if h == nil {
		r.gateway, err = startGateway(s, r.env, dir, "0")
		must(err)
	} else {
		// The gateway's own port is in its log; what it tells the world is the proxy's.
		r.gateway = h.url()
		p, err := s.start("gateway", r.env, filepath.Join(programs, "socketxp-gateway"), "serve", "--data-dir", dir,
			"--listen", "127.0.0.1:0", "--metrics-listen", "", "--public-url", h.url())
		must(err)
		m, err := p.await("stderr", `127\.0\.0\.1:(\d+)`, 30*time.Second)
		must(err)
		h.gateway = "127.0.0.1:" + m[1]
		must(waitFor(30*time.Second, func() error { return ready(h.url()) }))
	}
	owner, err := signIn(r.gateway)
	must(err)
	r.token, _, err = owner.token(`{"kind":"basic","name":"b"}`)
	must(err)

	echo, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	t.Cleanup(func() { _ = echo.Close() })
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	_, r.service, err = net.SplitHostPort(echo.Addr().String())
	must(err)
	login, err := s.start("login", r.agentEnv("device"), filepath.Join(programs, "socketxp"), "login", "--iot-device-name", "d")
	must(err)
	if code, err := login.wait(30 * time.Second); err != nil || code != 0 {
		t.Fatalf("login: status %d, %v: %s", code, err, login.read("stderr"))
	}
	must(r.startDevice())
	must(r.startLaptop())
	return r
}

func (r *reached) agentEnv(name string) []string {
	return slices.Concat(r.env, []string{"SOCKETXP_WORK_DIR=" + filepath.Join(r.stage.work, name), "SOCKETXP_AUTHTOKEN=" + r.token})
}

// startDevice starts the device's agent and waits until the gateway accepted it.
func (r *reached) startDevice() error {
	p, err := r.stage.start("device", r.agentEnv("device"), filepath.Join(programs, "socketxp"),
		"connect", "tcp://127.0.0.1:"+r.service, "--verbose")
	if err != nil {
		return err
	}
	_, err = p.await("stdout", "^Connected to", 60*time.Second)
	return err
}

// startLaptop starts the laptop's agent: on a free port the first time, on the
// same one afterwards.
func (r *reached) startLaptop() error {
	port := r.port
	if port == "" {
		port = "0"
	}
	p, err := r.stage.start("laptop", r.agentEnv("laptop"), filepath.Join(programs, "socketxp"),
		"connect", "tcp://localhost:"+port, "--iot-slave", "--peer-device-name", "d", "--peer-device-port", r.service, "--verbose")
	if err != nil {
		return err
	}
	m, err := p.await("stdout", `tcp://localhost:(\d+)`, 60*time.Second)
	if err != nil {
		return err
	}
	if r.port == "" {
		r.port = m[1]
	}
	return nil
}

// echo sends text through the laptop's port and wants it back.
func (r *reached) echo(text []byte) error {
	c, err := net.DialTimeout("tcp", "localhost:"+r.port, 10*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		_, _ = c.Write(text)
		_ = c.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it was dialled as TCP
	}()
	back, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(back, text) {
		err = fmt.Errorf("%d of %d bytes came back", len(back), len(text))
	}
	return err
}

// TestRelayReadsNothing records all that a gateway splices: what both ends said
// is not in it.
func TestRelayReadsNothing(t *testing.T) {
	h := newHostile(t)
	r := reachThrough(t, h)
	secret := bytes.Repeat([]byte("the reactor's password is swordfish. "), 2000)
	if err := r.echo(secret); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen.Len() < 2*len(secret) {
		t.Fatalf("the recording has %d bytes: the session did not go through it", h.seen.Len())
	}
	for _, word := range []string{"swordfish", "reactor", "tcp://127.0.0.1"} {
		if bytes.Contains(h.seen.Bytes(), []byte(word)) {
			t.Errorf("the gateway could read %q", word)
		}
	}
}

// TestRelayThatChangesBytes flips one byte: neither end takes anything for true
// that the other did not say.
func TestRelayThatChangesBytes(t *testing.T) {
	h := newHostile(t)
	h.flip = 200_000
	r := reachThrough(t, h)
	text := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := r.echo(text); err == nil {
		t.Fatal("a connection through a relay that changes bytes looked whole")
	}
}

// TestRelayThatSwapsKeys puts keys of its own between both ends: the visitor
// refuses the key that is not the device's, the device the one that is not the
// visitor's, and no byte of the session is said to it.
func TestRelayThatSwapsKeys(t *testing.T) {
	h := newHostile(t)
	heard := make(chan string, 16)
	swap, err := swapsKeys(func(s string) { heard <- s })
	if err != nil {
		t.Fatal(err)
	}
	h.treat(swap)
	r := reachThrough(t, h)
	if err := r.echo([]byte("the reactor's password")); err == nil {
		t.Fatal("the connection worked through swapped keys")
	}
	refused := map[string]bool{}
	for !refused["visitor"] || !refused["device"] {
		select {
		case s := <-heard:
			side, why, _ := strings.Cut(s, ": ")
			if why == "" || !strings.Contains(why, "certificate") && !strings.Contains(why, "EOF") && !strings.Contains(why, "reset") {
				t.Fatalf("%s", s)
			}
			refused[side] = true
		case <-time.After(20 * time.Second):
			t.Fatalf("only %v refused", refused)
		}
	}
}

// swapsKeys puts a key of its own in the place of both ends' keys on a link, and
// tells heard what came of it: "visitor: " or "device: " and why that refused, or that
// it "talked to a stranger".
func swapsKeys(heard func(string)) (onLink func(agent net.Conn, preface []byte), err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := socketxp.KeyCertificate(key)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{link.ALPN},
	}
	return func(agent net.Conn, _ []byte) {
		// The visitor speaks first (a ClientHello), the device waits for one.
		_ = agent.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		first := make([]byte, 1)
		n, _ := agent.Read(first)
		_ = agent.SetReadDeadline(time.Time{})
		side, conn := "device", tls.Client(agent, cfg)
		if n == 1 {
			side, conn = "visitor", tls.Server(&prefixed{Conn: agent, first: first}, cfg)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := conn.HandshakeContext(ctx)
		if err == nil { // TLS 1.3: the peer's verdict on our certificate arrives with the first read
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = conn.Read(make([]byte, 1024))
			if err == nil {
				heard(side + " talked to a stranger")
				return
			}
		}
		heard(side + ": " + err.Error())
	}, nil
}

// cmdMiddle is `middle GATEWAY-PORT`, which puts a hostile relay on $MIDDLE between
// agents and a gateway; `middle swap`, which has it put a key of its own in the place
// of both ends' on each link from now on, and write into $WORK/middle.log what came of
// it; and `middle pass`, which has it pass on all as it is.
func cmdMiddle(ts *testscript.TestScript, _ bool, args []string) {
	s := stageOf(ts)
	switch args[0] {
	case "pass":
		s.middle.treat(nil)
	case "swap":
		log, err := os.OpenFile(ts.MkAbs("middle.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		check(ts, err)
		ts.Defer(func() { _ = log.Close() })
		swap, err := swapsKeys(func(s string) { _, _ = fmt.Fprintln(log, s) })
		check(ts, err)
		s.middle.treat(swap)
	default:
		h, err := listenHostile()
		check(ts, err)
		ts.Defer(h.close)
		h.gateway = "127.0.0.1:" + args[0]
		s.middle = h
		_, port, _ := net.SplitHostPort(h.l.Addr().String())
		ts.Setenv("MIDDLE", port)
	}
}

// prefixed is a connection whose first byte was read already.
type prefixed struct {
	net.Conn
	first []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
