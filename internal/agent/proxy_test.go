package agent

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http/httpproxy"

	"socketxp"
)

// environment sets the variables that name proxies and those that do without, as
// "NAME=VALUE" by spaces, and no others of them.
func environment(t *testing.T, text string) {
	t.Helper()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
	for _, v := range strings.Fields(text) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestProxyFor(t *testing.T) {
	const (
		gateway = "https://gateway.example.com"
		https   = "HTTPS_PROXY=http://secure:1 "
		all     = "ALL_PROXY=http://all:1 "
	)
	for _, c := range []struct{ environment, gateway, want string }{
		{"", gateway, "none"},
		{"HTTPS_PROXY=http://proxy.example.com:3128", gateway, "http://proxy.example.com:3128 by HTTPS_PROXY"},
		{"HTTPS_PROXY=proxy.example.com:3128", gateway, "http://proxy.example.com:3128 by HTTPS_PROXY"},
		{"HTTPS_PROXY=proxy.example.com", gateway, "http://proxy.example.com:80 by HTTPS_PROXY"},
		{"HTTPS_PROXY=https://proxy.example.com", gateway, "https://proxy.example.com:443 by HTTPS_PROXY"},
		{"HTTPS_PROXY=HTTPS://proxy.example.com:3129", gateway, "https://proxy.example.com:3129 by HTTPS_PROXY"},
		{"HTTPS_PROXY=http://[2001:db8::1]:9050", gateway, "http://[2001:db8::1]:9050 by HTTPS_PROXY"},
		{"HTTPS_PROXY=http://user:se%40cret@proxy.example.com:3128/ignored", gateway, "http://proxy.example.com:3128 by HTTPS_PROXY"},
		{"https_proxy=http://lower:1", gateway, "http://lower:1 by https_proxy"},
		{"ALL_PROXY=https://all:1", gateway, "https://all:1 by ALL_PROXY"},
		{"all_proxy=http://lower:1", gateway, "http://lower:1 by all_proxy"},
		{https + "https_proxy=http://lower:1", gateway, "http://secure:1 by HTTPS_PROXY"},
		{all + "all_proxy=http://lower:1", gateway, "http://all:1 by ALL_PROXY"},
		{https + all, gateway, "http://secure:1 by HTTPS_PROXY"},
		{all + "https_proxy=http://lower:1", gateway, "http://lower:1 by https_proxy"},
		{"HTTP_PROXY=http://plain:1", gateway, "none"},
		{https + "ALL_PROXY=socks5://all:1", gateway, "http://secure:1 by HTTPS_PROXY"},
		{all + "NO_PROXY=gateway.example.com", gateway, "none"},
		{https + "no_proxy=gateway.example.com", gateway, "none"},
		{https + "NO_PROXY=other.example.com no_proxy=gateway.example.com", gateway, "http://secure:1 by HTTPS_PROXY"},
		{https + "NO_PROXY=gateway.example.com:8443", gateway, "http://secure:1 by HTTPS_PROXY"},
		{https + "NO_PROXY=gateway.example.com:8443", gateway + ":8443", "none"},
		{https + "NO_PROXY=gateway.example.com:443", gateway, "none"},
		// What can't be used harms nobody who does not need it.
		{"ALL_PROXY=socks5://all:1 NO_PROXY=gateway.example.com", gateway, "none"},
		{"HTTPS_PROXY=ftp://x NO_PROXY=*", gateway, "none"},
		{"ALL_PROXY=socks5://all:1", "https://localhost:8443", "none"},
		{all, "https://127.0.0.1:8443", "none"},
		{all, "https://[::1]:8443", "none"},
	} {
		environment(t, c.environment)
		p, err := proxyFor(parseURL(t, c.gateway))
		got := "none"
		if p != nil {
			got = p.String() + " by " + p.variable
		}
		if err != nil || got != c.want {
			t.Errorf("%s for %s: %s, %v; want %s", c.environment, c.gateway, got, err, c.want)
		}
	}
	p, err := parseProxy("HTTPS_PROXY", "http://user:se%40cr:et@proxy.example.com")
	if err != nil || !p.hasUser || p.user != "user" || p.password != "se@cr:et" {
		t.Errorf("%+v, %v", p, err)
	}
	environment(t, "")
	for _, bad := range []string{"ftp://user:hush@proxy", "http://", "http://user:hush@", "http://user:hush@proxy:port", "http://user:hush@pro xy", "://user:hush@x", "http://us%er:hush@proxy", strings.Repeat("x", 1001), "http://proxy\r\nX: hush", "socks5://user:hush@pro xy"} {
		t.Setenv("all_proxy", bad)
		p, err := proxyFor(parseURL(t, gateway))
		var e *socketxp.Error
		if p != nil || !errors.As(err, &e) || e.Hint == "" || !strings.Contains(err.Error(), "in all_proxy") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v, %v", bad, p, err)
		}
	}
}

