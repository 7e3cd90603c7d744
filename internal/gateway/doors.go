package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"

	"github.com/mholt/acmez/v3"
)

// The doors, as the metrics name them.
const (
	doorNone    = "none"
	doorControl = "control"
	doorLink    = "link"
	doorHTTPS   = "https"
	// doorWebSocket carries the three others.
	doorWebSocket = "websocket"
)

// recordHandshake is the first byte of a TLS record that carries a handshake
// (RFC 8446 section 5.1).
const recordHandshake = 0x16

// acceptAll gives every connection a goroutine of its own, so that one that
// stalls delays no other. It returns when the listener is closed.
func (g *Gateway) acceptAll(ctx context.Context) error {
	for {
		g.beat()
		conn, err := g.listener.AcceptTCP()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			g.log.Error("connections can't be accepted", "error", err)
			if !wait(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		case errors.Is(err, syscall.ECONNABORTED):
			continue
		case err != nil:
			return err
		}
		release, ok := g.place(g.preAuth, addrOf(conn.RemoteAddr()))
		if !ok {
			g.stats.refused(doorNone, socketxp.CodeRateLimited)
			_ = conn.SetLinger(0)
			_ = conn.Close()
			continue
		}
		g.memory.entered.Add(1)
		g.spawn("connection", func() { g.enter(ctx, &inbound{rawConn: conn, remote: conn.RemoteAddr()}, release) })
	}
}

// rawConn is a connection as it comes to the doors: from the port, or out of a
// WebSocket.
type rawConn interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
	SetKeepAlive(on bool) error
}

// inbound is a connection that has come to the doors.
type inbound struct {
	rawConn
	// remote is the client's address: what a proxy of ours says of it, or the peer's.
	remote net.Addr
	// tunnel says that it has come through a WebSocket.
	tunnel bool
}

// RemoteAddr implements net.Conn.
func (c *inbound) RemoteAddr() net.Addr { return c.remote }

// NetConn returns the connection as it came, as tls.Conn does.
func (c *inbound) NetConn() net.Conn { return c.rawConn }

// socket returns the TCP connection below all others, or nil.
func (c *inbound) socket() *net.TCPConn {
	for conn := net.Conn(c); ; {
		switch outer := conn.(type) {
		case *net.TCPConn:
			return outer
		case interface{ NetConn() net.Conn }:
			conn = outer.NetConn()
		default:
			return nil
		}
	}
}

// enter looks at what a connection begins with and sends it through its door.
// Release gives its place free; every door calls it as soon as the peer has
// proved something.
func (g *Gateway) enter(ctx context.Context, conn *inbound, release func()) {
	start := time.Now()
	_ = conn.SetDeadline(start.Add(g.limits.showWithin))
	// A connection that is still in a door when the gateway ends is cut.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()

	var first [1]byte
	served := false
	defer func() {
		if !served {
			release()
			_ = conn.Close()
		}
	}()
	door, err := doorNone, error(nil)
	if _, err = io.ReadFull(conn, first[:]); err == nil {
		release, err = g.heedProxy(conn, &first, release)
	}
	if err == nil {
		switch first[0] {
		case recordHandshake:
			door, err = g.enterTLS(ctx, conn, first[:], start, release)
		case link.Magic[0]:
			door, err = doorLink, g.enterLink(conn, first[0], start, release)
		default:
			err = errNotOurs
			if isHTTPMethod(first[0]) {
				answerPlainHTTP(conn, g.url)
			}
		}
	}
	if served = err == nil; served {
		return
	}
	if err == io.EOF { //nolint:errorlint // bare, it means that nothing was said
		return // load balancers look so whether somebody listens
	}
	g.stats.refused(door, doorCode(err))
	g.log.Debug("a connection was refused", "door", door, "remote", conn.RemoteAddr().String(), "error", err)
}

