package socketxp_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"socketxp"
)

func TestCheckGatewayURL(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"https://gateway.example.com", "https://gateway.example.com"},
		{"https://Gateway.Example.com/", "https://gateway.example.com"},
		{"HTTPS://gateway.example.com", "https://gateway.example.com"},
		{"https://gateway.example.com:8443", "https://gateway.example.com:8443"},
		{"https://gateway.example.com:08443/", "https://gateway.example.com:8443"},
		{"https://gateway.example.com:", "https://gateway.example.com"},
		{"https://localhost:8443", "https://localhost:8443"},
		{"https://192.0.2.1:8443", "https://192.0.2.1:8443"},
		{"https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"},
		{"https://[::1]", "https://[::1]"},
		{"", ""},
		{"gateway.example.com", ""},
		{"http://gateway.example.com", ""},
		{"wss://gateway.example.com", ""},
		{"https:gateway.example.com", ""},
		{"https://", ""},
		{"https://:8443", ""},
		{"https://gateway.example.com/path", ""},
		{"https://gateway.example.com?x=1", ""},
		{"https://gateway.example.com#x", ""},
		{"https://user@gateway.example.com", ""},
		{"https://gateway.example.com@evil.example", ""},
		{"https://gateway.example.com:0", ""},
		{"https://gateway.example.com:65536", ""},
		{"https://gateway.example.com:x", ""},
		{"https://gate way.example.com", ""},
		{"https://gateway.example.com\n", ""},
		{"https://gate\x00way.example.com", ""},
		{"https://müller.example", ""},
		{"https://0x7f.1", ""},
		{"https://[fe80::1%25eth0]", ""},
		{"https://gateway.example.com%2eevil", ""},
		{"https://" + strings.Repeat("a", 300), ""},
	} {
		got, err := socketxp.CheckGatewayURL(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("CheckGatewayURL(%q) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
}

func FuzzCheckGatewayURL(f *testing.F) {
	for _, s := range []string{"https://gateway.example.com:8443", "https://[::FFFF:1.2.3.4]:01/", "https://a%2eb", "https://u@h:1?#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := socketxp.CheckGatewayURL(s)
		if err != nil {
			return
		}
		if twice, err := socketxp.CheckGatewayURL(once); err != nil || twice != once {
			t.Errorf("%q becomes %q, and that %q, %v", s, once, twice, err)
		}
		if _, err := (socketxp.GatewayAddress{URL: once}).TLSConfig(nil); err != nil {
			t.Errorf("%q becomes %q, which can't be dialled: %v", s, once, err)
		}
	})
}

func fakeToken(payload string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".AAAA"
}

func TestTokenAddress(t *testing.T) {
	pin := strings.Repeat("A", 43)
	for _, c := range []struct {
		name, token string
		want        socketxp.GatewayAddress
		ok, bad     bool
	}{
		{"address and pin", fakeToken(`{"gw":"https://x:1","pin":"` + pin + `"}`), socketxp.GatewayAddress{URL: "https://x:1", Pin: pin}, true, false},
		{"both pins", fakeToken(`{"gw":"https://x:1","pin":"` + pin + `","npin":"E` + pin[1:] + `"}`), socketxp.GatewayAddress{URL: "https://x:1", Pin: pin, NextPin: "E" + pin[1:]}, true, false},
		{"a next pin alone", fakeToken(`{"gw":"https://x:1","npin":"` + pin + `"}`), socketxp.GatewayAddress{}, false, true},
		{"the same pin twice", fakeToken(`{"gw":"https://x:1","pin":"` + pin + `","npin":"` + pin + `"}`), socketxp.GatewayAddress{}, false, true},
		{"a broken next pin", fakeToken(`{"gw":"https://x:1","pin":"` + pin + `","npin":"E"}`), socketxp.GatewayAddress{}, false, true},
		{"address", fakeToken(`{"gw":"https://x","exp":1,"jti":"y"}`), socketxp.GatewayAddress{URL: "https://x"}, true, false},
		{"neither", fakeToken(`{"exp":1}`), socketxp.GatewayAddress{}, false, false},
		{"a pin alone", fakeToken(`{"pin":"` + pin + `"}`), socketxp.GatewayAddress{}, false, false},
		{"a broken address", fakeToken(`{"gw":"http://x"}`), socketxp.GatewayAddress{}, false, true},
		{"a broken pin", fakeToken(`{"gw":"https://x","pin":"AAAA"}`), socketxp.GatewayAddress{}, false, true},
		{"a pin with loose bits", fakeToken(`{"gw":"https://x","pin":"` + pin[1:] + `B"}`), socketxp.GatewayAddress{}, false, true},
		{"the address twice", fakeToken(`{"gw":"https://x","gw":"https://y"}`), socketxp.GatewayAddress{}, false, true},
		{"the address in capitals", fakeToken(`{"GW":"https://x"}`), socketxp.GatewayAddress{}, false, true},
		{"null", fakeToken(`null`), socketxp.GatewayAddress{}, false, true},
		{"an empty text", "", socketxp.GatewayAddress{}, false, true},
		{"a word", "hello", socketxp.GatewayAddress{}, false, true},
		{"two parts", "e30.e30", socketxp.GatewayAddress{}, false, true},
		{"four parts", fakeToken(`{}`) + ".x", socketxp.GatewayAddress{}, false, true},
		{"a line break", strings.Replace(fakeToken(`{"gw":"https://x"}`), ".", ".\n", 1), socketxp.GatewayAddress{}, false, true},
		{"padding", "e30.e30=.AAAA", socketxp.GatewayAddress{}, false, true},
		{"T-27 too long", fakeToken(`{"x":"` + strings.Repeat("x", 4096) + `"}`), socketxp.GatewayAddress{}, false, true},
		{"T-27 100k dots", strings.Repeat(".", 100_000), socketxp.GatewayAddress{}, false, true},
	} {
		addr, ok, err := socketxp.TokenAddress(c.token)
		if addr != c.want || ok != c.ok || (err != nil) != c.bad {
			t.Errorf("%s: TokenAddress = %+v, %v, %v", c.name, addr, ok, err)
		}
		if err != nil && len(c.token) > 3 && strings.Contains(err.Error(), c.token) {
			t.Errorf("%s: the error holds the token", c.name)
		}
	}
}

// What an agent makes of the keys that a gateway announces.
func TestAnnounced(t *testing.T) {
	a, b, c := strings.Repeat("A", 43), "E"+strings.Repeat("A", 42), "I"+strings.Repeat("A", 42)
	at := func(pins ...string) socketxp.GatewayAddress {
		return socketxp.GatewayAddress{URL: "https://x", Pin: pins[0], NextPin: strings.Join(pins[1:], "")}
	}
	for _, x := range []struct {
		name      string
		known     socketxp.GatewayAddress
		proved    string
		announced []string
		want      socketxp.GatewayAddress
	}{
		{"the next key is told", at(a), a, []string{a, b}, at(a, b)},
		{"in any order", at(a), a, []string{b, a}, at(a, b)},
		{"again", at(a, b), a, []string{a, b}, at(a, b)},
		{"the change is called off", at(a, b), a, []string{a}, at(a)},
		{"another next key", at(a, b), a, []string{a, c}, at(a, c)},
		{"the next key was seen", at(a, b), b, []string{b}, at(b)},
		{"it was seen, and another is told", at(a, b), b, []string{b, c}, at(b, c)},
		{"it was changed under a living connection", at(a, b), a, []string{b}, at(a, b)},
		{"something in between ends TLS", at(a), a, []string{b, c}, at(a)},
		{"over a connection that proved a stranger's key", at(a), b, []string{b, c}, at(a)},
		{"over one that proved nothing", at(a), "", []string{a, b}, at(a)},
		{"nothing is told", at(a, b), a, nil, at(a, b)},
		{"authorities vouch for it", at(""), a, []string{a, b}, at("")},
	} {
		if got := x.known.Announced(x.proved, x.announced); got != x.want {
			t.Errorf("%s: %+v, want %+v", x.name, got, x.want)
		}
	}
}

func TestKnownBy(t *testing.T) {
	a, b := strings.Repeat("A", 43), "E"+strings.Repeat("A", 42)
	for _, c := range []struct {
		addr socketxp.GatewayAddress
		want string
	}{
		{socketxp.GatewayAddress{}, "authorities"},
		{socketxp.GatewayAddress{Pin: a}, a},
		{socketxp.GatewayAddress{Pin: a, NextPin: b}, a + " " + b},
	} {
		if got := c.addr.KnownBy(); got != c.want || socketxp.CheckKnownBy(got) != nil {
			t.Errorf("%+v is known by %q", c.addr, got)
		}
	}
	for _, s := range []string{"", " ", a + " ", " " + a, a + " " + a, a + "  " + b, a + " " + b + " ", a + " " + b + " " + b, "Authorities", a[1:], a + "\n"} {
		if socketxp.CheckKnownBy(s) == nil {
			t.Errorf("%q passes", s)
		}
	}
}

func FuzzTokenAddress(f *testing.F) {
	f.Add(fakeToken(`{"gw":"https://gateway.example.com:8443","pin":"` + strings.Repeat("A", 43) + `"}`))
	f.Add("a.b.c")
	f.Add(fakeToken(`{"gw":{}}`))
	f.Fuzz(func(t *testing.T, text string) {
		addr, ok, err := socketxp.TokenAddress(text)
		if err != nil || !ok {
			if ok || addr != (socketxp.GatewayAddress{}) {
				t.Errorf("%q: %+v, %v, %v", text, addr, ok, err)
			}
			return
		}
		if url, err := socketxp.CheckGatewayURL(addr.URL); err != nil || url != addr.URL {
			t.Errorf("%q leads to %q", text, addr.URL)
		}
		if addr.CheckPins() != nil || socketxp.CheckKnownBy(addr.KnownBy()) != nil {
			t.Errorf("%q pins %q", text, addr.KnownBy())
		}
	})
}

// serverCert is a certificate as a gateway may have one.
type serverCert struct {
	tls.Certificate
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newCert makes a certificate for host, signed by ca or by itself.
func newCert(t *testing.T, host string, notAfter time.Time, ca *serverCert) serverCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: ca == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.leaf, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return serverCert{Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, leaf: leaf, key: key}
}

// handshake connects a client of addr to a TLS server and returns what the
// client says, and whether a byte it sent after the handshake arrived.
func handshake(t *testing.T, addr socketxp.GatewayAddress, roots *x509.CertPool, server *tls.Config) (err error, leaked bool) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := make(chan bool, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- false
			return
		}
		n, _ := conn.Read(make([]byte, 1))
		_ = conn.Close()
		got <- n > 0
	}()
	cfg, err := addr.TLSConfig(roots)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, cfg)
	_, err = conn.Write([]byte("token"))
	_ = conn.Close()
	return err, <-got
}