func TestNoSOCKS(t *testing.T) {
	for _, scheme := range []string{"socks", "socks4", "socks4a", "socks5", "SOCKS5h"} {
		for _, variable := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
			environment(t, variable+"="+scheme+"://user:hush@proxy:1080")
			p, err := proxyFor(parseURL(t, "https://gateway.example.com"))
			var e *socketxp.Error
			if p != nil || !errors.As(err, &e) {
				t.Errorf("%s in %s: %v, %v", scheme, variable, p, err)
				continue
			}
			first := strings.Contains(e.Hint, "counts before "+variable)
			if !strings.Contains(err.Error(), "the proxy in "+variable+" is one for SOCKS ("+strings.ToLower(scheme)+")") ||
				!strings.Contains(e.Hint, "into HTTPS_PROXY, as http://") || first != strings.EqualFold(variable, "ALL_PROXY") || strings.Contains(err.Error()+e.Hint, "hush") {
				t.Errorf("%s in %s: %v (hint: %s)", scheme, variable, err, e.Hint)
			}
			if _, err := newGateway(socketxp.GatewayAddress{URL: "https://gateway.example.com"}, nil); err == nil {
				t.Errorf("%s in %s: the gateway is dialled directly", scheme, variable)
			}
		}
	}
}

// exemptions are texts of NO_PROXY and gateways for which it may count.
var exemptions = []struct{ list, host, port string }{
	{"", "gateway.example.com", "443"},
	{"*", "gateway.example.com", "443"},
	{" * ,x", "10.1.2.3", "443"},
	{"example.com", "gateway.example.com", "443"},
	{".example.com", "gateway.example.com", "443"},
	{"*.example.com", "gateway.example.com", "443"},
	{"Example.COM", "example.com", "443"},
	{".example.com", "example.com", "443"},
	{"*.example.com", "example.com", "443"},
	{"ample.com", "example.com", "443"},
	{"example.com.evil", "example.com", "443"},
	{"a, ,gateway.example.com:8443", "gateway.example.com", "8443"},
	{"gateway.example.com:8443", "gateway.example.com", "443"},
	{"gateway.example.com:", "gateway.example.com", "443"},
	{":443", "gateway.example.com", "443"},
	{"10.0.0.0/8", "10.1.2.3", "443"},
	{"10.0.0.0/8", "11.1.2.3", "443"},
	{"10.0.0.0/8", "gateway.example.com", "443"},
	{"10.1.2.3", "10.1.2.3", "443"},
	{"10.1.2.3:443", "10.1.2.3", "443"},
	{"10.1.2.3:80", "10.1.2.3", "443"},
	{"1.2.3", "10.1.2.3", "443"},
	{".2.3", "10.1.2.3", "443"},
	{"2001:db8::/32", "2001:db8::1", "443"},
	{"2001:DB8::1", "2001:db8::1", "443"},
	{"[2001:db8::1]:443", "2001:db8::1", "443"},
	{"[2001:db8::1]:80", "2001:db8::1", "443"},
	{"::ffff:10.1.2.3", "10.1.2.3", "443"},
	{"x", "localhost", "443"},
	{"", "127.5.0.1", "443"},
	{"", "::1", "443"},
	{"", "::ffff:127.0.0.1", "443"},
	{"*.", "x.", "443"},
	{"..", "x..", "443"},
	{"*..x", "a..x", "443"},
	{"[]:443,[", "x", "443"},
	{"10.0.0.0/33", "10.0.0.0", "443"},
}

