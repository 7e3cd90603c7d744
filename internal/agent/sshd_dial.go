package agent

import (
	"context"
	"net"
	"sync"

	"socketxp"
)

// maxDeviceForwards is how many connections of all visitors of the built-in SSH
// server may lead to published tunnels at a time.
const maxDeviceForwards = 128

// sshForwards opens connections to published tunnels for visitors of the built-in SSH
// server.
type sshForwards struct {
	device *device
	places chan struct{} // one is held by each that is open
}

// dial opens a connection to a tunnel that is published. What is dialled is the
// tunnel's destination under its rules, not what was asked for; it ends when the
// tunnel does, and counts as one of its links.
func (f *sshForwards) dial(ctx context.Context, to socketxp.Destination) (net.Conn, error) {
	t := f.device.tunnels.leadingTo(to.Host, to.Port)
	if t == nil {
		return nil, errNotPublished
	}
	select {
	case f.places <- struct{}{}:
	default:
		return nil, errTooManyForwards
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	local, err := dialDestination(ctx, f.device.links.resolve, t.Destination)
	if err != nil {
		<-f.places
		return nil, err
	}
	f.device.tunnels.count(t, 1)
	c := &forwarded{Conn: local}
	stop := context.AfterFunc(t.ctx, func() { _ = local.Close() })
	c.leave = sync.OnceFunc(func() {
		stop()
		f.device.tunnels.count(t, -1)
		<-f.places
	})
	return c, nil
}

// forwarded is a connection that gives its place back when it is closed.
type forwarded struct {
	net.Conn
	leave func()
}

func (c *forwarded) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// CloseWrite ends one direction.
func (c *forwarded) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}
