package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	variable       string // that names it, for what people are told
	scheme         string // http or https
	host           string // host:port
	user, password string
	hasUser        bool
}

// String returns the proxy's address without user and password.
func (p *proxy) String() string { return p.scheme + "://" + p.host }

// proxyFor returns the proxy that the environment names for the gateway at u, or nil
// for none: HTTPS_PROXY, or ALL_PROXY if that is empty, unless NO_PROXY exempts the
// gateway; each also in lower case. This machine itself is never reached by a proxy.
// Not http.ProxyFromEnvironment: that knows no ALL_PROXY, and does quietly without a
// proxy that it can't read.
func proxyFor(u *url.URL) (*proxy, error) {
	variable, text := firstSet("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
	_, list := firstSet("NO_PROXY", "no_proxy")
	if host, port := hostPort(u.String()); text == "" || exempt(list, host, port) {
		return nil, nil
	}
	return parseProxy(variable, text)
}

// firstSet returns the first of the environment's variables that is not empty.
func firstSet(variables ...string) (variable, value string) {
	for _, v := range variables {
		if value := os.Getenv(v); value != "" {
			return v, value
		}
	}
	return "", ""
}

// exempt reports whether host is reached without a proxy: it is this machine, or in
// list, the value of NO_PROXY. That has names, which mean what is below them too, and
// that alone if they begin with a dot or "*."; addresses; networks (10.0.0.0/8); or *
// for everything. Names and addresses may have a port.
func exempt(list, host, port string) bool {
	ip := net.ParseIP(host)
	if host = strings.ToLower(host); host == "localhost" || ip.IsLoopback() {
		return true
	}
	for entry := range strings.SplitSeq(strings.ToLower(list), ",") {
		entry = strings.TrimSpace(entry)
		if entry == "*" {
			return true
		}
		if _, network, err := net.ParseCIDR(entry); err == nil {
			if network.Contains(ip) {
				return true
			}
			continue
		}
		name, only, err := net.SplitHostPort(entry)
		if err != nil {
			name, only = entry, ""
		}
		if only != "" && only != port || name == "" {
			continue
		}
		if strings.HasPrefix(name, "*.") {
			name = name[1:]
		}
		switch {
		case ip != nil:
			if ip.Equal(net.ParseIP(name)) {
				return true
			}
		case host == name, strings.HasSuffix(host, "."+strings.TrimPrefix(name, ".")):
			return true
		}
	}
	return false
}

// proxyHint shows the form; the value that was given may hold a password.
const proxyHint = "it looks like http://proxy.example.com:3128, or https://user:password@proxy.example.com:3128; hosts that need none are in NO_PROXY"

// parseProxy reads the value of a variable that names a proxy. A value without a
// scheme means http://, as everywhere.
func parseProxy(variable, text string) (*proxy, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || len(text) > 1000 {
		return nil, hinted(proxyHint, "the proxy in %s is not a URL", variable)
	}
	p := &proxy{variable: variable, scheme: strings.ToLower(u.Scheme)}
	port, known := map[string]string{"http": "80", "https": "443"}[p.scheme]
	switch {
	case strings.HasPrefix(p.scheme, "socks"): // socks, socks4, socks4a, socks5, socks5h
		instead := "put a proxy for HTTP (CONNECT) into HTTPS_PROXY, as http://proxy.example.com:3128"
		if strings.EqualFold(variable, "ALL_PROXY") {
			instead += ", which counts before " + variable
		}
		return nil, hinted(instead+"; or the gateway's host into NO_PROXY, if it is reached without one",
			"the proxy in %s is one for SOCKS (%s), which is not spoken here", variable, Printable(clip(p.scheme)))
	case !known:
		return nil, hinted(proxyHint, "the proxy in %s is of a kind that is not spoken here: %q; http and https are", variable, Printable(clip(p.scheme)))
	}
	if given := u.Port(); given != "" {
		port = given
	}
	p.host = net.JoinHostPort(u.Hostname(), port)
	if strings.ContainsFunc(p.host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, hinted(proxyHint, "the proxy in %s is not a URL", variable)
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
		return nil, proxyError(p, "check "+p.variable+", and NO_PROXY", "can't be reached: %v", err)
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
		sealed, err := p.secure(ctx, conn)
		if err != nil {
			return nil, err
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
		return nil, proxyError(p, "is it a proxy for HTTPS (CONNECT)? one that speaks TLS itself is https://", "gave no answer that could be read: %v", err)
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

// secure opens TLS with the proxy itself. Its certificate is checked by the system's
// authorities: it will see the password.
func (p *proxy) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	cfg, err := socketxp.GatewayAddress{URL: "https://" + p.host}.TLSConfig(nil)
	if err != nil {
		return nil, err
	}
	cfg.MinVersion = tls.VersionTLS12 // it is the proxy's to choose
	sealed := tls.Client(conn, cfg)
	if err := sealed.HandshakeContext(ctx); err != nil {
		return nil, p.unverified(err)
	}
	return sealed, nil
}

// unverified explains why there is no TLS with the proxy.
func (p *proxy) unverified(err error) error {
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) || len(bad.UnverifiedCertificates) == 0 {
		return proxyError(p, "if it speaks no TLS itself, it is "+p.variable+"=http://"+p.host, "does not come to terms about TLS: %v", err)
	}
	hint := "compare its certificate with what who runs the proxy says of it"
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		hint = "have this machine trust who has issued it (update-ca-certificates), or put a file with that one's certificate into SSL_CERT_FILE; if who runs the proxy knows nothing of it, somebody is in between"
	case errors.As(err, new(x509.HostnameError)):
		hint = "name the proxy in " + p.variable + " as its certificate does"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		hint = "look at this machine's clock; if that is right, the proxy needs a new certificate"
	}
	return proxyError(p, hint, "can't be verified, it shows %s: %v", describe(bad.UnverifiedCertificates[0]), bad.Err)
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
		return proxyError(p, "a helper such as cntlm or px on this machine speaks those; put its address into "+p.variable, "asks for a kind of sign-in that is not spoken here (only Basic is)")
	case p.hasUser:
		return proxyError(p, "special characters in them are written as %XX, @ as %40", "does not take the user and password in %s", p.variable)
	}
	return proxyError(p, p.variable+"="+p.scheme+"://user:password@"+p.host, "asks for a user and a password")
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
