package agent

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"socketxp"
)

// names is a resolver whose answers change with every question.
type names struct {
	answers []string // of each question, by spaces
	asked   int
}

func (n *names) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range strings.Fields(n.answers[min(n.asked, len(n.answers)-1)]) {
		out = append(out, netip.MustParseAddr(a))
	}
	n.asked++
	return out, nil
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		name, host, answer string
		want               string // "" if it is refused
	}{
		{"an address", "192.168.0.1", "", "192.168.0.1"},
		{"localhost is this machine, whatever a resolver says", "localhost", "8.8.8.8", "127.0.0.1 ::1"},
		{"a name", "db.lan", "10.0.0.7", "10.0.0.7"},
		{"N-13 an address of a metadata service", "169.254.169.254", "", ""},
		{"N-13 its IPv6 one", "fd00:ec2::254", "", ""},
		{"N-13 a name of it", "metadata.google.internal", "10.0.0.1", ""},
		{"N-13 another name of it", "innocent.example.com", "169.254.169.254", ""},
		{"N-13 the same mapped to IPv6", "innocent.example.com", "::ffff:169.254.169.254", ""},
		{"N-13 the same by NAT64", "innocent.example.com", "64:ff9b::a9fe:a9fe", ""},
		{"N-13 Alibaba's", "innocent.example.com", "100.100.100.200", ""},
		{"N-15 one forbidden among others", "mixed.example.com", "10.0.0.7 169.254.169.254", ""},
		{"N-15 AAAA and A", "mixed.example.com", "fe80::1 10.0.0.7", ""},
		{"N-12 unspecified", "zero.example.com", "0.0.0.0", ""},
		{"N-12 multicast", "multi.example.com", "224.0.0.1", ""},
		{"N-12 broadcast", "all.example.com", "255.255.255.255", ""},
		{"nothing", "nothing.example.com", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			addrs, err := resolve(t.Context(), &names{answers: []string{c.answer}}, c.host)
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			if (err == nil) != (c.want != "") || strings.Join(got, " ") != c.want {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestDialResolvesOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
	r := &names{answers: []string{"127.0.0.1", "169.254.169.254"}}
	conn, err := dialDestination(t.Context(), r, socketxp.Destination{Scheme: "tcp", Host: "rebind.example.com", Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if r.asked != 1 || conn.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("N-15 asked %d times, connected to %s", r.asked, conn.RemoteAddr())
	}
}
