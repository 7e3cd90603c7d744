package gateway

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/websocket"
)

// outer is a TLS connection to the HTTPS door over conn, which is closed with the
// test.
func (w *world) outer(conn net.Conn, protocols ...string) *tls.Conn {
	w.Helper()
	cfg := must[*tls.Config](w.T)(w.g.Address().TLSConfig(nil))
	cfg.NextProtos = protocols
	c := tls.Client(conn, cfg)
	_ = c.SetDeadline(time.Now().Add(patience))
	if err := c.HandshakeContext(w.Context()); err != nil {
		w.Fatal(err)
	}
	return c
}

// through opens a WebSocket to the doors.
func (w *world) through() (net.Conn, error) {
	raw, err := net.Dial("tcp", w.g.Addr().String())
	if err != nil {
		return nil, err
	}
	w.Cleanup(func() { _ = raw.Close() })
	return websocket.Client(w.outer(raw, "http/1.1"), "localhost", doorPath)
}

// by returns the same world, reached in another way.
func (w *world) by(reach func() (net.Conn, error)) *world {
	other := *w
	other.reach = func() (net.Conn, error) {
		c, err := reach()
		if err == nil {
			_ = c.SetDeadline(time.Time{})
		}
		return c, err
	}
	return &other
}

func TestTunnels(t *testing.T) {
	w := start(t)
	ws := w.by(w.through)
	device, key := w.register("cam", "default")
	_, text := w.access()
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
	for name, c := range map[string]struct{ device, visitor *world }{
		"both ends":           {ws, ws},
		"the device's alone":  {ws, w},
		"the visitor's alone": {w, ws},
		"none":                {w, w},
	} {
		t.Run(name, func(t *testing.T) {
			splicedBefore, copiedBefore := w.g.relay.Directions()
			d := c.device.connect(device, key, echo, "tcp://localhost:22")
			defer func() { _ = d.conn.Close() }()
			v := c.visitor.visitor()
			l := v.open(v.grant(text, device, 22))
			for range 2 { // the link is used again
				conn := must[*link.Conn](t)(l.Open())
				sent := make(chan error, 1)
				go func() {
					_, err := conn.Write(payload)
					if err == nil {
						err = conn.CloseWrite()
					}
					sent <- err
				}()
				got := must[[]byte](t)(io.ReadAll(conn))
				if err := <-sent; err != nil || !bytes.Equal(got, payload) {
					t.Fatalf("%d bytes came back: %v", len(got), err)
				}
				_ = conn.Close()
			}
			_ = l.Close()
			eventually(t, patience, "the pair is over", func() bool {
				waiting, joined := w.g.relay.Counts()
				return waiting+joined == 0
			})
			// Nothing between the port and the relay may hide the socket from it.
			spliced, copied := w.g.relay.Directions()
			spliced, copied = spliced-splicedBefore, copied-copiedBefore
			if inKernel := name == "none"; spliced+copied != 2 || inKernel != (spliced == 2) {
				t.Errorf("%d directions were spliced, %d copied", spliced, copied)
			}
		})
	}
	t.Run("a link is cut at once", func(t *testing.T) {
		d := ws.connect(device, key, flood, "tcp://localhost:22")
		defer func() { _ = d.conn.Close() }()
		tok, text := w.access()
		v := ws.visitor()
		s := v.read(v.open(v.grant(text, device, 22)))
		s.flows(t)
		if _, err := w.store.RevokeToken(t.Context(), w.account.ID, tok.ID, w.g.now(), w.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: w.account.ID, ID: tok.ID})
		s.isCut(t)
	})
	t.Run("the REST API", func(t *testing.T) {
		cfg := must[*tls.Config](t)(w.g.Address().TLSConfig(nil))
		cfg.NextProtos = []string{"http/1.1"}
		c := tls.Client(ws.dialRaw(), cfg)
		if text := roundTrip(t, c, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(text, "HTTP/1.1 200 ") {
			t.Errorf("answered %q", text)
		}
	})
	t.Run("a request in clear", func(t *testing.T) {
		if text := roundTrip(t, ws.dialRaw(), "GET / HTTP/1.1\r\n\r\n"); !strings.Contains(text, "This port speaks TLS") {
			t.Errorf("answered %q", text)
		}
	})
	t.Run("no key but the gateway's own", func(t *testing.T) {
		cfg := must[*tls.Config](t)(socketxp.GatewayAddress{URL: w.g.Address().URL, Pin: strings.Repeat("A", 43)}.TLSConfig(nil))
		cfg.NextProtos = []string{control.ALPN}
		if err := tls.Client(ws.dialRaw(), cfg).HandshakeContext(t.Context()); err == nil {
			t.Error("any key is good inside a WebSocket")
		}
	})
	t.Run("no WebSocket in a WebSocket", func(t *testing.T) {
		_, err := websocket.Client(w.outer(ws.dialRaw(), "http/1.1"), "localhost", doorPath)
		if err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("answered %v", err)
		}
	})
	t.Run("what a browser's page or anybody else asks for", func(t *testing.T) {
		good := []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: " + websocket.Protocol}
		for name, c := range map[string]struct {
			header []string
			status string
		}{
			"plain":            {nil, "426"},
			"another protocol": {append(good[:4:4], "Sec-WebSocket-Protocol: chat"), "400"},
			"of a page":        {append(good[:5:5], "Origin: https://evil.example"), "403"},
			"of our own page":  {append(good[:5:5], "Origin: https://localhost"), "403"},
		} {
			request := "GET /door HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(c.header, "\r\n") + "\r\nConnection: close\r\n\r\n"
			if text := roundTrip(t, w.outer(w.dialRaw(), "http/1.1"), strings.Replace(request, "\r\n\r\nConnection", "\r\nConnection", 1)); !strings.HasPrefix(text, "HTTP/1.1 "+c.status) || strings.Contains(text, "Sec-Websocket-Accept") {
				t.Errorf("%s: answered %q", name, text)
			}
		}
		if r := w.get(w.httpClient("h2"), w.url(doorPath)); r.status != http.StatusUpgradeRequired {
			t.Errorf("by HTTP/2: %+v", r)
		}
	})
}

