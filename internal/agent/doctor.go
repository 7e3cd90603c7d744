package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// Verdict is what a check of Diagnose has come to.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "ok"
	Warning Verdict = "warning" // worth knowing; keeps nobody offline by itself
	Failure Verdict = "failure"
)

// Finding is one check of Diagnose: what was looked at, what was seen, and what to
// do about it.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Advice  string  `json:"advice,omitempty"`
	// Err is the error behind a failure, for the exit status.
	Err error `json:"-"`
}

const (
	// stepWithin bounds each step that waits for others.
	stepWithin = 5 * time.Second
	// clockWarns and clockFails are how far this machine's clock may be from the
	// gateway's: logs are misread, and certificates refused.
	clockWarns = 30 * time.Second
	clockFails = 5 * time.Minute
	// certificateWarns is how long before its end a certificate is worth a word.
	certificateWarns = 7 * 24 * time.Hour
)

// DoctorOptions configure Diagnose.
type DoctorOptions struct {
	WorkDir string
	// ConfigFile is read if it is not empty; one that is not there is no failure
	// unless Named says that a person has named it.
	ConfigFile string
	Named      bool
	// Profile is looked at on a machine that is no device; nil if there is none.
	Profile  *Profile
	Profiles *Profiles
	Version  string
	// Found is called with each finding as it comes; nil means nothing.
	Found func(Finding)
}

// doctor is one run of Diagnose.
type doctor struct {
	DoctorOptions
	dir      *Dir
	findings []Finding
	gateway  *gateway
	tunnels  []Tunnel // that this device publishes, or would
}

// Diagnose looks for why this machine is offline: what it has, the way to the
// gateway, and what it publishes. It changes nothing, here and at the gateway; so it
// opens no channel as the device, which would end that of the agent that runs and
// look like a copied key.
func Diagnose(ctx context.Context, o DoctorOptions) []Finding {
	// Not OpenDir: what is wrong with the folder is a finding.
	d := &doctor{DoctorOptions: o, dir: &Dir{o.WorkDir}}
	if path, err := filepath.Abs(o.WorkDir); err == nil {
		d.dir.path = path
	}
	if d.machine(ctx) {
		d.network(ctx)
	}
	d.destinations(ctx)
	return d.findings
}

func (d *doctor) note(f Finding) {
	f.Detail, f.Advice = Printable(f.Detail), Printable(f.Advice)
	d.findings = append(d.findings, f)
	if d.Found != nil {
		d.Found(f)
	}
}

