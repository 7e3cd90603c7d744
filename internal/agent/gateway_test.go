package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/relay"
	"socketxp/internal/websocket"
)

// bed is a gateway that does what an agent's tests need of one: TLS, three doors,
// the real control channel and relay, and no database. Tests make it lie.
type bed struct {
	t       *testing.T
	port    string
	cert    tls.Certificate
	addr    socketxp.GatewayAddress
	caFile  []byte
	relay   *relay.Relay
	serving sync.WaitGroup

	mu       sync.Mutex // guards the following
	listener net.Listener
	conns    map[net.Conn]bool
	devices  map[string]*bedDevice // by public key
	visitors map[*control.Conn]control.Granted
	offers   map[string]bedOffer // by device ticket
	refusals []control.OfferRefused
	// keyAnswers are what devices say of single-use keys.
	keyAnswers chan control.Message
	// What the gateway is like: the tests set these through with.
	registerProblem *api.Problem
	loseAnswer      bool                // register, and close the connection in place of an answer
	refuseDevice    control.Refused     // if it has a code
	retired         map[string]bool     // keys that devices had
	asked           []ed25519.PublicKey // that devices wanted to have
	refuseKey       control.KeyRefused  // if it has a code
	problemOnce     *api.Problem
	keptHook        func([]byte) // called with each value that a device says it has kept
	gone            *bedDevice   // the last one that logged out
	checkSequence   bool         // take every device for a second one
	grantAs         func(*control.Granted)
	arrived         func()        // called for each connection
	pairs           []*relay.Pair // of all links
	clockAhead      time.Duration // of the time that it answers with
	say             string        // not "": the answer to what is read, after which it is silent
	visitToken      string        // of the last visit
	webSockets      int           // that were asked for
	registrations   int           // requests that came to the register route
	pins            []string      // that it announces in Welcome
}

type bedDevice struct {
	id, name, group string
	key             ed25519.PublicKey
	next            ed25519.PublicKey // nil for none
	conn            *control.Conn     // nil while offline
	report          control.Report
	reports         int
	shown           [][]byte // values of the sequence, in turn
	kept            [][]byte // those that were confirmed
}

type bedOffer struct {
	visitor *control.Conn
	link    uint32
}

// bedCert makes a certificate with a key of its own.
func bedCert(t *testing.T) (cert tls.Certificate, pin string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bed"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, socketxp.PinOf(leaf)
}

func newBed(t *testing.T) *bed {
	t.Helper()
	cert, pin := bedCert(t)
	b := &bed{
		t: t, port: "0", cert: cert,
		caFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		relay:  relay.New(relay.Options{Wait: 5 * time.Second}),
		conns:  make(map[net.Conn]bool), devices: make(map[string]*bedDevice), retired: make(map[string]bool),
		visitors: make(map[*control.Conn]control.Granted), offers: make(map[string]bedOffer),
		keyAnswers: make(chan control.Message, 100),
	}
	b.start()
	b.addr = socketxp.GatewayAddress{URL: "https://localhost:" + b.port, Pin: pin}
	t.Cleanup(func() {
		b.stop()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = b.relay.Shutdown(ctx)
		b.serving.Wait()
	})
	return b
}

// start listens, on the same port each time.
func (b *bed) start() {
	b.t.Helper()
	var l net.Listener
	until(b.t, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:"+b.port)
		return err
	})
	_, b.port, _ = net.SplitHostPort(l.Addr().String())
	b.mu.Lock()
	b.listener = l
	b.mu.Unlock()
	b.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			arrived := b.arrived
			b.mu.Unlock()
			if arrived != nil {
				arrived()
			}
			b.serving.Go(func() { b.serve(c) })
		}
	})
}

// stop ends listening and all but the links, as a gateway's crash would.
func (b *bed) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.listener.Close()
	b.drop()
}

// drop closes all connections but the links. The caller holds mu.
func (b *bed) drop() {
	for c := range b.conns {
		_ = c.Close()
	}
}

