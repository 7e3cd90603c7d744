package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The derived way is an experiment beside this product's links: visitor and device
// keep one TLS 1.3 session, end to end through a pair of connections that the gateway
// splices. Every connection after that is a pair of its own, and its keys come from
// the session's exporter secret and the pair's ticket. There is no handshake for it.

// ticket names a pair: 8 random bytes for the session and 8 for the pair's number in
// it. Pair 0 is the session itself.
type ticket [16]byte

func (t ticket) session() [8]byte { return [8]byte(t[:8]) }

func (t ticket) number() uint64 { return binary.BigEndian.Uint64(t[8:]) }

func (t ticket) numbered(n uint64) ticket {
	binary.BigEndian.PutUint64(t[8:], n)
	return t
}

// What a connection to the gateway is, in its first byte. A ticket follows; only a
// visitor's means something.
const (
	joinControl = 'c' // the device's one, on which a byte asks for a half
	joinHalf    = 'h' // a half dialled by the device; the ticket of its pair comes when it has one
	joinVisitor = 'v' // a visitor's half
)

const (
	joinLimit  = 10 * time.Second // for what begins a connection
	maxParked  = 1024             // halves that wait at the gateway
	maxSession = 64               // at a device
	// exporterLabel is of those that need no registration (RFC 5705, 4).
	exporterLabel = "EXPERIMENTAL socketxp derived 1"
)

// join dials the gateway and says what the connection is.
func join(ctx context.Context, gateway string, kind byte, t ticket) (*net.TCPConn, error) {
	c, err := dial(ctx, gateway)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(append([]byte{kind}, t[:]...)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// half is a connection of the device that has no ticket yet.
type half struct {
	*net.TCPConn
	done chan struct{} // closed when its pair is over
}

// meeting is the gateway's part: it gives the device's halves to visitors, and has the
// kernel move the bytes.
type meeting struct {
	parked chan half

	mu      sync.Mutex // guards the following
	control *net.TCPConn
}

func derivedGateway(ctx context.Context) func(*net.TCPConn) {
	m := &meeting{parked: make(chan half, maxParked)}
	return func(c *net.TCPConn) {
		var first [1 + len(ticket{})]byte
		_ = c.SetReadDeadline(time.Now().Add(joinLimit))
		if _, err := io.ReadFull(c, first[:]); err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Time{})
		switch first[0] {
		case joinControl:
			m.mu.Lock()
			m.control = c
			m.mu.Unlock()
			_, _ = io.Copy(io.Discard, c)
		case joinHalf:
			h := half{c, make(chan struct{})}
			select {
			case m.parked <- h:
			default:
				return
			}
			select {
			case <-h.done:
			case <-ctx.Done():
			}
		case joinVisitor:
			m.pair(c, first[1:])
		}
	}
}

// pair finds a half that lives, tells it the ticket and splices.
func (m *meeting) pair(visitor *net.TCPConn, t []byte) {
	for {
		h, err := m.take()
		if err != nil {
			return
		}
		if _, err := h.Write(t); err == nil {
			splice(h.TCPConn, visitor)
			close(h.done)
			return
		}
		close(h.done)
	}
}

// take returns a half that is parked, or asks for one.
func (m *meeting) take() (half, error) {
	select {
	case h := <-m.parked:
		return h, nil
	default:
	}
	m.mu.Lock()
	control := m.control
	m.mu.Unlock()
	if control == nil {
		return half{}, errors.New("there is no device")
	}
	if _, err := control.Write([]byte{joinHalf}); err != nil {
		return half{}, err
	}
	late := time.NewTimer(joinLimit)
	defer late.Stop()
	select {
	case h := <-m.parked:
		return h, nil
	case <-late.C:
		return half{}, errors.New("the device has dialled no half in time")
	}
}

// derivedEnd is the device: it dials halves and serves what comes on them.
type derivedEnd struct {
	gateway, target string
	ahead           int64
	tls             *tls.Config
	parked          atomic.Int64 // halves without a ticket, or being dialled

	mu       sync.Mutex // guards the following
	sessions map[[8]byte]*derivedSession
}

// derivedSession is what a device keeps of a session with a visitor.
type derivedSession struct {
	secret []byte

	mu   sync.Mutex // guards the following
	used window
}

// derivedDevice says that it is connected and serves connections to the target until
// the gateway is gone.
func derivedDevice(ctx context.Context, gateway, target string, ahead int, say io.Writer) error {
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	d := &derivedEnd{
		gateway: gateway, target: target, ahead: int64(ahead),
		tls:      &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true},
		sessions: make(map[[8]byte]*derivedSession),
	}
	control, err := join(ctx, gateway, joinControl, ticket{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	context.AfterFunc(ctx, func() { _ = control.Close() })
	dialOne := func() { d.half(ctx, cancel) }
	for range ahead {
		d.parked.Add(1)
		go dialOne()
	}
	if _, err := fmt.Fprintln(say, "connected"); err != nil {
		return err
	}
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(control, one); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		d.parked.Add(1)
		go dialOne()
	}
}

// half dials a half, and the next one as soon as this one is taken.
func (d *derivedEnd) half(ctx context.Context, fail context.CancelCauseFunc) {
	c, err := join(ctx, d.gateway, joinHalf, ticket{})
	if err != nil {
		fail(err)
		return
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	var t ticket
	_, err = io.ReadFull(c, t[:])
	if d.parked.Add(-1) < d.ahead && err == nil {
		d.parked.Add(1)
		go d.half(ctx, fail)
	}
	if err != nil {
		return
	}
	if t.number() == 0 {
		err = d.hold(ctx, c, t)
	} else {
		err = d.serve(ctx, c, t)
	}
	if err != nil {
		reset(c)
	}
}

// hold is the device's end of a session, as long as the visitor keeps it.
func (d *derivedEnd) hold(ctx context.Context, c *net.TCPConn, t ticket) error {
	sealed := tls.Server(c, d.tls)
	_ = c.SetDeadline(time.Now().Add(joinLimit))
	if err := sealed.HandshakeContext(ctx); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	secret, err := exported(sealed)
	if err != nil {
		return err
	}
	d.mu.Lock()
	_, there := d.sessions[t.session()]
	if there || len(d.sessions) >= maxSession {
		d.mu.Unlock()
		return errors.New("a session too many")
	}
	d.sessions[t.session()] = &derivedSession{secret: secret}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.sessions, t.session())
		d.mu.Unlock()
	}()
	if _, err := sealed.Write([]byte{joinControl}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, sealed)
	return err
}

