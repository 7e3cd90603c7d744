package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

const (
	// dialLimit is how long reaching the gateway may take, and handshakeWithin how
	// long proving each other's keys: a mobile network that has to wake up takes 3 s.
	dialLimit       = 15 * time.Second
	handshakeWithin = 15 * time.Second
	// answerWithin is how long the gateway may take to answer what an agent needs
	// before it can go on.
	answerWithin = 20 * time.Second
)

// gateway is where an agent dials, and how it knows that it is the right one.
type gateway struct {
	addr socketxp.GatewayAddress // as it was known at first; its URL holds
	host string                  // host:port
	tls  *tls.Config

	proxy *proxy // nil for none
	ways  *ways
	paces paces
	// betterFirst is how long after the first look at the doors the next one is.
	betterFirst time.Duration

	mu     sync.Mutex // guards the following
	known  socketxp.GatewayAddress
	proved string // the pin of the key that it proved last
}

// newGateway returns the gateway at addr. Without a pin its certificate must come
// from roots, or from the system's authorities if that is nil.
func newGateway(addr socketxp.GatewayAddress, roots *x509.CertPool) (*gateway, error) {
	cfg, err := addr.TLSConfig(roots)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(addr.URL)
	if err != nil {
		return nil, err
	}
	proxy, err := proxyFor(u)
	if err != nil {
		return nil, err
	}
	g := &gateway{
		addr: addr, host: net.JoinHostPort(hostPort(addr.URL)), tls: cfg, known: addr,
		proxy: proxy, ways: newWays(), betterFirst: betterFirst,
	}
	if addr.Pin != "" {
		cfg.VerifyConnection = g.verify
	}
	return g, nil
}

// hostPort returns the host of a gateway's URL, and the port that it means.
func hostPort(gatewayURL string) (host, port string) {
	u, err := url.Parse(gatewayURL)
	if err != nil {
		return "", ""
	}
	if port = u.Port(); port == "" {
		port = "443"
	}
	return u.Hostname(), port
}

// gateway returns the gateway that a device was registered at.
func (d *Dir) gateway(addr socketxp.GatewayAddress) (*gateway, error) {
	if addr.Pin != "" {
		return newGateway(addr, nil)
	}
	data, err := d.read(authoritiesFile, maxAuthorities, true)
	if errors.Is(err, fs.ErrNotExist) {
		return newGateway(addr, nil)
	}
	if err != nil {
		return nil, err
	}
	roots, err := parseAuthorities(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.file(authoritiesFile), err)
	}
	return newGateway(addr, roots)
}

// Target says which gateway a command is for, and how it is verified.
type Target struct {
	// Token is the auth token; it usually carries the gateway's address and key.
	Token string
	// Gateway is a URL given by hand, for tokens that carry none.
	Gateway string
	// CAFile names a file of certificates that the gateway's must come from; it then
	// counts instead of the key in the token. Without either, the system's
	// authorities do.
	CAFile string
}

// resolve returns the gateway and the text of the CA file, if one is given. Nothing
// is sent to anybody.
func (t Target) resolve() (*gateway, []byte, error) {
	addr, ok, err := socketxp.TokenAddress(t.Token)
	if err != nil {
		return nil, nil, err
	}
	if t.Gateway != "" {
		byHand, err := socketxp.CheckGatewayURL(t.Gateway)
		switch {
		case err != nil:
			return nil, nil, err
		case ok && byHand != addr.URL:
			return nil, nil, hinted("leave --gateway out", "the token is for the gateway %s, not for %s", addr.URL, byHand)
		}
		addr.URL = byHand
	}
	if addr.URL == "" {
		return nil, nil, hinted("name it: --gateway https://gateway.example.com", "the token does not say which gateway it is for")
	}
	if t.CAFile == "" {
		g, err := newGateway(addr, nil)
		return g, nil, err
	}
	data, err := readFile(t.CAFile, maxAuthorities, false)
	if err != nil {
		return nil, nil, fmt.Errorf("CA file: %w", err)
	}
	roots, err := parseAuthorities(data)
	if err != nil {
		return nil, nil, fmt.Errorf("CA file %s: %w", t.CAFile, err)
	}
	addr.Pin, addr.NextPin = "", ""
	g, err := newGateway(addr, roots)
	return g, data, err
}

func parseAuthorities(data []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return pool, nil
}

// open opens a control channel and says Hello. It proves key, and nothing is said
// before the gateway has been verified.
func (g *gateway) open(ctx context.Context, key ed25519.PrivateKey, role control.Role, version string) (*control.Conn, error) {
	cfg, err := g.controlTLS(key)
	if err != nil {
		return nil, err
	}
	conn, d, err := g.secure(ctx, cfg)
	if err != nil {
		return nil, unreachable(g.addr.URL, err)
	}
	o := control.Options{Pace: g.paces.of(conn)}
	if d == doorWebSocket {
		o.MaxPace = webSocketPace
	}
	c := control.NewAgent(conn, role, o)
	if err := c.Send(ctx, control.Hello{Version: control.Version, Role: role, Agent: version}); err != nil {
		_ = c.Close()
		return nil, unreachable(g.addr.URL, err)
	}
	return c, nil
}

// controlTLS is how a control channel's handshake proves key.
func (g *gateway) controlTLS(key ed25519.PrivateKey) (*tls.Config, error) {
	cert, err := socketxp.KeyCertificate(key)
	if err != nil {
		return nil, err
	}
	cfg := g.tls.Clone()
	cfg.Certificates = []tls.Certificate{cert}
	cfg.NextProtos = []string{control.ALPN}
	return cfg, nil
}

// restTLS opens a connection for REST calls. Its error is an *UnreachableError.
func (g *gateway) restTLS(ctx context.Context) (net.Conn, error) {
	cfg := g.tls.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	conn, _, err := g.secure(ctx, cfg)
	if err != nil {
		return nil, unreachable(g.addr.URL, err)
	}
	return conn, nil
}

// await waits for the gateway's next word before its welcome. A refusal is an
// error.
func (g *gateway) await(ctx context.Context, c *control.Conn) (control.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	m, err := c.Receive(ctx)
	if err != nil {
		return nil, unreachable(g.addr.URL, err)
	}
	if m, ok := m.(control.Refused); ok {
		return nil, refused(m.Code, m.Message, m.Hint, m.RetryAfter)
	}
	return m, nil
}

// welcome waits for the gateway's answer to a visitor's Hello.
func (g *gateway) welcome(ctx context.Context, c *control.Conn) (control.Welcome, error) {
	m, err := g.await(ctx, c)
	if err != nil {
		return control.Welcome{}, err
	}
	if w, ok := m.(control.Welcome); ok {
		return w, nil
	}
	return control.Welcome{}, unreachable(g.addr.URL, errors.New("it answered with something else than a welcome"))
}
