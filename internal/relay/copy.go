package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// bufferSize is the most of one direction that is in this process at a time.
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// move copies from src to dst until src's end, and adds to moved what dst has
// taken.
func (r *Relay) move(dst, src net.Conn, moved *atomic.Int64) error {
	to, ok1 := dst.(*net.TCPConn)
	from, ok2 := src.(*net.TCPConn)
	if ok1 && ok2 {
		r.spliced.Add(1)
		return splice(to, from, moved)
	}
	r.copied.Add(1)
	return moveByHand(dst, src, moved)
}

// moveByHand is move for connections that are more than a socket.
func moveByHand(dst, src net.Conn, moved *atomic.Int64) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			n, werr := dst.Write(buf[:n])
			moved.Add(int64(n))
			if werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// closeWrite passes the end of one direction on. A connection that can't close
// one direction alone keeps it open until the other has ended too.
func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
