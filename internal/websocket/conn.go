// Package websocket carries a raw byte stream in a WebSocket (RFC 6455), both
// ends: what one end writes the other reads, in a net.Conn that behaves as a TCP
// connection does. Deadlines for reading interrupt and break nothing, one
// direction can end while the other goes on, a reset is told from an end, and a
// peer that has gone without a word is found. SPEC.md says what is on the wire.
package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxSend is the most payload of a frame that is sent: with its header it fits in
	// two TLS records.
	maxSend = 32<<10 - maxHeader
	// maxReceive is the most of a frame that is taken. Proxies may put messages
	// together that were sent apart.
	maxReceive = 16 << 20
	// maxControl is the most payload of a ping, pong or close (RFC 6455 section 5.5).
	maxControl = 125
	maxHeader  = 14

	// beatEvery is how often an end that keeps its connection alive says so, and
	// silenceLimit how long the other one waits for it. Load balancers and proxies
	// close what is silent for 60 s.
	beatEvery    = 10 * time.Second
	silenceLimit = 35 * time.Second

	// partingLimit is how long Close tries to say goodbye.
	partingLimit = time.Second
)

// The opcodes of frames (RFC 6455 section 5.2).
const (
	opContinuation = 0x0
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// statusDone is the status of a close that belongs to an orderly end (RFC 6455
// section 7.4.1).
const statusDone = 1000

// Conn is one end. Read may be called by one goroutine at a time, all else
// concurrently.
type Conn struct {
	carrier net.Conn
	client  bool // frames to the server are masked, and no others
	remote  net.Addr

	// What only Read uses.
	early  []byte // came with the handshake
	in     frameReader
	inEnd  error // why nothing more is read
	passed int64 // bytes of the message that is being read

	// waiting is since when a Read has waited for the carrier, after start; 0 if none
	// does.
	waiting atomic.Int64
	start   time.Time

	writing sync.Mutex // guards the following; held while the carrier is written to
	outEnd  error      // why nothing more is written

	asked  atomic.Pointer[[]byte] // the payload of a ping that has no answer yet
	abrupt atomic.Bool            // Close resets

	mu     sync.Mutex // guards the following
	beat   *time.Timer
	closed bool
}

var _ net.Conn = (*Conn)(nil)

func newConn(carrier net.Conn, client bool, early []byte) *Conn {
	return &Conn{carrier: carrier, client: client, remote: carrier.RemoteAddr(), early: early, in: frameReader{fromClient: !client}, start: time.Now()}
}

// Read returns io.EOF after the other end's CloseWrite or Close, and another error
// if the connection ended without one.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for c.inEnd == nil && c.in.left == 0 {
		if err := c.nextFrame(); errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		} else if err != nil {
			c.inEnd = err
		}
	}
	if c.inEnd != nil {
		return 0, c.inEnd
	}
	n, err := c.receive(b[:min(int64(len(b)), c.in.left)])
	c.in.unmask(b[:n])
	switch {
	case n > 0 || errors.Is(err, os.ErrDeadlineExceeded):
		if n > 0 {
			err = nil // it comes again with the next read
		}
	case err != nil:
		c.inEnd = cutShort(err)
		err = c.inEnd
	}
	return n, err
}

// nextFrame reads up to the payload of the next frame with data. After a timeout
// it goes on where it was.
func (c *Conn) nextFrame() error {
	for {
		f, err := c.in.next(c.receive)
		if err != nil {
			return cutShort(err)
		}
		switch f.opcode {
		case opPing:
			c.asked.Store(&f.payload)
		case opPong:
		case opClose:
			return fmt.Errorf("websocket: it was closed in the middle (status %d)", f.status())
		case opBinary, opContinuation:
			c.passed += f.size
			whole := c.passed == 0 && f.final
			if f.final {
				c.passed = 0
			}
			switch {
			case whole: // a message of nothing is the end
				return io.EOF
			case f.size > 0:
				return nil
			}
		}
	}
}

// cutShort makes an end of the carrier an error: this stream has an end of its
// own.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// receive reads from the carrier.
func (c *Conn) receive(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	c.waiting.Store(max(1, int64(time.Since(c.start))))
	n, err := c.carrier.Read(b)
	c.waiting.Store(0)
	return n, err
}

// Write implements net.Conn. When it fails, for a deadline too, nothing can be
// written any more.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for len(b) > 0 {
		part := b[:min(len(b), maxSend)]
		if err := c.send(opBinary, part); err != nil {
			return n, err
		}
		n += len(part)
		b = b[len(part):]
	}
	return n, nil
}

var sendBuffers = sync.Pool{New: func() any { return new([maxHeader + maxSend]byte) }}

