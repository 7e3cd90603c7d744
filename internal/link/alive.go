package link

import (
	"net"
	"time"
)

// A peer that has gone without a word (its cable is pulled) must be found within
// 30 to 40 s. Keepalives find it on a silent connection: the first probe after
// 10 s, two more, and 10 s for the last answer. They don't while data is under
// way, which TCP would send again for a quarter of an hour: Dead finds that.
// TCP_USER_TIMEOUT would too, but it also ends connections to a living peer that
// has stopped reading for so long, such as a terminal paused by Ctrl-S.
const (
	keepAliveEvery = 10 * time.Second
	keepAliveCount = 3
	silenceLimit   = 30 * time.Second
)

// CheckEvery is how often the owner of a connection should ask Dead.
const CheckEvery = 10 * time.Second

// lively is a raw connection with signs of life of its own: a WebSocket, whose
// socket leads to the nearest proxy only.
type lively interface {
	KeepAlive()
	Dead() error
}

// KeepAlive sets a raw connection of a link up so that its peer's death is seen.
func KeepAlive(conn net.Conn) {
	if l, ok := conn.(lively); ok {
		l.KeepAlive()
	}
	if tcp := socket(conn); tcp != nil {
		// A connection that is being closed refuses; nothing is lost.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: keepAliveEvery, Interval: keepAliveEvery, Count: keepAliveCount,
		})
	}
}

// Dead returns why conn's peer must be taken for dead, or nil: the connection was
// reset, or what was sent has been repeated without any answer for 30 s, or a
// WebSocket's other end has given no sign of life for 35 s. A peer that answers but
// doesn't read is alive.
func Dead(conn net.Conn) error {
	if l, ok := conn.(lively); ok {
		if err := l.Dead(); err != nil {
			return err
		}
	}
	if tcp := socket(conn); tcp != nil {
		return deadSocket(tcp)
	}
	return nil
}

// socket returns the TCP connection below conn, or nil.
func socket(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