// roundTrip says something and returns all that is answered.
func roundTrip(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return readEnd(t, c)
}

func TestTunnelLimits(t *testing.T) {
	t.Run("who does not show what they are is cut off", func(t *testing.T) {
		w := start(t, func(l *limits) { l.showWithin = 200 * time.Millisecond })
		for name, say := range map[string]string{"nothing": "", "half a preface": link.Magic, "half a ClientHello": "\x16\x03\x01\x02\x00"} {
			c := must[net.Conn](t)(w.through())
			_, _ = io.WriteString(c, say)
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadAll(c); err != nil {
				t.Logf("%s: %v", name, err)
			}
			eventually(t, patience, name+": its place is free", func() bool { return w.g.preAuth.count() == 0 && w.g.httpsConns.count() == 0 })
		}
	})
	t.Run("they have the places of connections that have not", func(t *testing.T) {
		w := start(t, func(l *limits) { l.preAuthPerIP, l.httpsPerIP = 2, 1 })
		for range 2 { // more than there are HTTPS places: they are given back
			if _, err := w.through(); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := net.Dial("tcp", w.g.Addr().String()); err == nil {
			defer func() { _ = c.Close() }()
			if got := readEnd(t, c); got != "" {
				t.Errorf("a third one was let in and told %q", got)
			}
		}
	})
	t.Run("a shutdown ends them", func(t *testing.T) {
		w := start(t)
		device, key := w.register("cam", "default")
		ws := w.by(w.through)
		d := ws.connect(device, key, echo, "tcp://localhost:22")
		silent := must[net.Conn](t)(w.through())
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		if got := <-d.refused; got.Code != socketxp.CodeGoingAway {
			t.Errorf("the device was told %+v", got)
		}
		_, _ = io.ReadAll(silent)
	})
}

func TestLinkProbe(t *testing.T) {
	w := start(t)
	device, key := w.register("cam", "default")
	d := w.connect(device, key, echo, "tcp://localhost:22")
	defer func() { _ = d.conn.Close() }()
	_, text := w.access()
	probe := link.AppendProbe(nil, bytes.Repeat([]byte{7}, socketxp.LinkTicketSize))
	for name, reach := range map[string]func() (net.Conn, error){"direct": w.open, "through a WebSocket": w.through} {
		t.Run(name, func(t *testing.T) {
			probed := func() (net.Conn, error) {
				c, err := reach()
				if err != nil {
					return nil, err
				}
				if _, err := c.Write(probe); err != nil {
					return nil, err
				}
				answer := make([]byte, len(probe))
				if _, err := io.ReadFull(c, answer); err != nil || !bytes.Equal(answer, probe) {
					return nil, fmt.Errorf("answered %q: %w", answer, err)
				}
				return c, nil
			}
			// The link may follow on the same connection.
			v := w.visitor()
			g := v.grant(text, device, 22)
			v.w = w.by(probed)
			l := v.open(g)
			c := must[*link.Conn](t)(l.Open())
			_, _ = c.Write([]byte("x"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			_ = l.Close()
			// A second question may not.
			again := must[net.Conn](t)(probed())
			_, _ = again.Write(probe)
			if got := readEnd(t, again); got != "" {
				t.Errorf("answered %q", got)
			}
			_ = again.Close()
			// Nothing may.
			_ = must[net.Conn](t)(probed()).Close()
			eventually(t, patience, "the places are free", func() bool { return w.g.preAuth.count() == 0 })
		})
	}
}

// behind runs a gateway that heeds proxies on loopback networks.
func behind(t *testing.T, networks string) *world {
	t.Helper()
	return startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.TrustedProxies = networks })
}

// headed is a connection that begins with text.
func (w *world) headed(text string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		c, err := net.Dial("tcp", w.g.Addr().String())
		if err == nil {
			_, err = io.WriteString(c, text)
		}
		return c, err
	}
}

