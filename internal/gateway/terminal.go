package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/relay"
	"socketxp/internal/terminal"
)

// terminalPolicy is for a person with the cookie of the portal, who may reach
// devices. No token opens a terminal.
var terminalPolicy = policy{purpose: socketxp.PurposePortal, right: rightReach}

func (r *router) addTerminals() {
	g := r.g
	const tag = "Terminals"
	with := func(method, path, action string) route {
		return route{method: method, path: path, policy: terminalPolicy, action: action}
	}
	add(r, operation{
		route: with(post, "/devices/{id}/terminals", "terminal.open"), id: "open-terminal", tag: tag, status: http.StatusCreated,
		summary:     "Open a terminal on a device",
		description: "The gateway is the visitor: it sees what the person sees. The terminal is a session like any other, and is cut as fast. Its program runs before the WebSocket is there; what it puts out is kept.",
	}, g.openTerminal)
	add(r, operation{
		route: with(get, "/terminals", ""), id: "list-terminals", tag: tag, summary: "List the terminals of this sign-in",
		description: "Those that live. A terminal lives for a minute without a WebSocket.",
	}, g.listTerminals)
	add(r, operation{
		route: with(post, "/terminals/{id}/ticket", "terminal.ticket"), id: "make-terminal-ticket", tag: tag, summary: "Get a ticket for a terminal's WebSocket",
		description: "For one use within 30 s, by this sign-in.",
	}, g.makeTerminalTicket)
	add(r, operation{route: with(remove, "/terminals/{id}", "terminal.close"), id: "close-terminal", tag: tag, summary: "Close a terminal"}, g.closeTerminal)
	r.addStream(operation{
		route: with(get, "/terminals/{id}/attach", ""), id: "attach-terminal", tag: tag, summary: "Look at a terminal",
		description: "A WebSocket of the subprotocol `" + terminalProtocol + "`, with `ticket.` and the ticket as another one, from the portal's own origin. Binary messages are what is typed and put out, text messages are JSON. " +
			"Whoever else looked at the terminal does no longer.",
	}, "application/octet-stream", []*huma.Param{pathID}, g.attachTerminal)
	r.addTerminalFiles()
}

// pathID describes the id in an address that is not read by huma.
var pathID = &huma.Param{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString, MaxLength: new(100)}}

// webTerminal is a person's terminal: the gateway itself is the visitor, with a key
// that it has made for this one visit. It is the visit's holder.
type webTerminal struct {
	g     *Gateway
	key   ed25519.PrivateKey
	ctx   context.Context // ends with the terminal
	end   context.CancelFunc
	visit *visit
	term  *terminal.Terminal
	user  string

	mu      sync.Mutex // guards the following
	number  uint32     // of the last link
	answers map[uint32]chan control.Message
}

var _ holder = (*webTerminal)(nil)

func (t *webTerminal) id() string                    { return t.visit.session.ID }
func (t *webTerminal) visitorKey() ed25519.PublicKey { return t.key.Public().(ed25519.PublicKey) }
func (t *webTerminal) life() context.Context         { return t.ctx }
func (t *webTerminal) forget(*visit)                 {}

// tell is for holder.
func (t *webTerminal) tell(m control.Message) error {
	switch m := m.(type) {
	case control.LinkRefused:
		t.answer(m.Link, m)
	case control.Ended:
		// Without a reason it says that there will be no new links, because the device has
		// another key by now: what is open may go on.
		if why := t.visit.cutBy(); why != nil {
			t.term.Cut(terminal.Ending{Reason: string(why.Code), Message: why.Message, Hint: why.Hint})
		}
	}
	return nil
}

func (t *webTerminal) answer(number uint32, m control.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.answers[number]; c != nil {
		c <- m // has room for both that there can be
	}
}