func (d *doctor) well(check, format string, args ...any) {
	d.note(Finding{Check: check, Verdict: Good, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(check, advice, format string, args ...any) {
	d.note(Finding{Check: check, Verdict: Warning, Detail: fmt.Sprintf(format, args...), Advice: advice})
}

// fail notes a failure, with the advice that err carries if there is none.
func (d *doctor) fail(check, advice string, err error) {
	var e *socketxp.Error
	if advice == "" && errors.As(err, &e) {
		advice = e.Hint
	}
	if advice == "" {
		advice = "put that right, and run this again"
	}
	d.note(Finding{Check: check, Verdict: Failure, Detail: err.Error(), Advice: advice, Err: err})
}

// machine looks at what this machine has. It reports whether there is a gateway to
// look for.
func (d *doctor) machine(ctx context.Context) bool {
	d.configuration()
	_, err := os.Stat(d.dir.Path())
	key, keyErr := d.dir.Key()
	if errors.As(keyErr, new(*NotRegisteredError)) && d.Profile != nil {
		return d.laptop()
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.fail("work folder", "socketxp login TOKEN registers this device; --work-dir names another folder", &NotRegisteredError{
			socketxp.Errorf(socketxp.CodeDeviceUnknown, "there is no folder %s", d.dir.Path()),
		})
		return false
	case err != nil:
		d.fail("work folder", "", err)
		return false
	}
	if err := d.dir.check(); err != nil {
		d.fail("work folder", "", err)
		return false
	}
	d.well("work folder", "%s, for its user alone", d.dir.Path())
	if keyErr != nil {
		d.fail("device key", "", keyErr)
		return false
	}
	d.well("device key", "%s, id %s, group %s, key %s", key.Name, key.ID, key.Group, key.Fingerprint())
	d.agent(ctx)
	if !d.proxy(key.Gateway.URL) {
		return false
	}
	if d.gateway, err = d.dir.gateway(key.Gateway); err != nil {
		d.fail("gateway", "", err)
		return false
	}
	return true
}

// laptop looks at the sign-in of a person.
func (d *doctor) laptop() bool {
	p := d.Profile
	switch {
	case p.Token == "":
		d.warn("sign-in", "socketxp signin", "this machine is no device, and you are not signed in to %s", p.Gateway.URL)
	case !time.Now().Before(p.ExpiresAt):
		d.warn("sign-in", "socketxp signin", "this machine is no device, and your sign-in to %s ended at %s", p.Gateway.URL, p.ExpiresAt.Local().Format(time.DateTime))
	default:
		d.well("sign-in", "this machine is no device; you are signed in to %s as %s until %s", p.Gateway.URL, p.Email, p.ExpiresAt.Local().Format(time.DateTime))
	}
	if !d.proxy(p.Gateway.URL) {
		return false
	}
	roots, err := d.Profiles.roots(*p)
	if err == nil {
		d.gateway, err = newGateway(p.Gateway, roots)
	}
	if err != nil {
		d.fail("gateway", "", err)
	}
	return err == nil
}

// proxy looks whether the proxy in the environment, if there is one, can be used.
func (d *doctor) proxy(gatewayURL string) bool {
	u, err := url.Parse(gatewayURL)
	if err == nil {
		_, err = proxyFor(u)
	}
	if err != nil {
		d.fail("proxy", "", err)
	}
	return err == nil
}

// configuration reads the config file.
func (d *doctor) configuration() {
	if d.ConfigFile == "" {
		return
	}
	if _, err := os.Stat(d.ConfigFile); errors.Is(err, os.ErrNotExist) && !d.Named {
		return
	}
	c, err := ReadConfig(d.ConfigFile)
	if err != nil {
		d.fail("configuration", "", err)
		return
	}
	d.tunnels = c.Publish
	if len(c.Notes) > 0 {
		d.warn("configuration", "", "%s: %s", d.ConfigFile, strings.Join(c.Notes, "; "))
		return
	}
	d.well("configuration", "%s publishes %d tunnels", d.ConfigFile, len(c.Publish))
}

// agent asks the agent that runs, which also knows what the gateway has answered
// it.
func (d *doctor) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	s, err := GetStatus(ctx, d.dir)
	if err != nil {
		d.fail("agent", "end it, and start it again", err)
		return
	}
	if !s.Running {
		d.fail("agent", "socketxp connect tcp://localhost:22, or socketxp --config FILE, or the service that does it",
			errors.New("no agent runs in the work folder"))
		return
	}
	d.tunnels = d.tunnels[:0:0]
	for _, t := range s.Tunnels {
		if dest, err := socketxp.ParseDestination(t.Destination); err == nil {
			d.tunnels = append(d.tunnels, Tunnel{Destination: dest, SSH: t.SSH})
		}
	}
	since := s.Since.Local().Format(time.DateTime)
	switch {
	case s.Connected:
		d.well("agent", "version %s, connected since %s", s.Version, since)
	case s.LastError != "":
		d.fail("agent", "the checks below look at the way to the gateway; if they are well, it is the gateway's answer that counts",
			fmt.Errorf("version %s, not connected since %s: %s", s.Version, since, s.LastError))
	default:
		d.fail("agent", "try again in a moment", fmt.Errorf("version %s, not connected yet", s.Version))
	}
}

// network follows the way to the gateway as far as it leads.
func (d *doctor) network(ctx context.Context) {
	target := d.gateway.host
	if p := d.gateway.proxy; p != nil {
		target = p.host
		d.well("proxy", "%s names %s", p.variable, p)
	} else {
		d.well("proxy", "the environment names none for this gateway")
	}
	if addrs, ok := d.resolve(ctx, target); ok && d.connect(ctx, addrs, target) && d.encryption(ctx) {
		d.links(ctx)
		d.clock(ctx)
		d.answer(ctx)
	}
}

// resolve looks up the name of target, host:port.
func (d *doctor) resolve(ctx context.Context, target string) ([]netip.Addr, bool) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		d.fail("name", "", err)
		return nil, false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		d.well("name", "%s is an address", host)
		return []netip.Addr{a}, true
	}
	ctx, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		d.fail("name", "look at the network and its DNS servers (/etc/resolv.conf), and at the name",
			unreachable(d.gateway.addr.URL, fmt.Errorf("%s has no address: %w", host, err)))
		return nil, false
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		addrs[i] = a.Unmap()
		texts[i] = addrs[i].String()
	}
	d.well("name", "%s is %s", host, strings.Join(texts, ", "))
	return addrs, true
}

