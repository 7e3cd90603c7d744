package agent

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
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

// using is http.ProxyFromEnvironment in an environment of the test's own, which that
// reads but once.
func using(proxy, except string) func(*http.Request) (*url.URL, error) {
	env := httpproxy.Config{HTTPSProxy: proxy, NoProxy: except}
	return func(r *http.Request) (*url.URL, error) { return env.ProxyFunc()(r.URL) }
}

func TestProxyOf(t *testing.T) {
	u := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, c := range []struct{ proxy, except, gateway, want string }{
		{"", "", "https://gateway.example.com", "<nil>"},
		{"http://proxy.example.com:3128", "", "https://gateway.example.com", "http://proxy.example.com:3128"},
		{"proxy.example.com:3128", "", "https://gateway.example.com", "http://proxy.example.com:3128"},
		{"proxy.example.com", "", "https://gateway.example.com", "http://proxy.example.com:80"},
		{"https://proxy.example.com", "", "https://gateway.example.com", "https://proxy.example.com:443"},
		{"http://[2001:db8::1]:9050", "", "https://gateway.example.com", "http://[2001:db8::1]:9050"},
		{"http://user:se%40cret@proxy.example.com:3128/ignored", "", "https://gateway.example.com", "http://proxy.example.com:3128"},
		{"http://proxy.example.com", "gateway.example.com", "https://gateway.example.com:8443", "<nil>"},
		{"http://proxy.example.com", ".example.com,10.0.0.0/8", "https://gateway.example.com", "<nil>"},
		{"http://proxy.example.com", "10.0.0.0/8", "https://10.1.2.3", "<nil>"},
		{"http://proxy.example.com", "*", "https://gateway.example.com", "<nil>"},
		{"http://proxy.example.com", "other.example.com", "https://gateway.example.com", "http://proxy.example.com:80"},
		{"http://proxy.example.com", "", "https://localhost:8443", "<nil>"},
		{"http://proxy.example.com", "", "https://127.0.0.1:8443", "<nil>"},
	} {
		p, err := proxyOf(c.proxy, u(c.gateway), using(c.proxy, c.except))
		got := "<nil>"
		if p != nil {
			got = p.String()
		}
		if err != nil || got != c.want {
			t.Errorf("%q but %q for %s: %s, %v; want %s", c.proxy, c.except, c.gateway, got, err, c.want)
		}
	}
	p, err := parseProxy("http://user:se%40cr:et@proxy.example.com")
	if err != nil || !p.hasUser || p.user != "user" || p.password != "se@cr:et" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"ftp://user:hush@proxy", "http://", "http://user:hush@", "http://user:hush@proxy:port", "http://user:hush@pro xy", "socks5://user:hush@proxy", "://user:hush@x", "http://us%er:hush@proxy", strings.Repeat("x", 1001), "http://proxy\r\nX: hush"} {
		p, err := proxyOf(bad, u("https://gateway.example.com"), using(bad, ""))
		var e *socketxp.Error
		if p != nil || !errors.As(err, &e) || e.Hint == "" || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v, %v", bad, p, err)
		}
	}
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
	return &proxy{scheme: "http", host: l.Addr().String()}
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