// cutBy returns why the visit was cut, or nil.
func (t *visit) cutBy() *socketxp.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// ownedBy reports whether the terminal is of this sign-in.
func (t *webTerminal) ownedBy(who caller) bool {
	b := t.visit.binding()
	return b.accountID == who.accountID && b.userID == who.userID && b.signInID == who.credentialID
}

// openTerminalIn is a terminal that is asked for.
type openTerminalIn struct {
	ID   string `path:"id" maxLength:"100"`
	Body api.TerminalRequest
}

type terminalOut struct{ Body api.Terminal }

// openTerminal judges a person as it does an agent in slave mode, and begins to
// connect. It answers when the server's host key is known, or a person has to look
// at it.
func (g *Gateway) openTerminal(ctx context.Context, who caller, in *openTerminalIn) (*terminalOut, error) {
	if err := g.rest.terminals.take(who.userID).err(); err != nil {
		return nil, err
	}
	if err := socketxp.CheckDisplayText("user", in.Body.User, 64); err != nil {
		return nil, err
	}
	t, err := g.newTerminal(ctx, who, in)
	if err != nil {
		return nil, err
	}
	key, err := t.term.HostKey(ctx)
	if err != nil {
		// Cut, as nobody will come to look.
		t.term.Cut(terminal.Ending{Reason: terminal.ReasonUnreachable, Message: "the device did not answer in time"})
		if ctx.Err() != nil {
			err = unavailable(err)
		}
		return nil, err
	}
	ticket := g.terminals.issue(t, who, g.now())
	s := t.visit.session
	return &terminalOut{api.Terminal{
		ID: t.id(), DeviceID: s.DeviceID, DeviceName: s.DeviceName, Port: t.visit.port, User: t.user,
		Ticket: ticket.Ticket, TicketExpiresAt: ticket.ExpiresAt,
		HostKey: api.TerminalHostKey{Type: key.Type, Fingerprint: key.Fingerprint, State: key.State, KnownFingerprint: key.KnownFingerprint},
	}}, nil
}