// v2 is a header of version 2.
func v2(command, family byte, addresses []byte, more ...byte) string {
	body := append(bytes.Clone(addresses), more...)
	return string(proxyV2Signature) + string([]byte{0x20 | command, family, byte(len(body) >> 8), byte(len(body))}) + string(body)
}

var (
	v2From4 = []byte{198, 51, 100, 7, 127, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb}
	v2From6 = append(append([]byte{0x20, 0x01, 0x0d, 0xb8, 15: 7}, make([]byte, 16)...), 0x30, 0x39, 0x01, 0xbb)
)

func TestTrustedProxies(t *testing.T) {
	headers := map[string]struct{ text, want string }{
		"v1":                 {"PROXY TCP4 198.51.100.7 127.0.0.1 12345 443\r\n", "198.51.100.7"},
		"v1 of IPv6":         {"PROXY TCP6 2001:db8::7 ::1 12345 443\r\n", "2001:db8::7"},
		"v1 without":         {"PROXY UNKNOWN\r\n", "127.0.0.1"},
		"v2":                 {v2(1, 0x11, v2From4), "198.51.100.7"},
		"v2 with extensions": {v2(1, 0x11, v2From4, 0x04, 0, 1, 0), "198.51.100.7"},
		"v2 of IPv6":         {v2(1, 0x21, v2From6), "2001:db8::7"},
		"v2 of a check":      {v2(0, 0, nil), "127.0.0.1"},
	}
	t.Run("from a trusted one", func(t *testing.T) {
		w := behind(t, "192.0.2.0/24, 127.0.0.1")
		for name, h := range headers {
			t.Run(name, func(t *testing.T) {
				d, key := w.register("cam-"+socketxp.NewID(time.Now())[24:], "default")
				from := w.by(w.headed(h.text))
				td := from.connect(d, key, echo, "tcp://localhost:22")
				defer func() { _ = td.conn.Close() }()
				w.addressOf(d.ID, h.want)
				// The relay moves what came with a header from socket to socket, too.
				v := from.visitor()
				_, text := w.access()
				g := v.grant(text, d, 22)
				l := v.open(g)
				c := must[*link.Conn](t)(l.Open())
				_, _ = c.Write([]byte("x"))
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Error(err)
				}
				if s := must[socketxp.Session](t)(w.store.Session(t.Context(), w.account.ID, g.SessionID)); s.RemoteAddr != h.want {
					t.Errorf("the session is from %s", s.RemoteAddr)
				}
				_ = l.Close()
			})
		}
		t.Run("its word for a client's place counts, and it has no bound of its own", func(t *testing.T) {
			w := startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.TrustedProxies = "127.0.0.1/32" }, func(l *limits) { l.preAuthPerIP, l.httpsPerIP = 1, 1 })
			var open []net.Conn
			for i := range 5 {
				c := must[net.Conn](t)(w.headed(fmt.Sprintf("PROXY TCP4 198.51.100.%d 127.0.0.1 1 443\r\n", i))())
				defer func() { _ = c.Close() }()
				open = append(open, c)
			}
			eventually(t, patience, "all are in", func() bool { return w.g.preAuth.count() == len(open) })
			c := must[net.Conn](t)(w.headed("PROXY TCP4 198.51.100.4 127.0.0.1 1 443\r\n")())
			defer func() { _ = c.Close() }()
			if got := readEnd(t, c); got != "" {
				t.Errorf("told %q", got)
			}
			for range 3 {
				if r := w.get(&http.Client{Transport: &http.Transport{TLSClientConfig: must[*tls.Config](t)(w.g.Address().TLSConfig(nil)), DisableKeepAlives: true}}, w.url("/readyz")); r.status != http.StatusOK {
					t.Errorf("%+v", r)
				}
			}
		})
		t.Run("junk is refused", func(t *testing.T) {
			for _, text := range []string{"PROXY \r\n", "PROXY TCP4 198.51.100.7\r\n", "PROXY" + strings.Repeat(" ", 200), v2(2, 0x11, v2From4), v2(1, 0x12, v2From4), v2(1, 0x11, v2From4[:11])} {
				c := must[net.Conn](t)(w.headed(text)())
				if got := readEnd(t, c); got != "" {
					t.Errorf("%q: told %q", text, got)
				}
				_ = c.Close()
			}
		})
		t.Run("a second header is the client's own, and garbage", func(t *testing.T) {
			c := must[net.Conn](t)(w.headed(headers["v1"].text + headers["v1"].text)())
			defer func() { _ = c.Close() }()
			if got := readEnd(t, c); strings.HasPrefix(got, "HTTP/1.1 2") {
				t.Errorf("told %q", got)
			}
		})
		t.Run("X-14 no header inside a WebSocket", func(t *testing.T) {
			c := must[net.Conn](t)(w.through())
			_, _ = io.WriteString(c, headers["v2"].text)
			if got := readEnd(t, c); got != "" {
				t.Errorf("told %q", got)
			}
		})
	})
	t.Run("X-14 from one that isn't", func(t *testing.T) {
		w := behind(t, "192.0.2.0/24")
		for name, h := range headers {
			c := must[net.Conn](t)(w.headed(h.text)())
			if got := readEnd(t, c); strings.Contains(got, " 200 ") {
				t.Errorf("%s: told %q", name, got)
			}
			_ = c.Close()
		}
		eventually(t, patience, "their places are free", func() bool { return w.g.preAuth.count() == 0 })
	})
	t.Run("X-14 X-Forwarded-For", func(t *testing.T) {
		for networks, want := range map[string]string{"127.0.0.1/32": "198.51.100.7", "192.0.2.0/24": "127.0.0.1"} {
			w := behind(t, networks)
			ws := w.by(func() (net.Conn, error) {
				raw, err := net.Dial("tcp", w.g.Addr().String())
				if err != nil {
					return nil, err
				}
				return websocket.Client(&adding{Conn: w.outer(raw, "http/1.1"), header: "X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\n"}, "localhost", doorPath)
			})
			d, key := w.register("cam", "default")
			td := ws.connect(d, key, echo, "tcp://localhost:22")
			w.addressOf(d.ID, want)
			_ = td.conn.Close()
			// Inside, the header is the agent's own and says nothing.
			cfg := must[*tls.Config](t)(w.g.Address().TLSConfig(nil))
			cfg.NextProtos = []string{"http/1.1"}
			if text := roundTrip(t, tls.Client(ws.dialRaw(), cfg), "GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(text, "HTTP/1.1 200 ") {
				t.Errorf("answered %q", text)
			}
		}
	})
}

