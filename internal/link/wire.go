package link

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// recordOverhead is what TLS 1.3 adds to a record: 5 bytes of header, 1 of type,
	// 16 of tag; maxRecord is the largest record's content.
	recordOverhead = 22
	maxRecord      = 16 << 10
	// frameRoom is what a buffer has free before a frame, so that the frame can be
	// sealed where it is: more than all overhead of its records.
	frameRoom = 512
	// readRoom is what a buffer has free before what is read ahead: what is opened goes
	// there, and TLS may have held two records back.
	readRoom = 2 * maxRecord
	// bulkSize is the most that one direction of a connection holds: 128 KiB cost 8 %
	// more CPU, 64 KiB 15 %.
	bulkSize = 256 << 10
	// bulkFrame is the largest frame that is sent: whole records, that it may fill them.
	bulkFrame = bulkSize - maxRecord
)

// bulkBuffers are those through which data pours: one for each direction that moves.
var bulkBuffers = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// wire is what TLS reads from and writes to: the raw connection with large reads
// and writes. crypto/tls writes every record of 16 KiB by itself and reads at
// least as often, which costs a third of the throughput. A wire that moves
// nothing holds no buffer.
//
// What is sealed takes the place of what it was made from, and what is opened that of
// what it came from: two buffers would not stay in a core's cache.
//
// It also keeps write deadlines from TLS, which could not go on after a write
// that timed out: what did not leave in time stays here and leaves first with the
// next write.
type wire struct {
	net.Conn // the raw connection

	// Only the reader of the moment uses these.
	unread  []byte          // read from the socket, not yet by TLS
	ahead   *[bulkSize]byte // what unread is a part of, if it was read ahead
	first   [1]byte         // what it is a part of otherwise
	pouring bool            // the last read filled all it was given
	still   bool            // Read gives what was read ahead, and a timeout in place of waiting

	mu      sync.Mutex // guards the following; held while the socket is written to
	out     []byte     // what has not left; nil if nothing
	inPlace bool       // out is the beginning of the buffer whose end is being sealed
	sealed  int        // how much of that was sealed
	corked  bool       // gather until uncork
	err     error      // the error that broke the connection
	late    error      // the last write's timeout
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
		ahead := bulkBuffers.Get().(*[bulkSize]byte)
		n, err := w.Conn.Read(ahead[readRoom:])
		w.pouring = n == bulkSize-readRoom
		if n == 0 {
			bulkBuffers.Put(ahead)
			return 0, err
		}
		w.ahead, w.unread = ahead, ahead[readRoom:readRoom+n] // an error comes again with the next read
	}
	n := copy(p, w.unread)
	w.unread = w.unread[n:]
	if !w.still {
		w.release()
	}
	return n, nil
}

// release gives the buffer back that was read ahead into, if nothing is unread.
func (w *wire) release() {
	if len(w.unread) == 0 && w.ahead != nil {
		bulkBuffers.Put(w.ahead)
		w.ahead, w.unread = nil, nil
	}
}

// opened returns the part of the buffer that was read ahead into which is free: all
// that comes before what is unread.
func (w *wire) opened() []byte { return w.ahead[:bulkSize-cap(w.unread)] }

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
	if w.inPlace {
		w.sealed += len(p) - recordOverhead
		if len(w.out)+len(p) > frameRoom+w.sealed { // it would overwrite what TLS has not read
			w.out, w.inPlace = bytes.Clone(w.out), false
		}
	}
	w.out = append(w.out, p...)
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

// corkInto is cork for what TLS makes of all of buf but its first frameRoom bytes, in
// the order of it: it may gather in buf, which is the caller's again after uncork.
func (w *wire) corkInto(buf []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = true
	if w.out == nil {
		w.out, w.inPlace, w.sealed = buf[:0], true, 0
	}
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
	out := w.out
	w.late, w.out, w.inPlace = nil, nil, false
	if len(out) == 0 || w.err != nil {
		return
	}
	switch n, err := w.Conn.Write(out); {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.late, w.out = err, bytes.Clone(out[n:])
	default:
		w.err = err
	}
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
