package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"socketxp"
	device "socketxp/internal/agent"
	"socketxp/internal/cluster"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/store"
	"socketxp/internal/token"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "sftp-server" { // as a device's agent runs itself
		if err := device.SFTPMain(os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m,
		// One for each account at an authority, for as long as the process lives.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
		// The tests' own authority has no end.
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"))
}

// patience is how long a test waits for what should be there at once, on a machine
// with two busy cores.
const patience = 30 * time.Second

// soon is how fast a revocation has to be.
const soon = time.Second

// eventually polls until ok returns true.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-tick.C
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// flaky is a store whose database can be made not to answer.
type flaky struct {
	socketxp.Store
	down    atomic.Bool
	removed atomic.Bool // nobody is a member of anything
	asked   atomic.Int64
	// noQuarantine has the database not answer when it is asked for one.
	noQuarantine atomic.Bool
}

func (f *flaky) QuarantineDevice(ctx context.Context, accountID, id string, seen socketxp.Sequence, reason string, e socketxp.AuditEntry) error {
	if f.noQuarantine.Load() {
		return errDown
	}
	return f.Store.QuarantineDevice(ctx, accountID, id, seen, reason, e)
}

var errDown = &socketxp.Error{Code: socketxp.CodeUnavailable, Message: "the database does not answer", Err: errors.New("down")}

func (f *flaky) ask() error {
	f.asked.Add(1)
	if f.down.Load() {
		return errDown
	}
	return nil
}

func (f *flaky) DeviceByKey(ctx context.Context, key ed25519.PublicKey) (socketxp.Device, socketxp.DeviceKeyState, error) {
	if err := f.ask(); err != nil {
		return socketxp.Device{}, "", err
	}
	return f.Store.DeviceByKey(ctx, key)
}

func (f *flaky) Device(ctx context.Context, accountID, id string) (socketxp.Device, error) {
	if err := f.ask(); err != nil {
		return socketxp.Device{}, err
	}
	return f.Store.Device(ctx, accountID, id)
}

func (f *flaky) Devices(ctx context.Context, accountID string, q socketxp.DeviceQuery) ([]socketxp.Device, socketxp.Total, error) {
	if err := f.ask(); err != nil {
		return nil, socketxp.Total{}, err
	}
	return f.Store.Devices(ctx, accountID, q)
}

func (f *flaky) Token(ctx context.Context, accountID, id string) (socketxp.Token, error) {
	if err := f.ask(); err != nil {
		return socketxp.Token{}, err
	}
	return f.Store.Token(ctx, accountID, id)
}

func (f *flaky) Membership(ctx context.Context, accountID, userID string) (socketxp.Membership, error) {
	if err := f.ask(); err != nil {
		return socketxp.Membership{}, err
	}
	if f.removed.Load() {
		return socketxp.Membership{}, socketxp.ErrNotFound
	}
	return f.Store.Membership(ctx, accountID, userID)
}

func (f *flaky) DeviceConnected(ctx context.Context, accountID, id string, r socketxp.DeviceReport) error {
	if err := f.ask(); err != nil {
		return err
	}
	return f.Store.DeviceConnected(ctx, accountID, id, r)
}

func (f *flaky) CreateSession(ctx context.Context, s socketxp.Session, e socketxp.AuditEntry) error {
	if err := f.ask(); err != nil {
		return err
	}
	return f.Store.CreateSession(ctx, s, e)
}

func (f *flaky) EndSession(ctx context.Context, s socketxp.Session, e socketxp.AuditEntry) error {
	if err := f.ask(); err != nil {
		return err
	}
	return f.Store.EndSession(ctx, s, e)
}

// world is a gateway on a real database and a real port, with one account.
type world struct {
	*testing.T
	g       *Gateway
	store   *flaky
	cluster *cluster.Local
	account socketxp.Account
	owner   socketxp.User
	held    *heldValues
	stop    func() error // of the gateway; may be called more than once
	// reach opens a raw connection to the gateway; nil is TCP to its port.
	reach func() (net.Conn, error)
	// sessions are the TLS sessions of control channels to resume; nil for none.
	sessions tls.ClientSessionCache
}

// start runs a gateway. Change may shorten its limits.
func start(t *testing.T, change ...func(*limits)) *world {
	t.Helper()
	return startIn(t, t.TempDir(), nil, change...)
}

func startIn(t *testing.T, dir string, configure func(*Config, *Deps), change ...func(*limits)) *world {
	t.Helper()
	w := startEmpty(t, dir, configure, change...)
	if users := must[[]socketxp.User](t)(w.store.Users(t.Context())); len(users) > 0 {
		w.owner = users[0]
		m := must[[]socketxp.Membership](t)(w.store.MembershipsOf(t.Context(), w.owner.ID))
		w.account = must[socketxp.Account](t)(w.store.Account(t.Context(), m[0].AccountID))
		return w
	}
	w.account, w.owner = w.newAccount("acme", "owner@example.com")
	return w
}

// startEmpty runs a gateway as dir has it, or without an account.
func startEmpty(t *testing.T, dir string, configure func(*Config, *Deps), change ...func(*limits)) *world {
	t.Helper()
	dir = filepath.Join(dir, "data")
	if err := PrepareDataDir(dir); err != nil {
		t.Fatal(err)
	}
	db := must[*store.DB](t)(store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "gateway.db"), store.Options{}))
	w := &world{T: t, store: &flaky{Store: db}, cluster: cluster.NewLocal(), held: &heldValues{values: make(map[string][]byte)}}
	l := defaultLimits()
	l.offlineAfter, l.newsEvery = 50*time.Millisecond, 20*time.Millisecond
	for _, f := range change {
		f(&l)
	}
	cfg := DefaultConfig()
	cfg.Listen, cfg.DataDir, cfg.MetricsListen, cfg.DrainTimeout = "127.0.0.1:0", dir, "127.0.0.1:0", time.Second
	deps := Deps{Store: w.store, Cluster: w.cluster, Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test", limits: &l}
	if configure != nil {
		configure(&cfg, &deps)
	}
	w.g = must[*Gateway](t)(New(t.Context(), cfg, deps))

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.g.Run(ctx) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		return errors.Join(err, db.Close())
	})
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("the gateway ended with: %v", err)
		}
	})
	eventually(t, patience, "it listens to hints", func() bool {
		w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, ID: "of nobody"})
		return w.g.live.mark() > 0
	})
	w.flush()
	return w
}