// with changes what the gateway is like.
func (b *bed) with(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// token returns a token that carries the gateway's address; the bed takes any.
func (b *bed) token() string { return tokenFor(b.addr) }

func tokenFor(addr socketxp.GatewayAddress) string {
	claims, _ := json.Marshal(map[string]string{"gw": addr.URL, "pin": addr.Pin, "jti": socketxp.NewID(time.Now())})
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2lnbmF0dXJl"
}

// serve sends a connection through its door.
func (b *bed) serve(raw net.Conn) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(raw, first); err != nil {
		_ = raw.Close()
		return
	}
	if first[0] == link.Magic[0] {
		rest := make([]byte, link.PrefaceSize-1)
		if _, err := io.ReadFull(raw, rest); err != nil {
			_ = raw.Close()
			return
		}
		preface := append(first, rest...)
		if link.IsProbe(preface) {
			_, _ = raw.Write(preface)
			if _, err := io.ReadFull(raw, preface); err != nil {
				_ = raw.Close()
				return
			}
		}
		ticket, err := link.ParsePreface(preface)
		if err != nil {
			_ = raw.Close()
			return
		}
		_ = b.relay.Join(raw, ticket)
		return
	}
	b.mu.Lock()
	b.conns[raw] = true
	cert := b.cert
	b.mu.Unlock()
	defer func() {
		_ = raw.Close()
		b.mu.Lock()
		delete(b.conns, raw)
		b.mu.Unlock()
	}()
	conn := tls.Server(&prefixed{Conn: raw, first: first}, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequestClientCert, NextProtos: []string{control.ALPN, "http/1.1"},
	})
	if err := conn.Handshake(); err != nil {
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == control.ALPN {
		b.control(conn)
		return
	}
	done := make(chan struct{})
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != doorPath {
				var say string
				b.with(func() { say = b.say })
				if say == "" || r.Method != http.MethodGet {
					b.register(w, r)
					return
				}
				if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
					_, _ = io.WriteString(c, say)
					_, _ = io.Copy(io.Discard, c)
				}
				close(done)
				return
			}
			b.with(func() { b.webSockets++ })
			if websocket.Check(r) != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if ws, err := websocket.Accept(w, r); err == nil {
				b.serve(ws)
			}
			close(done)
		}), ReadHeaderTimeout: soon,
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(done)
			}
		},
	}
	_ = server.Serve(&one{conn: conn})
	<-done
}

// one is a listener of one connection.
type one struct{ conn net.Conn }

func (o *one) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	return nil, io.EOF
}
func (*one) Close() error   { return nil }
func (*one) Addr() net.Addr { return new(net.TCPAddr) }

