package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"socketxp"
)

const (
	// smallSize is how much of what comes in small pieces is moved at once: a frame of
	// one TLS record.
	smallSize = maxRecord
	// frameStart is where a frame's payload begins in the buffer it is sent from.
	frameStart = frameRoom + headerSize
)

// smallBuffers are those for what comes in small pieces, with room for a frame.
var smallBuffers = sync.Pool{New: func() any { return new([frameRoom + smallSize]byte) }}

// Conn is one connection over a link: a net.Conn with half-close. Close waits
// neither for the peer nor for a Write in progress, which it cuts off by breaking
// the link.
type Conn struct {
	link *Link

	// Guarded by link.mu.
	readEnd  error // why nothing more comes; io.EOF in the orderly way; nil while it may
	writeEnd error // why nothing more may be sent; nil while it may
	sentEnd  bool  // our FIN or RESET has left
	finished bool  // finish has run
	closed   bool
	closedAt time.Time
	readBy   time.Time
	writeBy  time.Time
}

var _ net.Conn = (*Conn)(nil)

// Read implements net.Conn. It returns io.EOF only for the end that the other
// end meant: a connection that was cut off ends with another error, one that
// was reset with a *socketxp.Error that wraps syscall.ECONNRESET.
func (c *Conn) Read(p []byte) (int, error) {
	// Before taking reading, which a later connection on the link may hold.
	if err := c.readErr(); err != nil || len(p) == 0 {
		return 0, err
	}
	l := c.link
	l.reading.Lock()
	defer l.reading.Unlock()
	return c.readSome(p)
}

// readSome is Read for who holds reading.
func (c *Conn) readSome(p []byte) (int, error) {
	l := c.link
	if err := c.readErr(); err != nil {
		return 0, err
	}
	err := c.next()
	if err == nil {
		var n int
		n, err = l.sealed.Read(p[:min(len(p), l.in.left)])
		l.in.left -= n
		if n > 0 {
			return n, nil
		}
		if err != nil {
			err = l.broken(err)
		}
	}
	if c.isClosed() { // what woke us up
		err = net.ErrClosed
	}
	return 0, err
}

// next reads frames until there is data to read. Its error is why there is none.
// The caller holds reading.
func (c *Conn) next() error {
	l := c.link
	for {
		l.mu.Lock()
		err := c.readEnd
		if err == nil {
			err = l.err
		}
		l.mu.Unlock()
		if err != nil || l.in.left > 0 {
			return err
		}
		t, body, err := l.readFrame()
		if err != nil {
			return l.broken(err)
		}
		switch t {
		case frameData:
		case frameFin:
			c.endRead(io.EOF)
		case frameReset:
			if !validCode(body) {
				return l.fail(violation("a reset with a code that is none"))
			}
			c.endRead(resetError(socketxp.Code(body)))
		case frameOpen:
			return l.fail(violation("a connection inside another one"))
		}
	}
}

// resetError is what a connection ends with that the other end has reset.
func resetError(code socketxp.Code) error {
	message := "the connection was refused at the other end (" + string(code) + ")"
	if code == "" {
		code, message = socketxp.CodeUnavailable, "the connection was reset at the other end"
	}
	if code == socketxp.CodeDialFailed {
		message = "the device could not reach the destination"
	}
	return &socketxp.Error{Code: code, Message: message, Err: syscall.ECONNRESET}
}

// endRead notes the end of what comes. A reset is answered by one.
func (c *Conn) endRead(end error) {
	l := c.link
	l.mu.Lock()
	c.readEnd = end
	answer := c.writeEnd == nil && !errors.Is(end, io.EOF)
	if answer {
		c.writeEnd = end
	}
	l.mu.Unlock()
	if !answer {
		c.finish()
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	_ = c.sendEnd(frameReset, "")
}

// Write implements net.Conn. Bytes that it counts will arrive unless the
// connection breaks, also if it returns a timeout.
func (c *Conn) Write(p []byte) (n int, err error) {
	if err := c.writeErr(); err != nil {
		return 0, err
	}
	l := c.link
	l.writing.Lock()
	defer l.writing.Unlock()
	for len(p) > 0 {
		if err := c.mayWrite(); err != nil {
			return n, err
		}
		part := p[:min(len(p), bulkFrame-headerSize)]
		p = p[len(part):]
		if len(part) <= smallSize-headerSize {
			b := smallBuffers.Get().(*[frameRoom + smallSize]byte)
			err = l.send(frameData, b[:frameStart+copy(b[frameStart:], part)])
			smallBuffers.Put(b)
		} else {
			b := bulkBuffers.Get().(*[bulkSize]byte)
			err = l.send(frameData, b[:frameStart+copy(b[frameStart:], part)])
			bulkBuffers.Put(b)
		}
		n += len(part)
		if err != nil {
			return n, c.writeFailed(err)
		}
	}
	return n, nil
}

// writeFrame is Write for a payload that begins at frameStart of buf, which has other
// bytes in it then.
func (c *Conn) writeFrame(buf []byte) error {
	l := c.link
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := c.mayWrite(); err != nil {
		return err
	}
	return l.send(frameData, buf)
}

// mayWrite returns nil if a frame may be sent now. What an earlier write that
// timed out has left behind goes first. The caller holds writing.
func (c *Conn) mayWrite() error {
	if err := c.writeErr(); err != nil {
		return err
	}
	if err := c.link.wire.uncork(); err != nil {
		return c.writeFailed(c.link.broken(err))
	}
	return nil
}

func (c *Conn) writeFailed(err error) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	return err
}

