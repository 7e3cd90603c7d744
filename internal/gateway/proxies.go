package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// proxies are the networks of the load balancers in front of the gateway, whose
// word for a client's address counts.
type proxies []netip.Prefix

// maxProxies bounds the list: it is looked through for each connection.
const maxProxies = 64

// parseProxies reads networks and addresses, separated by commas.
func parseProxies(list string) (proxies, error) {
	var out proxies
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			addr, aerr := netip.ParseAddr(part)
			if aerr != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("%q is not a network such as 192.0.2.0/24, or an address", clipText(part))
			}
			p = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		}
		switch {
		case p.Addr().Is4In6():
			return nil, fmt.Errorf("%q: write an IPv4 network in its own form", part)
		case p != p.Masked():
			return nil, fmt.Errorf("%q has bits set outside its mask; %s is meant?", part, p.Masked())
		case p.Bits() == 0:
			return nil, fmt.Errorf("%q is everybody: anyone could give any address for theirs", part)
		}
		if out = append(out, p); len(out) > maxProxies {
			return nil, fmt.Errorf("there are more than %d", maxProxies)
		}
	}
	return out, nil
}

// trust reports whether addr is one of the proxies.
func (p proxies) trust(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, n := range p {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// client returns where a request comes from that peer has brought: what the first
// proxy that is ours says of the one before it. Anybody can write whatever they
// like into the header; what our own proxies have added is at its end. Without a
// trusted peer the header means nothing.
func (p proxies) client(peer netip.Addr, h http.Header) netip.Addr {
	if !p.trust(peer) {
		return peer
	}
	hops := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, ok := parseHop(hops[i])
		if !ok {
			break // nothing before it can be believed
		}
		if peer = addr; !p.trust(addr) {
			break
		}
	}
	return peer
}

// parseHop reads an address, with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return addr.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// place takes one of the places for a peer. Our own proxies bring many peers: they
// have no bound for each address.
func (g *Gateway) place(of *places, addr netip.Addr) (release func(), ok bool) {
	if g.proxies.trust(addr) {
		return of.takeFor(netip.Prefix{}, of.total)
	}
	return of.take(addr)
}