// testWriter sends the gateway's log to the test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func (w *world) newAccount(name, email string) (socketxp.Account, socketxp.User) {
	w.Helper()
	now := w.g.now()
	a := socketxp.Account{ID: socketxp.NewID(now), Name: name, CreatedAt: now, BasicTokens: true, BasicLife: socketxp.DefaultBasicLife, DeviceQuota: 1000}
	u := socketxp.User{ID: socketxp.NewID(now), Email: email, PasswordHash: "x", CreatedAt: now}
	if err := w.store.CreateAccount(w.Context(), a, u, false, socketxp.AuditEntry{AccountID: a.ID, At: now, Action: "account.create"}); err != nil {
		w.Fatal(err)
	}
	return a, u
}

func (w *world) entry(action string) socketxp.AuditEntry {
	return socketxp.AuditEntry{AccountID: w.account.ID, At: w.g.now(), Action: action}
}

// newToken makes a token of the owner's and returns its row and text.
func (w *world) newToken(kind socketxp.TokenKind, scope socketxp.TokenScope, life ...time.Duration) (socketxp.Token, string) {
	w.Helper()
	now := w.g.now().Truncate(time.Second)
	t := socketxp.Token{
		ID: socketxp.NewID(now), AccountID: w.account.ID, Kind: kind, Name: "t", CreatedBy: w.owner.ID,
		CreatedAt: now, ExpiresAt: now.Add(time.Hour), Scope: scope,
	}
	if kind == socketxp.TokenRegistration {
		t.MaxUses = 1
	}
	if len(life) > 0 {
		t.ExpiresAt = now.Add(life[0])
	}
	text := must[string](w.T)(w.g.tokens.Sign(token.Claims{
		ID: t.ID, Kind: kind, AccountID: t.AccountID, UserID: t.CreatedBy, IssuedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, Gateway: w.g.Address(),
	}))
	claims := must[token.Claims](w.T)(w.g.tokens.Verify(text, w.g.now()))
	t.KeyID = claims.KeyID
	if err := w.store.CreateToken(w.Context(), t, w.entry("token.create")); err != nil {
		w.Fatal(err)
	}
	return t, text
}