// FuzzExempt: NO_PROXY means what it means to the standard library, whose function
// for it is not to be had without its reading of the environment.
func FuzzExempt(f *testing.F) {
	for _, c := range exemptions {
		f.Add(c.list, c.host, c.port)
	}
	f.Fuzz(func(t *testing.T, list, host, port string) {
		address := "https://" + net.JoinHostPort(host, port)
		if strings.ContainsFunc(list, func(r rune) bool { return r == 0 || r > 0x7e }) { // no gateway has such a name
			t.Skip()
		}
		if checked, err := socketxp.CheckGatewayURL(address); err != nil || checked != address {
			t.Skip()
		}
		env := httpproxy.Config{HTTPSProxy: "http://proxy", NoProxy: list}
		through, err := env.ProxyFunc()(parseURL(t, address))
		if err != nil {
			t.Fatal(err)
		}
		if got := exempt(list, host, port); got != (through == nil) {
			t.Errorf("NO_PROXY=%q for %s: exempt is %v", list, address, got)
		}
	})
}

// fakeProxy serves one connection after the other by serve.
func fakeProxy(t *testing.T, serve func(c net.Conn, request *http.Request)) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(soon))
				request, err := http.ReadRequest(bufio.NewReader(c))
				if err == nil {
					serve(c, request)
				}
			})
		}
	})
	return &proxy{variable: "HTTPS_PROXY", scheme: "http", host: l.Addr().String()}
}

func TestConnect(t *testing.T) {
	const target = "gateway.example.com:443"
	t.Run("a connection", func(t *testing.T) {
		for _, answer := range []string{
			"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n",
			// RFC 9110 section 9.3.6: these headers mean nothing in an answer to CONNECT.
			"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		} {
			p := fakeProxy(t, func(c net.Conn, r *http.Request) {
				if r.Method != http.MethodConnect || r.Host != target || r.RequestURI != target {
					t.Errorf("asked for %s %s", r.Method, r.RequestURI)
				}
				if got := r.Header.Get("Proxy-Authorization"); got != "Basic "+base64.StdEncoding.EncodeToString([]byte("user:se@cret")) {
					t.Errorf("signed in as %q", got)
				}
				_, _ = io.WriteString(c, answer)
				_, _ = io.Copy(c, c)
			})
			p.hasUser, p.user, p.password = true, "user", "se@cret"
			c, err := p.dial(t.Context(), target)
			if err != nil {
				t.Errorf("%q: %v", answer, err)
				continue
			}
			if _, ok := c.(*net.TCPConn); !ok {
				t.Errorf("it is a %T: the kernel can't look after it", c)
			}
			_, _ = io.WriteString(c, "hello")
			got := make([]byte, 5)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
				t.Errorf("%q: %q, %v", answer, got, err)
			}
			_ = c.Close()
		}
	})
	for name, c := range map[string]struct {
		answer     string
		user       bool
		says, hint string
	}{
		"wants a password":      {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 5\r\n\r\nhello", false, "asks for a user and a password", "HTTPS_PROXY=http://user:password@"},
		"wants another one":     {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n", true, "does not take the user and password", "%40"},
		"wants Kerberos":        {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n", true, "only Basic is", "cntlm"},
		"does not want at all":  {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", false, "status 403", "port 443"},
		"is a web server":       {"HTTP/1.1 405 Method Not Allowed\r\n\r\n", false, "status 405", "port 443"},
		"says nothing sensible": {"220 mail.example.com ESMTP\r\n\r\n", false, "no answer that could be read", "CONNECT"},
		"says nothing":          {"", false, "no answer that could be read", "CONNECT"},
		"never comes to an end": {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: 0123456789abcdef\r\n", 2000), false, "no answer that could be read", "CONNECT"},
		"says it is at it":      {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 10), false, "no answer that could be read", "CONNECT"},
		"speaks first":          {"HTTP/1.1 200 OK\r\n\r\nhello", false, "before the gateway was asked", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := fakeProxy(t, func(conn net.Conn, _ *http.Request) { _, _ = io.WriteString(conn, c.answer) })
			p.hasUser, p.user, p.password = c.user, "user", "hush-hush"
			conn, err := p.dial(t.Context(), target)
			var e *socketxp.Error
			if conn != nil || !errors.As(err, &e) || !strings.Contains(err.Error(), c.says) || !strings.Contains(e.Hint, c.hint) {
				t.Fatalf("%v, %v", conn, err)
			}
			if !strings.Contains(err.Error(), p.host) || strings.Contains(err.Error()+e.Hint, "hush") {
				t.Errorf("it says %v", err)
			}
			// What a command shows of it is this text and this hint.
			if shown := unreachable("https://gateway.example.com", &transportError{err}); !errors.As(shown, &e) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("a command says %v", shown)
			}
		})
	}
	t.Run("not there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		p := &proxy{scheme: "http", host: l.Addr().String()}
		if _, err := p.dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "can't be reached") {
			t.Errorf("%v", err)
		}
	})
	t.Run("one that falls silent", func(t *testing.T) {
		asked := make(chan struct{})
		p := fakeProxy(t, func(c net.Conn, _ *http.Request) {
			close(asked)
			_, _ = io.Copy(io.Discard, c)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-asked
			cancel()
		}()
		if _, err := p.dial(ctx, target); err == nil {
			t.Error("it is a connection")
		}
	})
}