// addressOf waits until the database has a device's address.
func (w *world) addressOf(id, want string) {
	w.Helper()
	got := ""
	eventually(w.T, patience, "the device's address is "+want, func() bool {
		got = must[socketxp.Device](w.T)(w.store.Device(w.Context(), w.account.ID, id)).RemoteAddr
		return got == want
	})
}

// adding puts a header into the one request that is sent.
type adding struct {
	net.Conn
	header string
}

func (a *adding) Write(b []byte) (int, error) {
	if a.header == "" {
		return a.Conn.Write(b)
	}
	head := a.header
	a.header = ""
	_, err := a.Conn.Write(bytes.Replace(b, []byte("\r\n\r\n"), []byte("\r\n"+head+"\r\n"), 1))
	return len(b), err
}

func TestForwardedFor(t *testing.T) {
	p := must[proxies](t)(parseProxies("127.0.0.1,10.0.0.0/8,2001:db8:1::/48"))
	for _, c := range []struct{ peer, header, want string }{
		{"127.0.0.1", "198.51.100.7", "198.51.100.7"},
		{"127.0.0.1", "198.51.100.7:4321", "198.51.100.7"},
		{"127.0.0.1", "2001:db8::7", "2001:db8::7"},
		{"127.0.0.1", "[2001:db8::7]:443", "2001:db8::7"},
		{"127.0.0.1", "[2001:db8::7]", "2001:db8::7"},
		{"127.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"},
		{"2001:db8:1::5", "198.51.100.7", "198.51.100.7"},
		// What a client has written is before what our proxies add.
		{"127.0.0.1", "10.0.0.1, 203.0.113.9, 198.51.100.7", "198.51.100.7"},
		{"127.0.0.1", "203.0.113.9, 198.51.100.7, 10.2.3.4", "198.51.100.7"},
		{"127.0.0.1", "203.0.113.9,, 10.2.3.4", "10.2.3.4"},
		{"127.0.0.1", "10.0.0.2, 10.0.0.1", "10.0.0.2"},
		{"127.0.0.1", "", "127.0.0.1"},
		//
		{"127.0.0.1", "junk", "127.0.0.1"},
		{"127.0.0.1", "198.51.100.7, junk", "127.0.0.1"},
		{"127.0.0.1", "198.51.100.7, unknown, 10.0.0.1", "10.0.0.1"},
		{"127.0.0.1", "<script>, 256.1.1.1", "127.0.0.1"},
		{"198.51.100.8", "203.0.113.9", "198.51.100.8"},
		{"2001:db8::8", "203.0.113.9", "2001:db8::8"},
	} {
		h := http.Header{}
		// In one line or in several, which mean the same.
		for part := range strings.SplitSeq(c.header, ", ") {
			h.Add("X-Forwarded-For", part)
		}
		for _, h := range []http.Header{h, {"X-Forwarded-For": {c.header}}} {
			if got := p.client(netip.MustParseAddr(c.peer), h); got.String() != c.want {
				t.Errorf("X-14 %s with %q: %s, want %s", c.peer, h, got, c.want)
			}
		}
	}
}