// connect tries each address by itself. One that answers is enough.
func (d *doctor) connect(ctx context.Context, addrs []netip.Addr, target string) bool {
	_, port, _ := net.SplitHostPort(target)
	var worked, failed []string
	var last error
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		began := time.Now()
		conn, err := (&net.Dialer{Timeout: stepWithin}).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
		if err != nil {
			failed, last = append(failed, fmt.Sprintf("%s: %v", a, err)), err
			continue
		}
		_ = conn.Close()
		worked = append(worked, fmt.Sprintf("%s in %d ms", a, time.Since(began).Milliseconds()))
	}
	switch {
	case len(failed) == 0:
		d.well("connection", "port %s of %s", port, strings.Join(worked, ", "))
	case len(worked) > 0:
		d.warn("connection", "one address is enough; correct the DNS records, or the route to the others",
			"port %s of %s; not %s", port, strings.Join(worked, ", "), strings.Join(failed, "; "))
	default:
		d.fail("connection", "a firewall may be between, or nothing listens there: open TCP port "+port+" of "+target,
			unreachable(d.gateway.addr.URL, fmt.Errorf("port %s: %s: %w", port, strings.Join(failed, "; "), last)))
	}
	return len(worked) > 0
}

// notDirect is said of a way that works and is not the best one.
const notDirect = "nothing has to be done, the agent goes that way by itself; directly it would be faster"

// encryption looks at who answers behind each door. One is enough.
func (d *doctor) encryption(ctx context.Context) bool {
	var failed error
	var advice string
	for _, by := range doors {
		text, what, err := d.handshake(ctx, by)
		switch {
		case err != nil && failed == nil:
			failed, advice = &doorError{by, err}, what
		case err != nil:
		case failed == nil:
			d.well("encryption", "%s: %s", byDoor(by), text)
			return true
		default:
			d.warn("encryption", notDirect, "%s: %s; not %v", byDoor(by), text, failed)
			return true
		}
	}
	d.fail("encryption", advice, unreachable(d.gateway.addr.URL, failed))
	return false
}

func byDoor(d door) string {
	if d == doorWebSocket {
		return "in a WebSocket"
	}
	return "directly"
}

// handshake returns who answers behind a door, or why it is not the gateway and what
// to do about it.
func (d *doctor) handshake(ctx context.Context, by door) (text, advice string, err error) {
	cfg := d.gateway.tls.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	var seen *x509.Certificate
	if verify := cfg.VerifyConnection; verify != nil {
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) > 0 {
				seen = s.PeerCertificates[0]
			}
			return verify(s)
		}
	}
	conn, err := d.gateway.secureBy(ctx, by, cfg, 2*stepWithin)
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0:
		return "", "the gateway's certificate, this machine's authorities and clock, and a proxy that looks into TLS are what to look at",
			fmt.Errorf("%s: %w", describe(unverified.UnverifiedCertificates[0]), unverified.Err)
	case errors.Is(err, socketxp.ErrWrongGateway) && seen != nil:
		return "", "another machine answers at this address, something between looks into TLS, or the gateway has a new key: compare with what it prints at its start",
			fmt.Errorf("the key is %s, expected %s (%s): %w", socketxp.PinOf(seen), d.gateway.addr.KnownBy(), describe(seen), socketxp.ErrWrongGateway)
	case errors.As(err, new(*transportError)): // it says what to do by itself
		return "", "", err
	case err != nil:
		return "", "something between lets connections through but no TLS 1.3, or what listens there is no gateway", err
	}
	state := conn.ConnectionState()
	_ = conn.Close()
	cert := state.PeerCertificates[0]
	text = tls.VersionName(state.Version) + ", " + describe(cert)
	if d.gateway.addr.KnownBy() != "" {
		text += ", the key is the expected one, " + socketxp.PinOf(cert)
	} else if time.Until(cert.NotAfter) < certificateWarns {
		text += ", which is soon"
	}
	return text, "", nil
}