// prefixed is a connection whose first byte was read already.
type prefixed struct {
	net.Conn
	first []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// register is POST /api/v1/register.
func (b *bed) register(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	b.mu.Lock()
	defer b.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(b.clockAhead).UTC().Format(http.TimeFormat))
	if r.Method == http.MethodGet {
		return
	}
	b.registrations++
	if r.URL.Path == "/api/v1/relogin" {
		b.relogin(w, r)
		return
	}
	var req api.RegisterRequest
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	err := json.NewDecoder(r.Body).Decode(&req)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/api/v1/register" ||
		len(req.PublicKey) != ed25519.PublicKeySize || !ed25519.Verify(req.PublicKey, socketxp.RegistrationProof(token, req.PublicKey), req.Proof) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if p := b.registerProblem; p != nil {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
		return
	}
	d, again := b.devices[string(req.PublicKey)], true
	if d == nil {
		d, again = &bedDevice{id: socketxp.NewID(time.Now()), name: req.Name, group: req.Group, key: req.PublicKey}, false
		if d.name == "" {
			d.name = "from-host-name"
		}
		if d.group == "" {
			d.group = socketxp.DefaultGroup
		}
		b.devices[string(req.PublicKey)] = d
	}
	if b.loseAnswer {
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(api.RegisterResponse{DeviceID: d.id, Name: d.name, Group: d.group, Again: again})
}

// relogin is POST /api/v1/relogin. The caller holds mu.
func (b *bed) relogin(w http.ResponseWriter, r *http.Request) {
	var req api.ReloginRequest
	text := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if json.NewDecoder(r.Body).Decode(&req) != nil || len(req.OldKey) != ed25519.PublicKeySize || len(req.PublicKey) != ed25519.PublicKeySize {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	proof := socketxp.KeyReplaceProof(text, req.OldKey, req.PublicKey)
	if !ed25519.Verify(req.OldKey, proof, req.OldProof) || !ed25519.Verify(req.PublicKey, proof, req.Proof) {
		b.t.Error("a relogin is not signed by both keys")
	}
	b.asked = append(b.asked, req.PublicKey)
	problem := b.registerProblem
	if b.problemOnce != nil {
		problem, b.problemOnce = b.problemOnce, nil
	}
	if problem != nil {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(problem.Status)
		_ = json.NewEncoder(w).Encode(problem)
		return
	}
	d := b.devices[string(req.OldKey)]
	if d != nil {
		b.rekey(d, req.PublicKey)
	} else if d = b.devices[string(req.PublicKey)]; d == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if b.loseAnswer {
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(api.RegisterResponse{DeviceID: d.id, Name: d.name, Group: d.group})
}

// rekey gives a device another key; the one before is retired. The caller holds mu.
func (b *bed) rekey(d *bedDevice, key ed25519.PublicKey) {
	delete(b.devices, string(d.key))
	b.retired[string(d.key)] = true
	d.key, d.next = key, nil
	b.devices[string(key)] = d
}

// control serves a control channel.
func (b *bed) control(conn *tls.Conn) {
	key, err := socketxp.PeerKey(conn.ConnectionState())
	if err != nil {
		return
	}
	ctx := context.Background()
	c := control.NewGateway(conn, control.Options{})
	defer func() { _ = c.Close() }()
	m, err := c.Receive(ctx)
	hello, ok := m.(control.Hello)
	if err != nil || !ok {
		return
	}
	if hello.Role == control.RoleVisitor {
		b.visitor(ctx, c, key)
		return
	}
	b.mu.Lock()
	d, no := b.devices[string(key)], b.refuseDevice
	for _, other := range b.devices {
		if other.next.Equal(key) {
			d = other
			b.rekey(d, key)
		}
	}
	retired := b.retired[string(key)]
	b.mu.Unlock()
	switch {
	case d != nil:
	case retired:
		no = control.Refused{Code: socketxp.CodeKeyRetired, Message: "the device has a newer key"}
	default:
		no = control.Refused{Code: socketxp.CodeDeviceUnknown, Message: "the device is not registered here"}
	}
	if no.Code != "" {
		_ = c.Send(ctx, no)
		_, _ = c.Receive(ctx)
		return
	}
	b.device(ctx, c, d)
}

func (b *bed) device(ctx context.Context, c *control.Conn, d *bedDevice) {
	defer b.with(func() {
		if d.conn == c {
			d.conn = nil
		}
	})
	for welcomed := false; ; {
		m, err := c.Receive(ctx)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case control.Report:
			b.with(func() { d.report, d.reports = m, d.reports+1 })
			if welcomed {
				continue
			}
			welcomed = true
			if !b.moveSequence(ctx, c, d, m.Sequence) {
				return
			}
			var err error
			b.with(func() { // in one go: who has been welcomed is told what comes after
				w := control.Welcome{Version: 1, Gateway: "bed", DeviceID: d.id, DeviceName: d.name, DeviceGroup: d.group, Nonce: bedNonce, GatewayPins: b.pins}
				if err = c.Send(ctx, w); err == nil {
					d.conn = c
				}
			})
			if err != nil {
				return
			}
		case control.OfferRefused:
			b.mu.Lock()
			b.refusals = append(b.refusals, m)
			o, ok := b.offers[string(m.Ticket)]
			b.mu.Unlock()
			if ok {
				_ = o.visitor.Send(ctx, control.LinkRefused{Visit: visitNumber, Link: o.link, Code: m.Code, Message: m.Message})
			}
		case control.KeyPlaced, control.KeyNotPlaced, control.KeyRemoved:
			b.keyAnswers <- m
		case control.KeyChange:
			b.keyChange(ctx, c, d, m)
		case control.Logout:
			b.with(func() {
				b.gone = d
				delete(b.devices, string(d.key))
			})
			_ = c.Send(ctx, control.LoggedOut{})
		}
	}
}

// bedNonce is what a change of the key is signed with.
var bedNonce = bytes.Repeat([]byte{3}, control.NonceSize)

func (b *bed) keyChange(ctx context.Context, c *control.Conn, d *bedDevice, m control.KeyChange) {
	b.mu.Lock()
	b.asked = append(b.asked, m.Next)
	if !ed25519.Verify(m.Next, socketxp.KeyChangeProof(d.id, d.key, m.Next, bedNonce), m.Proof) || !ed25519.Verify(d.key, socketxp.KeyVouch(d.id, d.key, m.Next), m.Vouch) {
		b.t.Error("a change of the key is not signed by both keys")
	}
	no, lose := b.refuseKey, b.loseAnswer
	if no.Code == "" {
		d.next = m.Next
	}
	b.mu.Unlock()
	switch {
	case no.Code != "":
		_ = c.Send(ctx, no)
	case lose:
		_ = c.Close()
	default:
		_ = c.Send(ctx, control.KeyStaged{Next: m.Next})
	}
}

// moveSequence gives the device the next value of its sequence, if it holds the one
// before: the bed takes whoever comes otherwise.
func (b *bed) moveSequence(ctx context.Context, c *control.Conn, d *bedDevice, shown []byte) bool {
	next := make([]byte, socketxp.SequenceSize)
	_, _ = rand.Read(next)
	b.mu.Lock()
	d.shown = append(d.shown, shown)
	check := b.checkSequence
	b.mu.Unlock()
	if check {
		nonce := bytes.Repeat([]byte{8}, control.NonceSize)
		if c.Send(ctx, control.SequenceCheck{Nonce: nonce}) != nil {
			return false
		}
		m, _ := c.Receive(ctx)
		held, ok := m.(control.SequenceHeld)
		if !ok || !bytes.Equal(held.Nonce, nonce) {
			b.t.Errorf("a check was answered by %+v", m)
		}
		_ = c.Send(ctx, control.Refused{Code: socketxp.CodeQuarantined, Message: "the device is in quarantine", RetryAfter: 300})
		_, _ = c.Receive(ctx)
		return false
	}
	if c.Send(ctx, control.SequenceNext{Next: next}) != nil {
		return false
	}
	m, err := c.Receive(ctx)
	if err != nil {
		return false
	}
	if kept, ok := m.(control.SequenceKept); !ok || !bytes.Equal(kept.Next, next) {
		b.t.Errorf("the next value was answered by %+v", m)
		return false
	}
	b.with(func() {
		d.kept = append(d.kept, next)
		if b.keptHook != nil {
			b.keptHook(next)
		}
	})
	return true
}

func (b *bed) visitor(ctx context.Context, c *control.Conn, key ed25519.PublicKey) {
	b.mu.Lock()
	w := control.Welcome{Version: 1, Gateway: "bed", GatewayPins: b.pins}
	b.mu.Unlock()
	if c.Send(ctx, w) != nil {
		return
	}
	defer b.with(func() { delete(b.visitors, c) })
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case control.Visit:
			b.with(func() { b.visitToken = m.Token })
			granted, err := b.grant(m)
			if err != nil {
				var e *socketxp.Error
				_ = errors.As(err, &e)
				_ = c.Send(ctx, control.Ended{Visit: m.Visit, Code: e.Code, Message: e.Message, Hint: e.Hint})
				continue
			}
			b.with(func() { b.visitors[c] = granted })
			_ = c.Send(ctx, granted)
		case control.LinkRequest:
			b.mu.Lock()
			granted := b.visitors[c]
			d := b.deviceByID(granted.DeviceID)
			var device *control.Conn
			if d != nil {
				device = d.conn
			}
			b.mu.Unlock()
			pair, err := b.relay.Expect()
			if err != nil || device == nil {
				_ = c.Send(ctx, control.LinkRefused{Visit: m.Visit, Link: m.Link, Code: socketxp.CodeDeviceOffline, Message: "the device is offline"})
				continue
			}
			b.with(func() {
				b.offers[string(pair.DeviceTicket())] = bedOffer{c, m.Link}
				b.pairs = append(b.pairs, pair)
			})
			_ = device.Send(ctx, control.Offer{SessionID: granted.SessionID, Ticket: pair.DeviceTicket(), VisitorKey: key, Destination: granted.Destination})
			_ = c.Send(ctx, control.LinkTicket{Visit: m.Visit, Link: m.Link, Ticket: pair.VisitorTicket()})
		}
	}
}

