package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/agent"
)

// TestBadLines puts devices behind lines that are bad in one way each. The gateway is
// the program; the devices are the agent's own code in this process.
func TestBadLines(t *testing.T) {
	b := newLines(t)
	t.Run("P-12 a terminal with round trips of 500 ms", func(t *testing.T) {
		t.Parallel()
		d := b.device(t, "satellite", weather{delay: 250 * time.Millisecond})
		addr := d.visit(t, sshPort)
		c, err := dialSSH(addr, filepath.Join(b.stage.work, d.name))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		defer time.AfterFunc(2*time.Minute, func() { _ = c.Close() }).Stop()
		session, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		in, inErr := session.StdinPipe()
		out, outErr := session.StdoutPipe()
		if err := errors.Join(inErr, outErr, session.RequestPty("xterm", 24, 80, nil), session.Start("stty raw -echo; echo ready; exec cat")); err != nil {
			t.Fatal(err)
		}
		readUntil(t, out, "ready")
		// Somebody types without looking. If each key waited for the one before to come
		// back, they would take 30 s.
		start := time.Now()
		keys := "the quick brown fox jumps over the lazy dog, and once more!\n"
		for _, k := range keys {
			if _, err := io.WriteString(in, string(k)); err != nil {
				t.Fatal(err)
			}
		}
		readUntil(t, out, keys)
		if took := time.Since(start); took < 500*time.Millisecond || took > 15*time.Second {
			t.Errorf("%d keys took %v", len(keys), took)
		}
		d.hadNoTrouble(t)
	})
	t.Run("P-12 1 kB a second", func(t *testing.T) {
		t.Parallel()
		d := b.device(t, "meter", weather{bytesPerSecond: 1000})
		addr := d.visit(t, b.echoPort)
		if err := echoOnce(addr, bytes.Repeat([]byte("slow "), 400)); err != nil {
			t.Error(err)
		}
		d.hadNoTrouble(t)
	})
	t.Run("P-12 stalls, as TCP has where 5 % of the packets are lost", func(t *testing.T) {
		t.Parallel()
		d := b.device(t, "radio", weather{stalls: true})
		addr := d.visit(t, b.echoPort)
		if err := echoOnce(addr, bytes.Repeat([]byte("stall "), 30_000)); err != nil {
			t.Error(err)
		}
		d.hadNoTrouble(t)
	})
	t.Run("P-12 half-open: nothing more comes, and nobody says so", func(t *testing.T) {
		t.Parallel()
		d := b.device(t, "tunnel", weather{})
		d.line.swallow()
		if err := d.problem(t); !errors.As(err, new(*agent.UnreachableError)) {
			t.Errorf("it says %v", err)
		}
		d.comesBack(t)
	})
	t.Run("P-12 everything is reset", func(t *testing.T) {
		t.Parallel()
		d := b.device(t, "firewall", weather{})
		addr := d.visit(t, b.echoPort)
		open, err := net.DialTimeout("tcp", addr, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = open.Close() }()
		_ = open.SetDeadline(time.Now().Add(time.Minute))
		if _, err := open.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		d.line.reset()
		var timeout net.Error
		if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("an open connection through it ended by %v", err)
		}
		if err := d.problem(t); !errors.As(err, new(*agent.UnreachableError)) {
			t.Errorf("it says %v", err)
		}
		d.comesBack(t)
		if err := echoOnce(addr, []byte("again")); err != nil {
			t.Errorf("through the port that was open: %v", err)
		}
	})
	t.Run("P-12 a captive portal comes and goes", func(t *testing.T) {
		t.Parallel()
		d := b.device(t, "hotel", weather{})
		heard := d.line.portal()
		// The first trouble is that the channel is gone; then it meets the portal.
		var met error
		for range 10 {
			if met = d.problem(t); strings.Contains(met.Error(), "a page for people") {
				break
			}
		}
		var e *socketxp.Error
		if !errors.As(met, new(*agent.UnreachableError)) || !errors.As(met, &e) || !strings.Contains(e.Hint, "sign in first") {
			t.Errorf("it says %v", met)
		}
		d.line.clear()
		d.comesBack(t)
		text := heard()
		if !strings.Contains(text, "GET /door HTTP/1.1") {
			t.Fatalf("the portal heard %q: what follows means nothing", text)
		}
		for _, secret := range []string{d.name, d.id, "Authorization", "tcp://"} {
			if strings.Contains(text, secret) {
				t.Errorf("the portal heard %q", secret)
			}
		}
	})
}

// badLines is a gateway with devices behind bad lines.
type badLines struct {
	stage    *stage
	url      string
	owner    *client
	token    string // an access token
	echoPort int
}