func (w *world) access() (socketxp.Token, string) {
	w.Helper()
	return w.newToken(socketxp.TokenAccess, socketxp.TokenScope{})
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// register adds a device with a fresh key.
func (w *world) register(name, group string) (socketxp.Device, ed25519.PrivateKey) {
	w.Helper()
	key := newKey(w.T)
	now := w.g.now()
	d, _, err := w.store.RegisterDevice(w.Context(), socketxp.Registration{Device: socketxp.Device{
		ID: socketxp.NewID(now), AccountID: w.account.ID, Name: name, Group: group,
		PublicKey: key.Public().(ed25519.PublicKey), CreatedAt: now, CreatedBy: w.owner.ID,
	}}, now, w.entry("device.register"))
	if err != nil {
		w.Fatal(err)
	}
	return d, key
}

// open opens a connection to the gateway's doors.
func (w *world) open() (net.Conn, error) {
	if w.reach != nil {
		return w.reach()
	}
	return net.Dial("tcp", w.g.Addr().String())
}

// dialRaw is open for a test that can't go on without.
func (w *world) dialRaw() net.Conn {
	w.Helper()
	c := must[net.Conn](w.T)(w.open())
	w.Cleanup(func() { _ = c.Close() })
	return c
}

// clientTLS is how an agent comes to the control door.
func (w *world) clientTLS(key ed25519.PrivateKey) *tls.Config {
	w.Helper()
	cfg := must[*tls.Config](w.T)(w.g.Address().TLSConfig(nil))
	cfg.NextProtos, cfg.ClientSessionCache = []string{control.ALPN}, w.sessions
	cfg.Certificates = []tls.Certificate{must[tls.Certificate](w.T)(socketxp.KeyCertificate(key))}
	return cfg
}

// agent is a client's end of a control channel.
type agent struct {
	w    *world
	conn *control.Conn
	key  ed25519.PrivateKey
}

// heldValues are the values of the sequences that the test's devices hold, by key.
type heldValues struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (h *heldValues) get(key ed25519.PrivateKey) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.values[string(key)]
}

func (h *heldValues) set(key ed25519.PrivateKey, value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values[string(key)] = value
}

// report sends a device's first report, with the value that it holds, and takes the
// next one. It returns what the gateway says then: a Welcome, as a rule.
func (a *agent) report(r control.Report) control.Message {
	a.w.Helper()
	r.Sequence = a.w.held.get(a.key)
	_ = a.conn.Send(context.Background(), r) // too late for one that is refused by its key alone
	m, err := a.receive()
	if next, ok := m.(control.SequenceNext); ok {
		a.w.held.set(a.key, next.Next)
		a.send(control.SequenceKept(next))
		m, err = a.receive()
	}
	if err != nil {
		a.w.Fatal(err)
	}
	return m
}

// welcome reports and must be welcomed.
func (a *agent) welcome(r control.Report) control.Welcome {
	a.w.Helper()
	m := a.report(r)
	w, ok := m.(control.Welcome)
	if !ok {
		a.w.Fatalf("got %T %+v, want a Welcome", m, m)
	}
	return w
}

func (w *world) dial(key ed25519.PrivateKey, role control.Role) *agent {
	w.Helper()
	return w.dialAs(key, role, control.Version)
}

