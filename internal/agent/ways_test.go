package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"socketxp"
	"socketxp/internal/link"
)

// middle stands between agents and a gateway, where a load balancer or a network's
// firewall does.
type middle struct {
	b       *bed
	l       net.Listener
	cert    tls.Certificate
	serving sync.WaitGroup

	mu     sync.Mutex // guards the following
	treat  func(m *middle, c net.Conn)
	conns  map[net.Conn]bool
	closed bool
	heard  bytes.Buffer // what was said in TLS that it ended
	first  map[byte]int // connections, by their first byte
}

// between puts a middle between the agents and b: tokens lead to it from now on.
func between(b *bed, treat func(m *middle, c net.Conn)) *middle {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"}, NotAfter: time.Now().AddDate(1, 0, 0)},
		&x509.Certificate{SerialNumber: big.NewInt(2)}, key.Public(), key)
	if err != nil {
		b.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	m := &middle{b: b, l: l, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, treat: treat, conns: make(map[net.Conn]bool), first: make(map[byte]int)}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	b.addr.URL = "https://localhost:" + port
	m.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.serving.Go(func() {
				defer m.own(c)()
				m.mu.Lock()
				treat := m.treat
				m.mu.Unlock()
				treat(m, c)
			})
		}
	})
	b.t.Cleanup(func() {
		_ = l.Close()
		m.mu.Lock()
		m.closed = true
		for c := range m.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		m.serving.Wait()
	})
	return m
}

// own keeps a connection so that the test's end closes it.
func (m *middle) own(c net.Conn) (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[c] = true
	if m.closed {
		_ = c.Close()
	}
	return func() {
		_ = c.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.conns, c)
	}
}

func (m *middle) with(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// gateway opens a connection to the real one.
func (m *middle) gateway() (net.Conn, error) { return net.Dial("tcp", "127.0.0.1:"+m.b.port) }

// join copies between two connections until both have ended.
func (m *middle) join(a, b net.Conn, hear io.Writer) {
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(io.MultiWriter(b, hear), a)
		_ = b.(interface{ CloseWrite() error }).CloseWrite()
	})
	both.Go(func() {
		_, _ = io.Copy(a, b)
		_ = a.(interface{ CloseWrite() error }).CloseWrite()
	})
	both.Wait()
}

// letsThrough lets everything through.
func letsThrough(m *middle, c net.Conn) {
	up, err := m.gateway()
	if err != nil {
		return
	}
	defer m.own(up)()
	m.join(c, up, io.Discard)
}

// Write takes down what is heard.
func (m *middle) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard.Write(b)
}

