package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// instruction is a line that `make run` tells people to type.
var instruction = regexp.MustCompile(`(?m)^  \$ (.+)$`)

// TestMakeRun is a person on a fresh clone: `make run`, what it says to type,
// Ctrl-C, and `make run` again on the same data.
func TestMakeRun(t *testing.T) {
	needs(t, "git", "make", "curl", "ssh")
	clone := filepath.Join(t.TempDir(), "clone")
	if out, err := exec.Command("git", "clone", "-q", "..", clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	env := append(os.Environ(), "HOME="+s.work, "SOCKETXP_RUN_LISTEN="+listen, "GOFLAGS=-buildvcs=false", "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"))

	var devices string
	for run := 1; run <= 2; run++ {
		p, err := s.start("run", env, "make", "--no-print-directory", "-C", clone, "run")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.await("stdout", "Ctrl-C ends all of it", 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		typed := instruction.FindAllStringSubmatch(p.read("stdout"), -1)
		if len(typed) != 3 {
			t.Fatalf("make run said to type %d things, want the password, a slave mode and an ssh:\n%s", len(typed), p.read("stdout"))
		}
		if out, err := exec.Command("sh", "-c", "cd "+clone+" && "+typed[0][1]).CombinedOutput(); err != nil || len(out) < 20 {
			t.Fatalf("run %d: %s: %v: %s", run, typed[0][1], err, out)
		}
		// In another terminal, in that folder. The port is the one that it names.
		laptop, err := s.start("laptop", env, "sh", "-c", "cd "+clone+" && exec env "+typed[1][1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := laptop.await("stdout", "^Local URL -> tcp://localhost:3000$", 30*time.Second); err != nil {
			t.Fatal(err)
		}
		// The one thing a script can't do is to sit at a terminal: ssh gets a command.
		ssh := exec.Command("sh", "-c", "cd "+clone+" && "+typed[2][1]+" -F none -o BatchMode=yes 'echo on the demo device'")
		ssh.Env = env
		if out, err := ssh.CombinedOutput(); err != nil || !strings.Contains(string(out), "on the demo device") {
			t.Fatalf("run %d: %s: %v: %s", run, typed[2][1], err, out)
		}
		key, err := os.ReadFile(filepath.Join(clone, ".run", "device", "device.key"))
		if err != nil {
			t.Fatal(err)
		}
		if run == 2 && string(key) != devices {
			t.Error("the second run registered the demo device anew")
		}
		devices = string(key)
		laptop.signal(syscall.SIGINT)
		if _, err := laptop.wait(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		// Ctrl-C goes to the whole foreground group of a terminal.
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT)
		if _, err := p.wait(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatalf("run %d left a gateway behind: %v", run, err)
		}
		_ = l.Close()
		if out, err := exec.Command(filepath.Join(clone, "bin", "socketxp"), "--work-dir", filepath.Join(clone, ".run", "device"), "status").CombinedOutput(); err == nil {
			t.Errorf("run %d left an agent behind: %s", run, out)
		}
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
