// Package gateway is the server: it decides who may do what, serves the REST
// API, holds the control channels of devices and visitors, and joins their links.
// It is handed its stores and its cluster, and knows neither by name.
package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"socketxp"
	"socketxp/internal/relay"
	"socketxp/portal"
)

// Deps are the parts a gateway is built from.
type Deps struct {
	Store   socketxp.Store
	Cluster socketxp.Cluster
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
	Version string
	// DataDirLock is what LockDataDir returned for the data folder, if the caller has
	// locked it before opening the database in it; New takes it over. Nil: New locks.
	DataDirLock *os.File
	// Serving is called once, when connections are taken; nil means nothing.
	Serving func()

	limits *limits        // nil: defaultLimits; tests shorten them
	roots  *x509.CertPool // of agents that know no pin; nil: the system's
}

// Gateway is one running gateway. New builds it, Run serves until its context is
// done.
type Gateway struct {
	cfg     Config
	store   socketxp.Store
	cluster socketxp.Cluster
	log     *slog.Logger
	version string
	limits  limits
	roots   *x509.CertPool

	id     string // of this installation: the issuer of its tokens
	url    string // https://host[:port]
	clock  *clock
	tokens *signing
	relay  *relay.Relay
	live   *live
	stats  *stats

	dirLock  *os.File
	cert     *certificate
	listener *net.TCPListener
	metrics  net.Listener // nil for none
	acmeHTTP net.Listener // nil for none

	preAuth    *places
	httpsConns *places
	handedOn   *handedOn
	// handshaking has room for those handshakes that work just now.
	handshaking chan struct{}
	// tunnels are the connections that have come through WebSockets, each as what
	// serves it.
	tunnels    chan func(context.Context)
	proxies    proxies
	controlTLS *tls.Config
	httpsTLS   *tls.Config

	beds     *beds
	memory   memory
	presence *presence
	offers   *offers
	// keysPlaced and keyRates bound the single-use keys of each device.
	keysPlaced *counted
	keyRates   *rates[string]
	terminals  *terminals
	// refusals and complaints keep what happens all the time from filling the audit
	// and the log.
	refusals, complaints *sampler
	asksKnowledge        *sampler // of which devices know the next key: all of them are looked at
	alarms               *sampler // of retired keys that are used
	sequences            *sequences
	moves                *sequenceWriter
	obtains              *sampler      // certificates for the next key
	reporting            chan struct{} // has room for those who may store a report
	rekeyed              chan struct{} // has one in it when agents are to be told the gateway's keys
	unended              unended
	rest                 *rest // of the HTTP half

	// accepting is when the accepting goroutine was last seen alive, as Unix
	// nanoseconds.
	accepting atomic.Int64
	serving   func()

	// stopping is closed when Run begins to shut down: what waits for ever (an event
	// stream) ends by it, while requests that are being served are let finish.
	stopping chan struct{}
	// all counts the goroutines that end with the gateway.
	all sync.WaitGroup
}

// now is the gateway's time: it never runs backwards past the stored high-water
// mark.
func (g *Gateway) now() time.Time { return g.clock.Now() }

