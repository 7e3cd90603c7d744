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

// KeepAlive sets a raw connection of a link up so that its peer's death is seen.
func KeepAlive(conn *net.TCPConn) {
	// A connection that is being closed refuses; nothing is lost.
	_ = conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: keepAliveEvery, Interval: keepAliveEvery, Count: keepAliveCount,
	})
}