// endsTLS is a load balancer with a key of its own that hears all that is said.
func endsTLS(m *middle, c net.Conn) {
	conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{m.cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	if conn.Handshake() != nil {
		return
	}
	raw, err := m.gateway()
	if err != nil {
		return
	}
	defer m.own(raw)()
	cfg, err := socketxp.GatewayAddress{URL: "https://localhost", Pin: m.b.addr.Pin}.TLSConfig(nil)
	if err != nil {
		return
	}
	cfg.NextProtos = []string{"http/1.1"}
	m.join(conn, tls.Client(raw, cfg), m)
}

// admitsTLS is a firewall that lets TLS through and treats all else in another way.
func admitsTLS(other func(net.Conn)) func(*middle, net.Conn) {
	return func(m *middle, c net.Conn) {
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil {
			return
		}
		m.with(func() { m.first[first[0]]++ })
		if first[0] != 0x16 {
			other(c)
			return
		}
		up, err := m.gateway()
		if err != nil {
			return
		}
		defer m.own(up)()
		if _, err := up.Write(first); err != nil {
			return
		}
		m.join(c, up, io.Discard)
	}
}

// walk has a device and a laptop do all there is to do, and returns the device's
// status.
func walk(b *bed) (Status, *Dir) {
	b.t.Helper()
	dir, _ := b.login("sensor")
	echoes := service(b.t, echo)
	device := connect(b.t, dir, echoes)
	await(b.t, device.connected)
	laptop := b.visit(newDir(b.t), "sensor", echoes.Destination.Port)
	url := await(b.t, laptop.listening)
	text := strings.Repeat("0123456789", 100_000)
	for range 3 {
		if back, err := say(url, text); err != nil || back != text {
			b.t.Fatalf("%d bytes of %d came back: %v", len(back), len(text), err)
		}
	}
	s, err := GetStatus(b.t.Context(), dir)
	if err != nil {
		b.t.Fatal(err)
	}
	laptop.stop()
	device.stop()
	return s, dir
}

func TestBalancerThatEndsTLS(t *testing.T) {
	b := newBed(t)
	m := between(b, endsTLS)
	s, dir := walk(b)
	if s.Door != "websocket" || s.LinkDoor != "websocket" || s.Proxy != "" {
		t.Errorf("the status says %+v", s)
	}
	key, err := dir.Key()
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Contains(m.heard.Bytes(), []byte("GET /door HTTP/1.1\r\nHost: localhost:")) {
		t.Fatal("nothing came by this way: what follows means nothing")
	}
	for what, secret := range map[string]string{
		"the token": b.token()[:60], "authorization": "Authorization", "the device's key": string(key.Key.Seed()), "the route": "/register",
		"what was said": "0123456789", "the destination": "tcp://", "the device's name": "sensor",
	} {
		if bytes.Contains(m.heard.Bytes(), []byte(secret)) {
			t.Errorf("the balancer hears %s", what)
		}
	}
	if text, err := os.ReadFile(dir.file(waysFile)); err != nil || !bytes.Contains(text, []byte(`"control": "websocket"`)) || !bytes.Contains(text, []byte(`"links": "websocket"`)) {
		t.Errorf("it remembers %s, %v", text, err)
	}
}

func TestNetworkThatAdmitsTLS(t *testing.T) {
	for name, other := range map[string]func(net.Conn){
		"and cuts the rest":     func(net.Conn) {},
		"and resets the rest":   func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"and swallows the rest": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"and echoes the rest": func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			m := between(b, admitsTLS(other))
			s, dir := walk(b)
			if s.Door != "direct" || s.LinkDoor != "websocket" {
				t.Errorf("the status says %+v", s)
			}
			m.mu.Lock()
			tried := m.first[link.Magic[0]]
			m.mu.Unlock()
			if tried == 0 || tried > 2 {
				t.Errorf("the preface was tried %d times, by two agents", tried)
			}
			// The next agent in this folder begins where this one ended.
			device := connect(t, dir, service(t, echo))
			await(t, device.connected)
			until(t, func() error {
				s, err := GetStatus(t.Context(), dir)
				return errors.Join(err, yes(s.LinkDoor == "websocket"))
			})
			device.stop()
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.first[link.Magic[0]] != tried {
				t.Error("what had not worked was tried again at once")
			}
		})
	}
}

// TestBetterWay: what works is left when something better does, and what is open
// stays open.
func TestBetterWay(t *testing.T) {
	b := newBed(t)
	m := between(b, endsTLS)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connectWith(t, ConnectOptions{Dir: dir, Tunnels: []Tunnel{echoes}, betterFirst: 100 * time.Millisecond})
	await(t, device.connected)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	open := talk(t, await(t, laptop.listening))
	open.turn("before")
	m.with(func() { m.treat = letsThrough })
	await(t, device.connected)
	until(t, func() error {
		s, err := GetStatus(t.Context(), dir)
		return errors.Join(err, yes(s.Connected && s.Door == "direct" && s.LinkDoor == "direct"))
	})
	open.turn("after")
	if len(device.problems) != 0 {
		t.Errorf("a person was bothered with %v", <-device.problems)
	}
	// And back, when the better way is gone.
	m.with(func() {
		m.treat = endsTLS
		for c := range m.conns {
			_ = c.Close()
		}
	})
	await(t, device.connected)
	if s, err := GetStatus(t.Context(), dir); err != nil || s.Door != "websocket" {
		t.Errorf("%+v, %v", s, err)
	}
	laptop.stop()
	device.stop()
}

