package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// checkLocalPeer refuses everyone but this user and root. The folder's mode keeps
// others out already; this holds should it have been opened.
func checkLocalPeer(conn net.Conn) error {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a local connection")
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return err
	}
	var peer *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not give it commands", peer.Uid)
	}
	return nil
}
