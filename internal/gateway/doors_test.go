package gateway

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/relay"
)

// readEnd waits for the other end to close and returns what it said before.
func readEnd(t *testing.T, c net.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // a deadline comes bare from net
		t.Fatal("the connection was left open")
	}
	return string(b)
}

func (w *world) url(path string) string { return "https://" + w.g.Addr().String() + path }

// httpClient reaches the HTTPS door.
func (w *world) httpClient(protocols ...string) *http.Client {
	w.Helper()
	cfg := must[*tls.Config](w.T)(w.g.Address().TLSConfig(nil))
	cfg.NextProtos = protocols
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: slices.Contains(protocols, "h2")}
	w.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// response is what came back for a request.
type response struct {
	status, proto int
	body          string
}

func (w *world) get(c *http.Client, url string) response {
	w.Helper()
	resp, err := c.Get(url)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return response{resp.StatusCode, resp.ProtoMajor, string(must[[]byte](w.T)(io.ReadAll(resp.Body)))}
}

func TestDoors(t *testing.T) {
	t.Parallel()
	w := start(t, func(l *limits) { l.showWithin = 2 * time.Second })
	d, key := w.register("cam", "default")

	t.Run("HTTPS by HTTP/2 and HTTP/1.1", func(t *testing.T) {
		for proto, want := range map[string]int{"h2": 2, "http/1.1": 1} {
			if r := w.get(w.httpClient(proto), w.url("/readyz")); r.status != http.StatusOK || r.proto != want {
				t.Errorf("%s: %+v", proto, r)
			}
		}
	})
	t.Run("control", func(t *testing.T) {
		td := w.connect(d, key, echo)
		_ = td.conn.Close()
	})
	t.Run("a request in clear is told to use TLS", func(t *testing.T) {
		c := w.dialRaw()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if text := readEnd(t, c); !strings.HasPrefix(text, "HTTP/1.1 400 ") || !strings.Contains(text, w.g.url) {
			t.Errorf("answered %q", text)
		}
	})
	t.Run("anything else is closed without a word", func(t *testing.T) {
		for _, in := range []string{"\x00", "SSH-2.0-x\r\n" + strings.Repeat("x", 30), "SXPM" + strings.Repeat("\x00", 20), "\x16\x03\x01\x00\x02xx", "\x15\x03\x01\x00\x02\x02\x28", "EHLO\r\n"} {
			c := w.dialRaw()
			_, _ = io.WriteString(c, in)
			if got := readEnd(t, c); strings.Contains(got, "HTTP") {
				t.Errorf("%q was answered: %q", in, got)
			}
		}
	})
	t.Run("the control door speaks its own protocol only", func(t *testing.T) {
		cfg := w.clientTLS(key)
		cfg.NextProtos = []string{"h2", control.ALPN}
		c := tls.Client(w.dialRaw(), cfg)
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != control.ALPN {
			t.Errorf("negotiated %q", got)
		}
	})
	t.Run("TLS 1.2 is refused at both doors", func(t *testing.T) {
		for _, proto := range []string{control.ALPN, "http/1.1"} {
			cfg := w.clientTLS(key)
			cfg.NextProtos, cfg.MinVersion, cfg.MaxVersion = []string{proto}, tls.VersionTLS12, tls.VersionTLS12
			if err := tls.Client(w.dialRaw(), cfg).HandshakeContext(t.Context()); err == nil {
				t.Errorf("%s: TLS 1.2 was accepted", proto)
			}
		}
	})
	t.Run("X-09 a ClientHello in records of one byte", func(t *testing.T) {
		cfg := w.clientTLS(key)
		raw := &fragmenting{Conn: w.dialRaw()}
		if err := tls.Client(raw, cfg).HandshakeContext(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// fragmenting sends the first record, a ClientHello, as records of one byte.
type fragmenting struct {
	net.Conn
	done bool
}

func (f *fragmenting) Write(b []byte) (int, error) {
	if f.done {
		return f.Conn.Write(b)
	}
	f.done = true
	_, err := f.Conn.Write(fragments(b, 1))
	return len(b), err
}

// selfSigned wraps a key of any kind in a certificate.
func selfSigned(t *testing.T, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// throughControl tries a handshake at the control door and reports whether the
// gateway took it: a client of TLS 1.3 is done before it knows.
func throughControl(t *testing.T, w *world, cfg *tls.Config) bool {
	t.Helper()
	c := tls.Client(w.dialRaw(), cfg)
	if err := c.HandshakeContext(t.Context()); err != nil {
		return false
	}
	conn := control.NewAgent(c, control.RoleVisitor, control.Options{})
	defer func() { _ = conn.Close() }()
	if conn.Send(t.Context(), control.Hello{Version: 1, Role: control.RoleVisitor}) != nil {
		return false
	}
	_, err := conn.Receive(t.Context())
	return err == nil
}

func TestControlDoorKeys(t *testing.T) {
	w := start(t)
	if !throughControl(t, w, w.clientTLS(newKey(t))) {
		t.Fatal("an Ed25519 key was refused: the rest of this test means nothing")
	}
	t.Run("no certificate", func(t *testing.T) {
		cfg := w.clientTLS(newKey(t))
		cfg.Certificates = nil
		if throughControl(t, w, cfg) {
			t.Error("let in")
		}
	})
	t.Run("K-15 an RSA key", func(t *testing.T) {
		cfg := w.clientTLS(newKey(t))
		k := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
		cfg.Certificates = []tls.Certificate{selfSigned(t, k)}
		if throughControl(t, w, cfg) {
			t.Error("let in")
		}
	})
	t.Run("K-15 an ECDSA key", func(t *testing.T) {
		cfg := w.clientTLS(newKey(t))
		k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		cfg.Certificates = []tls.Certificate{selfSigned(t, k)}
		if throughControl(t, w, cfg) {
			t.Error("let in")
		}
	})
	t.Run("K-12 a device's certificate with another key", func(t *testing.T) {
		_, key := w.register("victim", "default")
		cfg := w.clientTLS(key)
		cfg.Certificates[0].PrivateKey = newKey(t)
		if throughControl(t, w, cfg) {
			t.Error("let in")
		}
	})
	t.Run("K-11 no session is resumed", func(t *testing.T) {
		cfg := w.clientTLS(newKey(t))
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		for range 2 {
			c := tls.Client(w.dialRaw(), cfg)
			conn := control.NewAgent(c, control.RoleVisitor, control.Options{})
			if err := conn.Send(t.Context(), control.Hello{Version: 1, Role: control.RoleVisitor}); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Receive(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.ConnectionState().DidResume {
				t.Error("a session was resumed")
			}
			_ = conn.Close()
		}
	})
}

func TestPreAuthLimits(t *testing.T) {
	t.Parallel()
	t.Run("N-04 a connection that says nothing, or little, is cut", func(t *testing.T) {
		w := start(t, func(l *limits) { l.showWithin = 300 * time.Millisecond })
		hello := clientHello(t, w.clientTLS(newKey(t)))
		for name, in := range map[string][]byte{
			"nothing": nil, "a byte": {0x16}, "half a hello": hello[:len(hello)/2], "a whole hello": hello,
			"half a preface": []byte("SXPL\x01\x00\x00"),
		} {
			c := w.dialRaw()
			_, _ = c.Write(in)
			begin := time.Now()
			readEnd(t, c)
			if d := time.Since(begin); d < 200*time.Millisecond {
				t.Errorf("%s: cut after %v, before its time", name, d)
			}
		}
		c := tls.Client(w.dialRaw(), w.clientTLS(newKey(t)))
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		readEnd(t, c) // no Hello
		eventually(t, patience, "all places are free again", func() bool { return w.g.preAuth.count() == 0 })
	})
	t.Run("N-04 one address has so many places", func(t *testing.T) {
		w := start(t, func(l *limits) { l.preAuthPerIP = 3 })
		var idle []net.Conn
		for range 3 {
			idle = append(idle, w.dialRaw())
		}
		eventually(t, patience, "they have their places", func() bool { return w.g.preAuth.count() == 3 })
		// The reset may come before the dial has returned.
		switch c, err := net.Dial("tcp", w.g.Addr().String()); {
		case err == nil:
			readEnd(t, c)
			_ = c.Close()
		case !errors.Is(err, syscall.ECONNRESET):
			t.Error(err)
		}
		_ = idle[0].Close()
		eventually(t, patience, "a place is free again", func() bool { return w.g.preAuth.count() == 2 })
		if !throughControl(t, w, w.clientTLS(newKey(t))) {
			t.Error("refused though there is room")
		}
	})
	t.Run("N-04 a visitor that asks for nothing", func(t *testing.T) {
		w := start(t, func(l *limits) { l.showWithin = 300 * time.Millisecond })
		v := w.visitor()
		if m := expect[control.Refused](v.agent); m.Code != socketxp.CodeUnauthenticated {
			t.Errorf("refused with %q", m.Code)
		}
		if _, err := v.receive(); err == nil {
			t.Error("the channel is still open")
		}
		eventually(t, patience, "its place is free again", func() bool { return w.g.preAuth.count() == 0 })
	})
	t.Run("a device gives its place back when it is known", func(t *testing.T) {
		w := start(t)
		d, key := w.register("cam", "default")
		w.connect(d, key, echo)
		if n := w.g.preAuth.count(); n != 0 {
			t.Errorf("%d places are taken", n)
		}
	})
}

func TestStalledHandshakesDelayNobody(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	hello := clientHello(t, w.clientTLS(key))
	for i := range 200 {
		_, _ = w.dialRaw().Write(hello[:i%len(hello)])
	}
	begin := time.Now()
	w.connect(d, key, echo)
	// The stalled ones have 10 s: whoever had to wait for one would be later.
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("a good device took %v", took)
	}
}

func TestHTTPSConnectionsAreBounded(t *testing.T) {
	w := start(t, func(l *limits) { l.httpsPerIP = 2 })
	cfg := w.clientTLS(newKey(t))
	cfg.NextProtos = []string{"http/1.1"}
	var open []*tls.Conn
	for range 2 {
		c := tls.Client(w.dialRaw(), cfg)
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if err := tls.Client(w.dialRaw(), cfg).HandshakeContext(t.Context()); err == nil {
		t.Error("a third connection was let in")
	}
	_ = open[0].Close()
	eventually(t, patience, "a place is free again", func() bool { return w.g.httpsConns.count() == 1 })
	if err := tls.Client(w.dialRaw(), cfg).HandshakeContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// joins reports whether the link door takes a ticket: a half that waits for its
// other half is left open.
func joins(t *testing.T, w *world, ticket []byte) bool {
	t.Helper()
	c := w.dialRaw()
	_, _ = c.Write(link.AppendPreface(nil, ticket))
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	ne, ok := err.(net.Error) //nolint:errorlint // a deadline comes bare from net
	return ok && ne.Timeout()
}

// TestPurposeAtTheDoors is T-13 where it isn't a REST route: every kind of
// credential at the control door, as a device and as a visitor, and at the link
// door.
func TestPurposeAtTheDoors(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	w.connect(d, key, echo, "tcp://127.0.0.1:22")
	text := map[socketxp.Kind]string{
		socketxp.KindSignIn:    "c2lnbi1pbi1zZWNyZXQtb2YtYS1wZXJzb24",
		socketxp.KindDeviceKey: socketxp.Fingerprint(d.PublicKey),
		socketxp.KindTicket:    strings.Repeat("ab", 16),
	}
	for _, k := range socketxp.TokenKinds {
		_, text[socketxp.Kind(k)] = w.newToken(k, socketxp.TokenScope{})
	}

	for _, k := range socketxp.Kinds {
		t.Run("T-13 "+string(k)+" to visit", func(t *testing.T) {
			answer := w.visitor().visit(control.Visit{Token: text[k], DeviceID: d.ID, Port: 22})
			_, granted := answer.(control.Granted)
			if want := socketxp.MayUse(k, socketxp.PurposeVisit); granted != want {
				t.Fatalf("granted %v, want %v: %+v", granted, want, answer)
			}
			if ended, ok := answer.(control.Ended); ok {
				want := socketxp.CodeUnauthenticated
				if slices.Contains(socketxp.TokenKinds, socketxp.TokenKind(k)) {
					want = socketxp.CodeWrongPurpose
				}
				if ended.Code != want {
					t.Errorf("refused with %q, want %q", ended.Code, want)
				}
			}
		})
		t.Run("T-13 "+string(k)+" to be a device", func(t *testing.T) {
			// A device shows nothing but its key: any other credential can at most be
			// bent into one.
			shown := keyFrom(text[k])
			if k == socketxp.KindDeviceKey {
				shown = key
			}
			a := w.dial(shown, control.RoleDevice)
			m := a.report(report())
			_, welcome := m.(control.Welcome)
			if want := socketxp.MayUse(k, socketxp.PurposeControl); welcome != want {
				t.Fatalf("welcome %v, want %v: %+v", welcome, want, m)
			}
		})
		t.Run("T-13 "+string(k)+" to link", func(t *testing.T) {
			var ticket []byte
			switch k { //nolint:exhaustive // the others are texts
			case socketxp.KindTicket:
				ticket = must[*relay.Pair](t)(w.g.relay.Expect()).VisitorTicket()
			case socketxp.KindDeviceKey:
				ticket = d.PublicKey[:16]
			default:
				ticket = []byte(text[k])[:16]
			}
			if got, want := joins(t, w, ticket), socketxp.MayUse(k, socketxp.PurposeLink); got != want {
				t.Errorf("joins %v, want %v", got, want)
			}
		})
	}
}

func TestTicketReplay(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22", "tcp://127.0.0.1:80")
	_, text := w.access()
	v := w.visitor()
	g := v.grant(text, d, 22)
	v.next++
	v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
	ticket := expect[control.LinkTicket](v.agent).Ticket
	l := v.join(g, ticket)
	c := must[*link.Conn](t)(l.Open())
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 5); must[int](t)(io.ReadFull(c, b)) != 5 || !bytes.Equal(b, []byte("hello")) {
		t.Fatal("no echo")
	}
	offer := <-td.offers
	t.Run("N-09 a ticket is used up by its use", func(t *testing.T) {
		if joins(t, w, ticket) || joins(t, w, offer.Ticket) {
			t.Error("joined again")
		}
	})
	t.Run("N-09 the halves have tickets of their own", func(t *testing.T) {
		if bytes.Equal(ticket, offer.Ticket) {
			t.Error("both halves have the same ticket")
		}
	})
	t.Run("N-11 a link is for the destination it was granted for", func(t *testing.T) {
		if offer.Destination != "tcp://127.0.0.1:22" {
			t.Errorf("offered %s", offer.Destination)
		}
		// The same halves, but the visitor means another port: the device, which has
		// the destination from the offer, refuses it.
		v.next++
		v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
		ticket := expect[control.LinkTicket](v.agent).Ticket
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		l, err := link.Visit(ctx, w.dialRaw(), ticket, v.key, g.DeviceKey, "tcp://127.0.0.1:80")
		if err != nil {
			return
		}
		defer func() { _ = l.Close() }()
		c, err := l.Open()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "hello")
		if n, err := c.Read(make([]byte, 5)); err == nil {
			t.Errorf("%d bytes came back from another destination", n)
		}
	})
	t.Run("N-09 a ticket that nobody used is void later", func(t *testing.T) {
		w := start(t, func(l *limits) { l.linkWait = 200 * time.Millisecond })
		p := must[*relay.Pair](t)(w.g.relay.Expect())
		<-p.Done()
		if joins(t, w, p.VisitorTicket()) {
			t.Error("joined after its time")
		}
	})
}