func TestParseProxies(t *testing.T) {
	for list, want := range map[string]int{"": 0, " , ": 0, "192.0.2.1": 1, "192.0.2.0/24, 2001:db8::/32,::1": 3} {
		if p, err := parseProxies(list); err != nil || len(p) != want {
			t.Errorf("%q: %v %v", list, p, err)
		}
	}
	for _, bad := range []string{"0.0.0.0/0", "::/0", "192.0.2.1/24", "example.com", "192.0.2.0/33", "fe80::1%eth0", "::ffff:192.0.2.0/120", strings.Repeat("192.0.2.1,", 65)} {
		if p, err := parseProxies(bad); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
		c := DefaultConfig()
		if c.TrustedProxies = bad; c.Validate() == nil {
			t.Errorf("%q is a good configuration", bad)
		}
	}
}

// FuzzProxyHeader: whatever comes, no more is read than the header, and an address
// that is taken is one.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 198.51.100.7 127.0.0.1 12345 443\r\nrest"))
	f.Add([]byte("PROXY TCP6 2001:db8::7 ::1 12345 443\r\n"))
	f.Add([]byte("PROXY UNKNOWN anything\r\n\x16"))
	f.Add([]byte(v2(1, 0x11, v2From4, 1, 2, 3) + "rest"))
	f.Add([]byte(v2(1, 0x21, v2From6)))
	f.Add([]byte(v2(0, 0, nil)))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 || in[0] != proxyV1Start && in[0] != proxyV2Start {
			return
		}
		r := bytes.NewReader(in[1:])
		addr, ok, err := readProxyHeader(in[0], r)
		used := in[:len(in)-r.Len()]
		switch {
		case len(used) > proxyV1Max && in[0] == proxyV1Start, len(used) > 16+proxyV2Max:
			t.Fatalf("%d bytes were read", len(used))
		case err != nil && (ok || addr.IsValid()), ok && (!addr.Addr().IsValid() || addr.Addr().Is4In6() || addr.Addr().Zone() != ""):
			t.Fatalf("%v %v %v", addr, ok, err)
		case err == nil && in[0] == proxyV1Start && bytes.IndexByte(used, '\n') != len(used)-1:
			t.Fatalf("%q is not one line", used)
		}
		// The same again, from what comes byte by byte.
		again, ok2, err2 := readProxyHeader(in[0], &oneByOne{bufio.NewReader(bytes.NewReader(in[1:]))})
		if addr != again || ok != ok2 || (err == nil) != (err2 == nil) {
			t.Fatalf("%v %v %v, byte by byte %v %v %v", addr, ok, err, again, ok2, err2)
		}
	})
}

type oneByOne struct{ r io.Reader }

func (o *oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:min(1, len(b))]) }
