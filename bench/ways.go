package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// way is one way from a client to the target.
type way struct {
	name string
	addr string // what the client dials
	// procs are what carries the bytes: neither the client nor the target.
	procs []*process
	// gateway is the one in the middle, if there is one.
	gateway *process
	// again starts another visitor's agent, whose first connection is a grant's first;
	// nil if the way has none.
	again func(context.Context) (p *process, addr string, err error)
}

// cpu returns what each process of the way has used of the CPUs.
func (w *way) cpu() (each []time.Duration) {
	for _, p := range w.procs {
		each = append(each, p.cpu())
	}
	return each
}

// errMissing says that a way needs a program that is not installed.
var errMissing = errors.New("is not installed")

// maker sets one way up to the target at an address.
type maker struct {
	name string
	set  func(l *lab, ctx context.Context, target string) (*way, error)
}

// makers are all ways, the limits first.
var makers = []maker{
	{"direct", func(_ *lab, _ context.Context, target string) (*way, error) { return &way{addr: target}, nil }},
	{"relay-3", (*lab).relay3},
	{"tls-pair", (*lab).tlsPair},
	{"socketxp", func(l *lab, ctx context.Context, target string) (*way, error) {
		return l.socketxp(ctx, target, l.bin, false)
	}},
	{"socketxp-websocket", func(l *lab, ctx context.Context, target string) (*way, error) {
		return l.socketxp(ctx, target, l.bin, true)
	}},
	{"derived", (*lab).derived},
	{"openssh-aes128-gcm", func(l *lab, ctx context.Context, target string) (*way, error) {
		return l.openSSH(ctx, target, "-c", "aes128-gcm@openssh.com")
	}},
	{"openssh", func(l *lab, ctx context.Context, target string) (*way, error) { return l.openSSH(ctx, target) }},
	{"stunnel-haproxy", (*lab).stunnel},
}

// makerOf returns what sets up a way. The path of a folder stands for this product as it
// was built into that: before and after, side by side.
func makerOf(name string) (maker, error) {
	if filepath.IsAbs(name) {
		return maker{name, func(l *lab, ctx context.Context, target string) (*way, error) {
			return l.socketxp(ctx, target, name, false)
		}}, nil
	}
	i := slices.IndexFunc(makers, func(m maker) bool { return m.name == name })
	if i < 0 {
		return maker{}, fmt.Errorf("there is no way %s", name)
	}
	return makers[i], nil
}

// setUp makes the named ways. Those whose programs are missing are left out and named.
func (l *lab) setUp(ctx context.Context, names ...string) (ways []*way, missing []string, err error) {
	target, err := l.listening(ctx, "target", l.far)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		m, err := makerOf(name)
		if err != nil {
			return nil, nil, err
		}
		w, err := m.set(l, ctx, target)
		if errors.Is(err, errMissing) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		w.name = name
		ways = append(ways, w)
	}
	return ways, missing, nil
}

// listening starts a role that listens, and returns where.
func (l *lab) listening(ctx context.Context, role string, ns *namespace, args ...string) (string, error) {
	_, addr, err := l.listener(ctx, role, ns, args...)
	return addr, err
}

func (l *lab) listener(ctx context.Context, role string, ns *namespace, args ...string) (*process, string, error) {
	p, err := l.role(role, ns, append([]string{"-listen", ns.host() + ":0"}, args...)...)
	if err != nil {
		return nil, "", err
	}
	m, err := p.await(ctx, `^listening at (\S+)`)
	if err != nil {
		return nil, "", err
	}
	return p, m[1], nil
}

// chain starts roles one before the other, from the target to the client.
func (l *lab) chain(ctx context.Context, target string, hops ...hop) (*way, error) {
	w := &way{addr: target}
	for _, h := range hops {
		p, addr, err := l.listener(ctx, h.role, h.ns, "-to", w.addr)
		if err != nil {
			return nil, err
		}
		w.addr, w.procs = addr, append(w.procs, p)
	}
	return w, nil
}

type hop struct {
	role string
	ns   *namespace
}

func (l *lab) relay3(ctx context.Context, target string) (*way, error) {
	return l.chain(ctx, target, hop{"relay", l.far}, hop{"relay", l.far}, hop{"relay", l.near})
}

func (l *lab) tlsPair(ctx context.Context, target string) (*way, error) {
	return l.chain(ctx, target, hop{"tls-device", l.far}, hop{"tls-access", l.near})
}

func (l *lab) derived(ctx context.Context, target string) (*way, error) {
	g, gateway, err := l.listener(ctx, "derived-gateway", l.far)
	if err != nil {
		return nil, err
	}
	device, err := l.role("derived-device", l.far, "-to", gateway, "-target", target)
	if err != nil {
		return nil, err
	}
	if _, err := device.await(ctx, "^connected"); err != nil {
		return nil, err
	}
	access, addr, err := l.listener(ctx, "derived-access", l.near, "-to", gateway)
	if err != nil {
		return nil, err
	}
	return &way{addr: addr, procs: []*process{g, device, access}, gateway: g}, nil
}

// gatewayOwner signs in to the gateways of a lab.
const (
	gatewayOwner  = "owner@example.com"
	ownerPassword = "correct horse battery staple"
)

// gateway is a running one, and its owner who has signed in.
type gateway struct {
	*process
	bin     string // of its program and its agents'
	url     string
	listen  string // where it listens; empty for the URL's host and port
	metrics string // where it tells its metrics; empty for nowhere
	owner   *api.Client
}

// startGateway starts a gateway with an owner in a folder of its own.
func (l *lab) startGateway(ctx context.Context, name, bin string) (*gateway, error) {
	dir := filepath.Join(l.dir, name)
	if err := createOwner(ctx, bin, dir, gatewayOwner, "bench"); err != nil {
		return nil, err
	}
	host := l.far.host()
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	return l.serveGateway(ctx, &gateway{bin: bin, url: "https://" + net.JoinHostPort(host, port)}, dir)
}

