// Package link is one end-to-end encrypted connection between a visitor and a
// device: TLS 1.3 with both keys checked, over a raw connection that a gateway
// splices without being able to read it. One link carries one connection at a
// time and is used again for the next one. SPEC.md is the protocol's text.
package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// endLimit is how long the end of a connection may take: to send ours, and for
// the peer to send its own once it was told that nobody listens any more. A link
// that takes longer is broken.
const endLimit = 10 * time.Second

// Link is one end of a link. Its owner must Close it.
type Link struct {
	sealed      net.Conn // TLS on wire
	wire        *wire
	destination string
	visitor     bool

	// Whoever reads frames holds reading, whoever writes them writing. Both are
	// taken before mu.
	reading sync.Mutex
	in      incoming // guarded by reading
	writing sync.Mutex

	mu       sync.Mutex // guards the following, and the fields of every Conn
	err      error      // why the link is over
	current  *Conn      // nil while the link is idle
	watching chan struct{}
	rested   func() // called when a connection is over
	timer    *time.Timer
}

func newLink(sealed net.Conn, w *wire, destination string, visitor bool) *Link {
	l := &Link{sealed: sealed, wire: w, destination: destination, visitor: visitor}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(CheckEvery, l.check)
	return l
}

// check ends the link if its peer is dead.
func (l *Link) check() {
	if err := Dead(l.wire.Conn); err != nil {
		_ = l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.timer.Reset(CheckEvery)
	}
}

// Open starts a connection on an idle link of a visitor. It does not wait for
// the device: if the device can't reach the destination, Read returns a
// *socketxp.Error of CodeDialFailed.
func (l *Link) Open() (*Conn, error) {
	if !l.visitor {
		return nil, errors.New("link: only a visitor opens connections")
	}
	if err := l.settle(); err != nil {
		return nil, err
	}
	c := &Conn{link: l}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return nil, l.err
	}
	l.current = c
	l.mu.Unlock()
	if err := l.sendSoon(frameOpen, l.destination); err != nil {
		return nil, err
	}
	return c, nil
}

// Accept waits for the visitor's next connection. It returns io.EOF when the
// link was closed in an orderly way. The connection before must be over or
// closed.
func (l *Link) Accept() (*Conn, error) {
	if l.visitor {
		return nil, errors.New("link: only a device accepts connections")
	}
	if err := l.settle(); err != nil {
		return nil, err
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	t, body, err := l.readFrame()
	if errors.Is(err, io.EOF) {
		_ = l.Close()
		return nil, io.EOF
	}
	if err == nil && t != frameOpen {
		err = violation("a frame of type %#02x on an idle link", byte(t))
	}
	if err == nil && string(body) != l.destination {
		err = violation("a connection to another destination than the link's")
	}
	if err != nil {
		return nil, l.fail(err)
	}
	c := &Conn{link: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	l.current = c
	return c, nil
}

// Close ends the link, and a connection on it with a reset.
func (l *Link) Close() error {
	l.mu.Lock()
	open, busy := l.err == nil, l.current != nil
	if open {
		l.err = net.ErrClosed
		l.stopTimer()
	}
	l.mu.Unlock()
	switch {
	case open && busy:
		return l.wire.reset()
	case open:
		return l.sealed.Close() // says goodbye
	}
	return nil
}

// fail ends the link because of err, and returns why the link is over: err, or
// what came before it.
func (l *Link) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	l.err = fmt.Errorf("link: %w", err)
	l.stopTimer()
	_ = l.wire.reset()
	return l.err
}

// stopTimer is called with mu held.
func (l *Link) stopTimer() { l.timer.Stop() }

// broken is fail for errors of reads and writes: a timeout breaks nothing.
func (l *Link) broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return l.fail(err)
}

// readFrame reads the next frame, without the payload if it is DATA. After a
// timeout the next call goes on. The caller holds reading.
func (l *Link) readFrame() (frameType, []byte, error) {
	in := &l.in
	if err := l.readUpTo(headerSize, in.head[:]); err != nil {
		return 0, nil, err
	}
	t, size := parseHeader(in.head)
	if !t.fits(size) {
		return 0, nil, violation("a frame of type %#02x with %d bytes", byte(t), size)
	}
	if t == frameData {
		in.left, in.got = size, 0
		return t, nil, nil
	}
	if err := l.readUpTo(headerSize+size, in.body[:size]); err != nil {
		return 0, nil, err
	}
	in.got = 0
	return t, in.body[:size], nil
}

