package gateway

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/netutil"

	"socketxp"
)

// defaultACME is Let's Encrypt.
const defaultACME = "https://acme-v02.api.letsencrypt.org/directory"

// acmeFolder is where accounts and certificates are, below the data folder: a folder
// for each key of the gateway, so that those for the next one can be obtained while
// the present one serves.
const acmeFolder = "acme"

// checkACME checks the settings that begin with acme.
func (c *Config) checkACME() error {
	if !c.ACMEAgree {
		for name, set := range map[string]bool{
			"acme_email": c.ACMEEmail != "", "acme_ca": c.ACMECA != defaultACME, "acme_ca_file": c.ACMECAFile != "",
			"acme_domains": c.ACMEDomains != "", "acme_http_listen": c.ACMEHTTPListen != ":80", "acme_dns_hook": c.ACMEDNSHook != "",
		} {
			if set {
				return errors.New(name + " is set, but acme_agree is not: it says that you accept the terms of the certificate authority, and turns ACME on")
			}
		}
		return nil
	}
	if c.TLSCert != "" {
		return errors.New("acme_agree and tls_cert exclude each other: one of them says where the certificate comes from")
	}
	if u, err := url.Parse(c.ACMECA); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return errors.New("acme_ca is not the https:// URL of an ACME directory")
	}
	if c.ACMEEmail != "" {
		if _, err := socketxp.NormalizeEmail(c.ACMEEmail); err != nil {
			return fmt.Errorf("acme_email: %w", err)
		}
	}
	if c.ACMEHTTPListen != "" {
		if _, _, err := net.SplitHostPort(c.ACMEHTTPListen); err != nil {
			return errors.New("acme_http_listen is not host:port")
		}
	}
	if c.ACMEDNSHook != "" {
		if err := checkHook(c.ACMEDNSHook); err != nil {
			return fmt.Errorf("acme_dns_hook: %w", err)
		}
	}
	domains, err := c.acmeDomains()
	if err != nil {
		return err
	}
	if c.ACMEDNSHook == "" {
		if slices.ContainsFunc(domains, func(d string) bool { return strings.HasPrefix(d, "*.") }) {
			return errors.New("acme_domains: a name with * needs acme_dns_hook")
		}
		if c.ACMEHTTPListen == "" && !c.acmeByTLS() {
			return errors.New("there is no way to prove acme_domains: set acme_http_listen or acme_dns_hook, or have port 443 in public_url")
		}
	}
	return nil
}

// acmeDomains returns the names that certificates are obtained for: those of
// acme_domains, or the public URL's. One of them is the public URL's in any case.
func (c *Config) acmeDomains() ([]string, error) {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("acme_agree needs public_url: its name is what a certificate is obtained for")
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return nil, errors.New("acme_agree needs a name in public_url, not an address")
	}
	if c.ACMEDomains == "" {
		return []string{host}, nil
	}
	covered := false
	var domains []string
	for d := range strings.SplitSeq(c.ACMEDomains, ",") {
		d = strings.ToLower(strings.TrimSpace(d))
		name, wildcard := strings.CutPrefix(d, "*.")
		canonical, err := socketxp.CheckGatewayURL("https://" + name)
		_, notName := netip.ParseAddr(name)
		if err != nil || canonical != "https://"+name || strings.Contains(name, ":") || notName == nil {
			return nil, fmt.Errorf("acme_domains: %q is not a host name", clipText(d))
		}
		if slices.Contains(domains, d) {
			return nil, fmt.Errorf("acme_domains: %q is there twice", d)
		}
		_, parent, _ := strings.Cut(host, ".")
		covered = covered || name == host && !wildcard || wildcard && name == parent
		domains = append(domains, d)
	}
	if !covered {
		return nil, fmt.Errorf("acme_domains lacks %s, which agents look for: it is the host of public_url", host)
	}
	return domains, nil
}

// acmeByTLS reports whether a certificate authority that connects to port 443 comes
// to the gateway's own port.
func (c *Config) acmeByTLS() bool {
	u, err := url.Parse(c.PublicURL)
	return err == nil && (u.Port() == "" || u.Port() == "443")
}