func TestWhatIsNoReasonForAnotherDoor(t *testing.T) {
	t.Run("a refusal of the gateway", func(t *testing.T) {
		b := newBed(t)
		dir, _ := b.login("sensor")
		b.with(func() { b.refuseDevice.Code, b.refuseDevice.Message = socketxp.CodeDeviceDisabled, "it is disabled" })
		device := connect(t, dir, service(t, echo))
		if err := await(t, device.problems); socketxp.CodeOf(err) != socketxp.CodeDeviceDisabled {
			t.Error(err)
		}
		device.stop()
		b.with(func() {
			if b.webSockets != 0 {
				t.Errorf("%d WebSockets were asked for", b.webSockets)
			}
		})
	})
	t.Run("a gateway that is not there", func(t *testing.T) {
		b := newBed(t)
		b.stop()
		gw, err := newGateway(b.addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = gw.secure(t.Context(), gw.tls)
		if !errors.As(err, new(*transportError)) || errors.As(err, new(*doorError)) {
			t.Errorf("%v", err)
		}
		b.start()
	})
}

func TestNotTheGateway(t *testing.T) {
	answers := func(text string) func(*middle, net.Conn) {
		return func(m *middle, c net.Conn) {
			conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{m.cert}})
			if conn.Handshake() != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(io.Discard, conn)
		}
	}
	for name, c := range map[string]struct {
		treat func(*middle, net.Conn)
		says  string
		hint  string
	}{
		"P-12 the page of a captive portal": {answers("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"), "a page for people", "sign in first"},
		"P-12 its redirection":              {answers("HTTP/1.1 302 Found\r\nLocation: https://portal.example/\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"), "302", "sign in first"},
		"P-12 a balancer without a gateway": {answers("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "502", "load balancer"},
		"P-12 a page without TLS": {func(_ *middle, c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>")
		}, "first record does not look like a TLS handshake", "the network"},
		"another gateway": {func(m *middle, c net.Conn) {
			conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{m.cert}, NextProtos: []string{"socketxp-control/1", "http/1.1"}})
			if conn.Handshake() == nil {
				_, _ = io.Copy(io.Discard, conn)
			}
		}, socketxp.ErrWrongGateway.Error(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			m := between(b, c.treat)
			if name == "another gateway" { // ends by its silence, which is long
				m.with(func() {
					m.treat = func(m *middle, conn net.Conn) {
						stop := time.AfterFunc(time.Second, func() { _ = conn.Close() })
						defer stop.Stop()
						c.treat(m, conn)
					}
				})
			}
			_, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: newDir(t), Name: "sensor"})
			var e *socketxp.Error
			if !errors.As(err, new(*UnreachableError)) || !errors.As(err, &e) {
				t.Fatalf("it is %v", err)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("it says %v (hint: %s)", err, e.Hint)
			}
			b.with(func() {
				if b.registrations != 0 {
					t.Error("the token was sent")
				}
			})
		})
	}
}