// lastToken returns that of the last visit.
func (b *bed) lastToken() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.visitToken
}

// cutLinks cuts all links.
func (b *bed) cutLinks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pairs {
		p.Cut()
	}
	b.pairs = nil
}

// deviceByID is called with mu held.
func (b *bed) deviceByID(id string) *bedDevice {
	for _, d := range b.devices {
		if d.id == id {
			return d
		}
	}
	return nil
}

func (b *bed) grant(m control.Visit) (control.Granted, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.devices {
		if d.id != m.DeviceID && d.name != m.DeviceName {
			continue
		}
		if d.conn == nil {
			return control.Granted{}, socketxp.Errorf(socketxp.CodeDeviceOffline, "the device %s is offline", d.name)
		}
		for _, t := range d.report.Tunnels {
			dest, err := socketxp.ParseDestination(t.Destination)
			if err == nil && dest.Port == m.Port {
				g := control.Granted{
					Visit: m.Visit, SessionID: socketxp.NewID(time.Now()), DeviceID: d.id, DeviceName: d.name, DeviceKey: d.key,
					SSHHostKey: d.report.SSHHostKey, Destination: t.Destination, SSH: t.SSH, ExpiresAt: time.Now().Add(time.Hour),
				}
				if b.grantAs != nil {
					b.grantAs(&g)
				}
				return g, nil
			}
		}
		return control.Granted{}, socketxp.Errorf(socketxp.CodeNotPublished, "the device doesn't publish port %d", m.Port)
	}
	return control.Granted{}, socketxp.Errorf(socketxp.CodeNotFound, "there is no such device")
}