// readErr and writeErr return why the connection can't be read or written now.
func (c *Conn) readErr() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.cannot(c.readEnd, c.readBy)
}

func (c *Conn) writeErr() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.cannot(c.writeEnd, c.writeBy)
}

func (c *Conn) cannot(end error, by time.Time) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case end != nil:
		return end
	case c.link.err != nil:
		return c.link.err
	case !by.IsZero() && !time.Now().Before(by):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) isClosed() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.closed
}

func (c *Conn) isOver() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.readEnd != nil && c.sentEnd
}

// CloseWrite sends the end of the stream; the other direction stays open.
func (c *Conn) CloseWrite() error {
	if err := c.writeErr(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	c.link.writing.Lock()
	defer c.link.writing.Unlock()
	return c.end(frameFin, "")
}

// end ends what we say, unless it has ended already. The caller holds writing.
func (c *Conn) end(t frameType, code socketxp.Code) error {
	l := c.link
	l.mu.Lock()
	if l.err != nil || c.writeEnd != nil {
		defer l.mu.Unlock()
		return l.err
	}
	c.writeEnd = net.ErrClosed
	l.mu.Unlock()
	return c.sendEnd(t, code)
}

// sendEnd sends FIN or RESET. The caller holds writing and has set writeEnd.
func (c *Conn) sendEnd(t frameType, code socketxp.Code) error {
	if err := c.link.sendSoon(t, string(code[:min(len(code), maxCode)])); err != nil {
		return err
	}
	c.link.mu.Lock()
	c.sentEnd = true
	c.link.mu.Unlock()
	c.finish()
	return nil
}

// finish makes the link idle if both directions have ended.
func (c *Conn) finish() {
	l := c.link
	l.mu.Lock()
	if c.readEnd == nil || !c.sentEnd || c.finished {
		l.mu.Unlock()
		return
	}
	c.finished = true
	l.mu.Unlock()
	l.wake()
	l.mu.Lock()
	l.current = nil
	_ = l.wire.SetDeadline(time.Time{})
	rested := l.rested
	l.mu.Unlock()
	if rested != nil {
		rested()
	}
}

// Close implements net.Conn: what was written arrives, what still comes is thrown
// away.
func (c *Conn) Close() error { return c.close(frameFin, "") }

// Reset ends the connection so that the other end sees a reset, with an optional
// code (CodeDialFailed from a device that could not dial). What was written
// before may be lost.
func (c *Conn) Reset(code socketxp.Code) error { return c.close(frameReset, code) }

func (c *Conn) close(t frameType, code socketxp.Code) error {
	l := c.link
	l.mu.Lock()
	again := c.closed
	over := l.err != nil || c.readEnd != nil && c.sentEnd
	finSent := c.writeEnd != nil && c.readEnd == nil
	pooled := l.rested != nil
	if !again {
		c.closed, c.closedAt = true, time.Now()
	}
	if !again && !over && c.readEnd == nil {
		_ = l.wire.SetReadDeadline(longAgo) // wakes Read up
	}
	l.mu.Unlock()

	switch {
	case again:
		return net.ErrClosed
	case over:
		return nil
	case t == frameReset && finSent:
		// Our direction has ended in peace. That the other one won't be read any more
		// can only be said by breaking the link.
		return l.Close()
	case !l.writing.TryLock():
		return l.Close()
	}
	err := c.end(t, code)
	l.writing.Unlock()
	if err == nil && pooled && !c.isOver() {
		go func() { _ = l.settle() }()
	}
	return err
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(t, &c.readBy, &c.readEnd, c.link.wire.SetReadDeadline)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(t, &c.writeBy, &c.writeEnd, c.link.wire.SetWriteDeadline)
}

// setDeadline leaves the link alone once the direction has ended: its deadlines
// are the next connection's then.
func (c *Conn) setDeadline(t time.Time, by *time.Time, end *error, set func(time.Time) error) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	*by = t
	if *end != nil {
		return nil
	}
	return set(t)
}

// LocalAddr implements net.Conn: this end of the connection to the gateway.
func (c *Conn) LocalAddr() net.Addr { return c.link.wire.LocalAddr() }

// RemoteAddr implements net.Conn: the gateway's address.
func (c *Conn) RemoteAddr() net.Addr { return c.link.wire.RemoteAddr() }