func TestWaysFile(t *testing.T) {
	dir := newDir(t)
	f := &wayFile{dir: dir, gateway: "https://gateway.example.com", proxy: "http://proxy:3128"}
	none := [2]door{}
	if got := f.load(); got != none {
		t.Fatalf("out of nothing: %v", got)
	}
	want := [2]door{doorWebSocket, doorDirect}
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	if got := f.load(); got != want {
		t.Fatalf("%v, want %v", got, want)
	}
	for name, other := range map[string]wayFile{
		"another gateway": {dir, "https://other.example.com", f.proxy},
		"another proxy":   {dir, f.gateway, "http://other:3128"},
		"no proxy":        {dir, f.gateway, ""},
	} {
		if got := other.load(); got != none {
			t.Errorf("%s: %v", name, got)
		}
	}
	good := wayText{Gateway: f.gateway, Proxy: f.proxy, Control: doorWebSocket, Found: time.Now()}
	for name, change := range map[string]func(*wayText){
		"old":             func(w *wayText) { w.Found = time.Now().Add(-wayLife - time.Hour) },
		"of the future":   func(w *wayText) { w.Found = time.Now().Add(time.Hour) },
		"an unknown door": func(w *wayText) { w.Links = "window" },
	} {
		w := good
		change(&w)
		text, _ := json.Marshal(w)
		if err := dir.write(waysFile, text); err != nil {
			t.Fatal(err)
		}
		if got := f.load(); got != none {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, text := range []string{"", "{", "null", "[]", `{"gateway":"https://gateway.example.com","door":"x"}`, strings.Repeat(" ", maxWays+1)} {
		if err := os.WriteFile(dir.file(waysFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := f.load(); got != none {
			t.Errorf("%.40q: %v", text, got)
		}
	}
	if err := f.save(want); err != nil || f.load() != want {
		t.Errorf("a damaged file is not written anew: %v", err)
	}
	release, err := lockPath(dir.file(knownLockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := f.save(none); !errors.Is(err, errLocked) {
		t.Errorf("while another process writes: %v", err)
	}
}

func FuzzParseWays(f *testing.F) {
	f.Add([]byte(`{"gateway":"https://gateway.example.com","control":"websocket","links":"direct","found":"2026-11-25T00:00:00Z"}`))
	f.Add([]byte(`{"gateway":"x","gateway":"y"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		w, err := parseWays(in)
		if err != nil {
			return
		}
		for _, d := range []door{w.Control, w.Links} {
			if d != "" && d != doorDirect && d != doorWebSocket {
				t.Fatalf("the door %q", d)
			}
		}
	})
}

// TestBothFamilies: a name with addresses of both families, of which IPv6 leads
// nowhere, costs the delay of RFC 8305 and not the whole limit.
func TestBothFamilies(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var stalled atomic.Int32
	d := dialer()
	d.Resolver = &net.Resolver{PreferGo: true, Dial: answerNames}
	d.ControlContext = func(ctx context.Context, network, _ string, _ syscall.RawConn) error {
		if network == "tcp6" {
			stalled.Add(1)
			<-ctx.Done() // its packets are dropped without a word
			return ctx.Err()
		}
		return nil
	}
	start := time.Now()
	c, err := d.DialContext(t.Context(), "tcp", "gateway.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	took := time.Since(start)
	if stalled.Load() == 0 {
		t.Fatal("IPv6 was not tried: this test means nothing")
	}
	if took < fallbackDelay || took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if d.FallbackDelay != 250*time.Millisecond {
		t.Errorf("the delay is %v", d.FallbackDelay)
	}
}

// answerNames is a name server for which every name is ::1 and 127.0.0.1.
func answerNames(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		defer func() { _ = server.Close() }()
		for {
			var head [2]byte // DNS over a stream: a length first
			if _, err := io.ReadFull(server, head[:]); err != nil {
				return
			}
			question := make([]byte, int(head[0])<<8|int(head[1]))
			if _, err := io.ReadFull(server, question); err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(question) != nil || len(m.Questions) != 1 {
				return
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
			switch q.Type { //nolint:exhaustive // what is asked for
			case dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			case dnsmessage.TypeAAAA:
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: [16]byte{15: 1}}}}
			}
			answer, err := m.Pack()
			if err != nil {
				return
			}
			if _, err := server.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
				return
			}
		}
	}()
	return client, nil
}

// TestSlowDoorIsWaitedFor has a door be slow that has worked: it is the gateway that is
// busy, and not before it was slow twice is another door tried.
func TestSlowDoorIsWaitedFor(t *testing.T) {
	w := newWays()
	type tried struct {
		door   door
		within time.Duration
	}
	const long = handshakeWithin + dialLimit
	try := func(why error, want ...tried) {
		t.Helper()
		var got []tried
		err := w.tryTLS(t.Context(), func(d door, within time.Duration) error {
			got = append(got, tried{d, within})
			return why
		})
		if !slices.Equal(got, want) || !errors.Is(err, why) {
			t.Errorf("tried %v: %v", got, err)
		}
	}
	both := []tried{{doorDirect, doorWithin}, {doorWebSocket, long}}
	slow := context.DeadlineExceeded
	try(slow, both...) // nothing has worked yet
	w.worked(errandLink, doorDirect)
	try(slow, both...) // links alone have
	try(nil, both[0])
	try(slow, tried{doorDirect, long})
	try(slow, both...)
	try(nil, both[0])
	try(syscall.ECONNRESET, tried{doorDirect, long}, both[1]) // that is not slow
	w.worked(errandTLS, doorWebSocket)
	try(slow, tried{doorWebSocket, long})
	try(slow, tried{doorWebSocket, doorWithin}, tried{doorDirect, long})
}