// dialAs is dial for an agent of another version.
func (w *world) dialAs(key ed25519.PrivateKey, role control.Role, version int) *agent {
	w.Helper()
	c := tls.Client(w.dialRaw(), w.clientTLS(key))
	if err := c.HandshakeContext(w.Context()); err != nil {
		w.Fatal(err)
	}
	a := &agent{w: w, key: key, conn: control.NewAgent(c, role, control.Options{})}
	w.Cleanup(func() { _ = a.conn.Close() })
	a.send(control.Hello{Version: version, Role: role, Agent: "test"})
	return a
}

func (a *agent) send(m control.Message) {
	a.w.Helper()
	if err := a.conn.Send(context.Background(), m); err != nil {
		a.w.Fatalf("send %T: %v", m, err)
	}
}

func (a *agent) receive() (control.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return a.conn.Receive(ctx)
}

// expect receives a message that must be an M.
func expect[M control.Message](a *agent) M {
	a.w.Helper()
	m, err := a.receive()
	if err != nil {
		a.w.Fatalf("want %T: %v", *new(M), err)
	}
	got, ok := m.(M)
	if !ok {
		a.w.Fatalf("got %T %+v, want %T", m, m, *new(M))
	}
	return got
}

func report(tunnels ...string) control.Report {
	r := control.Report{Facts: socketxp.Facts{OS: "linux", Arch: "amd64"}, Tunnels: []control.ReportTunnel{}}
	for _, t := range tunnels {
		r.Tunnels = append(r.Tunnels, control.ReportTunnel{Destination: t})
	}
	return r
}

// testDevice is a device that serves its links: each connection is handed to
// serve.
type testDevice struct {
	*agent
	socketxp.Device
	serve func(*link.Conn)

	offers  chan control.Offer
	refused chan control.Refused
	refuse  atomic.Pointer[control.OfferRefused] // not nil: the answer to offers
	running sync.WaitGroup
}

