package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"socketxp/internal/control"
)

// networks makes two network namespaces with a cable between them: the ends have
// the addresses .1 and .2, both of IPv4 and of IPv6. Nothing but what a test sends
// crosses the cable.
func networks(t *testing.T) (gateway, device string) {
	t.Helper()
	if _, err := exec.LookPath("ip"); os.Geteuid() != 0 || err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root and the program ip (Debian's iproute2)")
		}
		t.Skip("needs root and the program ip")
	}
	name := strings.ReplaceAll(time.Now().Format("150405.000000"), ".", "")
	gateway, device = "sxg"+name, "sxd"+name
	for _, ns := range []string{gateway, device} {
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { ip(t, "netns", "del", ns) })
		ip(t, "-n", ns, "link", "set", "lo", "up")
	}
	ip(t, "-n", gateway, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", device)
	for ns, mac := range map[string]string{gateway: "02:00:00:00:00:01", device: "02:00:00:00:00:02"} {
		ip(t, "-n", ns, "link", "set", "cable", "address", mac, "addrgenmode", "none")
	}
	for i, ns := range []string{gateway, device} {
		own, other := string(rune('1'+i)), string(rune('2'-i))
		ip(t, "-n", ns, "addr", "add", "10.99.0."+own+"/24", "dev", "cable")
		ip(t, "-n", ns, "addr", "add", "fd99::"+own+"/64", "dev", "cable", "nodad")
		ip(t, "-n", ns, "link", "set", "cable", "up")
		// Known for good, so that nobody has to ask.
		for _, addr := range []string{"10.99.0." + other, "fd99::" + other} {
			ip(t, "-n", ns, "neigh", "replace", addr, "lladdr", "02:00:00:00:00:0"+other, "dev", "cable", "nud", "permanent")
		}
	}
	return gateway, device
}

func ip(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return out
}

// within runs do in a network namespace: the sockets it makes stay there.
func within(t *testing.T, ns string, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here := must[*os.File](t)(os.Open("/proc/thread-self/ns/net"))
	defer func() { _ = here.Close() }()
	there := must[*os.File](t)(os.Open("/run/netns/" + ns))
	defer func() { _ = there.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // this thread would run other tests in the wrong network
		}
	}()
	do()
}

// crossed returns what has crossed the cable so far, in both directions: packets,
// and their bytes with the IP header but without the 14 bytes of Ethernet's.
func crossed(t *testing.T, ns string) (packets, bytes int64) {
	t.Helper()
	type counter struct{ Packets, Bytes int64 }
	var links []struct {
		Stats64 struct{ RX, TX counter }
	}
	if err := json.Unmarshal(ip(t, "-n", ns, "-s", "-j", "link", "show", "cable"), &links); err != nil {
		t.Fatal(err)
	}
	rx, tx := links[0].Stats64.RX, links[0].Stats64.TX
	packets = rx.Packets + tx.Packets
	return packets, rx.Bytes + tx.Bytes - 14*packets
}

// writes counts what is written to a connection.
type writes struct {
	net.Conn
	n atomic.Int64
}

func (w *writes) Write(b []byte) (int, error) {
	w.n.Add(1)
	return w.Conn.Write(b)
}

// atRest waits until nothing crosses any more, and returns how many pings had been
// sent by then and what they had cost.
func atRest(t *testing.T, ns string, w *writes) (pings, packets, bytes int64) {
	t.Helper()
	eventually(t, patience, "nothing crosses for a moment", func() bool {
		pings = w.n.Load()
		packets, bytes = crossed(t, ns)
		<-time.After(100 * time.Millisecond) // longer than an acknowledgement is delayed
		again, _ := crossed(t, ns)
		return again == packets && w.n.Load() == pings
	})
	return pings, packets, bytes
}

// An idle device costs less than 1 MB a day, all headers from IP's up counted, on
// real interfaces: so many bytes for each heartbeat, and so many of those a day.
// The bytes are SPEC.md's of internal/control.
func TestIdleDeviceIsQuiet(t *testing.T) {
	gatewayNet, deviceNet := networks(t)
	for name, c := range map[string]struct {
		listen string
		each   int64
	}{
		"IPv4": {"10.99.0.1:0", 208},
		"IPv6": {"[fd99::1]:0", 268},
	} {
		t.Run(name, func(t *testing.T) {
			var w *world
			within(t, gatewayNet, func() {
				w = startIn(t, t.TempDir(), func(cfg *Config, _ *Deps) { cfg.Listen, cfg.MetricsListen = c.listen, "" })
			})
			_, key := w.register("cam", "default")
			var raw net.Conn
			within(t, deviceNet, func() { raw = must[net.Conn](t)(net.Dial("tcp", w.g.Addr().String())) })
			sent := &writes{Conn: raw}
			conn := tls.Client(sent, w.clientTLS(key))
			if err := conn.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The gateway takes one ping per second.
			a := &agent{w: w, key: key, conn: control.NewAgent(conn, control.RoleDevice, control.Options{Heartbeat: 1050 * time.Millisecond})}
			a.send(control.Hello{Version: control.Version, Role: control.RoleDevice, Agent: "test"})
			a.welcome(report("tcp://localhost:22"))
			ended := make(chan error, 1)
			go func() {
				_, err := a.conn.Receive(context.Background())
				ended <- err
			}()
			defer func() {
				_ = a.conn.Close()
				if err := <-ended; err == nil {
					t.Error("something else than a heartbeat came")
				}
			}()

			aDay := int64(24 * time.Hour / control.DefaultHeartbeat)
			// On a busy machine an answer can be later than an acknowledgement is delayed,
			// which costs a packet more. One round without that is enough.
			for round := 1; ; round++ {
				pings, packets, bytes := atRest(t, deviceNet, sent)
				eventually(t, patience, "four heartbeats", func() bool { return sent.n.Load() >= pings+4 })
				morePings, morePackets, moreBytes := atRest(t, deviceNet, sent)
				beats, packets, bytes := morePings-pings, morePackets-packets, moreBytes-bytes
				t.Logf("%d heartbeats: %d packets, %d bytes, %d a day", beats, packets, bytes, bytes*aDay/beats)
				if packets == 3*beats && bytes == c.each*beats && bytes*aDay/beats <= 1_000_000 {
					break
				}
				if round == 8 {
					t.Fatalf("want 3 packets with %d bytes each, and at most 1 MB a day", c.each)
				}
			}
		})
	}
}