// acme obtains and renews the certificates for one key of the gateway.
type acme struct {
	domains []string
	dir     string
	cache   *certmagic.Cache
	magic   *certmagic.Config
	issuer  *certmagic.ACMEIssuer
	log     *zap.Logger
}

// acmePorts are those that the gateway has bound.
type acmePorts struct{ http, tls int }

// acmeTiming is what tests shorten; zero fields take the library's times.
type acmeTiming struct{ renewCheck time.Duration }

// newACME prepares to obtain certificates for the key, and loads what was obtained
// before. End must be called to free it.
func newACME(ctx context.Context, cfg Config, key crypto.PrivateKey, pin string, ports acmePorts, timing acmeTiming, log *slog.Logger) (*acme, error) {
	domains, err := cfg.acmeDomains()
	if err != nil {
		return nil, err
	}
	roots, err := authorities(cfg.ACMECAFile)
	if err != nil {
		return nil, fmt.Errorf("acme_ca_file: %w", err)
	}
	a := &acme{domains: domains, dir: filepath.Join(cfg.DataDir, acmeFolder, pin), log: zap.New(&slogCore{log: log.With("part", "acme")})}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, err
	}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return a.magic, nil },
		RenewCheckInterval: timing.renewCheck,
		Logger:             a.log,
	})
	a.magic = certmagic.New(a.cache, certmagic.Config{
		Storage:   &certmagic.FileStorage{Path: a.dir},
		KeySource: oneKey{key},
		Logger:    a.log,
	})
	a.issuer = certmagic.NewACMEIssuer(a.magic, certmagic.ACMEIssuer{
		CA: cfg.ACMECA, Email: cfg.ACMEEmail, Agreed: true, TrustedRoots: roots, Logger: a.log,
		DisableHTTPChallenge: ports.http == 0, AltHTTPPort: ports.http,
		DisableTLSALPNChallenge: !cfg.acmeByTLS(), AltTLSALPNPort: ports.tls,
		DNS01Solver: hookOf(cfg.ACMEDNSHook),
	})
	a.magic.Issuers = []certmagic.Issuer{a.issuer}
	for _, d := range domains {
		cert, err := a.magic.CacheManagedCertificate(ctx, d)
		if err == nil && cert.Expired() {
			a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: d}}) // manage renews it at once
		}
	}
	return a, nil
}

// manage obtains what is missing, in the background and until ctx is done, and keeps
// it renewed until end.
func (a *acme) manage(ctx context.Context) error { return a.magic.ManageAsync(ctx, a.domains) }

// obtain returns when all certificates are there. Each name is tried until ctx is
// done.
func (a *acme) obtain(ctx context.Context) error {
	for _, d := range a.domains {
		// It blocks, and asks nobody at a terminal.
		if err := a.magic.ObtainCertAsync(ctx, d); err != nil {
			return err
		}
		if _, err := a.magic.CacheManagedCertificate(ctx, d); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (a *acme) end() {
	a.cache.Stop()
	certmagic.CleanUpOwnLocks(context.Background(), a.log)
}

// certificateFor returns what is shown to those who ask for name, or nil.
func (a *acme) certificateFor(name string) *tls.Certificate {
	var best *certmagic.Certificate
	for _, c := range a.cache.AllMatchingCertificates(name) {
		if best == nil || c.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best = &c
		}
	}
	if best == nil {
		return nil
	}
	return &best.Certificate
}

// oneKey is the source of "new" keys: a certificate that is renewed keeps the key
// that devices have pinned.
type oneKey struct{ key crypto.PrivateKey }

// GenerateKey implements certmagic.KeyGenerator.
func (k oneKey) GenerateKey() (crypto.PrivateKey, error) { return k.key, nil }

// authorities returns those in a PEM file, or nil for the system's if there is none.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil is the system's, as crypto/tls has it
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own file
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// enterACME lets a certificate authority see who is in control of a name
// (TLS-ALPN-01, RFC 8737): all that it wants is the handshake.
func (g *Gateway) enterACME(raw *peekedConn) error {
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS12, // as the RFC has it
		NextProtos: []string{acmez.ACMETLS1Protocol},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			a := g.cert.acme.Load()
			// The library would log as an error what anybody may ask for.
			_, expected := certmagic.GetACMEChallenge(hello.ServerName)
			if a == nil || !expected || len(hello.SupportedProtos) != 1 {
				return nil, errors.New("there is no such challenge")
			}
			return a.magic.GetCertificate(hello)
		},
	})
	err := g.handshake(conn, raw)
	return errors.Join(err, conn.Close())
}

