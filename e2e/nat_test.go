package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"
)

var natCount atomic.Int32

// nat makes three network namespaces in a row: that of a gateway at 10.98.0.1, a
// router, and that of a device behind its NAT. They are in $GWNET, $NATNET and
// $DEVNET, and go with the script.
//
//	nat                 makes them
//	nat forget SECONDS  has the NAT forget connections after so long a silence, and
//	                    drop what comes later
//	nat lose PERCENT    loses so many of all packets
//	nat reset           answers what goes over open connections with a reset, until the
//	                    next nat lose
//	nat rebind          takes the NAT's outer interface down and up, which forgets all
//	nat mtu BYTES       sets the largest packet of the device's network
//	nat slow BYTES      lets so many bytes a second through, each way
func cmdNAT(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: nat [forget|lose|reset|rebind|mtu|slow [N]]")
	}
	router, dev := ts.Getenv("NATNET"), ts.Getenv("DEVNET")
	run := func(program string, args ...string) {
		cmd := exec.Command(program, args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			ts.Fatalf("%s %v: %v: %s", program, args, err, out)
		}
	}
	if len(args) == 0 {
		tag := fmt.Sprintf("sx%d-%d", os.Getpid(), natCount.Add(1))
		gw := tag + "g"
		router, dev = tag+"r", tag+"d"
		for _, ns := range []string{gw, router, dev} {
			run("ip", "netns", "add", ns)
			ts.Defer(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
			run("ip", "-n", ns, "link", "set", "lo", "up")
		}
		cable := func(a, nameA, addrA, b, nameB, addrB string) {
			run("ip", "-n", a, "link", "add", nameA, "type", "veth", "peer", "name", nameB, "netns", b)
			run("ip", "-n", a, "addr", "add", addrA, "dev", nameA)
			run("ip", "-n", b, "addr", "add", addrB, "dev", nameB)
			run("ip", "-n", a, "link", "set", nameA, "up")
			run("ip", "-n", b, "link", "set", nameB, "up")
		}
		cable(gw, "inet", "10.98.0.1/24", router, "wan", "10.98.0.2/24")
		cable(dev, "uplink", "192.168.77.7/24", router, "lan", "192.168.77.1/24")
		run("ip", "-n", dev, "route", "add", "default", "via", "192.168.77.1")
		run("ip", "netns", "exec", router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
		rules := filepath.Join(ts.Getenv("WORK"), "nat.nft")
		// A connection that the NAT does not know is not taken up in the middle.
		ts.Check(os.WriteFile(rules, []byte(`
table ip nat {
	chain post { type nat hook postrouting priority 100; oifname "wan" masquerade; }
}
table ip filter {
	chain faults { }
	chain forward {
		type filter hook forward priority 0;
		jump faults
		ct state invalid drop
		iifname "wan" ct state new drop
	}
}
`), 0o600))
		run("ip", "netns", "exec", router, "sh", "-c", "echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
		run("ip", "netns", "exec", router, "nft", "-f", rules)
		ts.Setenv("GWNET", gw)
		ts.Setenv("NATNET", router)
		ts.Setenv("DEVNET", dev)
		return
	}
	nft := func(args ...string) { run("ip", append([]string{"netns", "exec", router, "nft"}, args...)...) }
	switch {
	case args[0] == "forget" && len(args) == 2:
		run("ip", "netns", "exec", router, "sh", "-c", "echo "+args[1]+" >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
	case args[0] == "lose" && len(args) == 2:
		nft("flush", "chain", "ip", "filter", "faults")
		nft("add", "rule", "ip", "filter", "faults", "numgen", "random", "mod", "100", "<", args[1], "drop")
	case args[0] == "reset":
		nft("add", "rule", "ip", "filter", "faults", "ct", "state", "established", "meta", "l4proto", "tcp", "reject", "with", "tcp", "reset")
	case args[0] == "rebind":
		run("ip", "-n", router, "link", "set", "wan", "down")
		run("ip", "-n", router, "link", "set", "wan", "up")
	case args[0] == "mtu" && len(args) == 2:
		run("ip", "-n", dev, "link", "set", "uplink", "mtu", args[1])
		run("ip", "-n", router, "link", "set", "lan", "mtu", args[1])
	case args[0] == "slow" && len(args) == 2:
		for _, dev := range []string{"wan", "lan"} {
			run("ip", "netns", "exec", router, "tc", "qdisc", "replace", "dev", dev, "root", "tbf", "rate", args[1]+"bps", "burst", "2000", "latency", "3s")
		}
	default:
		ts.Fatalf("nat: what is %v?", args)
	}
}
