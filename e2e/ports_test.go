package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// socket is one of a process, as the kernel lists it: its port or path, and its state,
// of which 0A is that it listens.
type socket struct{ local, state string }

// sockets returns the sockets of a process by kind, those of IPv6 among the others. Of
// Unix sockets only those that have a path are there.
func sockets(t *testing.T, pid int) map[string][]socket {
	t.Helper()
	own := make(map[string]bool)
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	all := make(map[string][]socket)
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6", "udplite", "raw", "raw6", "unix"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, kind))
		if err != nil { // a kernel without it
			continue
		}
		for line := range strings.Lines(string(text)) {
			switch f := strings.Fields(line); {
			case kind == "unix" && len(f) == 8 && own[f[6]]:
				all[kind] = append(all[kind], socket{local: f[7]})
			case kind != "unix" && len(f) > 9 && own[f[9]]:
				family := strings.TrimSuffix(kind, "6")
				all[family] = append(all[family], socket{f[1][strings.LastIndex(f[1], ":")+1:], f[3]})
			}
		}
	}
	return all
}

// TestOnePort is N-20 for a gateway that is alone: while devices and visitors are
// served, it listens on its one port, everything that is open has come to that, and
// there is nothing else by which gateways, or who claims to be one, could speak to it.
func TestOnePort(t *testing.T) {
	r := reachThrough(t, nil)
	if err := r.echo([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	gateway, err := r.stage.proc("gateway")
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(r.gateway, "https://localhost:%d", &port); err != nil {
		t.Fatal(err)
	}
	own, listens, open := fmt.Sprintf("%04X", port), 0, 0
	found := sockets(t, gateway.cmd.Process.Pid)
	for kind, all := range found {
		for _, s := range all {
			switch {
			case kind == "tcp" && s.local == own && s.state == "0A":
				listens++
			case kind == "tcp" && s.local == own:
				open++
			default:
				t.Errorf("N-20 a socket of %s: %+v", kind, s)
			}
		}
	}
	// The device's and the visitor's channel, and both halves of a link.
	if listens != 1 || open < 4 {
		t.Errorf("N-20 it listens %d times, and %d connections are open: %+v", listens, open, found)
	}
}
