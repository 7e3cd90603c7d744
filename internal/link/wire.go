package link

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// readSize is how much is taken from the socket at once while data pours in: a
	// whole frame costs 6 % less CPU than 64 KiB.
	readSize = 256 << 10
	// gatherCap is how much is given to the socket at once: a frame of the largest
	// size, sealed.
	gatherCap = maxFrame + maxFrame/maxRecord*recordOverhead
	// recordOverhead is what TLS 1.3 adds to a record: 5 bytes of header, 1 of type,
	// 16 of tag; maxRecord is the largest record's content.
	recordOverhead = 22
	maxRecord      = 16 << 10
)

var (
	readBuffers   = sync.Pool{New: func() any { return new([readSize]byte) }}
	gatherBuffers = sync.Pool{New: func() any {
		b := make([]byte, 0, gatherCap)
		return &b
	}}
)

// wire is what TLS reads from and writes to: the raw connection with large reads
// and writes. crypto/tls writes every record of 16 KiB by itself and reads at
// least as often, which costs a third of the throughput. A wire that moves
// nothing holds no buffer.
//
// It also keeps write deadlines from TLS, which could not go on after a write
// that timed out: what did not leave in time stays here and leaves first with the
// next write.
type wire struct {
	net.Conn // the raw connection

	// Only the reader of the moment uses these.
	unread  []byte          // read from the socket, not yet by TLS
	ahead   *[readSize]byte // what unread is a part of, if it was read ahead
	first   [1]byte         // what it is a part of otherwise
	pouring bool            // the last read filled all it was given
	still   bool            // Read gives what was read ahead, and a timeout in place of waiting

	mu     sync.Mutex // guards the following; held while the socket is written to
	out    *[]byte    // what has not left; nil if nothing
	corked bool       // gather until uncork
	err    error      // the error that broke the connection
	late   error      // the last write's timeout
}

// Read implements net.Conn. Reads go straight to the socket until one fills all
// it was given; then a large buffer is read ahead.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.unread) == 0 {
		if w.still {
			return 0, os.ErrDeadlineExceeded // crypto/tls takes a timeout for no end
		}
		if !w.pouring {
			n, err := w.Conn.Read(p)
			w.pouring = n == len(p)
			return n, err
		}
		ahead := readBuffers.Get().(*[readSize]byte)
		n, err := w.Conn.Read(ahead[:])
		w.pouring = n == len(ahead)
		if n == 0 {
			readBuffers.Put(ahead)
			return 0, err
		}
		w.ahead, w.unread = ahead, ahead[:n] // an error comes again with the next read
	}
	n := copy(p, w.unread)
	w.unread = w.unread[n:]
	if len(w.unread) == 0 && w.ahead != nil {
		readBuffers.Put(w.ahead)
		w.ahead, w.unread = nil, nil
	}
	return n, nil
}

// await blocks, holding no buffer, until the peer says something, the connection
// breaks, or the read deadline passes.
func (w *wire) await() error {
	if len(w.unread) > 0 {
		return nil
	}
	n, err := w.Conn.Read(w.first[:])
	if n == 0 {
		return err
	}
	w.unread = w.first[:n]
	return nil
}

// Write implements net.Conn for TLS: it fails only when the connection is broken.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if w.out == nil {
		w.out = gatherBuffers.Get().(*[]byte)
	}
	*w.out = append(*w.out, p...)
	if !w.corked {
		w.flush()
	}
	return len(p), w.err
}

// cork lets writes gather until uncork.
func (w *wire) cork() {
	w.mu.Lock()
	w.corked = true
	w.mu.Unlock()
}

// uncork sends what has gathered. A timeout is returned and does no harm: what is
// left goes with the next write.
func (w *wire) uncork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = false
	w.flush()
	if w.err != nil {
		return w.err
	}
	return w.late
}

// flush writes out to the socket. The caller holds mu.
func (w *wire) flush() {
	w.late = nil
	if w.out == nil || w.err != nil {
		return
	}
	n, err := w.Conn.Write(*w.out)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.late = err
		*w.out = append((*w.out)[:0], (*w.out)[n:]...)
		return
	default:
		w.err = err
	}
	if cap(*w.out) == gatherCap { // one that had to grow is not kept
		*w.out = (*w.out)[:0]
		gatherBuffers.Put(w.out)
	}
	w.out = nil
}

// reset closes the raw connection so that its peer sees a reset.
func (w *wire) reset() error {
	if c, ok := w.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0)
	}
	return w.Close()
}

// longAgo as a deadline wakes up whoever waits.
var longAgo = time.Unix(1, 0)
