package link

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tcpClose is the state of a socket whose connection is over, TCP_CLOSE in the
// kernel's include/net/tcp_states.h.
const tcpClose = 7

// deadSocket is Dead for a socket, by what the kernel knows.
func deadSocket(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return err
	}
	if infoErr != nil {
		return fmt.Errorf("TCP_INFO: %w", infoErr)
	}
	silence := time.Duration(info.Last_ack_recv) * time.Millisecond
	switch {
	case info.State == tcpClose:
		return errors.New("the connection was reset")
	case info.Unacked > 0 && info.Retransmits > 0 && silence >= silenceLimit:
		return fmt.Errorf("the peer has not answered for %v", silence)
	}
	return nil
}
