//go:build !linux

package agent

import "net"

// checkLocalPeer leaves it to the mode of the folder.
func checkLocalPeer(net.Conn) error { return nil }
