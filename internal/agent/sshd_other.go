//go:build !unix

package agent

import (
	"context"
	"errors"
	"net"
)

var errNoSSHServer = errors.New("the built-in SSH server runs on Linux and other Unix systems only")

// SSHServer is the built-in SSH server, which this system does not have.
type SSHServer struct{}

// NewSSHServer always fails on this system.
func NewSSHServer(SSHConfig) (*SSHServer, error) { return nil, errNoSSHServer }

// HostKey returns "".
func (*SSHServer) HostKey() string { return "" }

// Users returns nil.
func (*SSHServer) Users() []string { return nil }

// ServeConn closes c and fails.
func (*SSHServer) ServeConn(_ context.Context, c net.Conn) error {
	_ = c.Close()
	return errNoSSHServer
}