// newTerminal opens the session and has the terminal run.
func (g *Gateway) newTerminal(ctx context.Context, who caller, in *openTerminalIn) (*webTerminal, error) {
	if !socketxp.ValidID(in.ID) {
		return nil, missing("device")
	}
	seen := g.live.mark() // before the database is asked: see open
	if err := g.judgeAgain(ctx, who, terminalPolicy); err != nil {
		return nil, err
	}
	device, tunnel, err := g.judgeVisit(ctx, who, control.Visit{DeviceID: in.ID, Port: in.Body.Port})
	if err != nil {
		callOf(ctx).audited = refuses(err) // as a session that was refused
		if socketxp.CodeOf(err) == socketxp.CodeNotFound {
			err = missing("device") // as all of this API says it
		}
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &webTerminal{g: g, key: key, user: in.Body.User, answers: make(map[uint32]chan control.Message)}
	options, err := t.optionsFor(ctx, who, device, tunnel, in.Body)
	if err != nil {
		return nil, err
	}
	t.ctx, t.end = context.WithCancel(context.Background())
	t.visit, t.term = g.newVisit(t, who, device, tunnel), terminal.New(options)
	if err := g.terminals.add(t, g.limits); err != nil {
		t.end()
		return nil, err
	}
	if err := t.visit.store(ctx); err != nil {
		t.over()
		return nil, err
	}
	err = t.visit.begin(ctx, seen)
	close(t.visit.answered)
	if err != nil {
		t.over()
		return nil, err
	}
	select {
	case g.tunnels <- t.run:
	case <-g.stopping:
		t.visit.leave(socketxp.CodeGoingAway)
		t.over()
		return nil, errStopping
	}
	return t, nil
}

var errStopping = socketxp.Errorf(socketxp.CodeGoingAway, "the gateway is shutting down").WithHint("try again in a moment")

// over takes a terminal off the books.
func (t *webTerminal) over() {
	t.end()
	t.g.terminals.remove(t)
}

// run serves the terminal to its end.
func (t *webTerminal) run(ctx context.Context) {
	defer t.over()
	t.term.Run(ctx)
}

// optionsFor says how to sign in to what the device publishes at the port.
func (t *webTerminal) optionsFor(ctx context.Context, who caller, device socketxp.Device, tunnel socketxp.Tunnel, r api.TerminalRequest) (terminal.Options, error) {
	g := t.g
	o := terminal.Options{
		Dial: t.dial, User: r.User, Size: terminal.Size{Columns: r.Columns, Rows: r.Rows}, Sure: tunnel.SSH,
		Trust: func(ctx context.Context, key terminal.HostKey) error {
			if err := t.mayStill(ctx); err != nil {
				return err
			}
			return g.trustHostKey(ctx, who, device, r.Port, key)
		},
		Why: func() *socketxp.Error {
			if why := t.visit.cutBy(); why != nil {
				return why
			}
			select {
			case <-g.stopping:
				return errStopping
			default:
				return nil
			}
		},
		Over:   func() { t.visit.leave("") },
		Fault:  func(v any) { g.panicked("terminal", v) },
		Limits: g.limits.terminal,
	}
	if tunnel.Destination.Scheme != "tcp" {
		return o, socketxp.Errorf(socketxp.CodeInvalid, "port %d is published as %s, which is no SSH", r.Port, tunnel.Destination.Scheme)
	}
	var err error
	if o.Known, err = g.knownHostKey(ctx, device, tunnel, r.Port); err != nil {
		return o, err
	}
	o.SignIn, err = t.signIn(ctx, who, device, tunnel, r)
	return o, err
}

// mayStill judges the person again: what was allowed when the terminal was asked for
// may be minutes ago.
func (t *webTerminal) mayStill(ctx context.Context) error {
	asked, cancel := t.g.asked(ctx)
	defer cancel()
	return t.visit.judge(asked, t.g.newPass())
}

// knownHostKey returns the key that the SSH server is known by; nil if none was
// trusted yet. The built-in server's is the device's own word.
func (g *Gateway) knownHostKey(ctx context.Context, device socketxp.Device, tunnel socketxp.Tunnel, port int) (*terminal.HostKey, error) {
	line := device.SSHHostKey
	if !tunnel.SSH {
		asked, cancel := g.asked(ctx)
		defer cancel()
		trusted, err := g.store.HostKey(asked, device.AccountID, device.ID, port)
		switch {
		case errors.Is(err, socketxp.ErrNotFound):
			return nil, nil
		case err != nil:
			g.storeFailed("a host key could not be looked up", err)
			return nil, unavailable(err)
		}
		line = trusted.Key
	}
	key, err := terminal.ParseHostKey(line)
	if err != nil {
		return nil, socketxp.Errorf(socketxp.CodeUnavailable, "the device has not told the host key of its SSH server").WithHint("restart its agent")
	}
	return &key, nil
}

// trustHostKey remembers a host key as one that a person has trusted.
func (g *Gateway) trustHostKey(ctx context.Context, who caller, device socketxp.Device, port int, key terminal.HostKey) error {
	asked, cancel := g.asked(ctx)
	defer cancel()
	entry := g.entry(who, "device.trust-host-key", "device", device.ID, device.Name)
	entry.Detail = fmt.Sprintf("port %d: %s %s", port, key.Type, key.Fingerprint)
	if key.KnownFingerprint != "" {
		entry.Detail += ", before " + key.KnownFingerprint
	}
	err := g.store.TrustHostKey(asked, socketxp.HostKey{
		AccountID: device.AccountID, DeviceID: device.ID, Port: port, Key: key.Key, TrustedAt: entry.At, TrustedBy: who.userID,
	}, entry)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return missing("device")
	case err != nil:
		g.storeFailed("a host key was not stored", err)
		return unavailable(err)
	}
	return nil
}

