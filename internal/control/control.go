// Package control is the control channel between an agent and a gateway: its
// messages, framing, states and heartbeats, both ends. SPEC.md beside it is the
// protocol's text. It takes a net.Conn on which TLS is already done and knows
// nothing of doors, tokens or databases.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"time"

	"socketxp"
)

// ALPN is the TLS application protocol of the control door.
const ALPN = "socketxp-control/1"

// Options are the timings of a Conn. Zero fields take the defaults.
type Options struct {
	// Heartbeat is how long an idle agent may be silent (default 24 s). What the
	// gateway says in its Welcome counts for both ends.
	Heartbeat time.Duration
	// PongWithin is how long an agent waits for the answer to a ping (default 6 s): it
	// sees a dead link within Heartbeat+PongWithin, 30 s.
	PongWithin time.Duration
	// SilenceLimit is how long a gateway waits for any frame (default Heartbeat and
	// 6 s).
	SilenceLimit time.Duration
	// Pace is what an agent knows of the network; nil is nothing.
	Pace *Pace
	// MaxPace bounds the pace of an agent, whatever the gateway says (default none): a
	// proxy that closes silent connections does so with a word, from which a Pace
	// learns nothing.
	MaxPace time.Duration
	// Carrier is what a gateway's Poll needs; nil if there is no Poll.
	Carrier Carrier
}

// Carrier is what carries a Conn that is polled, below TLS.
type Carrier interface {
	// Impatient has reading fail with ErrNothing, from now on or no longer, where it
	// would wait for the peer.
	Impatient(on bool)
	// Ended is called once, when the Conn is closed.
	Ended()
}

// ErrNothing says that nothing has come. It is temporary, as crypto/tls asks of an
// error after which it can go on.
var ErrNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has come" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

func (o Options) withDefaults() Options {
	if o.Heartbeat == 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.PongWithin == 0 {
		o.PongWithin = pongWithin
	}
	if o.SilenceLimit == 0 {
		o.SilenceLimit = o.Heartbeat + pongWithin
	}
	if o.Pace == nil {
		o.Pace = new(Pace)
	}
	return o
}

// The bounds of the heartbeat that a gateway may ask for, and what it is if it
// asks for none.
const (
	DefaultHeartbeat = 24 * time.Second
	MinHeartbeat     = 10 * time.Second
	MaxHeartbeat     = 15 * time.Minute
)

const pongWithin = 6 * time.Second

const (
	// writeLimit is how long a frame may take to leave; the largest is 64 KiB.
	writeLimit = 10 * time.Second
	// openLimit is how long an agent may take to say all that the gateway needs
	// to know of it: Hello, and a device's Report.
	openLimit = 10 * time.Second
	// partingLimit is how long the gateway tries to tell an agent why it is
	// thrown out.
	partingLimit = time.Second

	// An agent pings every 5 s at the most. One ping per second on average, and
	// pingBurst at once, is far more than any network delay can bunch together.
	pingPace  = time.Second
	pingBurst = 10
)

// Conn is one end of a control channel. Send may be called concurrently;
// Receive by one goroutine at a time. Heartbeats are answered, and seen, inside
// Receive only: an owner that stays away from it for longer than PongWithin
// loses the channel.
type Conn struct {
	conn    net.Conn
	side    side
	options Options

	// What only Receive uses.
	header  [headerSize]byte
	openBy  time.Time // gateway: when Hello and Report must have come
	frameBy time.Time // gateway: when the frame that is polled for must have come; zero for none
	pingDue time.Time // gateway: when a steady pinger would send its next ping

	// writing is full while a frame leaves, so that frames are on the wire in the
	// order in which they passed the rules. It is taken before mu. No one holds it
	// for longer than writeLimit.
	writing chan struct{}

	mu    sync.Mutex // guards the following
	role  Role       // "" at a gateway before Hello
	state state
	err   error // why the Conn is closed; nil while it is open

	// Of an agent:
	timer    *time.Timer   // to the next ping, or to the end of the wait for a pong
	pace     time.Duration // from a ping to the next
	pinged   time.Time     // when the last ping was due
	awaiting bool          // the last ping is unanswered
	// quiet says that nothing but heartbeats crossed since the last ping was answered,
	// silent that it was so when the unanswered one was sent: only then it tells how
	// long the network lets a channel be idle.
	quiet, silent bool
}

