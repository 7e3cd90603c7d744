package link

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Pipe copies between a local connection and c in both directions until both are
// done, passing half-closes and resets through; then both are closed and the
// link is idle again, soon idle (see Open and Accept), or broken. It returns the
// bytes moved each way, and why the connection ended if it was not by both ends'
// will.
func Pipe(local net.Conn, c *Conn) (toLink, fromLink int64, err error) {
	// A local connection without half-close is closed when the link's side ends. That
	// reading it then fails is the end of its side too.
	if _, ok := local.(halfCloser); !ok {
		local = &whole{Conn: local}
	}
	up, fault := make(chan error, 1), any(nil)
	whole := false
	defer func() { // also after a panic
		if !whole {
			_ = c.Reset("")
		}
		_ = c.Close()
		_ = local.Close()
	}()
	go func() {
		err := errFault
		defer func() {
			if fault = recover(); fault != nil {
				abort(local) // wakes the other direction
				_ = c.Reset("")
			}
			up <- err
		}()
		toLink, err = copyToLink(local, c)
	}()
	fromLink, err = copyFromLink(local, c)
	upErr := <-up
	if fault != nil {
		panic(fault) // the caller can outlive it; in that goroutine nobody could
	}
	if err == nil || errors.Is(err, net.ErrClosed) && upErr != nil {
		err = upErr
	}
	whole = err == nil
	return toLink, fromLink, err
}

var errFault = errors.New("it panicked")

type halfCloser interface{ CloseWrite() error }

// whole gives a connection a half-close that closes all of it.
type whole struct {
	net.Conn
	ended atomic.Bool
}

func (w *whole) CloseWrite() error {
	w.ended.Store(true)
	return w.Close()
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && w.ended.Load() {
		err = io.EOF
	}
	return n, err
}

// copyToLink sends what the local end says, and its end. It reads into a small
// buffer while little comes: most open connections are silent most of the time,
// and each holds a buffer while it waits.
func copyToLink(local net.Conn, c *Conn) (moved int64, err error) {
	small, bulk := smallBuffers.Get().(*[frameRoom + smallSize]byte), (*[bulkSize]byte)(nil)
	defer func() {
		if small != nil {
			smallBuffers.Put(small)
		}
		if bulk != nil {
			bulkBuffers.Put(bulk)
		}
	}()
	buf := small[:]
	for {
		n, err := local.Read(buf[frameStart:])
		if n > 0 {
			if err := c.writeFrame(buf[:frameStart+n]); err != nil {
				abort(local)
				return moved, err
			}
			moved += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return moved, ended(c.CloseWrite())
		case err != nil:
			_ = c.Reset("")
			abort(local)
			return moved, err
		case bulk == nil && n == len(buf)-frameStart:
			smallBuffers.Put(small)
			small, bulk = nil, bulkBuffers.Get().(*[bulkSize]byte)
			buf = bulk[:frameRoom+bulkFrame]
		case bulk != nil && n < smallSize-headerSize:
			bulkBuffers.Put(bulk)
			small, bulk = smallBuffers.Get().(*[frameRoom + smallSize]byte), nil
			buf = small[:]
		}
	}
}

// ended takes the error of a CloseWrite that came too late for no error: the
// other direction has reported why.
func ended(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// copyFromLink gives the local end what comes, and its end.
func copyFromLink(local net.Conn, c *Conn) (moved int64, err error) {
	for {
		n, err := c.copyOnce(local)
		moved += int64(n)
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			_ = local.(halfCloser).CloseWrite() // if local is gone, reading it says so
			// The other direction may be silent for long, and nobody else would see
			// that the link is cut.
			if err = c.watchRest(); err != nil {
				abort(local)
			}
			return moved, err
		}
		// If it was local that failed: the other direction says so to the link, when
		// it has sent what it is sending.
		_ = c.SetWriteDeadline(time.Now().Add(endLimit))
		abort(local)
		return moved, err
	}
}

// watchRest waits until our direction has ended too. The peer has nothing to say
// before that.
func (c *Conn) watchRest() error {
	l := c.link
	l.mu.Lock()
	if c.sentEnd || l.err != nil {
		defer l.mu.Unlock()
		return c.lost()
	}
	l.startWatch()
	l.mu.Unlock()
	if err := l.watch(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return c.lost()
	}
	l.mu.Lock()
	early := c.writeEnd == nil
	l.mu.Unlock()
	if early {
		return l.fail(violation("a frame after the end of the peer's direction"))
	}
	return nil
}

// lost returns why the link ended before the connection did. One whose two ends
// have both been said is over, whatever became of its link since: an idle link may
// be closed by its pool at any moment. The caller holds the link's mu.
func (c *Conn) lost() error {
	if c.sentEnd {
		return nil
	}
	return c.link.err
}

// copyOnce waits for data without holding a buffer, then moves what is there.
func (c *Conn) copyOnce(local io.Writer) (int, error) {
	l := c.link
	l.reading.Lock()
	defer l.reading.Unlock()
	if err := c.readErr(); err != nil {
		return 0, err
	}
	if err := c.next(); err != nil {
		return 0, err
	}
	if l.wire.ahead != nil {
		if n, err := c.copyAhead(local, nil); n > 0 || err != nil {
			return n, err
		}
	}
	small := smallBuffers.Get().(*[frameRoom + smallSize]byte)
	defer smallBuffers.Put(small)
	n, err := c.readSome(small[:smallSize])
	if n == 0 {
		return 0, err
	}
	if l.wire.ahead != nil {
		return c.copyAhead(local, small[:n])
	}
	return local.Write(small[:n])
}

// copyAhead moves begun, at most smallSize bytes, and all that can be opened of what
// was read ahead, without waiting for more. It opens it into the same buffer, and goes
// on from frame to frame: a frame's end is nowhere near that of what was read. It
// moves nothing if there is no whole record.
func (c *Conn) copyAhead(local io.Writer, begun []byte) (int, error) {
	w := c.link.wire
	w.still = true
	n := copy(w.opened(), begun)
	for free := w.opened()[n:]; len(free) > 0 && c.link.moreData(); free = w.opened()[n:] {
		more, err := c.readSome(free)
		if err != nil {
			break // it comes again with the next read, unless it only says that nothing is at hand
		}
		n += more
	}
	w.still = false
	defer w.release()
	if n == 0 {
		return 0, nil
	}
	return local.Write(w.ahead[:n])
}

// abort closes a local connection so that its peer sees a reset.
func abort(local net.Conn) {
	if c, ok := local.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0)
	}
	_ = local.Close()
}