func TestTLSConfig(t *testing.T) {
	future, past := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	const host = "gateway.example.com"
	ca, otherCA := newCert(t, "ca", future, nil), newCert(t, "ca", future, nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.leaf)
	selfSigned, expired := newCert(t, host, future, nil), newCert(t, host, past, nil)
	good := newCert(t, host, future, &ca)
	pinned := func(c serverCert) socketxp.GatewayAddress {
		return socketxp.GatewayAddress{URL: "https://" + host, Pin: socketxp.PinOf(c.leaf)}
	}
	next := func(now, then serverCert) socketxp.GatewayAddress {
		a := pinned(now)
		a.NextPin = socketxp.PinOf(then.leaf)
		return a
	}
	open := socketxp.GatewayAddress{URL: "https://" + host}
	for _, c := range []struct {
		name   string
		addr   socketxp.GatewayAddress
		server serverCert
		max    uint16
		ok     bool
		pinned bool // the failure must be ErrWrongGateway
	}{
		{name: "R-15 pin of a self-signed certificate", addr: pinned(selfSigned), server: selfSigned, ok: true},
		{name: "R-15 pin of an expired certificate", addr: pinned(expired), server: expired, ok: true},
		{name: "R-15 pin and another name", addr: socketxp.GatewayAddress{URL: "https://192.0.2.1:1", Pin: socketxp.PinOf(selfSigned.leaf)}, server: selfSigned, ok: true},
		{name: "R-15 next pin", addr: next(expired, selfSigned), server: selfSigned, ok: true},
		{name: "R-15 pin beside a next one", addr: next(selfSigned, expired), server: selfSigned, ok: true},
		{name: "R-15 neither of two pins", addr: next(good, expired), server: selfSigned, pinned: true},
		{name: "R-15 wrong pin", addr: pinned(expired), server: selfSigned, pinned: true},
		{name: "R-15 wrong pin, with a good chain", addr: pinned(selfSigned), server: good, pinned: true},
		{name: "R-15 no pin, good chain", addr: open, server: good, ok: true},
		{name: "R-15 no pin, self-signed", addr: open, server: selfSigned},
		{name: "R-15 no pin, expired", addr: open, server: newCert(t, host, past, &ca)},
		{name: "R-15 no pin, another authority", addr: open, server: newCert(t, host, future, &otherCA)},
		{name: "R-15 no pin, wrong name", addr: open, server: newCert(t, "other.example.com", future, &ca)},
		{name: "R-15 no pin, address for a name", addr: socketxp.GatewayAddress{URL: "https://192.0.2.1"}, server: good},
		{name: "R-15 TLS 1.2", addr: open, server: good, max: tls.VersionTLS12},
		{name: "R-15 TLS 1.2 with a pin", addr: pinned(good), server: good, max: tls.VersionTLS12},
	} {
		t.Run(c.name, func(t *testing.T) {
			err, leaked := handshake(t, c.addr, roots, &tls.Config{Certificates: []tls.Certificate{c.server.Certificate}, MaxVersion: c.max, MinVersion: tls.VersionTLS12})
			if (err == nil) != c.ok || leaked != c.ok {
				t.Errorf("%v, and a byte was sent: %v", err, leaked)
			}
			if c.pinned && !errors.Is(err, socketxp.ErrWrongGateway) {
				t.Errorf("%v is not ErrWrongGateway", err)
			}
		})
	}

	t.Run("R-15 a resumed connection is checked again", func(t *testing.T) {
		server := &tls.Config{Certificates: []tls.Certificate{selfSigned.Certificate}, MinVersion: tls.VersionTLS13}
		cache := tls.NewLRUClientSessionCache(1)
		visit := func(addr socketxp.GatewayAddress) (resumed bool, err error) {
			cfg, err := addr.TLSConfig(nil)
			if err != nil {
				t.Fatal(err)
			}
			cfg.ClientSessionCache = cache
			verify := cfg.VerifyConnection
			cfg.VerifyConnection = func(state tls.ConnectionState) error {
				resumed = state.DidResume
				return verify(state)
			}
			a, b := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = tls.Server(b, server).Write([]byte("x")) // after the session ticket
				_ = b.Close()
			}()
			_, err = tls.Client(a, cfg).Read(make([]byte, 1))
			_ = a.Close()
			<-done
			return resumed, err
		}
		if resumed, err := visit(pinned(selfSigned)); err != nil || resumed {
			t.Fatalf("first: resumed %v, %v", resumed, err)
		}
		if resumed, err := visit(pinned(selfSigned)); err != nil || !resumed {
			t.Fatalf("second: resumed %v, %v", resumed, err)
		}
		if resumed, err := visit(pinned(expired)); !errors.Is(err, socketxp.ErrWrongGateway) || !resumed {
			t.Errorf("another pin: resumed %v, %v", resumed, err)
		}
	})
	t.Run("no address", func(t *testing.T) {
		for _, url := range []string{"", "https://", "::"} {
			if cfg, err := (socketxp.GatewayAddress{URL: url}).TLSConfig(nil); err == nil || cfg != nil {
				t.Errorf("TLSConfig of %q = %v", url, cfg)
			}
		}
	})
}