// NewAgent and NewGateway return the agent's and the gateway's end on conn,
// which the Conn owns from then on. They send nothing.
func NewAgent(conn net.Conn, role Role, o Options) *Conn {
	c := newConn(conn, agentSide, o)
	c.role = role
	return c
}

// NewGateway returns the gateway's end; the agent's role is known from its Hello.
func NewGateway(conn net.Conn, o Options) *Conn {
	c := newConn(conn, gatewaySide, o)
	c.openBy = time.Now().Add(openLimit)
	return c
}

func newConn(conn net.Conn, s side, o Options) *Conn {
	// TCP keepalives would double the traffic of an idle channel and tell nothing
	// that the heartbeats don't.
	if tcp, ok := underlying(conn).(*net.TCPConn); ok {
		_ = tcp.SetKeepAlive(false)
	}
	return &Conn{conn: conn, side: s, options: o.withDefaults(), writing: make(chan struct{}, 1), state: fresh}
}

// underlying returns the connection below TLS, and below whatever carries that.
func underlying(conn net.Conn) net.Conn {
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = outer.NetConn()
	}
}

// Send writes one message. It blocks while the peer does not read, for at most
// 10 s; after an error the Conn is closed. Texts for people, and a device's
// facts, are made printable and cut to their bounds.
func (c *Conn) Send(ctx context.Context, m Message) error {
	stop := context.AfterFunc(ctx, func() { _ = c.fail(ctx.Err()) })
	defer stop()

	r := ruleByType[reflect.TypeOf(m)]
	if r == nil || r.from != c.side {
		return c.fail(fmt.Errorf("send %T: not a message of this end", m))
	}
	m = tidy(m)
	if err := m.check(); err != nil {
		return c.fail(fmt.Errorf("send %s: %w", r.name, err))
	}
	data, err := json.Marshal(m)
	if err != nil {
		return c.fail(fmt.Errorf("send %s: %w", r.name, err))
	}
	if len(data) > r.max {
		return c.fail(fmt.Errorf("send %s: it has %d bytes, more than %d", r.name, len(data), r.max))
	}

	c.writing <- struct{}{}
	defer c.doneWriting()
	if !c.admits(r) {
		return c.fail(fmt.Errorf("send %s: not now", r.name))
	}
	if err := c.advance(r, m); err != nil {
		return c.fail(fmt.Errorf("send %s: %w", r.name, err))
	}
	if err := c.write(r.code, data, writeLimit); err != nil {
		return c.fail(fmt.Errorf("send %s: %w", r.name, err))
	}
	return nil
}

// write sends a frame. The caller holds writing.
func (c *Conn) write(code byte, payload []byte, limit time.Duration) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := c.conn.Write(appendFrame(make([]byte, 0, headerSize+len(payload)), code, payload))
	return err
}

// admits reports whether r's message may pass now.
func (c *Conn) admits(r *rule) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.allows(c.role, c.state)
}

// advance takes the channel to where it is once m has passed.
func (c *Conn) advance(r *rule, m Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	switch m := m.(type) {
	case Hello:
		if c.side == gatewaySide {
			c.role = m.Role
			break
		}
		if m.Role != c.role {
			return errors.New("it names another role than the channel's")
		}
		c.pace = c.nextPace()
		c.timer = time.AfterFunc(c.pace, c.beat)
	case Welcome:
		if (m.DeviceID != "") != (c.role == RoleDevice) {
			return errors.New("it is meant for another role")
		}
		c.welcomed(m)
	}
	c.state = max(c.state, r.reaches)
	_, c.quiet = m.(Welcome)
	return nil
}

// welcomed begins to count the silence at an agent's end. The caller holds mu.
func (c *Conn) welcomed(m Welcome) {
	if c.side != agentSide || c.timer == nil {
		return
	}
	if m.Heartbeat != 0 {
		c.options.Heartbeat = time.Duration(m.Heartbeat) * time.Second
	}
	c.options.Pace.opened()
	if !c.awaiting {
		c.pace = c.nextPace()
		c.timer.Reset(c.pace)
	}
}

