package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"socketxp"
)

// LocalPort is where a slave-mode agent listens: on this machine only, unless Bind
// was told otherwise.
type LocalPort struct {
	scheme string
	addrs  []netip.Addr
	port   int // 0: any that is free
}

// ParseLocalPort reads tcp://localhost:PORT; 127.0.0.1 and [::1] in place of
// localhost listen on that address alone.
func ParseLocalPort(s string) (LocalPort, error) {
	bad := socketxp.Errorf(socketxp.CodeInvalid, "the local address %q is not valid: slave mode listens on this machine only", Printable(clip(s))).
		WithHint("it looks like tcp://localhost:3000; port 0 is any free one")
	scheme, rest, ok := strings.Cut(s, "://")
	host, port, err := net.SplitHostPort(strings.TrimSuffix(rest, "/"))
	if !ok || err != nil {
		return LocalPort{}, bad
	}
	l := LocalPort{scheme: strings.ToLower(scheme)}
	if l.scheme != "tcp" && l.scheme != "http" && l.scheme != "https" {
		return LocalPort{}, bad
	}
	switch strings.ToLower(host) {
	case "localhost":
		l.addrs = loopbacks()
	case "127.0.0.1":
		l.addrs = loopbacks()[:1]
	case "::1":
		l.addrs = loopbacks()[1:]
	default:
		return LocalPort{}, bad
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return LocalPort{}, bad
	}
	l.port = int(n)
	return l, nil
}

func clip(s string) string { return s[:min(len(s), 80)] }

// url returns how people are told of the port that was bound.
func (l LocalPort) url(port int) string {
	host := "localhost"
	if len(l.addrs) == 1 {
		host = l.addrs[0].String()
	}
	return l.scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// listen binds the port on each address; a family that this machine doesn't have
// is left out.
func (l LocalPort) listen(ctx context.Context) (listeners []net.Listener, port int, err error) {
	for range 8 { // a port that is free on one address may be taken on the other
		listeners, port, err = l.bind(ctx)
		if err == nil || l.port != 0 {
			break
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		err = hinted("choose another, or 0 for any free one", "the local port %d is in use", l.port)
	}
	return listeners, port, err
}

func (l LocalPort) bind(ctx context.Context) (listeners []net.Listener, port int, err error) {
	port = l.port
	var missing error
	for _, a := range l.addrs {
		var one net.Listener
		one, err = new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(a, uint16(port)).String()) //nolint:gosec // G115: it is 0 to 65535
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			missing = err
			continue
		}
		if err != nil {
			closeListeners(listeners)
			return nil, 0, err
		}
		listeners = append(listeners, one)
		if tcp, ok := one.Addr().(*net.TCPAddr); ok {
			port = tcp.Port
		}
	}
	if len(listeners) == 0 {
		return nil, 0, missing
	}
	return listeners, port, nil
}

func closeListeners(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}
