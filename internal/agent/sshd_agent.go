//go:build unix

package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// agentRequest asks for the agent's socket in a session, agentChannel is the
	// channel that leads to the client's agent.
	agentRequest = "auth-agent-req@openssh.com"
	agentChannel = "auth-agent@openssh.com"
	// agentFolders is where the sockets' folders are made: everybody can enter it on
	// every system, and the names stay within the 104 bytes that a socket's may have.
	agentFolders = "/tmp"
	agentSocket  = "agent"
)

// agentForward is the socket by which programs of one session reach the client's
// ssh agent.
type agentForward struct {
	conn     *sshConn
	dir      string
	folder   int // dir, opened: whatever its name leads to by now; -1 if there is none
	listener *net.UnixListener
	serving  sync.WaitGroup
}

// openAgent makes a socket in a folder of its own that only the user may enter.
func (c *sshConn) openAgent(ctx context.Context) (a *agentForward, err error) {
	dir, err := os.MkdirTemp(agentFolders, "ssh-") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("forward the ssh agent: %w", err)
	}
	a = &agentForward{conn: c, dir: dir, folder: -1}
	defer func() {
		if err != nil {
			a.close()
			err = fmt.Errorf("forward the ssh agent: %w", err)
		}
	}()
	if a.folder, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return a, err
	}
	a.listener, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: a.path()})
	if err != nil {
		return a, err
	}
	a.listener.SetUnlinkOnClose(false) // by name; close does it in the folder
	if err := unix.Fchmodat(a.folder, agentSocket, 0o600, 0); err != nil {
		return a, err
	}
	if credential := c.user.credential; credential != nil {
		// The folder comes last: until then nobody but root can reach the socket.
		if err := unix.Fchownat(a.folder, agentSocket, int(credential.Uid), int(credential.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return a, err
		}
		if err := os.Lchown(dir, int(credential.Uid), int(credential.Gid)); err != nil {
			return a, err
		}
	}
	a.serving.Go(func() { a.serve(ctx) })
	return a, nil
}

func (a *agentForward) path() string { return filepath.Join(a.dir, agentSocket) }

// close ends the socket; connections end by themselves or with the SSH connection.
// A nil agent has nothing to close.
func (a *agentForward) close() {
	if a == nil {
		return
	}
	if a.listener != nil {
		_ = a.listener.Close()
	}
	a.serving.Wait()
	// The user owns the folder and may have put something else under its name, or
	// into it. What is removed is our socket, and an empty folder.
	if a.folder >= 0 {
		_ = unix.Unlinkat(a.folder, agentSocket, 0)
		_ = unix.Close(a.folder)
	}
	_ = os.Remove(a.dir)
}

// serve joins each connection to the socket with a channel to the client's agent.
func (a *agentForward) serve(ctx context.Context) {
	for {
		local, err := a.listener.Accept()
		if err != nil {
			return
		}
		c := a.conn
		select {
		case c.agentConns <- struct{}{}:
		default:
			_ = local.Close()
			continue
		}
		// It may last as long as the connection: a client need not answer an open.
		c.spawn("agent connection", func() {
			defer func() { <-c.agentConns }()
			defer func() { _ = local.Close() }()
			channel, requests, err := c.conn.OpenChannel(agentChannel, nil)
			if err != nil {
				return
			}
			in := c.input(channel)
			defer in.forget()
			carry(ctx, c.log, in, requests, local)
		})
	}
}