// Receive returns the next message that is allowed in the present state, having
// answered heartbeats itself. Anything else is a CodeProtocol error; a peer that
// has fallen silent is CodeUnavailable. io.EOF after an orderly close. After an
// error the Conn is closed.
func (c *Conn) Receive(ctx context.Context) (Message, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.fail(ctx.Err()) })
	defer stop()
	for {
		by := c.frameBy
		if c.side == gatewaySide && by.IsZero() {
			by = c.frameDeadline()
		}
		m, err := c.receiveFrame(0, by)
		if err != nil {
			return nil, c.part(err)
		}
		if m != nil {
			return m, nil
		}
	}
}

// Poll is Receive at a gateway's end for an owner that has something better to do
// than to wait: it is ErrNothing, and the Conn stays open, if no frame has begun. What
// was begun is waited for. It must be called again when there is something to read,
// when the Conn has ended, and not later than SilentAt. Whoever ends ctx closes the
// connection, too.
func (c *Conn) Poll(ctx context.Context) (Message, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, c.part(err)
		}
		begun, err := c.begun()
		if err != nil {
			return nil, c.part(err)
		}
		if !begun {
			return nil, ErrNothing
		}
		m, err := c.receiveFrame(1, c.frameBy)
		if err != nil {
			return nil, c.part(err)
		}
		if m != nil {
			return m, nil
		}
	}
}

// SilentAt returns when the agent will have been silent for too long, after a Poll
// that was ErrNothing.
func (c *Conn) SilentAt() time.Time { return c.frameBy }

// begun reads the first byte of a frame, if it is there.
func (c *Conn) begun() (bool, error) {
	if why := c.Err(); why != nil {
		return false, why
	}
	if c.frameBy.IsZero() {
		c.frameBy = c.frameDeadline()
		_ = c.conn.SetReadDeadline(time.Time{}) // a past one would hide what is there
	}
	c.options.Carrier.Impatient(true)
	n, err := c.conn.Read(c.header[:1])
	c.options.Carrier.Impatient(false)
	switch {
	case n == 1:
		return true, nil
	case !errors.Is(err, ErrNothing):
		return false, err
	case time.Now().Before(c.frameBy):
		return false, nil
	}
	return false, os.ErrDeadlineExceeded
}

// receiveFrame returns the next message, or nil if it was a heartbeat. So many bytes
// of the frame are in c.header already; a gateway must have all of it by then.
func (c *Conn) receiveFrame(have int, by time.Time) (Message, error) {
	if c.side == gatewaySide {
		// It fails if the connection is closed, and then reading says how.
		_ = c.conn.SetReadDeadline(by)
	}
	c.frameBy = time.Time{}
	if _, err := io.ReadFull(c.conn, c.header[have:]); err != nil {
		if have > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	code, size := parseHeader(c.header)
	r := ruleByCode[code]
	switch {
	case r == nil:
		return nil, violation("there is no message of type %#02x", code)
	case r.from == c.side || !c.admits(r):
		return nil, violation("%s is not allowed now", r.name)
	case size > r.max:
		return nil, violation("%s has %d bytes", r.name, size)
	}
	data, err := readPayload(c.conn, size)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	switch r.code {
	case codePing:
		return nil, c.answer()
	case codePong:
		return nil, c.answered()
	}
	m, err := r.decode(data)
	if err != nil {
		return nil, violation("%s: %v", r.name, err)
	}
	if err := c.advance(r, m); err != nil {
		return nil, violation("%s: %v", r.name, err)
	}
	return m, nil
}

// frameDeadline is when the gateway must have the whole of the next frame.
func (c *Conn) frameDeadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == fresh || c.state == greeted && c.role == RoleDevice {
		return c.openBy
	}
	return time.Now().Add(c.options.SilenceLimit)
}

// answer sends the pong to a ping, unless pings come too often.
func (c *Conn) answer() error {
	now := time.Now()
	if c.pingDue.Before(now) {
		c.pingDue = now
	}
	c.pingDue = c.pingDue.Add(pingPace)
	if c.pingDue.Sub(now) > pingBurst*pingPace {
		return violation("Ping comes too often")
	}
	c.writing <- struct{}{}
	defer c.doneWriting()
	return c.write(codePong, nil, writeLimit)
}