// echo answers with what it gets.
func echo(c *link.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// flood sends for as long as it can.
func flood(c *link.Conn) {
	block := make([]byte, 16<<10)
	for {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// connect brings a device online.
func (w *world) connect(d socketxp.Device, key ed25519.PrivateKey, serve func(*link.Conn), tunnels ...string) *testDevice {
	w.Helper()
	a := w.dial(key, control.RoleDevice)
	welcome := a.welcome(report(tunnels...))
	if welcome.DeviceID != d.ID || welcome.DeviceName != d.Name || welcome.DeviceGroup != d.Group {
		w.Fatalf("welcome %+v is for another device than %+v", welcome, d)
	}
	td := &testDevice{agent: a, Device: d, serve: serve, offers: make(chan control.Offer, 1000), refused: make(chan control.Refused, 1)}
	td.running.Go(td.run)
	w.Cleanup(func() {
		_ = td.conn.Close()
		td.running.Wait()
	})
	return td
}

func (d *testDevice) run() {
	for {
		m, err := d.conn.Receive(context.Background())
		if err != nil {
			return
		}
		switch m := m.(type) {
		case control.Offer:
			d.offers <- m
			if r := d.refuse.Load(); r != nil {
				no := *r
				no.Ticket = m.Ticket
				_ = d.conn.Send(context.Background(), no)
				continue
			}
			d.running.Go(func() { d.link(m) })
		case control.Refused:
			d.refused <- m
		}
	}
}

func (d *testDevice) link(o control.Offer) {
	raw, err := d.w.open()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := link.Serve(ctx, raw, o.Ticket, d.key, o.VisitorKey, o.Destination)
	if err != nil {
		return
	}
	defer func() { _ = l.Close() }()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		d.serve(c)
		_ = c.Close()
	}
}

// testVisitor is an agent in slave mode.
type testVisitor struct {
	*agent
	next uint32
}

func (w *world) visitor() *testVisitor {
	w.Helper()
	v := &testVisitor{agent: w.dial(newKey(w.T), control.RoleVisitor)}
	if m := expect[control.Welcome](v.agent); m.DeviceID != "" {
		w.Fatalf("a visitor was welcomed as a device: %+v", m)
	}
	return v
}

// visit asks for a port of a device and returns Granted or Ended.
func (v *testVisitor) visit(m control.Visit) control.Message {
	v.w.Helper()
	v.next++
	m.Visit = v.next
	v.send(m)
	answer, err := v.receive()
	if err != nil {
		v.w.Fatal(err)
	}
	return answer
}

func (v *testVisitor) grant(text string, d socketxp.Device, port int) control.Granted {
	v.w.Helper()
	answer := v.visit(control.Visit{Token: text, DeviceID: d.ID, Port: port})
	g, ok := answer.(control.Granted)
	if !ok {
		v.w.Fatalf("the visit was not granted: %+v", answer)
	}
	return g
}

// open makes a link of a visit.
func (v *testVisitor) open(g control.Granted) *link.Link {
	v.w.Helper()
	v.next++
	v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
	return v.join(g, expect[control.LinkTicket](v.agent).Ticket)
}

func (v *testVisitor) join(g control.Granted, ticket []byte) *link.Link {
	v.w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l := must[*link.Link](v.w.T)(link.Visit(ctx, v.w.dialRaw(), ticket, v.key, g.DeviceKey, g.Destination))
	v.w.Cleanup(func() { _ = l.Close() })
	return l
}

// stream counts what comes over a link until it ends.
type stream struct {
	bytes atomic.Int64
	ended chan struct{}
}

func (v *testVisitor) read(l *link.Link) *stream {
	v.w.Helper()
	c := must[*link.Conn](v.w.T)(l.Open())
	s := &stream{ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			s.bytes.Add(int64(len(b)))
			return len(b), nil
		}), c)
	}()
	v.w.Cleanup(func() {
		_ = l.Close()
		<-s.ended
	})
	return s
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// flows waits until a stream moves.
func (s *stream) flows(t *testing.T) {
	t.Helper()
	from := s.bytes.Load()
	eventually(t, patience, "bytes flow", func() bool { return s.bytes.Load() > from+1<<20 })
}

// isCut fails unless the stream ends soon.
func (s *stream) isCut(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(soon):
		t.Fatalf("bytes still flow %v later", soon)
	}
}

// session waits until the database has a session as ok says.
func (w *world) session(id string, ok func(socketxp.Session) bool) socketxp.Session {
	w.Helper()
	var s socketxp.Session
	eventually(w.T, patience, "session", func() bool {
		s = must[socketxp.Session](w.T)(w.store.Session(w.Context(), w.account.ID, id))
		return ok(s)
	})
	return s
}

// audited counts audit records of an action with a reason.
func (w *world) audited(accountID, action string, reason socketxp.Code) int {
	w.Helper()
	n := 0
	for _, r := range must[[]socketxp.AuditRecord](w.T)(w.store.Audit(w.Context(), accountID, socketxp.AuditQuery{Action: action, Limit: 1000})) {
		if r.Reason == reason {
			n++
		}
	}
	return n
}

// probe is an open thing that is seen to be judged.
type probe struct {
	id   string
	once sync.Once
	seen chan struct{}
}

func (p *probe) binding() binding { return binding{deviceID: p.id} }

func (p *probe) judge(context.Context, *pass) error {
	p.once.Do(func() { close(p.seen) })
	return nil
}

func (p *probe) cut(error) {}

// flush waits until all hints that were published have been heeded: a hint of its
// own is behind them in the queue.
func (w *world) flush() {
	w.Helper()
	p := &probe{id: socketxp.NewID(time.Now()), seen: make(chan struct{})}
	if err := w.g.open(p, w.g.live.mark()); err != nil {
		w.Fatal(err)
	}
	defer w.g.live.remove(p)
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, ID: p.id})
	select {
	case <-p.seen:
	case <-time.After(patience):
		w.Fatal("a hint was not heeded")
	}
}