// tellVisitors sends a message to all visitors.
func (b *bed) tellVisitors(m control.Message) {
	b.mu.Lock()
	var all []*control.Conn
	for c := range b.visitors {
		all = append(all, c)
	}
	b.mu.Unlock()
	for _, c := range all {
		_ = c.Send(context.Background(), m)
	}
}

// online returns the only device's channel once it is open.
func (b *bed) online() *control.Conn {
	b.t.Helper()
	var c *control.Conn
	until(b.t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, d := range b.devices {
			c = d.conn
		}
		return yes(c != nil)
	})
	return c
}

// published returns what the only device has reported.
func (b *bed) published() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, d := range b.devices {
		for _, t := range d.report.Tunnels {
			out = append(out, t.Destination)
		}
	}
	return out
}

// newDir returns a work folder that doesn't exist yet.
func newDir(t *testing.T) *Dir {
	t.Helper()
	d, err := OpenDir(t.TempDir() + "/work")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// login registers a device.
func (b *bed) login(name string) (*Dir, DeviceKey) {
	b.t.Helper()
	dir := newDir(b.t)
	k, err := Login(b.t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir, Name: name})
	if err != nil {
		b.t.Fatal(err)
	}
	return dir, k
}

// agentRun is an agent that runs.
type agentRun struct {
	t         *testing.T
	cancel    context.CancelFunc
	connected chan struct{}
	joined    chan struct{}
	listening chan string
	dialing   chan string
	problems  chan error
	warnings  chan error
	ended     chan error
}