// signIn returns how a person signs in to the SSH server.
func (t *webTerminal) signIn(ctx context.Context, who caller, device socketxp.Device, tunnel socketxp.Tunnel, r api.TerminalRequest) (*terminal.SignIn, error) {
	in := api.TerminalSignIn{Method: "single-use-key"}
	if tunnel.SSH {
		in.Method = "grant"
	}
	if r.SignIn != nil {
		in = *r.SignIn
	}
	if (in.Method == "password") != (in.Password != "") || (in.Method == "key") != (in.Key != "") || in.Passphrase != "" && in.Key == "" {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "the sign-in by %s does not go with what it has", in.Method).
			WithHint("password goes with password, and key with key and passphrase")
	}
	if tunnel.SSH != (in.Method == "grant") {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "port %d can't be signed in to by %s", r.Port, in.Method).
			WithHint("grant is for the agent's built-in SSH server, and it asks for nothing else")
	}
	if r.User == "" && (in.Method == "password" || in.Method == "key") {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "a user is needed").WithHint("name one, such as pi")
	}
	switch in.Method {
	case "password":
		return terminal.Password([]byte(in.Password))
	case "key":
		// The file says how much work its passphrase is: up to some seconds of a core.
		leave, err := t.g.rest.passphrases.enter(ctx)
		if err != nil {
			return nil, err
		}
		defer leave()
		return terminal.Key([]byte(in.Key), []byte(in.Passphrase))
	case "single-use-key":
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return terminal.SingleUse(private, func(ctx context.Context) (string, func(), error) {
			if err := t.mayStill(ctx); err != nil {
				return "", nil, err
			}
			return t.g.placeKey(ctx, who, device, tunnel.Destination.String(), r.User, public)
		})
	}
	return terminal.Grant(), nil
}

// dial makes a link to the device, as an agent in slave mode does: the gateway's
// end of it goes through the relay like any other.
func (t *webTerminal) dial(ctx context.Context) (net.Conn, error) {
	pair, err := t.visit.expect()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.number++
	number, answers := t.number, make(chan control.Message, 2)
	t.answers[number] = answers
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.answers, number)
	}()
	start := time.Now()
	l, err := t.join(ctx, pair, number, answers)
	if err != nil {
		pair.Cut()
		return nil, err
	}
	t.g.stats.linked(start)
	c, err := l.Open()
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return &linkConn{Conn: c, link: l}, nil
}

func (t *webTerminal) join(ctx context.Context, pair *relay.Pair, number uint32, answers <-chan control.Message) (*link.Link, error) {
	if err := t.visit.offer(pair, number); err != nil {
		return nil, err
	}
	ours, relays, err := socketPair()
	if err != nil {
		return nil, err
	}
	t.g.spawn("link", func() {
		var preface [link.PrefaceSize]byte
		if _, err := io.ReadFull(relays, preface[:]); err != nil {
			_ = relays.Close()
			return
		}
		ticket, err := link.ParsePreface(preface[:])
		if err != nil {
			_ = relays.Close()
			return
		}
		if err := t.g.relay.Join(relays, ticket); err != nil {
			t.g.stats.refused(doorLink, socketxp.CodeOf(err))
		}
	})
	l, err := link.Visit(ctx, ours, pair.VisitorTicket(), t.key, t.visit.deviceKey, t.visit.session.Destination)
	if err == nil || ctx.Err() != nil {
		return l, err
	}
	// A device that says no says so by the control channel, a moment after or before.
	limit := time.NewTimer(refusalWithin)
	defer limit.Stop()
	for {
		select {
		case m := <-answers:
			if no, ok := m.(control.LinkRefused); ok {
				return nil, socketxp.Errorf(no.Code, "%s", no.Message).WithHint(no.Hint)
			}
		case <-limit.C:
			return nil, err
		}
	}
}

// refusalWithin is how long the reason may take for which a link has failed.
const refusalWithin = time.Second