// New builds a gateway in cfg.DataDir, which it makes if it is missing, and binds
// its port: from then on connections wait for Run, which must be called to serve
// them and to free what New took. A second gateway in the same folder is an error.
func New(ctx context.Context, cfg Config, deps Deps) (_ *Gateway, err error) {
	if err := cfg.Validate(); err != nil {
		if deps.DataDirLock != nil {
			_ = deps.DataDirLock.Close()
		}
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, store: deps.Store, cluster: deps.Cluster, log: deps.Log, version: deps.Version, serving: deps.Serving, dirLock: deps.DataDirLock,
		limits: defaultLimits(), stopping: make(chan struct{}),
		live: newLive(), terminals: newTerminals(), handedOn: newHandedOn(), tunnels: make(chan func(context.Context)),
	}
	g.offers = newOffers(g)
	g.roots = deps.roots
	if deps.limits != nil {
		g.limits = *deps.limits
	}
	if g.proxies, err = parseProxies(cfg.TrustedProxies); err != nil {
		return nil, err
	}
	g.stats = newStats(g)
	g.preAuth = newPlaces(g.limits.preAuth, g.limits.preAuthPerIP)
	g.httpsConns = newPlaces(g.limits.https, g.limits.httpsPerIP)
	g.refusals, g.complaints = newSampler(g.limits.sampleEvery), newSampler(10*time.Second)
	g.asksKnowledge, g.obtains = newSampler(time.Minute), newSampler(10*time.Minute)
	g.reporting, g.rekeyed = make(chan struct{}, 4), make(chan struct{}, 1)
	g.rest = newREST(g.limits.http)
	g.keysPlaced, g.keyRates = newCounted(g.limits.keysAtOnce), newRates[string](g.limits.keyRate)
	g.alarms = newSampler(g.limits.alarmEvery)
	g.moves = &sequenceWriter{store: g.store, within: g.limits.storeWithin, wake: make(chan struct{}, 1)}
	g.sequences = &sequences{store: g.store, move: g.moves.move, within: g.limits.storeWithin, talk: g.limits.showWithin}
	g.handshaking = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	g.beds, g.presence = newBeds(), newPresence(g)
	if err := g.beds.poller.open(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		g.log.Warn("idle devices take more memory than they should", "error", err)
	}
	g.relay = relay.New(relay.Options{Wait: g.limits.linkWait, Log: g.log})
	defer func() {
		if err != nil {
			g.free()
		}
	}()

	if err := PrepareDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if g.dirLock == nil {
		if g.dirLock, err = LockDataDir(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	if err := g.loadClock(ctx, deps.Now); err != nil {
		return nil, err
	}
	if g.id, err = g.store.InitSetting(ctx, "gateway_id", socketxp.NewID(g.now())); err != nil {
		return nil, fmt.Errorf("the gateway's id: %w", err)
	}
	if err := g.listen(ctx); err != nil {
		return nil, err
	}
	if err := g.loadKeys(ctx); err != nil {
		return nil, err
	}
	return g, nil
}

// loadClock sets the gateway's clock not earlier than it ever was.
func (g *Gateway) loadClock(ctx context.Context, wall func() time.Time) error {
	if wall == nil {
		wall = time.Now
	}
	high, err := g.store.RaiseClock(ctx, wall().UTC().Truncate(time.Microsecond))
	if err != nil {
		return fmt.Errorf("the clock's high-water mark: %w", err)
	}
	g.clock = newClock(wall, high)
	return nil
}

// listen binds the ports, and derives from them what the configuration left out.
func (g *Gateway) listen(ctx context.Context) error {
	var lc net.ListenConfig
	lc.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 2}
	l, err := lc.Listen(ctx, "tcp", g.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	g.listener = l.(*net.TCPListener)
	g.url = g.cfg.PublicURL
	if g.url == "" {
		u := url.URL{Scheme: "https", Host: "localhost"}
		if port := g.listener.Addr().(*net.TCPAddr).Port; port != 443 {
			u.Host = fmt.Sprintf("localhost:%d", port)
		}
		g.url = u.String()
	}
	if err := g.listenACME(ctx); err != nil {
		return err
	}
	if g.cfg.MetricsListen == "" {
		return nil
	}
	if g.metrics, err = lc.Listen(ctx, "tcp", g.cfg.MetricsListen); err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	return nil
}

// keepAlive finds a peer that is gone without a word after at most three times as
// long: 30 s.
const keepAlive = 10 * time.Second

// loadKeys reads the signing key and the certificate, or makes them.
func (g *Gateway) loadKeys(ctx context.Context) error {
	g.tokens = &signing{dir: g.cfg.DataDir, issuer: g.id, store: g.store, now: g.now}
	if _, err := g.tokens.refresh(ctx); err != nil {
		return err
	}
	u, err := url.Parse(g.url)
	if err != nil {
		return fmt.Errorf("the public URL: %w", err)
	}
	if g.cert, err = loadCertificate(g.cfg, u.Hostname()); err != nil {
		return err
	}
	g.controlTLS, g.httpsTLS = doorConfigs(g.cert)
	if !g.cfg.ACMEAgree {
		return nil
	}
	if err := g.cleanACME(); err != nil {
		return err
	}
	a, err := g.newACME(ctx, g.cert.now.Load())
	if err != nil {
		return err
	}
	g.cert.acme.Store(a)
	if g.roots != nil {
		g.cert.roots = g.roots
		g.cert.judged.Store(nil)
	}
	g.cert.judge()
	return nil
}

// Addr returns the address of the public port.
func (g *Gateway) Addr() net.Addr { return g.listener.Addr() }

// MetricsAddr returns the address of /metrics, or nil if there is none.
func (g *Gateway) MetricsAddr() net.Addr {
	if g.metrics == nil {
		return nil
	}
	return g.metrics.Addr()
}

// Address returns how agents find this gateway; tokens carry it.
func (g *Gateway) Address() socketxp.GatewayAddress { return g.cert.address(g.url) }

// SetUpLink returns the one-time link by which the first user is made, or "" if
// there is a user. It ends with the next call, and with the process.
func (g *Gateway) SetUpLink(ctx context.Context) (string, error) { return g.prepareSetup(ctx) }

// Reload reads the certificate files again. A certificate that agents would not
// take for this gateway's is refused, and the one of before stays.
func (g *Gateway) Reload() error {
	before := g.cert.pins()
	err := g.cert.reload()
	if !slices.Equal(before, g.cert.pins()) {
		g.tellKeys()
	}
	return err
}

// Run serves until ctx is done, then shuts down within DrainTimeout and a few
// seconds: what was accepted is finished, links may end by themselves, and what is
// open after that is cut. It returns nil after an orderly shutdown. It may be
// called once.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.free()
	handler, err := g.httpHandler()
	if err != nil {
		return err
	}
	// None can have outlived the gateway that held this folder before.
	switch n, err := g.store.EndAllSessions(ctx, g.now(), socketxp.CodeGoingAway); {
	case ctx.Err() != nil:
		return nil // told to stop before it began
	case err != nil:
		return fmt.Errorf("end the sessions of before: %w", err)
	case n > 0:
		g.log.Warn("sessions were open when the gateway ended last", "ended", n)
	}

	// work ends after the doors: what a shutdown leaves behind is still counted,
	// judged and written.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	unsubscribe := g.cluster.Subscribe(func(h socketxp.Hint) { g.live.hint(work, h) })
	defer unsubscribe()
	g.all.Go(func() { g.beds.run(work) })
	g.all.Go(func() { g.judgeLoop(work) })
	g.all.Go(func() { g.moves.run(work) })
	g.startHousekeeping(work)

	https := g.newHTTPServer(handler)
	failed := make(chan error, 4)
	g.all.Go(func() { failed <- https.Serve(g.handedOn) })
	g.all.Go(func() { failed <- g.acceptAll(work) })
	g.all.Go(func() { g.acceptTunnels(work) })
	metrics := g.newMetricsServer()
	if g.metrics != nil {
		g.all.Go(func() { failed <- metrics.Serve(g.metrics) })
	}
	challenges := g.serveACME()
	if g.acmeHTTP != nil {
		g.all.Go(func() { failed <- challenges.Serve(g.acmeHTTP) })
	}
	if a := g.cert.acme.Load(); a != nil {
		g.log.Info("certificates are obtained by ACME", "names", a.domains, "ca", g.cfg.ACMECA)
		if err := a.manage(work); err != nil {
			g.log.Error("certificates can't be obtained", "error", err)
		}
	}
	g.beat()
	if g.serving != nil {
		g.serving()
	}
	if !portal.Built() {
		g.log.Warn("this gateway was built without its portal", "hint", "build it with make, or take a release")
	}
	g.log.Info("serving", "url", g.url, "listen", g.Addr().String(), "version", g.version)
	if g.metrics != nil {
		g.log.Info("serving metrics", "url", "http://"+g.metrics.Addr().String()+"/metrics")
	}

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		err = fmt.Errorf("serve: %w", err)
		g.log.Error("the gateway can't go on", "error", err)
	} else {
		err = nil
	}
	_ = challenges.Close()
	g.shutDown(work, https, metrics)
	endWork()
	g.all.Wait()
	g.lastWords(ctx)
	return err
}

