//go:build !linux

package relay

import (
	"net"
	"sync/atomic"
)

// splice is a plain copy where there is no splice(2).
func splice(dst, src *net.TCPConn, moved *atomic.Int64) error { return moveByHand(dst, src, moved) }