// heedProxy reads the PROXY protocol's header, if one of our proxies has sent one,
// and the byte that follows it. From then on the connection is the client's, and
// so is the place that it has; the release it returns gives that back. What
// anybody else sends is no header but garbage.
func (g *Gateway) heedProxy(conn *inbound, first *[1]byte, release func()) (func(), error) {
	if first[0] != proxyV1Start && first[0] != proxyV2Start || conn.tunnel || !g.proxies.trust(addrOf(conn.remote)) {
		return release, nil
	}
	client, ok, err := readProxyHeader(first[0], conn)
	if err != nil {
		return release, err
	}
	if ok {
		own, free := g.preAuth.take(client.Addr())
		if !free {
			return release, socketxp.Errorf(socketxp.CodeRateLimited, "too many connections")
		}
		release()
		release = own
		conn.remote = net.TCPAddrFromAddrPort(client)
	}
	_, err = io.ReadFull(conn, first[:])
	return release, err
}

var errNotOurs = errors.New("it is neither TLS nor a link")

// doorCode names why a connection did not come through a door, for the metrics.
func doorCode(err error) socketxp.Code {
	var e *socketxp.Error
	var timeout net.Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.As(err, &timeout) && timeout.Timeout():
		return codeTooSlow
	}
	return socketxp.CodeProtocol
}

// codeTooSlow is only in the metrics: whoever is too slow is told nothing.
const codeTooSlow socketxp.Code = "too_slow"

// enterTLS peeks at the ClientHello and does the handshake for the control or the
// HTTPS door.
func (g *Gateway) enterTLS(ctx context.Context, conn *inbound, first []byte, start time.Time, release func()) (door string, err error) {
	protocols, peeked, err := g.peek(conn, first)
	if err != nil {
		return doorNone, err
	}
	raw := &peekedConn{inbound: conn, head: peeked, left: maxHandshake}
	if slices.Contains(protocols, acmez.ACMETLS1Protocol) && g.cfg.ACMEAgree {
		defer release()
		return doorACME, g.enterACME(raw)
	}
	if slices.Contains(protocols, control.ALPN) {
		raw.head = inHalves(peeked)
		tlsConn := tls.Server(raw, g.controlTLS)
		if err := g.handshake(tlsConn, raw); err != nil {
			return doorControl, err
		}
		g.stats.entered(doorControl, start)
		_ = conn.SetDeadline(time.Time{})
		// The channel's own heartbeats tell more than keepalives would, and an idle
		// device pays for each by its mobile plan.
		_ = conn.SetKeepAlive(false)
		if tcp := conn.socket(); tcp != nil {
			_ = limitUnacknowledged(tcp)
		}
		g.serveControl(ctx, tlsConn, g.beds.newSleeper(raw), release)
		return doorControl, nil
	}

	place, ok := g.place(g.httpsConns, addrOf(conn.RemoteAddr()))
	if !ok {
		return doorHTTPS, socketxp.Errorf(socketxp.CodeRateLimited, "too many connections")
	}
	raw.closed = place
	handed := false
	defer func() {
		if !handed {
			_ = raw.Close()
		}
	}()
	tlsConn := tls.Server(raw, g.httpsTLS)
	if err := g.handshake(tlsConn, raw); err != nil {
		return doorHTTPS, err
	}
	g.stats.entered(doorHTTPS, start)
	_ = conn.SetDeadline(time.Time{})
	release()
	handed = g.handedOn.give(tlsConn)
	return doorHTTPS, nil
}

// peek is peekClientHello, as a part of the handshake's work.
func (g *Gateway) peek(conn net.Conn, first []byte) (protocols []string, read []byte, err error) {
	enterGate(g.handshaking)
	defer func() { <-g.handshaking }()
	return peekClientHello(io.MultiReader(bytes.NewReader(first), gated{conn, g.handshaking}))
}

// handshake does a handshake. Only so many work at a time as leave half of the
// processors to what is open already.
func (g *Gateway) handshake(conn *tls.Conn, raw *peekedConn) error {
	raw.gate = g.handshaking
	enterGate(raw.gate)
	defer func() { <-raw.gate }()
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return err
	}
	raw.left = -1
	return nil
}

