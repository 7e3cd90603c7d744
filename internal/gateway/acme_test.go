package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pebbleca "github.com/letsencrypt/pebble/v2/ca"
	pebbledb "github.com/letsencrypt/pebble/v2/db"
	pebbleva "github.com/letsencrypt/pebble/v2/va"
	pebblewfe "github.com/letsencrypt/pebble/v2/wfe"
	acmeproto "github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"socketxp"
)

// authority is a certificate authority that speaks ACME and validates for real.
type authority struct {
	*testing.T
	url    string
	caFile string         // of its directory
	roots  *x509.CertPool // of the certificates that it issues
	log    *log.Logger
	db     *pebbledb.MemoryStore
	ca     *pebbleca.CAImpl
	dns    string
	ready  chan http.Handler
	hooked string // file that the DNS hook writes
}

// newACMEServer starts one whose certificates live for so many seconds. It answers once
// it knows where the gateway is.
func newACMEServer(t *testing.T, life uint64) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	a := &authority{T: t, log: log.New(io.Discard, "", 0), db: pebbledb.NewMemoryStore(), ready: make(chan http.Handler, 1), hooked: filepath.Join(t.TempDir(), "records")}
	a.ca = pebbleca.New(a.log, a.db, "", "ecdsa", 0, 1, map[string]pebbleca.Profile{"default": {Description: "tests", ValidityPeriod: life}})
	a.roots = x509.NewCertPool()
	a.roots.AddCert(a.ca.GetRootCert(0).Cert)
	known := make(chan struct{})
	var handler http.Handler
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-known:
			handler.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	server.Config.ErrorLog = a.log
	server.StartTLS()
	done := make(chan struct{})
	go func() {
		select {
		case handler = <-a.ready:
			close(known)
		case <-done:
		}
	}()
	t.Cleanup(func() {
		close(done)
		server.CloseClientConnections()
		server.Close()
	})
	a.url = server.URL + pebblewfe.DirectoryPath
	a.caFile = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(a.caFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// serveDNS answers that every name is this machine, and with the TXT records that the
// hook has made.
func (a *authority) serveDNS() {
	a.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		head := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}
		switch q.Question[0].Qtype {
		case dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)})
		case dns.TypeTXT:
			for _, r := range a.records("present") {
				if r[0]+"." == q.Question[0].Name {
					m.Answer = append(m.Answer, &dns.TXT{Hdr: head, Txt: []string{r[1]}})
				}
			}
		}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	a.Cleanup(func() {
		_ = server.Shutdown()
		if err := <-ended; err != nil {
			a.Error(err)
		}
	})
	a.dns = l.Addr().String()
}

// records returns name and value of what the hook was called with.
func (a *authority) records(what string) (found [][2]string) {
	text, _ := os.ReadFile(a.hooked)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == what {
			found = append(found, [2]string{f[1], f[2]})
		}
	}
	return found
}

// hook writes a program that makes records.
func (a *authority) hook(text string) string {
	a.Helper()
	dir := a.TempDir()
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		a.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		a.Fatal(err)
	}
	return path
}

// serve starts a gateway that obtains its certificate here.
func (a *authority) serve(dir string, configure func(*Config, *Deps), change ...func(*limits)) *world {
	a.Helper()
	if a.dns == "" {
		a.serveDNS()
	}
	w := startIn(a.T, dir, func(c *Config, d *Deps) {
		c.PublicURL, c.ACMEAgree, c.ACMECA, c.ACMECAFile, c.ACMEHTTPListen = "https://gateway.test", true, a.url, a.caFile, ""
		configure(c, d)
	}, append([]func(*limits){quick, func(l *limits) { l.acme.renewCheck = 100 * time.Millisecond }}, change...)...)
	httpPort, tlsPort := 1, w.g.listener.Addr().(*net.TCPAddr).Port
	if w.g.acmeHTTP != nil {
		httpPort = w.g.acmeHTTP.Addr().(*net.TCPAddr).Port
	}
	va := pebbleva.New(a.log, httpPort, tlsPort, true, a.dns, a.db)
	wfe := pebblewfe.New(a.log, a.db, va, a.ca, []string{"ca.test"}, true, false, 0, 0)
	select {
	case a.ready <- wfe.Handler():
	default: // a later gateway of the same test finds it serving
	}
	return w
}

// leaf returns what a browser is shown, or nil if it would not believe it.
func (a *authority) leaf(w *world, name string) *x509.Certificate {
	a.Helper()
	c := tls.Client(w.dialRaw(), &tls.Config{ServerName: name, RootCAs: a.roots, MinVersion: tls.VersionTLS13})
	defer func() { _ = c.Close() }()
	if c.HandshakeContext(w.Context()) != nil {
		return nil
	}
	return c.ConnectionState().PeerCertificates[0]
}