// proxyCert returns a certificate of nobody's for these names, good until then.
func proxyCert(t *testing.T, until time.Time, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "a proxy"}, DNSNames: names,
		NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestProxyThatIsNotVerified: who can't prove to be the proxy does not hear the
// password, and what is wrong is told.
func TestProxyThatIsNotVerified(t *testing.T) {
	later := time.Now().AddDate(10, 0, 0)
	hearTLS := func(cert tls.Certificate, newest uint16) func(net.Conn) string {
		return func(c net.Conn) string {
			said, _ := io.ReadAll(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: newest}))
			return string(said)
		}
	}
	for name, c := range map[string]struct {
		hear       func(net.Conn) string
		says, hint string
	}{
		"an unknown authority": {hearTLS(proxyCert(t, later, "localhost"), 0), "a certificate for localhost by a proxy", "SSL_CERT_FILE"},
		"another name":         {hearTLS(proxyCert(t, later, "proxy.example.com"), 0), "a certificate for proxy.example.com by a proxy", "name the proxy in ALL_PROXY as its certificate does"},
		"its time is over":     {hearTLS(proxyCert(t, time.Now().AddDate(-1, 0, 0), "localhost"), 0), "expired", "clock"},
		"an old TLS":           {hearTLS(proxyCert(t, later, "localhost"), tls.VersionTLS11), "about TLS", "ALL_PROXY=http://localhost:"},
		"no TLS": {func(c net.Conn) string {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			said, _ := io.ReadAll(c)
			return string(said)
		}, "does not look like a TLS handshake", "ALL_PROXY=http://localhost:"},
		"the end": {func(net.Conn) string { return "" }, "about TLS", "ALL_PROXY=http://localhost:"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			heard := make(chan string, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					heard <- err.Error()
					return
				}
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(soon))
				heard <- c.hear(conn)
			}()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			p := &proxy{variable: "ALL_PROXY", scheme: "https", host: "localhost:" + port, hasUser: true, user: "user", password: "hush-hush"}
			conn, err := p.dial(t.Context(), "gateway.example.com:443")
			var e *socketxp.Error
			if conn != nil || !errors.As(err, &e) || !strings.Contains(err.Error(), "the proxy https://localhost:"+port) || !strings.Contains(err.Error(), c.says) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("%v, %v", conn, err)
			}
			// Whoever meets a gateway for the first time would take the proxy's key for it.
			if errors.As(err, new(*tls.CertificateVerificationError)) {
				t.Error("it looks like a certificate of the gateway's")
			}
			if said := <-heard; strings.Contains(said, "CONNECT") || strings.Contains(said, "Proxy-Authorization") {
				t.Errorf("it heard %q", said)
			}
		})
	}
}

// FuzzConnectAnswer: whatever a proxy answers, it is bounded, and only a 2xx is a
// connection.
func FuzzConnectAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 407 X\r\nProxy-Authenticate: Basic\r\n\r\nbody"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := &counting{Reader: strings.NewReader(string(in))}
		answer, rest, err := readConnectAnswer(r) //nolint:bodyclose // there is none
		switch {
		case r.n > maxProxyAnswer:
			t.Fatalf("%d bytes were read", r.n)
		case err == nil && answer.StatusCode < 200, err != nil && answer != nil, rest < 0 || rest > r.n:
			t.Fatalf("%v %d %v", answer, rest, err)
		}
	})
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}