// enterGate waits for a place among those that work, and then lets whoever else can
// run have a turn: the scheduler goes from a goroutine straight to the one that it has
// woken, and a row of handshakes would keep a processor until the last is done.
func enterGate(gate chan struct{}) {
	gate <- struct{}{}
	runtime.Gosched()
}

// gated reads for a handshake that works: others may while it waits for its client.
type gated struct {
	io.Reader
	gate chan struct{}
}

func (g gated) Read(b []byte) (int, error) {
	<-g.gate
	n, err := g.Reader.Read(b)
	enterGate(g.gate)
	return n, err
}

// enterLink reads the preface, and not a byte more: from then on the relay moves
// the bytes from socket to socket in the kernel. It returns when the link is over.
func (g *Gateway) enterLink(conn *inbound, first byte, start time.Time, release func()) error {
	var preface [link.PrefaceSize]byte
	preface[0] = first
	if _, err := io.ReadFull(conn, preface[1:]); err != nil {
		return err
	}
	if link.IsProbe(preface[:]) {
		// An agent finds out whether its network lets it come here. What follows, if
		// anything does, is the link.
		if _, err := conn.Write(preface[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, preface[:]); err != nil {
			return err
		}
	}
	ticket, err := link.ParsePreface(preface[:])
	if err != nil {
		return err
	}
	g.stats.entered(doorLink, start)
	_ = conn.SetDeadline(time.Time{})
	release()
	// In a goroutine of its own: the relay owns the connection from here on, and
	// ends it at shutdown in its own time.
	g.spawn("link", func() {
		if err := g.relay.Join(conn.rawConn, ticket); err != nil {
			g.stats.refused(doorLink, socketxp.CodeOf(err))
		}
	})
	return nil
}

// maxHello is the most that is read of a connection to see its ClientHello, the
// largest handshake message that crypto/tls takes. With post-quantum key shares a
// real one has about 2 KiB.
const maxHello = 64 << 10

// maxHandshake is the most that a client may send from its ClientHello to the end of
// its handshake. An agent sends 1 KiB: its certificate is only the wrapping of a key.
// crypto/tls itself would take in 256 KiB of certificates, and keep them for as long
// as the connection lives.
const maxHandshake = 16 << 10

var errLongHandshake = errors.New("the handshake is too long")

// peekClientHello reads a TLS ClientHello, which may come in many records, and
// returns the protocols it offers and all that was read of r. It leaves the
// parsing to crypto/tls, which gets to see these bytes and no more.
func peekClientHello(r io.Reader) (protocols []string, read []byte, err error) {
	var head bytes.Buffer
	seen := false
	err = tls.Server(peeker{io.TeeReader(io.LimitReader(r, maxHello), &head)}, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			seen = true
			protocols = slices.Clone(h.SupportedProtos)
			return nil, errPeeked
		},
	}).HandshakeContext(context.Background())
	if !seen {
		return nil, nil, fmt.Errorf("peek at the ClientHello: %w", err)
	}
	return protocols, head.Bytes(), nil
}

// inHalves returns a ClientHello that came in one record as two. It is the longest
// message of a handshake, and crypto/tls keeps a buffer for the longest record for as
// long as the connection lives. What is not one whole record is returned as it is.
func inHalves(hello []byte) []byte {
	const header = 5
	if len(hello) <= header || len(hello)-header != int(binary.BigEndian.Uint16(hello[3:])) {
		return hello
	}
	body := hello[header:]
	out := make([]byte, 0, len(hello)+header)
	for _, half := range [][]byte{body[:len(body)/2], body[len(body)/2:]} {
		if len(half) == 0 {
			return hello
		}
		out = append(out, hello[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(half))) //nolint:gosec // less than it was
		out = append(out, half...)
	}
	return out
}

var errPeeked = errors.New("peeked")

// peeker is a connection that can only be read.
type peeker struct{ io.Reader }

func (peeker) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (peeker) Close() error                     { return nil }
func (peeker) LocalAddr() net.Addr              { return nil }
func (peeker) RemoteAddr() net.Addr             { return nil }
func (peeker) SetDeadline(time.Time) error      { return nil }
func (peeker) SetReadDeadline(time.Time) error  { return nil }
func (peeker) SetWriteDeadline(time.Time) error { return nil }

