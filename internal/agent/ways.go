package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/link"
	"socketxp/internal/websocket"
)

// door is how a raw connection comes to the gateway's doors.
type door string

const (
	doorDirect    door = "direct"
	doorWebSocket door = "websocket"
)

// doors are the ways there are, the better ones first.
var doors = []door{doorDirect, doorWebSocket}

// errand is what a raw connection is for. A network may let TLS through and not
// the preface of a link, so each finds and remembers its own door.
type errand int

const (
	errandTLS  errand = iota // control channels and REST calls
	errandLink               // links
)

const (
	// doorWithin is how long a door may take while there is another one to try.
	doorWithin = 8 * time.Second
	// probeWithin is how long the link door may take to answer a probe. An offer is
	// good for 10 s, in which both doors must have been tried.
	probeWithin = 4 * time.Second
	// webSocketPace is the longest silence of a control channel in a WebSocket: load
	// balancers and proxies close what is silent for 60 s, some for 30 s.
	webSocketPace = 25 * time.Second
	// sooner and later bound how long after a door was found wanting it is tried again:
	// the wait doubles from one to the other.
	betterFirst = 5 * time.Minute
	betterLast  = time.Hour
)

// ways knows by which doors the gateway was reached.
type ways struct {
	file *wayFile // where it is remembered; nil for nowhere
	log  *slog.Logger

	mu sync.Mutex // guards the following
	// now is what works. A missing one has to be found out; before is what worked
	// then, which is tried first.
	now, before [errandLink + 1]door
	tooSlow     bool          // the door for TLS took too long, the last time
	searching   chan struct{} // one who looks for the link door has put something in
}

func newWays() *ways {
	return &ways{log: slog.New(slog.DiscardHandler), searching: make(chan struct{}, 1)}
}

// order returns the doors to try for an errand, the one that worked last first.
func (w *ways) order(e errand) []door {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.now[e]
	if first == "" {
		first = w.before[e]
	}
	if first == "" {
		return doors
	}
	return append([]door{first}, slices.DeleteFunc(slices.Clone(doors), func(d door) bool { return d == first })...)
}

// known returns the door that works for an errand, or "".
func (w *ways) known(e errand) door {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[e]
}

// patient reports whether nothing speaks against a door for TLS but that it may be
// slow: it has worked in this process, and was not too slow the last time. When 10,000
// agents come back at once the gateway is busy, and none of them should look for a way
// around that.
func (w *ways) patient(d door) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[errandTLS] == d && !w.tooSlow
}

// waited remembers that the door for TLS took too long.
func (w *ways) waited() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tooSlow = true
}

// shown returns the door that people are told of for an errand: "" while the gateway
// was not reached.
func (w *ways) shown(e errand) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now[errandTLS] == "" {
		return ""
	}
	return string(w.before[e])
}

// worked remembers that a door leads to the gateway.
func (w *ways) worked(e errand, d door) {
	w.mu.Lock()
	news := w.before[e] != d
	w.now[e], w.before[e] = d, d
	if e == errandTLS {
		w.tooSlow = false
	}
	saved := w.before
	w.mu.Unlock()
	if !news {
		return
	}
	w.log.Debug("a way to the gateway", "for", e.String(), "door", string(d))
	if w.file != nil {
		if err := w.file.save(saved); err != nil {
			w.log.Debug("the way to the gateway was not written down", "err", err)
		}
	}
}

// doubt has the door for links looked for again before the next one.
func (w *ways) doubt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now[errandLink] = ""
}

// String names the errand in the log.
func (e errand) String() string {
	if e == errandLink {
		return "links"
	}
	return "control"
}

// transport opens a connection to the gateway's port, by the proxy if there is one.
func (g *gateway) transport(ctx context.Context) (net.Conn, error) {
	var conn net.Conn
	var err error
	if g.proxy != nil {
		conn, err = g.proxy.dial(ctx, g.host)
	} else {
		conn, err = dialer().DialContext(ctx, "tcp", g.host)
	}
	if err != nil {
		return nil, &transportError{err}
	}
	return conn, nil
}

// transportError says that not even a connection was made. It would not be for
// another door either: all of them are at one address, behind one proxy.
type transportError struct{ error }

func (e *transportError) Unwrap() error { return e.error }

// raw opens a raw connection to the gateway's doors.
func (g *gateway) raw(ctx context.Context, d door) (net.Conn, error) {
	conn, err := g.transport(ctx)
	if err != nil || d == doorDirect {
		return conn, err
	}
	ws, err := openWebSocket(ctx, conn, g.addr.URL)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return ws, nil
}

// doorPath is where the gateway takes WebSockets to its doors.
const doorPath = "/door"

