package gateway

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unacknowledgedLimit is how long something that was sent to an agent may be
// without an acknowledgement: a dead one is found by the first offer, however long
// its heartbeat is.
const unacknowledgedLimit = 20 * time.Second

// limitUnacknowledged has the kernel end conn after that, by TCP_USER_TIMEOUT.
func limitUnacknowledged(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	if err := raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledgedLimit.Milliseconds()))
	}); err != nil {
		return err
	}
	return setErr
}