// doorACME is the door of certificate authorities, as the metrics name it.
const doorACME = "acme"

// maxACMEConns bounds the connections to the HTTP port. An authority looks from a
// handful of places.
const maxACMEConns = 256

// serveACME answers HTTP-01 challenges (RFC 8555 section 8.3) and sends everybody else
// to the public URL.
func (g *Gateway) serveACME() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if a := g.cert.acme.Load(); a != nil && a.issuer.HandleHTTPChallenge(w, r) {
				return
			}
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				http.Error(w, "This port is for certificate authorities. Use "+g.url, http.StatusMethodNotAllowed)
				return
			}
			path := r.URL.EscapedPath()
			if !strings.HasPrefix(path, "/") {
				path = "/"
			}
			http.Redirect(w, r, g.url+path, http.StatusPermanentRedirect) //nolint:gosec // G710: what comes from outside follows our own host and a slash
		}),
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// listenACME binds the port of HTTP-01, if the configuration wants it.
func (g *Gateway) listenACME(ctx context.Context) error {
	if !g.cfg.ACMEAgree || g.cfg.ACMEHTTPListen == "" || g.cfg.ACMEDNSHook != "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", g.cfg.ACMEHTTPListen)
	if err != nil {
		return socketxp.Errorf(socketxp.CodeInvalid, "listen for certificate authorities: %s", err.Error()).
			WithHint("acme_http_listen is another address that port 80 leads to, or empty to go without")
	}
	g.acmeHTTP = netutil.LimitListener(l, maxACMEConns)
	return nil
}

// cleanACME removes what was obtained for keys that the gateway does not have any
// more: those keys are in it.
func (g *Gateway) cleanACME() error {
	dir := filepath.Join(g.cfg.DataDir, acmeFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := []string{g.cert.keyPin()}
	if c, err := ReadKeyChange(g.cfg.DataDir); err == nil {
		keep = append(keep, c.Pin)
	}
	for _, e := range entries {
		if !slices.Contains(keep, e.Name()) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// newACME prepares to obtain certificates for a key of the gateway.
func (g *Gateway) newACME(ctx context.Context, pair *tls.Certificate) (*acme, error) {
	var ports acmePorts
	if tcp, ok := g.listener.Addr().(*net.TCPAddr); ok {
		ports.tls = tcp.Port
	}
	if g.acmeHTTP != nil {
		if tcp, ok := g.acmeHTTP.Addr().(*net.TCPAddr); ok {
			ports.http = tcp.Port
		}
	}
	return newACME(ctx, g.cfg, pair.PrivateKey, socketxp.PinOf(pair.Leaf), ports, g.limits.acme, g.log)
}

// slogCore lets zap, by which the library logs, write to the gateway's log.
type slogCore struct{ log *slog.Logger }

// Enabled implements zapcore.Core.
func (c *slogCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), slogLevel(l))
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{slog.New(c.log.Handler().WithAttrs(slogAttrs(fields)))}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, slogLevel(e.Level), e.Message, 0)
	r.AddAttrs(slogAttrs(fields)...)
	return c.log.Handler().Handle(context.Background(), r)
}

// Sync implements zapcore.Core.
func (*slogCore) Sync() error { return nil }

// slogLevel has zap's everyday messages, of which each renewal has a dozen, for
// debugging only.
func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l >= zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func slogAttrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields))
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	return attrs
}