// links looks for the door that links go through.
func (d *doctor) links(ctx context.Context) {
	var failed []error
	for _, by := range doors {
		conn, err := d.gateway.probe(ctx, by)
		if err != nil {
			failed = append(failed, &doorError{by, err})
			continue
		}
		_ = conn.Close()
		if len(failed) == 0 {
			d.well("links", "%s", byDoor(by))
		} else {
			d.warn("links", notDirect, "%s; not %v", byDoor(by), failed[0])
		}
		return
	}
	d.fail("links", "something between lets TLS through but neither what links begin with nor WebSockets",
		unreachable(d.gateway.addr.URL, failure(failed)))
}

func describe(c *x509.Certificate) string {
	name := c.Subject.CommonName
	if len(c.DNSNames) > 0 {
		name = strings.Join(c.DNSNames[:min(len(c.DNSNames), 4)], ", ")
	}
	return fmt.Sprintf("a certificate for %s by %s until %s", name, c.Issuer.CommonName, c.NotAfter.UTC().Format(time.DateOnly))
}

// clock compares this machine's with the gateway's.
func (d *doctor) clock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*stepWithin)
	defer cancel()
	transport := &http.Transport{
		DialTLSContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return d.gateway.restTLS(ctx) },
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(d.gateway.addr.URL, "/")+"/api/v1/gateway", nil)
	if err != nil {
		d.warn("clock", "", "%v", err)
		return
	}
	asked := time.Now()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		d.warn("clock", "", "it can't be compared: %v", err)
		return
	}
	_ = answer.Body.Close() // its date is all that is asked for; after 101 no context would end the reading
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		d.warn("clock", "", "it can't be compared: the gateway does not say the time")
		return
	}
	// Date has whole seconds, and may have been written at any moment between.
	difference := asked.Add(time.Since(asked) / 2).Sub(theirs.Add(time.Second / 2))
	text := fmt.Sprintf("%s %s the gateway's", difference.Abs().Round(time.Second), map[bool]string{true: "before", false: "behind"}[difference > 0])
	advice := "let the machine set its clock: timedatectl set-ntp true"
	switch {
	case difference.Abs() > clockFails:
		d.fail("clock", advice, errors.New(text))
	case difference.Abs() > clockWarns:
		d.warn("clock", advice, "%s", text)
	default:
		d.well("clock", "that of the gateway, within %s", max(difference.Abs().Round(time.Second), time.Second))
	}
}

// answer opens a control channel as nobody in particular: that the gateway takes
// one, and this program's version.
func (d *doctor) answer(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*stepWithin)
	defer cancel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		d.fail("gateway", "", err)
		return
	}
	conn, err := d.gateway.open(ctx, key, control.RoleVisitor, d.Version)
	if err != nil {
		d.fail("gateway", "the gateway serves pages but no control channels: something between ends TLS, or takes the gateway's name for HTTP alone", err)
		return
	}
	defer func() { _ = conn.Close() }()
	w, err := d.gateway.welcome(ctx, conn)
	var no *RefusedError
	switch {
	case errors.As(err, &no):
		d.fail("gateway", "", fmt.Errorf("it refuses (%s): %w", socketxp.CodeOf(err), err))
	case err != nil:
		d.fail("gateway", "", err)
	default:
		d.well("gateway", "version %s takes control channels, protocol version %d", w.Gateway, w.Version)
	}
}

// destinations tries what this device publishes.
func (d *doctor) destinations(ctx context.Context) {
	for _, t := range d.tunnels {
		check := "tunnel " + t.Destination.String()
		if t.SSH {
			d.well(check, "the agent's own SSH server")
			continue
		}
		within, cancel := context.WithTimeout(ctx, stepWithin)
		conn, err := dialDestination(within, net.DefaultResolver, t.Destination)
		cancel()
		if err != nil {
			advice := "start what should listen there, or correct the destination"
			if t.Destination.Port == 22 {
				advice = "start sshd, or publish the agent's own SSH server: --enable-ssh"
			}
			d.fail(check, advice, err)
			continue
		}
		_ = conn.Close()
		d.well(check, "something listens there")
	}
}

// Diagnosed returns the first failure's error, or nil if there is none.
func Diagnosed(findings []Finding) error {
	// What can't be reached explains what the agent says, which is looked at before.
	for _, first := range []bool{true, false} {
		i := slices.IndexFunc(findings, func(f Finding) bool { return f.Verdict == Failure && (!first || f.Check != "agent") })
		if i >= 0 {
			return findings[i].Err
		}
	}
	return nil
}