// peekedConn is a connection whose first bytes were read already.
type peekedConn struct {
	*inbound
	closed func() // called by Close; nil for nothing

	// Guarded by tls.Conn's reading one at a time.
	head []byte
	left int // that may still be read before the handshake is done; negative for no limit
	// gate has a place for this handshake, until it is done; nil for none.
	gate chan struct{}
	// impatient is the socket, where reading must not wait for the peer; else nil.
	impatient syscall.RawConn
}

func (c *peekedConn) Read(b []byte) (int, error) {
	switch {
	case len(c.head) > 0:
	case c.left == 0:
		return 0, errLongHandshake
	case c.impatient != nil:
		return readNow(c.impatient, b)
	case c.left < 0:
		return c.inbound.Read(b)
	default:
		n, err := gated{c.inbound, c.gate}.Read(b[:min(len(b), c.left)])
		c.left -= n
		return n, err
	}
	n := copy(b, c.head)
	if c.head = c.head[n:]; len(c.head) == 0 {
		c.head = nil // gives the memory back
	}
	return n, nil
}

func (c *peekedConn) Close() error {
	if c.closed != nil {
		c.closed()
	}
	return c.inbound.Close()
}

// doorConfigs returns the TLS configurations of the control and the HTTPS door.
func doorConfigs(cert *certificate) (controlTLS, httpsTLS *tls.Config) {
	controlTLS = &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: cert.get,
		NextProtos:     []string{control.ALPN},
		// The certificate is only the wrapping of a key: no authority has signed it.
		ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := socketxp.PeerKey(state)
			return err
		},
		// Whoever comes again proves the key again: a resumed session would outlive a
		// revocation. The server side of crypto/tls has no early data.
		SessionTicketsDisabled: true,
	}
	httpsTLS = &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: cert.get,
		NextProtos:     []string{"h2", "http/1.1"},
	}
	return controlTLS, httpsTLS
}

// handedOn is the listener that net/http serves: the doors give it connections
// whose handshake is done.
type handedOn struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newHandedOn() *handedOn {
	h := &handedOn{conns: make(chan net.Conn), closed: make(chan struct{})}
	h.close = sync.OnceFunc(func() { close(h.closed) })
	return h
}

func (h *handedOn) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
	}
}

// Accept is for net/http.
func (h *handedOn) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close is for net/http.
func (h *handedOn) Close() error { h.close(); return nil }

// Addr is for net/http, which shows it to nobody.
func (h *handedOn) Addr() net.Addr { return &net.TCPAddr{} }

// newHTTPServer returns the server behind the HTTPS door. A request that comes or
// an answer that leaves too slowly is cut off; a handler that needs longer (an
// event stream, an export) moves its own deadlines by http.ResponseController.
func (g *Gateway) newHTTPServer(handler http.Handler) *http.Server {
	l := g.rest.limits
	return &http.Server{
		Handler:           handler,
		TLSConfig:         g.httpsTLS, // tells net/http that connections may speak HTTP/2
		ReadHeaderTimeout: l.headers,
		ReadTimeout:       l.body,
		WriteTimeout:      l.answer,
		IdleTimeout:       l.idle,
		MaxHeaderBytes:    16 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 100, WriteByteTimeout: l.stuck},
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// isHTTPMethod reports whether a connection that starts with c could be a request
// in clear: GET, HEAD, POST, PUT, PATCH, OPTIONS, DELETE or CONNECT.
func isHTTPMethod(c byte) bool { return bytes.IndexByte([]byte("GHPODC"), c) >= 0 }

// answerPlainHTTP tells a browser that was given http:// where to go.
func answerPlainHTTP(conn rawConn, to string) {
	text := "This port speaks TLS. Use " + to + "\n"
	_, err := fmt.Fprintf(conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	if err != nil || conn.CloseWrite() != nil {
		return
	}
	// What was not read would make the kernel reset the connection, and the answer
	// with it.
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, conn, 16<<10)
}

// wait returns true after d, or false if ctx was done before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