func (a *authority) obtained(w *world, name string) *x509.Certificate {
	a.Helper()
	var leaf *x509.Certificate
	eventually(a.T, patience, "a certificate for "+name, func() bool {
		leaf = a.leaf(w, name)
		return leaf != nil
	})
	return leaf
}

func TestACME(t *testing.T) {
	t.Run("HTTP-01", func(t *testing.T) {
		a := newACMEServer(t, 3600)
		w := a.serve(t.TempDir(), func(c *Config, _ *Deps) {
			c.PublicURL, c.ACMEHTTPListen = "https://gateway.test:8443", "127.0.0.1:0"
		})
		pin := w.g.Address().Pin
		if pin == "" || w.shown() != pin {
			t.Error("before there is a certificate, its own has no pin")
		}
		leaf := a.obtained(w, "gateway.test")
		if socketxp.PinOf(leaf) != pin || w.g.Address().Pin != pin {
			t.Error("the certificate has another key than devices have pinned")
		}
		if w.shown() != pin {
			t.Error("who does not ask for the name gets another key")
		}
		t.Run("everybody else is sent on", func(t *testing.T) {
			c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			defer c.CloseIdleConnections()
			at := "http://" + w.g.acmeHTTP.Addr().String()
			for path, want := range map[string]string{"/": "/", "/a%2fb?x=1": "/a%2fb", "//evil.example/x": "//evil.example/x", "/.well-known/acme-challenge/nonsense": "/.well-known/acme-challenge/nonsense"} {
				resp, err := c.Get(at + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusPermanentRedirect || got != w.g.url+want {
					t.Errorf("%s: %d, %q", path, resp.StatusCode, got)
				}
			}
			resp, err := c.Post(at+"/api/v1/signin", "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("a password in clear got %d", resp.StatusCode)
			}
		})
		t.Run("K-16 nobody else can read what is kept", func(t *testing.T) {
			files := 0
			err := filepath.Walk(filepath.Join(w.g.cfg.DataDir, acmeFolder), func(path string, info os.FileInfo, err error) error {
				if err == nil && info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s has mode %#o", path, info.Mode().Perm())
				}
				files++
				return err
			})
			if err != nil || files < 5 {
				t.Errorf("%d files, %v", files, err)
			}
		})
	})

	t.Run("TLS-ALPN-01, trusted by agents without a pin", func(t *testing.T) {
		a := newACMEServer(t, 3600)
		dir := t.TempDir()
		w := a.serve(dir, func(_ *Config, d *Deps) { d.roots = a.roots })
		first := w.shown()
		leaf := a.obtained(w, "gateway.test")
		if socketxp.PinOf(leaf) != first {
			t.Error("devices that were registered before can't know it")
		}
		eventually(t, patience, "tokens have no pin", func() bool { return w.g.Address() == (socketxp.GatewayAddress{URL: "https://gateway.test"}) })
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w = a.serve(dir, func(_ *Config, d *Deps) { d.roots = a.roots })
		if again := a.leaf(w, "gateway.test"); again == nil || again.SerialNumber.Cmp(leaf.SerialNumber) != 0 {
			t.Error("the next start does not show from the first what was obtained")
		}
		if w.g.Address().Pin != "" {
			t.Error("nor know that it is trusted")
		}
		t.Run("nothing else comes through that door", func(t *testing.T) {
			for _, cfg := range []*tls.Config{
				{ServerName: "gateway.test", NextProtos: []string{"acme-tls/1"}},
				{ServerName: "gateway.test", NextProtos: []string{"acme-tls/1", "h2"}},
				{NextProtos: []string{"acme-tls/1"}},
			} {
				cfg.InsecureSkipVerify = true
				if err := tls.Client(w.dialRaw(), cfg).HandshakeContext(t.Context()); err == nil {
					t.Errorf("%+v: a handshake without a challenge", cfg.NextProtos)
				}
			}
		})
	})

	t.Run("DNS-01 by hook, with a wildcard", func(t *testing.T) {
		a := newACMEServer(t, 3600)
		t.Setenv("SOCKETXP_CANARY_SECRET", "canary")
		env := filepath.Join(t.TempDir(), "env")
		w := a.serve(t.TempDir(), func(c *Config, _ *Deps) {
			c.ACMEDomains = "gateway.test, *.gateway.test"
			c.ACMEDNSHook = a.hook(fmt.Sprintf(`echo "$1 $2 $3" >> %q; env > %q`, a.hooked, env))
		})
		a.obtained(w, "gateway.test")
		a.obtained(w, "any.gateway.test")
		if a.leaf(w, "not.any.gateway.test") != nil {
			t.Error("a name is shown a certificate that is not for it")
		}
		eventually(t, patience, "the records are removed", func() bool { return len(a.records("cleanup")) == len(a.records("present")) })
		for _, r := range a.records("present") {
			if r[0] != "_acme-challenge.gateway.test" || len(r[1]) != 43 {
				t.Errorf("a record %v", r)
			}
		}
		if text := must[[]byte](t)(os.ReadFile(env)); strings.Contains(string(text), "canary") || !strings.Contains(string(text), "PATH=") {
			t.Errorf("X-16 the hook's environment: %s", text)
		}
	})

	t.Run("an authority that does not answer keeps no gateway from serving", func(t *testing.T) {
		a := newACMEServer(t, 3600)
		a.url = "https://127.0.0.1:1/dir"
		w := a.serve(t.TempDir(), func(*Config, *Deps) {})
		d, key := w.register("meter", "meters")
		if _, welcome := w.online(d, key); len(welcome.GatewayPins) != 1 {
			t.Errorf("%+v", welcome)
		}
	})
}

