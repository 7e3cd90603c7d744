package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"socketxp"
)

// fallbackDelay is how long a connection by IPv6 may take before IPv4 is tried
// beside it (RFC 8305 section 5).
const fallbackDelay = 250 * time.Millisecond

// dialer opens TCP connections. Names that have addresses of both families are
// raced, so that a family that leads nowhere costs no more than the delay.
func dialer() *net.Dialer {
	return &net.Dialer{Timeout: dialLimit, FallbackDelay: fallbackDelay}
}

// proxy is a proxy between this machine and the gateway. Its password is in no
// error and no log: String is what is shown.
type proxy struct {
	scheme         string // http or https
	host           string // host:port
	user, password string
	hasUser        bool
}

// String returns the proxy's address without user and password.
func (p *proxy) String() string { return p.scheme + "://" + p.host }

// proxyFor returns the proxy that the environment names for the gateway at u
// (HTTPS_PROXY, NO_PROXY, or in lower case), or nil for none. This machine itself
// is never reached by a proxy.
func proxyFor(u *url.URL) (*proxy, error) {
	text := os.Getenv("HTTPS_PROXY")
	if text == "" {
		text = os.Getenv("https_proxy")
	}
	return proxyOf(text, u, http.ProxyFromEnvironment)
}

// proxyOf is proxyFor with the value of HTTPS_PROXY, and what says whether it is to
// be used for u. Which proxy that says is not heeded: it does quietly without one
// that it can't read.
func proxyOf(text string, u *url.URL, used func(*http.Request) (*url.URL, error)) (*proxy, error) {
	if text == "" {
		return nil, nil
	}
	p, err := parseProxy(text)
	if err != nil {
		return nil, err
	}
	if use, err := used(&http.Request{URL: u}); err != nil || use == nil {
		return nil, nil //nolint:nilerr // it can only be the proxy's text, which was read
	}
	return p, nil
}

// proxyHint shows the form; the value that was given may hold a password.
const proxyHint = "it looks like http://proxy.example.com:3128, or http://user:password@proxy.example.com:3128; hosts that need none are in NO_PROXY"

// parseProxy reads the value of HTTPS_PROXY. A value without a scheme means http://,
// as everywhere.
func parseProxy(text string) (*proxy, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || len(text) > 1000 {
		return nil, hinted(proxyHint, "the proxy in HTTPS_PROXY is not a URL")
	}
	p := &proxy{scheme: strings.ToLower(u.Scheme)}
	port, known := map[string]string{"http": "80", "https": "443"}[p.scheme]
	if !known {
		return nil, hinted(proxyHint, "the proxy in HTTPS_PROXY is of a kind that is not spoken here: %q; http and https are", Printable(clip(p.scheme)))
	}
	if given := u.Port(); given != "" {
		port = given
	}
	p.host = net.JoinHostPort(u.Hostname(), port)
	if strings.ContainsFunc(p.host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, hinted(proxyHint, "the proxy in HTTPS_PROXY is not a URL")
	}
	if u.User != nil {
		p.hasUser = true
		p.user = u.User.Username()
		p.password, _ = u.User.Password()
	}
	return p, nil
}

// proxyError is a proxy's fault, or that of how it is used.
func proxyError(p *proxy, hint, format string, args ...any) error {
	return socketxp.Errorf(socketxp.CodeUnavailable, "the proxy %s %s", p, fmt.Sprintf(format, args...)).WithHint(hint)
}

// dial opens a connection to target, host:port, through the proxy, within ctx.
func (p *proxy) dial(ctx context.Context, target string) (net.Conn, error) {
	conn, err := dialer().DialContext(ctx, "tcp", p.host)
	if err != nil {
		return nil, proxyError(p, "check HTTPS_PROXY, and NO_PROXY", "can't be reached: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	through, err := p.connect(ctx, conn, target)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return through, nil
}

// connect has the proxy at the other end of conn make it a connection to target.
func (p *proxy) connect(ctx context.Context, conn net.Conn, target string) (net.Conn, error) {
	if p.scheme == "https" {
		// The proxy's certificate is checked by the system's authorities: it will see
		// the password.
		cfg, err := socketxp.GatewayAddress{URL: "https://" + p.host}.TLSConfig(nil)
		if err != nil {
			return nil, err
		}
		cfg.MinVersion = tls.VersionTLS12 // it is the proxy's to choose
		sealed := tls.Client(conn, cfg)
		if err := sealed.HandshakeContext(ctx); err != nil {
			return nil, proxyError(p, "a proxy that speaks no TLS itself is http://", "can't be verified: %v", err)
		}
		conn = sealed
	}
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nUser-Agent: socketxp\r\n"
	if p.hasUser {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, proxyError(p, "", "does not answer: %v", err)
	}
	answer, rest, err := readConnectAnswer(conn) //nolint:bodyclose // the connection is what is closed
	switch {
	case err != nil:
		return nil, proxyError(p, "is it a proxy for HTTPS (CONNECT)?", "gave no answer that could be read: %v", err)
	case answer.StatusCode/100 == 2 && rest > 0:
		return nil, proxyError(p, "", "said something before the gateway was asked")
	case answer.StatusCode/100 == 2:
		return conn, nil
	case answer.StatusCode == http.StatusProxyAuthRequired:
		return nil, p.wantsMore(answer)
	}
	return nil, proxyError(p, "many proxies allow port 443 only: a gateway on that port comes through; or ask who runs the proxy",
		"refuses to connect to %s (status %d)", target, answer.StatusCode)
}

// wantsMore explains a 407.
func (p *proxy) wantsMore(answer *http.Response) error {
	basic := false
	for _, v := range answer.Header.Values("Proxy-Authenticate") {
		scheme, _, _ := strings.Cut(v, " ")
		basic = basic || strings.EqualFold(scheme, "Basic")
	}
	switch {
	case !basic && len(answer.Header.Values("Proxy-Authenticate")) > 0:
		return proxyError(p, "a helper such as cntlm or px on this machine speaks those; put its address into HTTPS_PROXY", "asks for a kind of sign-in that is not spoken here (only Basic is)")
	case p.hasUser:
		return proxyError(p, "special characters in them are written as %XX, @ as %40", "does not take the user and password in HTTPS_PROXY")
	}
	return proxyError(p, "HTTPS_PROXY=http://user:password@"+p.host, "asks for a user and a password")
}

const (
	// maxProxyAnswer is the most that is read of a proxy's answers to a CONNECT, and
	// maxInterim how many of them may come before the last.
	maxProxyAnswer = 16 << 10
	maxInterim     = 5
)

// readConnectAnswer reads what a proxy says to a CONNECT, and how many bytes beyond
// that have been taken. What the proxy has to say for people is left unread.
func readConnectAnswer(r io.Reader) (answer *http.Response, rest int, err error) {
	limited := bufio.NewReader(io.LimitReader(r, maxProxyAnswer))
	for range maxInterim {
		answer, err = http.ReadResponse(limited, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return nil, 0, errors.New("it is no answer of HTTP, or too long")
		}
		if answer.StatusCode >= 200 {
			return answer, limited.Buffered(), nil
		}
	}
	return nil, 0, errors.New("it does not come to an end")
}
