//go:build unix

package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

// lastBytesLimit is how long a program of the device may take for the bytes that
// a client had sent before it left.
const lastBytesLimit = 10 * time.Second

// openForward serves a connection that the client forwards to a port (RFC 4254
// section 7.2). Dialing ends when the client has left, ctx when it is cut.
func (c *sshConn) openForward(ctx, dialing context.Context, n ssh.NewChannel) {
	refuse := func(reason ssh.RejectionReason, message string, err error) {
		c.log.DebugContext(ctx, "ssh forwarding refused", "reason", message, "err", err)
		_ = n.Reject(reason, message)
	}
	if c.server.dial == nil {
		refuse(ssh.Prohibited, "this device's configuration allows no forwarding", nil)
		return
	}
	to, err := parseForward(n.ExtraData())
	if err != nil {
		refuse(ssh.Prohibited, "that is not a destination", err)
		return
	}
	select {
	case c.forwards <- struct{}{}:
	default:
		refuse(ssh.ResourceShortage, "too many forwarded connections in this connection", nil)
		return
	}
	c.spawn("forwarding", func() {
		defer func() { <-c.forwards }()
		defer func() { _ = n.Reject(ssh.ConnectionFailed, "this device has a fault") }() // too late, but for a panic
		local, err := c.server.dial(dialing, to)
		switch {
		case errors.Is(err, errNotPublished):
			refuse(ssh.Prohibited, "this device doesn't publish "+to.String(), nil)
			return
		case errors.Is(err, errTooManyForwards):
			refuse(ssh.ResourceShortage, "this device serves no more forwarded connections at a time", nil)
			return
		case err != nil:
			refuse(ssh.ConnectionFailed, "this device can't reach "+to.String()+" now", err)
			return
		}
		defer func() { _ = local.Close() }()
		channel, requests, err := n.Accept()
		if err != nil {
			return
		}
		c.log.DebugContext(ctx, "ssh forwarding open", "destination", to.String())
		in := c.input(channel)
		defer in.forget()
		carry(ctx, c.log, in, requests, local)
	})
}

// parseForward returns where a direct-tcpip open wants to go. Where it says it
// comes from is the client's own invention.
func parseForward(payload []byte) (socketxp.Destination, error) {
	var m struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return socketxp.Destination{}, err
	}
	return socketxp.ParseDestination("tcp://" + net.JoinHostPort(m.Host, strconv.FormatUint(uint64(m.Port), 10)))
}

// carry copies between a channel and a local connection, half-closes included,
// until both directions have ended, the client has closed the channel, or ctx ends.
// It closes both.
func carry(ctx context.Context, log *slog.Logger, channel ssh.Channel, requests <-chan *ssh.Request, local net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = local.Close() })
	defer stop()
	var attending, copying sync.WaitGroup
	attending.Go(func() {
		for r := range requests {
			_ = r.Reply(false, nil)
		}
		// The client has closed the channel: it takes no more, but what it sent before
		// may not be delivered yet.
		_ = local.SetReadDeadline(time.Unix(1, 0))
		_ = local.SetWriteDeadline(time.Now().Add(lastBytesLimit))
	})
	// copyOne guards a direction; one that panics ends both.
	copyOne := func(do func()) {
		copying.Go(func() {
			if !guard(log, "ssh stream", do) {
				_ = local.Close()
				_ = channel.Close()
			}
		})
	}
	copyOne(func() {
		if _, err := io.Copy(local, channel); err == nil {
			if h, ok := local.(halfCloser); ok && h.CloseWrite() == nil {
				return
			}
		}
		// The local end takes no more. There is no way to say that but to close.
		_ = local.Close()
		_ = channel.Close()
		discard(channel)
	})
	copyOne(func() {
		if _, err := io.Copy(channel, local); err != nil {
			_ = channel.Close() // it was reset: the client must not take it for the end
			return
		}
		_ = channel.CloseWrite()
	})
	copying.Wait()
	_ = local.Close()
	_ = channel.Close()
	attending.Wait()
}

// halfCloser is a connection whose two directions end apart.
type halfCloser interface{ CloseWrite() error }