func newLines(t *testing.T) *badLines {
	t.Helper()
	b := &badLines{stage: &stage{work: t.TempDir(), procs: make(map[string]*process)}}
	t.Cleanup(b.stage.stopAll)
	env := append(os.Environ(), "HOME="+b.stage.work, "GORACE=halt_on_error=1 exitcode=66")
	dir := filepath.Join(b.stage.work, "gateway")
	err := createOwner(dir, env)
	if err == nil {
		b.url, err = startGateway(b.stage, env, dir, "0")
	}
	if err == nil {
		b.owner, err = signIn(b.url)
	}
	if err == nil {
		b.token, _, err = b.owner.token(`{"kind":"access","name":"laptop"}`)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.echoPort = echoService(t)
	return b
}

// lineDevice is a device behind a line of its own.
type lineDevice struct {
	bed      *badLines
	name, id string
	line     *line
	agent    *running
	problems chan error
}

// device starts one that has a built-in SSH server and an echo service, and waits
// until it is connected.
func (b *badLines) device(t *testing.T, name string, w weather) *lineDevice {
	t.Helper()
	d := &lineDevice{bed: b, name: name, line: newLine(t, strings.TrimPrefix(b.url, "https://"), w), problems: make(chan error, 100)}
	a := stormAgent{name: name, dir: filepath.Join(b.stage.work, name)}
	if err := a.register(b.owner); err != nil {
		t.Fatal(err)
	}
	// For this device the gateway is at the other end of the line.
	path := filepath.Join(a.dir, "device.key")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var key map[string]string
	if err := json.Unmarshal(text, &key); err != nil {
		t.Fatal(err)
	}
	d.id, key["Gateway"] = key["DeviceId"], d.line.url()
	text, _ = json.Marshal(key)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := agent.OpenDir(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	d.agent = startAgent(agent.ConnectOptions{
		Dir: dir, Problem: func(err error, _ time.Duration) { d.problems <- err },
		Tunnels: []agent.Tunnel{
			{Destination: socketxp.Destination{Scheme: "tcp", Host: "127.0.0.1", Port: b.echoPort}},
			{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: sshPort}, SSH: true, Policy: agent.DefaultSSHPolicy()},
		},
	})
	t.Cleanup(func() {
		if err := d.agent.stop(); err != nil {
			t.Errorf("the device ended: %v", err)
		}
	})
	d.isConnected(t)
	return d
}

func (d *lineDevice) isConnected(t *testing.T) {
	t.Helper()
	select {
	case <-d.agent.connected:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s is not connected", d.name)
	}
}

// visit opens a local port to a tunnel of the device, and returns its address.
func (d *lineDevice) visit(t *testing.T, port int) string {
	t.Helper()
	v := startVisit(filepath.Join(d.bed.stage.work, d.name+"-laptop"), agent.Peer{Target: agent.Target{Token: d.bed.token}, DeviceName: d.name, DevicePort: port})
	t.Cleanup(func() { _ = v.stop() })
	addr, err := v.awaitListening(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// problem returns what the agent says next of a connection that is gone or could not
// be made.
func (d *lineDevice) problem(t *testing.T) error {
	t.Helper()
	select {
	case err := <-d.problems:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s has no problem", d.name)
		return nil
	}
}

func (d *lineDevice) hadNoTrouble(t *testing.T) {
	t.Helper()
	if len(d.problems) > 0 {
		t.Errorf("the control channel did not survive: %v", <-d.problems)
	}
}

// comesBack waits until the device is connected again, and visits it.
func (d *lineDevice) comesBack(t *testing.T) {
	t.Helper()
	d.isConnected(t)
	if err := echoOnce(d.visit(t, d.bed.echoPort), []byte("back")); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

func readUntil(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	for buf := make([]byte, 1024); !bytes.Contains(seen, []byte(text)); {
		n, err := r.Read(buf)
		if seen = append(seen, buf[:n]...); err != nil {
			t.Fatalf("%q came, and then %v", seen, err)
		}
	}
}

// weather is what a line is like. The zero value is a good one.
type weather struct {
	delay          time.Duration // one way
	bytesPerSecond int           // each way; 0 is no limit
	// stalls has every twentieth piece, and all that follows it, wait until it would
	// have been sent again.
	stalls bool
}

// line stands between one device and the gateway.
type line struct {
	l       net.Listener
	to      string
	weather weather
	cert    tls.Certificate // of the captive portal
	serving sync.WaitGroup

	mu       sync.Mutex // guards the following
	conns    map[*lineConn]bool
	captured bool // new connections meet the portal
	closed   bool
	heard    bytes.Buffer // by the portal
}

// lineConn is a connection through the line.
type lineConn struct {
	near, far net.Conn // far is nil at the portal
	swallowed chan struct{}
}

func newLine(t *testing.T, to string, w weather) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	n := &line{l: l, to: to, weather: w, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, conns: make(map[*lineConn]bool)}
	n.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.serving.Go(func() { n.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		n.mu.Lock()
		n.closed = true
		n.mu.Unlock()
		n.each(func(c *lineConn) { c.close() })
		n.serving.Wait()
	})
	return n
}

func (n *line) url() string {
	_, port, _ := net.SplitHostPort(n.l.Addr().String())
	return "https://localhost:" + port
}

func (n *line) serve(near net.Conn) {
	c := &lineConn{near: near, swallowed: make(chan struct{})}
	n.mu.Lock()
	captured := n.captured
	if !captured {
		var err error
		if c.far, err = net.Dial("tcp", n.to); err != nil {
			n.mu.Unlock()
			_ = near.Close()
			return
		}
	}
	n.conns[c] = true
	closed := n.closed
	n.mu.Unlock()
	defer func() {
		c.close()
		n.mu.Lock()
		delete(n.conns, c)
		n.mu.Unlock()
	}()
	switch {
	case closed:
	case captured:
		n.answer(near)
	default:
		var both sync.WaitGroup
		both.Go(func() { n.carry(c, c.far, c.near, 1) })
		both.Go(func() { n.carry(c, c.near, c.far, 2) })
		both.Wait()
	}
}

func (c *lineConn) close() {
	_ = c.near.Close()
	if c.far != nil {
		_ = c.far.Close()
	}
}

// piece is what crosses the line at a time, of the size of a packet.
type piece struct {
	data []byte
	at   time.Time // when it comes out
}

// carry takes what comes from src to dst until src ends, which it passes on.
func (n *line) carry(c *lineConn, dst, src net.Conn, seed uint64) {
	pieces := make(chan piece, 256)
	defer func() {
		for range pieces { // so that what follows ends, if dst is gone
		}
	}()
	n.serving.Go(func() {
		defer close(pieces)
		random := mathrand.New(mathrand.NewPCG(seed, 5))
		free := time.Now() // when the line is free
		for {
			buf := make([]byte, 1400)
			got, err := src.Read(buf)
			if got > 0 {
				if now := time.Now(); free.Before(now) {
					free = now
				}
				if n.weather.stalls && random.IntN(20) == 0 {
					free = free.Add(200 * time.Millisecond)
				}
				if r := n.weather.bytesPerSecond; r > 0 {
					free = free.Add(time.Duration(got) * time.Second / time.Duration(r))
				}
				pieces <- piece{buf[:got], free.Add(n.weather.delay)}
			}
			if err != nil {
				return
			}
		}
	})
	for p := range pieces {
		timer := time.NewTimer(time.Until(p.at))
		<-timer.C
		select {
		case <-c.swallowed:
			continue
		default:
		}
		if _, err := dst.Write(p.data); err != nil {
			_ = src.Close()
			return
		}
	}
	select {
	case <-c.swallowed:
	default:
		_ = dst.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // both are TCP
	}
}

func (n *line) each(do func(*lineConn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		do(c)
	}
}

// swallow has all that is open lead nowhere from now on. New connections pass.
func (n *line) swallow() {
	n.each(func(c *lineConn) { close(c.swallowed) })
}

// reset has both ends of all that is open be reset.
func (n *line) reset() {
	n.each(func(c *lineConn) {
		for _, conn := range []net.Conn{c.near, c.far} {
			_ = conn.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // both are TCP
		}
		c.close()
	})
}

// portal cuts what is open and answers all that is new by a page for people. It
// returns what gives what was said to it.
func (n *line) portal() (heard func() string) {
	n.mu.Lock()
	n.captured = true
	n.mu.Unlock()
	n.each(func(c *lineConn) { c.close() })
	return func() string {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.heard.String()
	}
}

// clear ends the portal.
func (n *line) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.captured = false
}

// answer is the portal's.
func (n *line) answer(near net.Conn) {
	_ = near.SetDeadline(time.Now().Add(5 * time.Second))
	conn := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{n.cert}, MinVersion: tls.VersionTLS12})
	buf := make([]byte, 4096)
	got, err := conn.Read(buf)
	if err != nil {
		return
	}
	n.mu.Lock()
	n.heard.Write(buf[:got])
	n.mu.Unlock()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 24\r\n\r\n<html>Welcome, traveller")
}