// openWebSocket opens a WebSocket to the doors of the gateway at url, over conn. It
// is handed nothing that is secret, because what it says can be read by whoever
// ends its TLS.
func openWebSocket(ctx context.Context, conn net.Conn, url string) (net.Conn, error) {
	host, port := hostPort(url)
	authority := net.JoinHostPort(host, port)
	if port == "443" {
		authority = authority[:len(authority)-len(":443")]
	}
	outer := tls.Client(conn, &tls.Config{
		ServerName: host,
		NextProtos: []string{"http/1.1"},
		MinVersion: tls.VersionTLS12, // load balancers and proxies that look into TLS choose
		// This is the one certificate that is not verified. It is that of whatever ends
		// TLS on the way to the gateway: a load balancer, or a company's proxy whose
		// authority this machine may not know. It could not prove anything about the
		// gateway if it were verified. The TLS that does is inside the WebSocket, with the
		// gateway's own key and this agent's, as on a connection without one; and links
		// prove the other end's key. Outside of it nothing is said but the address.
		InsecureSkipVerify: true, //nolint:gosec // see above
	})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(handshakeWithin))
	if err := outer.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	ws, err := websocket.Client(outer, authority, doorPath)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return ws, nil
}

// secure opens TLS with the gateway itself, verified by cfg, through the first door
// that leads to it, and says through which.
func (g *gateway) secure(ctx context.Context, cfg *tls.Config) (conn *tls.Conn, by door, err error) {
	err = g.ways.tryTLS(ctx, func(d door, within time.Duration) (err error) {
		by = d
		conn, err = g.secureBy(ctx, d, cfg, within)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return conn, by, nil
}

// tryTLS tries the doors until one works. One that has worked is waited for longer, once
// before another is tried.
func (w *ways) tryTLS(ctx context.Context, try func(d door, within time.Duration) error) error {
	var failed []error
	order := w.order(errandTLS)
	for i, d := range order {
		patient := i == 0 && w.patient(d)
		within := doorWithin
		if patient || i == len(order)-1 {
			within = handshakeWithin + dialLimit
		}
		err := try(d, within)
		if err == nil {
			w.worked(errandTLS, d)
			return nil
		}
		failed = append(failed, &doorError{d, err})
		if ctx.Err() != nil || errors.As(err, new(*transportError)) {
			break
		}
		if patient && errors.Is(err, context.DeadlineExceeded) {
			w.waited()
			break
		}
	}
	return failure(failed)
}

// secureBy is secure through one door.
func (g *gateway) secureBy(ctx context.Context, d door, cfg *tls.Config, within time.Duration) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	raw, err := g.raw(ctx, d)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	err = conn.HandshakeContext(ctx)
	if proto := conn.ConnectionState().NegotiatedProtocol; err == nil && !slices.Contains(cfg.NextProtos, proto) {
		err = errors.New("what answers there does not speak " + cfg.NextProtos[0])
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// doorError says through which door something failed.
type doorError struct {
	door door
	err  error
}

// Error returns the error, and through which door.
func (e *doorError) Error() string {
	if e.door == doorWebSocket {
		return "in a WebSocket: " + e.err.Error()
	}
	return "directly: " + e.err.Error()
}

// Unwrap returns the error.
func (e *doorError) Unwrap() error { return e.err }

// failure makes one error of those of all doors.
func failure(failed []error) error {
	if len(failed) == 1 {
		return errors.Unwrap(failed[0])
	}
	return failures(failed)
}

// failures are the errors of several doors. Whoever looks for a kind of error finds
// that of the last door first: what the WebSocket met was behind whatever answered
// before it.
type failures []error

// Error tells of all doors.
func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors, the last door's first.
func (f failures) Unwrap() []error {
	last := slices.Clone(f)
	slices.Reverse(last)
	return last
}

// link opens a raw connection to the link door, having found out how, if that is
// not known.
func (g *gateway) link(ctx context.Context) (net.Conn, error) {
	if d := g.ways.known(errandLink); d != "" {
		conn, err := g.rawWithin(ctx, doorWithin, d)
		if err == nil {
			return conn, nil
		}
		if g.ways.doubt(); ctx.Err() != nil || errors.As(err, new(*transportError)) {
			return nil, unreachable(g.addr.URL, err)
		}
	}
	conn, err := g.findLink(ctx)
	if err != nil {
		return nil, unreachable(g.addr.URL, err)
	}
	return conn, nil
}

func (g *gateway) rawWithin(ctx context.Context, d time.Duration, by door) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return g.raw(ctx, by)
}

// findLink is link when it is not known how: it asks at the doors, one caller at a
// time, and returns the connection on which there was an answer.
func (g *gateway) findLink(ctx context.Context) (net.Conn, error) {
	select {
	case g.ways.searching <- struct{}{}:
		defer func() { <-g.ways.searching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d := g.ways.known(errandLink); d != "" { // by now
		return g.rawWithin(ctx, doorWithin, d)
	}
	var failed []error
	for _, d := range g.ways.order(errandLink) {
		conn, err := g.probe(ctx, d)
		if err == nil {
			g.ways.worked(errandLink, d)
			return conn, nil
		}
		failed = append(failed, &doorError{d, err})
		if ctx.Err() != nil || errors.As(err, new(*transportError)) {
			break
		}
	}
	return nil, failure(failed)
}

// probe opens a connection to the link door and asks whether it is there: what comes
// back is what was sent. The link's preface may follow.
func (g *gateway) probe(ctx context.Context, d door) (_ net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	conn, err := g.raw(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	nonce := make([]byte, socketxp.LinkTicketSize)
	_, _ = rand.Read(nonce) // never fails: it ends the program instead
	question := link.AppendProbe(nil, nonce)
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	answer := make([]byte, len(question))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, fmt.Errorf("the link door does not answer: %w", err)
	}
	switch {
	case string(answer) != string(question):
		return nil, errors.New("what answers there is no link door")
	case !stop():
		return nil, ctx.Err()
	}
	return conn, nil
}

// improve looks after the doors for as long as a channel lives. At once it finds
// the one for links, so that no link has to wait for that. While one is not the
// best, the better one is tried again now and then; what is open stays open.
// Better is called when control channels can go through a better door; nil for
// those that can't be moved.
func (g *gateway) improve(ctx context.Context, key ed25519.PrivateKey, better func()) {
	cfg, err := g.controlTLS(key)
	if err != nil {
		return
	}
	g.ways.doubt() // it may be another network than at the last channel
	if conn, err := g.findLink(ctx); err == nil {
		_ = conn.Close()
	} else if ctx.Err() == nil {
		g.ways.log.Debug("the link door can't be reached", "err", err)
	}
	for wait := g.betterFirst; ; wait = min(2*wait, betterLast) {
		// Between half of it and one and a half: the agents of one site don't come
		// together.
		if !sleep(ctx, wait/2+jitter(wait)) {
			return
		}
		if g.ways.known(errandTLS) == doorWebSocket {
			if conn, err := g.secureBy(ctx, doorDirect, cfg, doorWithin); err == nil {
				_ = conn.Close()
				g.ways.worked(errandTLS, doorDirect)
				if better != nil {
					better()
				}
			}
		}
		if g.ways.known(errandLink) == doorWebSocket {
			if conn, err := g.probe(ctx, doorDirect); err == nil {
				_ = conn.Close()
				g.ways.worked(errandLink, doorDirect)
			}
		}
	}
}

// wayFile is where a work folder remembers by which doors a gateway was reached. It
// saves a new process from trying what has not worked; nothing depends on it.
type wayFile struct {
	dir     *Dir
	gateway string
	proxy   string // without user and password
}

const (
	waysFile = "ways.json"
	maxWays  = 4 << 10
	// wayLife is how long it is believed.
	wayLife = 30 * 24 * time.Hour
)

// wayText is the form on disk.
type wayText struct {
	Gateway string    `json:"gateway"`
	Proxy   string    `json:"proxy,omitempty"`
	Control door      `json:"control,omitempty"`
	Links   door      `json:"links,omitempty"`
	Found   time.Time `json:"found"`
}

// load returns what is remembered. Whatever is damaged, old or of another gateway
// is nothing.
func (f *wayFile) load() (doorsOf [errandLink + 1]door) {
	data, err := f.dir.read(waysFile, maxWays, true)
	if err != nil {
		return doorsOf
	}
	t, err := parseWays(data)
	if age := time.Since(t.Found); err != nil || t.Gateway != f.gateway || t.Proxy != f.proxy || age < 0 || age > wayLife {
		return doorsOf
	}
	doorsOf[errandTLS], doorsOf[errandLink] = t.Control, t.Links
	return doorsOf
}

// parseWays reads the text of ways.json.
func parseWays(data []byte) (wayText, error) {
	var t wayText
	if len(data) > maxWays {
		return wayText{}, fmt.Errorf("it is larger than %d bytes", maxWays)
	}
	if err := socketxp.StrictUnmarshal(data, &t); err != nil {
		return wayText{}, err
	}
	for _, d := range []door{t.Control, t.Links} {
		if d != "" && !slices.Contains(doors, d) {
			return wayText{}, errors.New("it names a door that there is not")
		}
	}
	return t, nil
}

// save remembers doorsOf, unless another process is writing.
func (f *wayFile) save(doorsOf [errandLink + 1]door) error {
	if err := f.dir.make(); err != nil {
		return err
	}
	release, err := lockPath(f.dir.file(knownLockFile))
	if err != nil {
		return err
	}
	defer release()
	data, err := json.MarshalIndent(wayText{
		Gateway: f.gateway, Proxy: f.proxy, Control: doorsOf[errandTLS], Links: doorsOf[errandLink], Found: time.Now().UTC().Truncate(time.Second),
	}, "", "  ")
	if err != nil {
		return err
	}
	return f.dir.write(waysFile, append(data, '\n'))
}

// remember has the gateway's ways be those of a work folder, and their changes
// logged.
func (g *gateway) remember(dir *Dir, log *slog.Logger) {
	f := &wayFile{dir: dir, gateway: g.addr.URL}
	if g.proxy != nil {
		f.proxy = g.proxy.String()
		if log != nil {
			log.Debug("the gateway is reached through a proxy", "proxy", f.proxy)
		}
	}
	if log != nil {
		g.ways.log = log
	}
	if dir == nil {
		return
	}
	g.ways.file = f
	g.ways.mu.Lock()
	defer g.ways.mu.Unlock()
	g.ways.before = f.load()
}