func TestPin(t *testing.T) {
	a := newCert(t, "a", time.Now().Add(time.Hour), nil)
	pin := socketxp.PinOf(a.leaf)
	if err := socketxp.CheckPin(pin); err != nil || len(pin) != 43 {
		t.Errorf("PinOf = %q, %v", pin, err)
	}
	for _, s := range []string{"", pin[1:], pin + "A", pin + "=", strings.Repeat("!", 43), strings.Repeat("A", 42) + "B"} {
		if socketxp.CheckPin(s) == nil {
			t.Errorf("CheckPin(%q) = nil", s)
		}
	}
}

func TestKeyCertificate(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	cert, err := socketxp.KeyCertificate(key)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaCert := newCert(t, "x", time.Now().Add(time.Hour), nil).Certificate
	for _, c := range []struct {
		name  string
		certs []tls.Certificate
		ok    bool
	}{
		{"an Ed25519 key", []tls.Certificate{cert}, true},
		{"K an ECDSA key", []tls.Certificate{ecdsaCert}, false},
		{"K no key", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := net.Pipe()
			defer func() { _, _ = a.Close(), b.Close() }()
			client := tls.Client(a, &tls.Config{Certificates: c.certs, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
			server := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13})
			done := make(chan error, 1)
			go func() {
				err := client.Handshake()
				if err == nil { // the server's session ticket
					_, _ = client.Read(make([]byte, 1))
				}
				done <- err
			}()
			if err := server.Handshake(); err != nil {
				t.Fatal(err)
			}
			got, err := socketxp.PeerKey(server.ConnectionState())
			if (err == nil) != c.ok || c.ok && !got.Equal(key.Public()) {
				t.Errorf("PeerKey = %v, %v", got, err)
			}
			_ = b.Close()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.NotBefore.After(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)) || leaf.NotAfter.Year() != 9999 {
		t.Errorf("a device whose clock is wrong has a certificate from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
}