// shutDown ends all that is open, from the outside in.
func (g *Gateway) shutDown(ctx context.Context, https, metrics *http.Server) {
	g.log.Info("shutting down", "drain", g.cfg.DrainTimeout)
	close(g.stopping)
	_ = g.listener.Close()
	g.sayGoAway()
	g.terminals.notice(fmt.Sprintf("the gateway is shutting down: this terminal ends in %d s", seconds(g.cfg.DrainTimeout)))

	drain, cancel := context.WithTimeout(ctx, g.cfg.DrainTimeout)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() {
		if https.Shutdown(drain) != nil {
			_ = https.Close()
		}
	})
	both.Go(func() {
		if err := g.relay.Shutdown(drain); err != nil {
			g.log.Info("links were cut at shutdown", "error", err)
		}
	})
	both.Wait()
	_ = g.handedOn.Close()
	_ = metrics.Close()
	g.cutAll(socketxp.Errorf(socketxp.CodeGoingAway, "the gateway is shutting down").WithHint("try again in a moment"))
}

// partingTime is how long the gateway tries to tell a peer why it is being cut
// off.
const partingTime = 2 * time.Second

// free gives back what New took.
func (g *Gateway) free() {
	g.beds.poller.close()
	if g.listener != nil {
		_ = g.listener.Close()
	}
	if g.metrics != nil {
		_ = g.metrics.Close()
	}
	if g.acmeHTTP != nil {
		_ = g.acmeHTTP.Close()
	}
	if g.cert != nil {
		if a := g.cert.acme.Load(); a != nil {
			a.end()
		}
	}
	if g.dirLock != nil {
		_ = g.dirLock.Close()
	}
}

// publishEvent stores an event and tells all who follow the account live.
// Failing to is logged, never returned: the act it tells of is done.
func (g *Gateway) publishEvent(ctx context.Context, e socketxp.Event) {
	if e.At.IsZero() {
		e.At = g.now()
	}
	if e.ID == "" {
		e.ID = socketxp.NewID(e.At)
	}
	if err := g.store.AddEvent(ctx, e); err != nil {
		g.storeFailed("an event was not stored", err)
		return
	}
	g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintEvent, AccountID: e.AccountID, ID: e.ID})
}

// addrOf returns the address of a TCP peer, an IPv4 one in its short form.
func addrOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}