func newRun(t *testing.T) (*agentRun, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &agentRun{
		t: t, cancel: cancel, connected: make(chan struct{}, 100), joined: make(chan struct{}, 100),
		listening: make(chan string, 100), dialing: make(chan string, 100), problems: make(chan error, 1000), warnings: make(chan error, 100), ended: make(chan error, 1),
	}
	t.Cleanup(func() {
		cancel()
		for range r.ended {
		}
	})
	return r, ctx
}

// stop ends an agent as Ctrl-C would; that is no error.
func (r *agentRun) stop() {
	r.t.Helper()
	r.cancel()
	if err := await(r.t, r.ended); err != nil {
		r.t.Errorf("it ended by %v", err)
	}
}

// connect runs a device's agent.
func connect(t *testing.T, dir *Dir, tunnels ...Tunnel) *agentRun {
	return connectWith(t, ConnectOptions{Dir: dir, Tunnels: tunnels})
}

// connectWith is connect with some options set.
func connectWith(t *testing.T, o ConnectOptions) *agentRun {
	r, ctx := newRun(t)
	o.Version = "test"
	o.Connected = func() { r.connected <- struct{}{} }
	o.Joined = func() { r.joined <- struct{}{} }
	o.Problem = func(err error, _ time.Duration) { r.problems <- err }
	o.Warning = func(err error) { r.warnings <- err }
	go func() {
		defer close(r.ended)
		r.ended <- Connect(ctx, o)
	}()
	return r
}

// visit runs a laptop's agent.
func (b *bed) visit(dir *Dir, name string, port int, change ...func(*VisitOptions)) *agentRun {
	b.t.Helper()
	local, err := ParseLocalPort("tcp://localhost:0")
	if err != nil {
		b.t.Fatal(err)
	}
	o := VisitOptions{Peer: Peer{Target: Target{Token: b.token()}, Dir: dir, DeviceName: name, DevicePort: port, Version: "test"}, Local: local}
	for _, c := range change {
		c(&o)
	}
	r, ctx := newRun(b.t)
	o.Listening = func(url string) { r.listening <- url }
	o.Granted = func() { r.connected <- struct{}{} }
	o.Dialing = func(id, name string, port int) { r.dialing <- fmt.Sprintf("%s %s %d", id, name, port) }
	o.Problem = func(err error, _ time.Duration) { r.problems <- err }
	go func() {
		defer close(r.ended)
		r.ended <- Visit(ctx, o)
	}()
	return r
}

// service is a local TCP service for devices to publish.
func service(t *testing.T, serve func(*net.TCPConn)) Tunnel {
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
				serve(c.(*net.TCPConn)) //nolint:forcetypeassert // it listens on TCP
			})
		}
	})
	return tunnel(t, "tcp://"+l.Addr().String())
}

func tunnel(t *testing.T, destination string) Tunnel {
	t.Helper()
	d, err := socketxp.ParseDestination(destination)
	if err != nil {
		t.Fatal(err)
	}
	return Tunnel{Destination: d}
}

// echo answers all with itself, its end with its end.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// say sends text to a local URL, ends it, and returns what comes back.
func say(url, text string) (string, error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://"))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(soon))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	_ = c.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it was dialled as TCP
	back, err := io.ReadAll(c)
	return string(back), err
}