// answered takes the pong to the last ping.
func (c *Conn) answered() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.awaiting {
		return violation("Pong answers no Ping")
	}
	c.awaiting = false
	if c.silent {
		c.options.Pace.survived(c.pace)
	}
	c.quiet = true
	if c.err == nil {
		// From ping to ping: a slow answer must not make the next ping late.
		c.pace = c.nextPace()
		c.timer.Reset(c.pace - time.Since(c.pinged))
	}
	return nil
}

// beat is called by the timer: it sends the next ping, or finds that the last
// one was not answered.
func (c *Conn) beat() {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if c.awaiting {
		c.mu.Unlock()
		c.lostInSilence()
		_ = c.fail(&socketxp.Error{
			Code:    socketxp.CodeUnavailable,
			Message: "the gateway has stopped answering",
			Err:     fmt.Errorf("no pong within %v: %w", c.options.PongWithin, os.ErrDeadlineExceeded),
		})
		return
	}
	c.awaiting, c.silent, c.pinged = true, c.quiet, time.Now()
	// From here on, also while the ping is being written: a peer that does not
	// read is as dead as one that does not answer.
	c.timer.Reset(c.options.PongWithin)
	c.mu.Unlock()

	c.writing <- struct{}{}
	defer c.doneWriting()
	if !c.admits(ruleByCode[codePing]) {
		return // over: whoever reads the last message closes the channel
	}
	if err := c.write(codePing, nil, writeLimit); err != nil {
		c.lostInSilence()
		_ = c.fail(fmt.Errorf("send Ping: %w", err))
	}
}

// nextPace returns the silence after which an agent pings next. The caller holds
// mu.
func (c *Conn) nextPace() time.Duration {
	limit := c.options.Heartbeat
	if c.options.MaxPace > 0 {
		limit = min(limit, c.options.MaxPace)
	}
	return c.options.Pace.next(limit)
}

// lostInSilence tells the pace that the ping after a silence was not answered, if
// it is so and the Conn is still open.
func (c *Conn) lostInSilence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.awaiting && c.silent {
		c.options.Pace.lost(c.pace)
	}
}

// part closes the Conn after err in Receive. A gateway tells the agent first if
// the agent broke the protocol.
func (c *Conn) part(err error) error {
	var v *socketxp.Error
	var broken *net.OpError
	switch {
	case c.side == agentSide && errors.As(err, &broken):
		// Some NATs answer with a reset for what they have forgotten.
		c.lostInSilence()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &socketxp.Error{Code: socketxp.CodeUnavailable, Message: "the agent has fallen silent", Err: err}
	case c.side == gatewaySide && errors.As(err, &v) && v.Code == socketxp.CodeProtocol:
		c.sayWhy(Refused{Code: v.Code, Message: v.Message})
	}
	return c.fail(err)
}

// sayWhy tries to send the last word, unless the agent is slow to read anyway.
func (c *Conn) sayWhy(m Refused) {
	select {
	case c.writing <- struct{}{}:
		defer c.doneWriting()
	default:
		return
	}
	r := ruleByType[reflect.TypeOf(m)]
	if !c.admits(r) || c.advance(r, m) != nil {
		return
	}
	if data, err := json.Marshal(m); err == nil {
		_ = c.write(r.code, data, partingLimit)
	}
}

func (c *Conn) doneWriting() { <-c.writing }

// fail closes the Conn because of err, and returns why it was closed: err, or
// what came before it.
func (c *Conn) fail(err error) error {
	why, first := c.end(err)
	if first {
		// Below TLS, which would wait up to 5 s to say goodbye to a dead peer.
		_ = underlying(c.conn).Close()
		_ = c.conn.Close()
	}
	return why
}

// Close closes the connection at once; it may be called more than once.
func (c *Conn) Close() error {
	if _, first := c.end(net.ErrClosed); first {
		return c.conn.Close()
	}
	return nil
}

// Err returns why the Conn is closed, or nil.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// end marks the Conn as closed because of err. It returns why the Conn is
// closed, and whether this call has closed it.
func (c *Conn) end(err error) (why error, first bool) {
	if why, first = c.mark(err); first && c.options.Carrier != nil {
		c.options.Carrier.Ended()
	}
	return why, first
}

func (c *Conn) mark(err error) (why error, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err, false
	}
	c.err = err
	if c.timer != nil {
		c.timer.Stop()
	}
	return err, true
}