// readUpTo fills part, the last bytes of the frame's first end ones.
func (l *Link) readUpTo(end int, part []byte) error {
	in := &l.in
	for in.got < end {
		n, err := l.sealed.Read(part[len(part)-(end-in.got):])
		in.got += n
		if err == nil || in.got == end {
			continue
		}
		if in.got > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// moreData reports whether data of the same connection can be read now, and goes on to
// the next frame if that is DATA. Any other stays unread: what it ends must not end
// before what was read is with its owner. The caller holds reading.
func (l *Link) moreData() bool {
	in := &l.in
	if in.left > 0 {
		return true
	}
	if l.readUpTo(headerSize, in.head[:]) != nil {
		return false // it comes again with the next read
	}
	t, size := parseHeader(in.head)
	if t != frameData || !t.fits(size) {
		return false
	}
	in.left, in.got = size, 0
	return true
}

// send seals the frame that buf has after frameRoom, whose header it writes, and lets
// it leave in one piece; buf has other bytes in it then. A timeout is returned when it
// did not leave in time; it will with the next one. The caller holds writing.
func (l *Link) send(t frameType, buf []byte) error {
	frame := buf[frameRoom:]
	putHeader(frame, t, len(frame)-headerSize)
	l.wire.corkInto(buf)
	_, err := l.sealed.Write(frame)
	if late := l.wire.uncork(); err == nil {
		err = late
	}
	if err != nil {
		return l.broken(err)
	}
	return nil
}

// sendSoon sends what a connection begins or ends with: it has endLimit to leave, or
// the link is broken.
func (l *Link) sendSoon(t frameType, payload string) error {
	_ = l.wire.SetWriteDeadline(time.Now().Add(endLimit))
	buf := make([]byte, frameStart, frameStart+maxDestination)
	err := l.send(t, append(buf, payload...))
	if err != nil {
		return l.fail(err)
	}
	_ = l.wire.SetWriteDeadline(time.Time{})
	return nil
}

// settle makes the link idle: what the peer still sends on a connection that was
// closed here is thrown away, up to its end.
func (l *Link) settle() error {
	l.mu.Lock()
	c, err := l.current, l.err
	if err == nil && c != nil && !c.closed {
		err = errors.New("link: the connection before is not over")
	}
	l.mu.Unlock()
	if err != nil || c == nil {
		return err
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	l.mu.Lock()
	if l.current == c {
		_ = l.wire.SetReadDeadline(c.closedAt.Add(endLimit))
	}
	l.mu.Unlock()
	buf := smallBuffers.Get().(*[frameRoom + smallSize]byte)
	defer smallBuffers.Put(buf)
	for {
		switch err := c.next(); {
		case err == nil:
			n, err := l.sealed.Read(buf[:min(len(buf), l.in.left)])
			l.in.left -= n
			if err != nil {
				return l.fail(err)
			}
		case c.isOver():
			return nil
		default:
			return l.fail(err)
		}
	}
}

// A link on which nobody reads is watched, so that its end is seen: while it is
// idle in a Pool, and while a connection's other end has said all it will.
// startWatch is called with mu held, watch after it, by one goroutine; nobody else
// reads until wake has returned or watch has.
func (l *Link) startWatch() { l.watching = make(chan struct{}) }

// watch waits until the peer says something or wake is called, and returns the
// error that broke the link. A device has nothing to say then but goodbye. It
// needs neither a buffer nor, while it waits, a deep stack.
func (l *Link) watch() error {
	err := l.wire.await()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = nil
	case err == nil && l.visitor:
		err = errors.New("the device has ended it")
	}
	if err != nil {
		err = l.fail(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.watching)
	l.watching = nil
	return err
}

// wake ends watch and waits for its end.
func (l *Link) wake() {
	l.mu.Lock()
	done := l.watching
	if done != nil {
		_ = l.wire.SetReadDeadline(longAgo)
	}
	l.mu.Unlock()
	if done != nil {
		<-done
		_ = l.wire.SetReadDeadline(time.Time{})
	}
}
