package socketxp

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Destination is where the device's end of a tunnel leads: scheme, host and
// port. What a device doesn't publish can't be reached.
type Destination struct {
	Scheme string // tcp, http or https
	Host   string // a name or an address without brackets or zone, lower case
	Port   int    // 1 to 65535
}

// String returns the canonical form, scheme://host:port with an IPv6 host in
// brackets; ParseDestination returns the same Destination for it.
func (d Destination) String() string {
	host := d.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return d.Scheme + "://" + host + ":" + strconv.Itoa(d.Port)
}

// ParseDestination parses SCHEME://HOST:PORT. The scheme is tcp, http or https;
// the host is a DNS name, an IPv4 address in dotted decimal or an IPv6 address in
// brackets; http and https may leave the port out (80, 443). Anything more (user,
// path, query) is refused, as are zones, metadata addresses (see IsMetadataHost)
// and the unspecified, multicast and broadcast addresses.
func ParseDestination(s string) (Destination, error) {
	bad := func(why string) (Destination, error) {
		return Destination{}, Errorf(CodeInvalid, "the destination %q is not valid: %s", clip(s), why).
			WithHint("it looks like tcp://localhost:22")
	}
	if len(s) > 300 {
		return bad("it is longer than 300 bytes")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return bad("it has spaces or characters other than ASCII (an international name is written xn--…)")
		}
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return bad("it has no scheme")
	}
	scheme = strings.ToLower(scheme)
	port := 0
	switch scheme {
	case "tcp":
	case "http":
		port = 80
	case "https":
		port = 443
	default:
		return bad("the scheme is not tcp, http or https")
	}
	rest = strings.TrimSuffix(rest, "/")
	var host, portText string
	hasPort := false
	if strings.HasPrefix(rest, "[") {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return bad("a bracket is not closed")
		}
		host = rest[1:end]
		after := rest[end+1:]
		if after != "" {
			if after[0] != ':' {
				return bad("the address is followed by something other than a port")
			}
			portText, hasPort = after[1:], true
		}
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return bad("what is in brackets is not an IPv6 address")
		}
		host = a.Unmap().String()
	} else {
		host, portText, hasPort = strings.Cut(rest, ":")
		host = strings.ToLower(host)
		if a, err := netip.ParseAddr(host); err == nil {
			host = a.String()
		} else if !validHostname(host) {
			return bad("the host is not a name or an address")
		}
	}
	if hasPort {
		n, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != portText {
			return bad("the port is not a number from 1 to 65535")
		}
		port = int(n)
	}
	if port == 0 {
		return bad("it has no port")
	}
	if IsMetadataHost(host) {
		return bad("cloud metadata services are never published")
	}
	if a, err := netip.ParseAddr(host); err == nil && (a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
		return bad("no service can be dialled at that address")
	}
	return Destination{Scheme: scheme, Host: host, Port: port}, nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// validHostname accepts RFC 1123 names (and underscores, which are met in the
// field). A last label that is a number is refused, by the rule of the WHATWG URL
// standard (all digits, or 0x and hexadecimal digits, even none): what looks like
// an address but isn't one must not reach a resolver that takes octal or short
// forms.
func validHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for i := range len(l) {
			c := l[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") != ""
	}
	return strings.Trim(last, "0123456789") != ""
}

// metadataPrefixes are where clouds hand credentials to their machines;
// 169.254.0.0/16 and fe80::/10 are link-local as a whole.
var metadataPrefixes = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"),         // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),      // Google
	netip.MustParsePrefix("fd00:42::42/128"),       // Scaleway
	netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), // Akamai
	netip.MustParsePrefix("100.100.100.200/32"),    // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),        // Oracle
	netip.MustParsePrefix("168.63.129.16/32"),      // Azure
}

// nat64 holds IPv4 addresses as IPv6 ones, in the last 4 bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// IsMetadataHost reports whether host is a cloud's metadata service by address
// or by name. A name must be checked again by IsMetadataAddr when it has been
// resolved.
func IsMetadataHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return IsMetadataAddr(a)
	}
	switch strings.TrimSuffix(host, ".") {
	case "metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal":
		return true
	}
	return false
}

// IsMetadataAddr reports whether an address is link-local or a cloud's metadata
// service. An invalid address is treated as one.
func IsMetadataAddr(a netip.Addr) bool {
	if !a.IsValid() {
		return true
	}
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	for _, p := range metadataPrefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Tunnel is a destination that a device publishes.
type Tunnel struct {
	Destination Destination
	// SSH says that connections end at the agent's built-in SSH server instead of
	// being dialled to the destination.
	SSH bool
}

// MaxTunnels is the most that one device may publish.
const MaxTunnels = 64

// FindTunnel returns the tunnel that a visitor asks for by port and, if host is
// not empty, by host. No match is CodeNotPublished; several hosts without a host
// is CodeInvalid, naming them in the hint. Of several schemes at one host and
// port, which lead to the same place, it is the first.
func FindTunnel(tunnels []Tunnel, host string, port int) (Tunnel, error) {
	var found []Tunnel
	var names []string
	for _, t := range tunnels {
		if t.Destination.Port != port || host != "" && t.Destination.Host != strings.ToLower(host) {
			continue
		}
		if name := t.Destination.Host + ":" + strconv.Itoa(port); !slices.Contains(names, name) {
			found, names = append(found, t), append(names, name)
		}
	}
	switch len(found) {
	case 0:
		return Tunnel{}, Errorf(CodeNotPublished, "the device doesn't publish port %d", port).
			WithHint("on the device: socketxp connect tcp://localhost:" + strconv.Itoa(port))
	case 1:
		return found[0], nil
	}
	return Tunnel{}, Errorf(CodeInvalid, "the device publishes port %d of several hosts", port).
		WithHint("name one: " + strings.Join(names, ", "))
}