// createOwner makes a user and an account of theirs.
func createOwner(ctx context.Context, bin, dir, email, account string) error {
	owner := exec.CommandContext(ctx, filepath.Join(bin, "socketxp-gateway"), "admin", "create-user", "--data-dir", dir, "--email", email, "--account", account, "--password-file", "-") //nolint:gosec // ours
	owner.Stdin = strings.NewReader(ownerPassword + "\n")
	if out, err := owner.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// serveGateway starts the program with a data folder, on the port of g's URL, and
// signs in.
func (l *lab) serveGateway(ctx context.Context, g *gateway, dir string) (_ *gateway, err error) {
	if g.process, err = l.startServing(g, dir); err != nil {
		return nil, err
	}
	g.owner, err = l.signIn(ctx, g.process, dir, g.url, gatewayOwner)
	return g, err
}

// startServing starts the program, and does not wait for it to serve.
func (l *lab) startServing(g *gateway, dir string) (*process, error) {
	return l.start("gateway", l.far, nil, filepath.Join(g.bin, "socketxp-gateway"), "serve", "--data-dir", dir,
		"--listen", cmp.Or(g.listen, strings.TrimPrefix(g.url, "https://")), "--public-url", g.url, "--metrics-listen", g.metrics)
}

// signIn waits until a gateway serves and signs in as one of its users.
func (l *lab) signIn(ctx context.Context, p *process, dir, url, email string) (*api.Client, error) {
	var client *api.Client
	var last error
	err := until(ctx, 30*time.Second, func() bool {
		var text []byte
		if text, last = os.ReadFile(filepath.Join(dir, "gateway.crt")); last != nil { //nolint:gosec // the lab's own file
			return false
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return false
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if last = err; err != nil {
			return false
		}
		addr := socketxp.GatewayAddress{URL: url, Pin: socketxp.PinOf(cert)}
		tlsConfig, err := addr.TLSConfig(nil)
		if last = err; err != nil {
			return false
		}
		client = api.NewClientBy(addr, func(ctx context.Context) (net.Conn, error) {
			c, err := l.far.dial(ctx, strings.TrimPrefix(url, "https://"))
			if err != nil {
				return nil, err
			}
			return tls.Client(c, tlsConfig), nil
		}, "")
		_, last = client.SignIn(ctx, email, ownerPassword)
		return last == nil
	})
	if err != nil {
		return nil, fmt.Errorf("the gateway does not serve: %w\n%s", errors.Join(err, last), p.out.String())
	}
	return client, nil
}

// freePort returns a port that nobody listens at now.
func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// socketxp is this product: gateway, a device's agent, and a laptop's. The programs are
// those of a folder.
func (l *lab) socketxp(ctx context.Context, target, bin string, webSocket bool) (*way, error) {
	name := "socketxp-" + filepath.Base(bin)
	if webSocket {
		name += "-websocket"
	}
	g, err := l.startGateway(ctx, name, bin)
	if err != nil {
		return nil, err
	}
	defer g.owner.Close()
	return l.pair(ctx, g, name, target, webSocket)
}

// pair is a device's agent that publishes the target through a gateway, and a
// laptop's that visits it.
func (l *lab) pair(ctx context.Context, g *gateway, name, target string, webSocket bool) (*way, error) {
	token, err := g.owner.CreateToken(ctx, api.CreateTokenRequest{Kind: socketxp.TokenBasic, Name: "bench"})
	if err != nil {
		return nil, err
	}
	_, service, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	program := filepath.Join(g.bin, "socketxp")
	env := func(who string) ([]string, error) {
		dir := filepath.Join(l.dir, name+"-"+who)
		if webSocket {
			// An agent begins with the door that it remembers.
			ways, err := json.Marshal(map[string]any{"gateway": g.url, "control": "websocket", "links": "websocket", "found": time.Now().UTC().Format(time.RFC3339)})
			if err == nil {
				err = os.MkdirAll(dir, 0o700)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "ways.json"), ways, 0o600)
			}
			if err != nil {
				return nil, err
			}
		}
		return []string{"SOCKETXP_WORK_DIR=" + dir, "SOCKETXP_AUTHTOKEN=" + token.Text}, nil
	}
	deviceEnv, err := env("device")
	if err != nil {
		return nil, err
	}
	laptopEnv, err := env("laptop")
	if err != nil {
		return nil, err
	}
	login, err := l.start("login", l.far, deviceEnv, program, "login", "--iot-device-name", "d")
	if err != nil {
		return nil, err
	}
	<-login.done
	device, err := l.start("device", l.far, deviceEnv, program, "connect", "tcp://"+target, "--verbose")
	if err != nil {
		return nil, err
	}
	if _, err := device.await(ctx, "^Connected to"); err != nil {
		return nil, err
	}
	visit := func(ctx context.Context) (*process, string, error) {
		p, err := l.start("laptop", l.near, laptopEnv, program, "connect", "tcp://localhost:0", "--iot-slave", "--peer-device-name", "d", "--peer-device-port", service, "--verbose")
		if err != nil {
			return nil, "", err
		}
		m, err := p.await(ctx, `tcp://localhost:(\d+)`)
		if err != nil {
			return nil, "", err
		}
		return p, "127.0.0.1:" + m[1], nil
	}
	laptop, addr, err := visit(ctx)
	if err != nil {
		return nil, err
	}
	w := &way{addr: addr, procs: []*process{g.process, device, laptop}, gateway: g.process}
	if !webSocket {
		w.again = visit
	}
	return w, nil
}