// exported returns the secret that both ends of a session share and nobody else.
func exported(sealed *tls.Conn) ([]byte, error) {
	state := sealed.ConnectionState()
	return state.ExportKeyingMaterial(exporterLabel, nil, 32)
}

// keys returns those of a pair, once: the gateway could send again what a visitor
// sent, on another half.
func (d *derivedEnd) keys(t ticket) (toDevice, toVisitor *recordKey, err error) {
	d.mu.Lock()
	s := d.sessions[t.session()]
	d.mu.Unlock()
	if s == nil {
		return nil, nil, errors.New("there is no such session")
	}
	s.mu.Lock()
	fresh := s.used.take(t.number())
	s.mu.Unlock()
	if !fresh {
		return nil, nil, errors.New("a ticket that was used before")
	}
	return deriveKeys(s.secret, t)
}

// serve dials the target when the visitor has proved that somebody is there.
func (d *derivedEnd) serve(ctx context.Context, c *net.TCPConn, t ticket) error {
	toDevice, toVisitor, err := d.keys(t)
	if err != nil {
		return err
	}
	in := &recordReader{from: c, key: toDevice}
	defer in.release()
	if kind, _, err := in.next(); err != nil || kind != recordOpen {
		return errors.Join(err, errTooSoon)
	}
	target, err := dial(ctx, d.target)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	return carry(target, c, toVisitor, in)
}

// window remembers which numbers were taken: those that are 1024 below the highest
// count as taken.
type window struct {
	top  uint64
	seen [windowSize / 64]uint64
}

