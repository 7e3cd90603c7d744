package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"socketxp"
)

// destinationLimit is how long a device tries to reach a destination.
const destinationLimit = 10 * time.Second

// resolver finds the addresses of a name.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dialDestination opens a connection to a published destination. A name is
// resolved once, and what is dialled are the addresses that were checked: a name
// can't be moved to a forbidden address in between. One forbidden address among
// the answers refuses them all.
func dialDestination(ctx context.Context, r resolver, d socketxp.Destination) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, destinationLimit)
	defer cancel()
	addrs, err := resolve(ctx, r, d.Host)
	if err != nil {
		return nil, err
	}
	var failed []error
	for i, a := range addrs {
		// Each address gets its share of the time that is left.
		deadline, _ := ctx.Deadline()
		share := time.Until(deadline) / time.Duration(len(addrs)-i)
		conn, err := (&net.Dialer{Timeout: share}).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(d.Port)))
		if err == nil {
			return conn, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// maxAddrs is how many addresses of a name are tried.
const maxAddrs = 8

// resolve returns the addresses to dial for host. "localhost" is this machine,
// whatever a resolver says (RFC 6761 section 6.3).
func resolve(ctx context.Context, r resolver, host string) ([]netip.Addr, error) {
	if socketxp.IsMetadataHost(host) {
		return nil, fmt.Errorf("%s is a metadata service", host)
	}
	var addrs []netip.Addr
	switch a, err := netip.ParseAddr(host); {
	case err == nil:
		addrs = []netip.Addr{a}
	case host == "localhost" || host == "localhost.":
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	default:
		found, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		addrs = found
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	for i, a := range addrs {
		a = a.Unmap()
		if socketxp.IsMetadataAddr(a) || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return nil, fmt.Errorf("%s leads to %s, which is never dialled", host, a)
		}
		addrs[i] = a
	}
	return addrs[:min(len(addrs), maxAddrs)], nil
}