// linkConn is a connection with a link of its own.
type linkConn struct {
	*link.Conn
	link *link.Link
}

// Close implements net.Conn.
func (c *linkConn) Close() error { return c.link.Close() }

// socketPair returns two ends of a connection within this process.
func socketPair() (_, _ net.Conn, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("a pair of sockets: %w", err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, errConn := net.FileConn(f) // a copy
		_ = f.Close()
		conns[i], err = c, errors.Join(err, errConn)
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, nil, fmt.Errorf("a pair of sockets: %w", err)
	}
	return conns[0], conns[1], nil
}

type terminalsOut struct{ Body api.Page[api.OpenTerminal] }

func (g *Gateway) listTerminals(_ context.Context, who caller, _ *struct{}) (*terminalsOut, error) {
	own := g.terminals.of(who)
	return &terminalsOut{api.Page[api.OpenTerminal]{Items: mapped(own, func(t *webTerminal) api.OpenTerminal {
		s := t.visit.session
		return api.OpenTerminal{
			ID: s.ID, DeviceID: s.DeviceID, DeviceName: s.DeviceName, Port: t.visit.port, User: t.user, StartedAt: s.StartedAt, Attached: t.term.Attached(),
		}
	})}}, nil
}

type terminalTicketOut struct{ Body api.TerminalTicket }

func (g *Gateway) makeTerminalTicket(_ context.Context, who caller, in *idIn) (*terminalTicketOut, error) {
	t, err := g.terminals.find(who, in.ID)
	if err != nil {
		return nil, err
	}
	return &terminalTicketOut{g.terminals.issue(t, who, g.now())}, nil
}

func (g *Gateway) closeTerminal(_ context.Context, who caller, in *idIn) (*struct{}, error) {
	t, err := g.terminals.find(who, in.ID)
	if err != nil {
		return nil, err
	}
	t.term.End(terminal.Ending{Reason: terminal.ReasonClosed, Message: "the terminal was closed"})
	return nil, nil
}

// terminals are those that live here, and the tickets that were given out for them.
type terminals struct {
	mu      sync.Mutex // guards the following
	byID    map[string]*webTerminal
	byUser  map[string]int
	tickets map[[sha256.Size]byte]terminalTicket
}

// terminalTicket is what a ticket is good for.
type terminalTicket struct {
	terminal *webTerminal
	signInID string
	until    time.Time
}

func newTerminals() *terminals {
	return &terminals{byID: make(map[string]*webTerminal), byUser: make(map[string]int), tickets: make(map[[sha256.Size]byte]terminalTicket)}
}

// add puts a terminal on the books, if there is room for it.
func (f *terminals) add(t *webTerminal, l limits) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	user := t.visit.session.UserID
	switch {
	case f.byUser[user] >= l.terminalsPerUser:
		return socketxp.Errorf(socketxp.CodeTooManyLinks, "one person can't have more than %d terminals", l.terminalsPerUser).WithHint("close one")
	case len(f.byID) >= l.terminals:
		return socketxp.Errorf(socketxp.CodeTooManyLinks, "the gateway has no room for more terminals").WithHint("try again later")
	}
	f.byID[t.id()] = t
	f.byUser[user]++
	return nil
}

func (f *terminals) remove(t *webTerminal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID[t.id()] != t {
		return
	}
	delete(f.byID, t.id())
	user := t.visit.session.UserID
	if f.byUser[user]--; f.byUser[user] == 0 {
		delete(f.byUser, user)
	}
	for hash, ticket := range f.tickets {
		if ticket.terminal == t {
			delete(f.tickets, hash)
		}
	}
}

// of lists the living terminals of a sign-in, the oldest first.
func (f *terminals) of(who caller) []*webTerminal {
	f.mu.Lock()
	defer f.mu.Unlock()
	var own []*webTerminal
	for _, t := range f.byID {
		if t.ownedBy(who) && !t.term.Over() {
			own = append(own, t)
		}
	}
	slices.SortFunc(own, func(a, b *webTerminal) int { return strings.Compare(a.id(), b.id()) })
	return own
}