// A renewed certificate is shown to who comes; nobody who is there is dropped.
func TestACMERenewal(t *testing.T) {
	a := newACMEServer(t, 12)
	w := a.serve(t.TempDir(), func(*Config, *Deps) {})
	first := a.obtained(w, "gateway.test")
	s := w.play(socketxp.TokenScope{})
	d, key := w.register("meter", "meters")
	device, _ := w.online(d, key)
	keepAlive := w.keepAlive()
	keepAlive()
	pin := w.g.Address().Pin

	var second *x509.Certificate
	eventually(t, patience, "the certificate is renewed", func() bool {
		second = a.leaf(w, "gateway.test")
		return second != nil && second.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if left := time.Until(first.NotAfter); left < 0 {
		t.Errorf("renewed %v after it had expired", -left)
	}
	if socketxp.PinOf(second) != pin || w.g.Address().Pin != pin {
		t.Error("the renewed one has another key than devices have pinned")
	}
	s.stream.flows(t)
	w.knows(device, d, pin)
	if !keepAlive() {
		t.Error("the HTTPS connection was dropped")
	}
	other, otherKey := w.register("other", "meters")
	if _, welcome := w.online(other, otherKey); welcome.DeviceID != other.ID {
		t.Errorf("%+v", welcome)
	}
}

// The key is changed where certificates are obtained: those for the next key are
// there before it is changed.
func TestACMEKeyChange(t *testing.T) {
	a := newACMEServer(t, 3600)
	dir := t.TempDir()
	w := a.serve(dir, func(*Config, *Deps) {})
	old := socketxp.PinOf(a.obtained(w, "gateway.test"))
	s := w.play(socketxp.TokenScope{})
	w.knows(s.td.agent, s.device, socketxp.KnownByAuthorities)
	c := must[KeyChange](t)(StageKey(w.g.cfg.DataDir, "gateway.test", 0, w.g.now()))
	eventually(t, patience, "the key is changed", func() bool {
		leaf := a.leaf(w, "gateway.test")
		if leaf == nil {
			t.Fatal("for a moment nothing trustworthy is shown")
		}
		return socketxp.PinOf(leaf) == c.Pin
	})
	s.stream.flows(t)
	eventually(t, patience, "what was obtained for the old key is removed", func() bool {
		_, err := os.Stat(filepath.Join(w.g.cfg.DataDir, acmeFolder, old))
		return os.IsNotExist(err)
	})
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w = a.serve(dir, func(*Config, *Deps) {})
	if leaf := a.leaf(w, "gateway.test"); leaf == nil || socketxp.PinOf(leaf) != c.Pin {
		t.Error("the next start shows another")
	}
}

func TestACMEConfig(t *testing.T) {
	a := &authority{T: t}
	good := a.hook("exit 0")
	for name, c := range map[string]struct {
		change func(*Config)
		words  string // "" for none
	}{
		"as it is":             {func(*Config) {}, ""},
		"a name beside":        {func(c *Config) { c.ACMEDomains = "gateway.example.com,Other.example.com" }, ""},
		"hook and wildcard":    {func(c *Config) { c.ACMEDomains, c.ACMEDNSHook = "*.example.com", good }, ""},
		"no port 80":           {func(c *Config) { c.ACMEHTTPListen = "" }, ""},
		"email":                {func(c *Config) { c.ACMEEmail = "you" }, "acme_email"},
		"not agreed":           {func(c *Config) { c.ACMEAgree, c.ACMEEmail = false, "you@example.com" }, "acme_agree is not"},
		"own certificate":      {func(c *Config) { c.TLSCert, c.TLSKey = "a", "b" }, "exclude each other"},
		"next certificate":     {func(c *Config) { c.TLSNextCert = "a" }, "tls_next_cert"},
		"no URL":               {func(c *Config) { c.PublicURL = "" }, "needs public_url"},
		"an address":           {func(c *Config) { c.PublicURL = "https://192.0.2.1" }, "not an address"},
		"plain directory":      {func(c *Config) { c.ACMECA = "http://ca.example.com" }, "acme_ca"},
		"password in the URL":  {func(c *Config) { c.ACMECA = "https://u:p@ca.example.com" }, "acme_ca"},
		"wildcard":             {func(c *Config) { c.ACMEDomains = "gateway.example.com,*.example.com" }, "acme_dns_hook"},
		"no way":               {func(c *Config) { c.ACMEHTTPListen, c.PublicURL = "", "https://gateway.example.com:8443" }, "no way to prove"},
		"without the own name": {func(c *Config) { c.ACMEDomains = "other.example.com" }, "lacks gateway.example.com"},
		"another wildcard":     {func(c *Config) { c.ACMEDomains, c.ACMEDNSHook = "*.gateway.example.com", good }, "lacks gateway.example.com"},
		"twice":                {func(c *Config) { c.ACMEDomains = "gateway.example.com,GATEWAY.example.com" }, "twice"},
		"nonsense":             {func(c *Config) { c.ACMEDomains = "gateway.example.com,$(id)" }, "not a host name"},
		"an empty name":        {func(c *Config) { c.ACMEDomains = "gateway.example.com," }, "not a host name"},
		"a port":               {func(c *Config) { c.ACMEDomains = "gateway.example.com:443" }, "not a host name"},
		"an address among":     {func(c *Config) { c.ACMEDomains = "gateway.example.com,192.0.2.1" }, "not a host name"},
		"listen":               {func(c *Config) { c.ACMEHTTPListen = "80" }, "acme_http_listen"},
	} {
		cfg := DefaultConfig()
		cfg.PublicURL, cfg.ACMEAgree = "https://gateway.example.com", true
		c.change(&cfg)
		err := cfg.Validate()
		if (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}

	t.Run("C-03 a hook that others could change", func(t *testing.T) {
		open := a.hook("exit 0")
		if err := os.Chmod(open, 0o722); err != nil {
			t.Fatal(err)
		}
		plain := a.hook("exit 0")
		if err := os.Chmod(plain, 0o600); err != nil {
			t.Fatal(err)
		}
		folder := a.hook("exit 0")
		if err := os.Chmod(filepath.Dir(folder), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"hook", "./hook", "", open, plain, folder, filepath.Dir(good), good + "-none"} {
			if checkHook(path) == nil {
				t.Errorf("%q passes", path)
			}
		}
		if err := checkHook(good); err != nil {
			t.Error(err)
		}
	})
}

func TestDNSHook(t *testing.T) {
	a := &authority{T: t}
	challenge := acmeproto.Challenge{Identifier: acmeproto.Identifier{Type: "dns", Value: "gateway.test"}, KeyAuthorization: "x"}
	t.Run("it says why not", func(t *testing.T) {
		err := hook{a.hook("echo no such zone >&2; exit 3")}.Present(t.Context(), challenge)
		if err == nil || !strings.Contains(err.Error(), "no such zone") || !strings.Contains(err.Error(), "exit status 3") {
			t.Error(err)
		}
	})
	t.Run("what it says is bounded", func(t *testing.T) {
		err := hook{a.hook("yes | head -c 1000000; exit 1")}.Present(t.Context(), challenge)
		if err == nil || len(err.Error()) > 3*maxHookOutput {
			t.Errorf("%d bytes", len(fmt.Sprint(err)))
		}
	})
	t.Run("one that hangs is ended with all that it started", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			for {
				if text, _ := os.ReadFile(pid); strings.HasSuffix(string(text), "\n") {
					return
				}
				if !wait(ctx, time.Millisecond) {
					return
				}
			}
		}()
		begin := time.Now()
		if err := (hook{a.hook("sleep 1000 & echo $! > " + pid + "; wait")}).Present(ctx, challenge); err == nil {
			t.Error("it succeeded")
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("it took %v: something held on to its output", took)
		}
	})
}