const windowSize = 1024

// take reports whether n was not taken before.
func (w *window) take(n uint64) bool {
	if n+windowSize <= w.top {
		return false
	}
	for i := w.top + 1; i <= n && i <= w.top+windowSize; i++ {
		w.seen[i%windowSize/64] &^= 1 << (i % 64)
	}
	w.top = max(w.top, n)
	place, bit := &w.seen[n%windowSize/64], uint64(1)<<(n%64)
	fresh := *place&bit == 0
	*place |= bit
	return fresh
}

// derivedVisitor has a session with the device and makes pairs.
type derivedVisitor struct {
	gateway string
	name    ticket
	secret  []byte
	last    atomic.Uint64
	ready   chan *derivedPair // made ahead
}

// derivedPair is a connection to the device with keys that nothing was sealed with.
type derivedPair struct {
	conn                *net.TCPConn
	toDevice, toVisitor *recordKey
}

// derivedAccess gives each connection that comes a pair.
func derivedAccess(ctx context.Context, gateway string, ahead int) (func(*net.TCPConn), error) {
	v, err := newDerivedVisitor(ctx, gateway, ahead)
	if err != nil {
		return nil, err
	}
	return func(c *net.TCPConn) {
		if v.visit(ctx, c) != nil {
			reset(c)
		}
	}, nil
}

// newDerivedVisitor makes the session, which lasts until ctx ends, and pairs ahead.
func newDerivedVisitor(ctx context.Context, gateway string, ahead int) (*derivedVisitor, error) {
	v := &derivedVisitor{gateway: gateway, ready: make(chan *derivedPair, ahead)}
	_, _ = rand.Read(v.name[:8])
	session, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = session.Close() })
	// The device says nothing more; when it is gone, pairs with it fail by themselves.
	go func() { _, _ = io.Copy(io.Discard, session) }()
	for range ahead {
		p, err := v.pair(ctx)
		if err != nil {
			return nil, err
		}
		v.ready <- p
	}
	return v, nil
}

// begin makes the session.
func (v *derivedVisitor) begin(ctx context.Context) (*tls.Conn, error) {
	raw, err := join(ctx, v.gateway, joinVisitor, v.name)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(joinLimit))
	sealed := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // nobody is in between: it is the cost that counts
	})
	err = sealed.HandshakeContext(ctx)
	if err == nil {
		_, err = io.ReadFull(sealed, make([]byte, 1)) // the device has the secret too
	}
	if err == nil {
		v.secret, err = exported(sealed)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	_ = raw.SetDeadline(time.Time{})
	return sealed, nil
}

// pair makes one.
func (v *derivedVisitor) pair(ctx context.Context) (*derivedPair, error) {
	t := v.name.numbered(v.last.Add(1))
	toDevice, toVisitor, err := deriveKeys(v.secret, t)
	if err != nil {
		return nil, err
	}
	c, err := join(ctx, v.gateway, joinVisitor, t)
	if err != nil {
		return nil, err
	}
	return &derivedPair{c, toDevice, toVisitor}, nil
}

// take returns a pair that was made ahead and has the next one made, or makes one.
func (v *derivedVisitor) take(ctx context.Context) (*derivedPair, error) {
	select {
	case p := <-v.ready:
		go func() {
			next, err := v.pair(ctx)
			if err != nil {
				return
			}
			select {
			case v.ready <- next:
			default:
				_ = next.conn.Close()
			}
		}()
		return p, nil
	default:
		return v.pair(ctx)
	}
}

// visit carries one connection.
func (v *derivedVisitor) visit(ctx context.Context, c *net.TCPConn) error {
	p, err := v.take(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.conn.Close() }()
	open, err := p.toDevice.sealEmpty(recordOpen)
	if err != nil {
		return err
	}
	if _, err := p.conn.Write(open); err != nil {
		return err
	}
	in := &recordReader{from: p.conn, key: p.toVisitor}
	defer in.release()
	return carry(c, p.conn, p.toDevice, in)
}