// find returns a terminal of the caller's sign-in. One that has ended is found for as
// long as its last output waits to be seen.
func (f *terminals) find(who caller, id string) (*webTerminal, error) {
	f.mu.Lock()
	t := f.byID[id]
	f.mu.Unlock()
	if t == nil || !t.ownedBy(who) {
		return nil, missing("terminal")
	}
	return t, nil
}

// ticketLife is how long a ticket is good.
const ticketLife = 30 * time.Second

// issue makes a ticket for a terminal of the caller's. Each new one takes the place of
// those that were not used.
func (f *terminals) issue(t *webTerminal, who caller, now time.Time) api.TerminalTicket {
	text := base64.RawURLEncoding.EncodeToString(randomBytes(32))
	f.mu.Lock()
	defer f.mu.Unlock()
	for hash, old := range f.tickets {
		if old.terminal == t || !now.Before(old.until) {
			delete(f.tickets, hash)
		}
	}
	until := now.Add(ticketLife)
	f.tickets[sha256.Sum256([]byte(text))] = terminalTicket{terminal: t, signInID: who.credentialID, until: until}
	return api.TerminalTicket{Ticket: text, ExpiresAt: until}
}

var errTicket = socketxp.Errorf(socketxp.CodeForbidden, "the ticket is used, too old, or of another terminal").WithHint("get another one: POST /api/v1/terminals/{id}/ticket")

// use uses a ticket up, whatever comes of it, and returns nil if it was for this
// terminal and sign-in.
func (f *terminals) use(text string, t *webTerminal, who caller, now time.Time) error {
	hash := sha256.Sum256([]byte(text))
	f.mu.Lock()
	ticket, ok := f.tickets[hash]
	delete(f.tickets, hash)
	f.mu.Unlock()
	if !ok || ticket.terminal != t || ticket.signInID != who.credentialID || !now.Before(ticket.until) {
		return errTicket
	}
	return nil
}

// move lets the terminals of a sign-in go on under the one that takes its place.
func (f *terminals) move(signInID string, to socketxp.SignIn) {
	f.mu.Lock()
	var own []*webTerminal
	for _, t := range f.byID {
		if t.visit.binding().signInID == signInID {
			own = append(own, t)
		}
	}
	f.mu.Unlock()
	for _, t := range own {
		t.visit.mu.Lock()
		t.visit.signIn, t.visit.expiresAt = to, to.ExpiresAt
		t.visit.mu.Unlock()
		t.visit.watchExpiry()
	}
}

// touchTypists records that the sign-ins of those who type are in use, as it is for
// requests: one that is over for want of use stays so, until the sweep ends it.
func (g *Gateway) touchTypists(ctx context.Context) {
	for _, s := range g.terminals.typists() {
		asked, cancel := g.asked(ctx)
		p := g.newPass()
		if p.judgeSignIn(asked, s) == nil {
			if now, err := p.signIn(asked, s.SecretHash); err == nil {
				g.touchSignIn(ctx, now)
			}
		}
		cancel()
	}
}

// typists returns the sign-ins by which somebody has typed since it was last called.
func (f *terminals) typists() []socketxp.SignIn {
	f.mu.Lock()
	defer f.mu.Unlock()
	byID := make(map[string]socketxp.SignIn)
	for _, t := range f.byID {
		if t.term.Used() {
			t.visit.mu.Lock()
			byID[t.visit.signIn.ID] = t.visit.signIn
			t.visit.mu.Unlock()
		}
	}
	return slices.Collect(maps.Values(byID))
}

// notice says something to everybody who has a terminal.
func (f *terminals) notice(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.byID {
		t.term.Notice(text)
	}
}