// send writes one frame. The caller holds writing.
func (c *Conn) send(opcode byte, payload []byte) error {
	if c.outEnd != nil && (opcode == opBinary || !errors.Is(c.outEnd, errEnded)) {
		return c.outEnd
	}
	buf := sendBuffers.Get().(*[maxHeader + maxSend]byte)
	defer sendBuffers.Put(buf)
	frame := appendFrame(buf[:0], opcode, payload, c.client)
	if _, err := c.carrier.Write(frame); err != nil {
		// A part of the frame may have left: whatever followed would be taken for the rest
		// of it. It is no timeout any more that one could go on after.
		c.outEnd = fmt.Errorf("websocket: a frame did not leave: %v", err) //nolint:errorlint // see above
		return c.outEnd
	}
	return nil
}

// errEnded is why nothing is written after the end.
var errEnded = fmt.Errorf("websocket: this direction has ended: %w", syscall.EPIPE)

// CloseWrite tells the other end that nothing more will come; it can still be read
// from.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.end()
}

// end is CloseWrite. The caller holds writing.
func (c *Conn) end() error {
	if c.outEnd != nil {
		return c.outEnd
	}
	if err := c.send(opBinary, nil); err != nil {
		return err
	}
	c.outEnd = errEnded
	return nil
}

// Close ends the connection: both directions in an orderly way, within a second,
// unless somebody writes just now; or by a reset after SetLinger(0).
func (c *Conn) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	if c.beat != nil {
		c.beat.Stop()
	}
	c.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	switch {
	case c.abrupt.Load():
		// The carrier's own goodbye would make an orderly end of it.
		if s, ok := socket(c.carrier).(*net.TCPConn); ok {
			_ = s.Close()
		}
	case c.writing.TryLock():
		_ = c.carrier.SetWriteDeadline(time.Now().Add(partingLimit))
		_ = c.end()
		_ = c.send(opClose, binary.BigEndian.AppendUint16(nil, statusDone))
		c.writing.Unlock()
	}
	return c.carrier.Close()
}

// SetLinger makes Close reset the connection if sec is 0, as net.TCPConn's does.
func (c *Conn) SetLinger(sec int) error {
	c.abrupt.Store(sec == 0)
	if s, ok := socket(c.carrier).(*net.TCPConn); ok {
		return s.SetLinger(sec)
	}
	return nil
}

// SetKeepAlive sets TCP's keepalive on the socket, which reaches to the nearest
// proxy only.
func (c *Conn) SetKeepAlive(on bool) error {
	if s, ok := socket(c.carrier).(*net.TCPConn); ok {
		return s.SetKeepAlive(on)
	}
	return nil
}

// KeepAlive has this end tell the other one every 10 s that it is there, until
// Close. It is for connections that have no heartbeat of their own, and both ends
// must do it for Dead to mean something.
func (c *Conn) KeepAlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.beat == nil && !c.closed {
		c.beat = time.AfterFunc(beatEvery, c.sayAlive)
	}
}

// sayAlive sends an unasked pong (RFC 6455 section 5.5.3), which needs no answer:
// an end whose reader is held up can still say that it lives.
func (c *Conn) sayAlive() {
	if c.writing.TryLock() { // else bytes are on their way, and tell as much
		var payload []byte
		if p := c.asked.Swap(nil); p != nil {
			payload = *p
		}
		_ = c.send(opPong, payload) // whoever uses the connection sees why it failed
		c.writing.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.beat.Reset(beatEvery)
	}
}

// Dead returns why the other end must be taken for dead, or nil: somebody has
// waited for 35 s to read anything, and not even a sign of life came. While
// nobody reads, nothing is known.
func (c *Conn) Dead() error {
	since := c.waiting.Load()
	if since == 0 {
		return nil
	}
	if silent := time.Since(c.start) - time.Duration(since); silent >= silenceLimit {
		return fmt.Errorf("websocket: nothing came for %v", silent.Round(time.Second))
	}
	return nil
}

// NetConn returns what carries the WebSocket, as tls.Conn does.
func (c *Conn) NetConn() net.Conn { return c.carrier }

// socket returns the connection that is below all others.
func socket(conn net.Conn) net.Conn {
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = outer.NetConn()
	}
}

// SetRemoteAddr makes addr what RemoteAddr returns, before the Conn is used: a
// server behind a proxy knows better than the socket.
func (c *Conn) SetRemoteAddr(addr net.Addr) { c.remote = addr }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.carrier.LocalAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.carrier.SetDeadline(t) }

// SetReadDeadline implements net.Conn. A Read that it interrupts loses nothing.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.carrier.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. A Write that it interrupts breaks the
// connection.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.carrier.SetWriteDeadline(t) }

// newMask returns a mask that nobody can foresee (RFC 6455 section 10.3).
func newMask() (m [4]byte) {
	_, _ = rand.Read(m[:]) // never fails: it ends the program instead
	return m
}
