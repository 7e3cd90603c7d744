package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"socketxp"
	"socketxp/internal/websocket"
)

// doorPath is where a WebSocket leads to the doors: for agents whose network lets
// only HTTPS through, or whose gateway is behind a load balancer that ends TLS.
const doorPath = "/door"

// openTunnel takes a WebSocket, whose bytes are then treated just like those of a
// connection that the port has accepted: inside is TLS with the gateway's own key,
// or a link. What ends the outer TLS can therefore read and change as little as
// any router on the way.
func (g *Gateway) openTunnel(w http.ResponseWriter, req *http.Request) error {
	start := time.Now()
	outer := connOf(req.Context())
	if outer == nil || outer.tunnel {
		return misuse(http.StatusForbidden, "this has come through a WebSocket already", "")
	}
	var no *websocket.RequestError
	if err := websocket.Check(req); errors.As(err, &no) {
		if no.Status == http.StatusUpgradeRequired {
			w.Header().Set("Upgrade", "websocket")
		}
		return misuse(no.Status, no.Message, "agents use it by themselves")
	} else if err != nil {
		return err
	}
	remote := callOf(req.Context()).remote
	release, ok := g.place(g.preAuth, remote)
	if !ok {
		return later(socketxp.CodeRateLimited, 10*time.Second, "too many connections")
	}
	if outer.closed != nil {
		outer.closed() // what comes out of it has a place of its own, until it has proved something
	}
	conn, err := websocket.Accept(w, req)
	if err != nil {
		release()
		g.log.Debug("a WebSocket was not opened", "remote", remote.String(), "error", err)
		return nil
	}
	addr := net.TCPAddrFromAddrPort(netip.AddrPortFrom(remote, 0))
	conn.SetRemoteAddr(addr)
	g.stats.entered(doorWebSocket, start)
	select {
	case g.tunnels <- func(ctx context.Context) {
		g.enter(ctx, &inbound{rawConn: conn, remote: addr, tunnel: true}, release)
	}:
	case <-g.stopping:
		release()
		_ = conn.Close()
	}
	return nil
}

// acceptTunnels serves what has come through WebSockets until ctx is done. The
// goroutines are this one's, and not the handlers', so that none is begun when the
// gateway waits for the last.
func (g *Gateway) acceptTunnels(ctx context.Context) {
	for {
		select {
		case serve := <-g.tunnels:
			g.spawn("connection", func() { serve(ctx) })
		case <-ctx.Done():
			return
		}
	}
}

type connKey struct{}

// withConn lets a request's handler know the connection that it came by.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		if raw, ok := t.NetConn().(*peekedConn); ok {
			return context.WithValue(ctx, connKey{}, raw)
		}
	}
	return ctx
}

// connOf returns the connection of a request's context, or nil.
func connOf(ctx context.Context) *peekedConn {
	c, _ := ctx.Value(connKey{}).(*peekedConn)
	return c
}
