package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// memory returns a line of a process's status (proc_pid_status(5)), in KiB.
func memory(t *testing.T, pid int, name string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == name+":" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// TestP18SmallDevice has an agent, as it is released, on a machine that lets it have
// 256 files and 64 MiB: more connections than that fail, each for itself, and say
// why; the others go on.
func TestP18SmallDevice(t *testing.T) {
	r := reachThrough(t, nil)
	agent := filepath.Join(t.TempDir(), "socketxp")
	build := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w", "-o", agent, "../cmd/socketxp")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	old, err := r.stage.proc("device")
	if err != nil {
		t.Fatal(err)
	}
	old.signal(syscall.SIGINT)
	if _, err := old.wait(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	env := slices.Concat(r.agentEnv("device"), []string{"GOMEMLIMIT=64MiB"})
	device, err := r.stage.start("device", env, "/bin/sh", "-c", `ulimit -n 256; exec "$0" "$@"`,
		agent, "connect", "tcp://127.0.0.1:"+r.service, "--verbose")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.await("stdout", "^Connected to", time.Minute); err != nil {
		t.Fatal(err)
	}
	pid := device.cmd.Process.Pid
	t.Run("P-18 idle memory", func(t *testing.T) {
		rss := memory(t, pid, "VmRSS")
		t.Logf("%d KiB", rss)
		if rss > 30<<10 {
			t.Errorf("an idle agent has %d KiB", rss)
		}
	})
	works := func() error { return waitFor(time.Minute, func() error { return r.echo([]byte("hello")) }) }
	if err := works(); err != nil {
		t.Fatal(err)
	}

	var good []net.Conn
	t.Run("P-18 more connections than files", func(t *testing.T) {
		const tries = 180
		var mu sync.Mutex // guards good
		var failed atomic.Int32
		var all sync.WaitGroup
		for range tries {
			all.Go(func() {
				c, err := net.DialTimeout("tcp", "localhost:"+r.port, time.Minute)
				if err != nil {
					failed.Add(1)
					return
				}
				if err := exchange(c); err != nil {
					if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // a deadline comes bare from net
						t.Error("a connection was neither served nor refused")
					}
					failed.Add(1)
					_ = c.Close()
					return
				}
				mu.Lock()
				defer mu.Unlock()
				good = append(good, c)
			})
		}
		all.Wait()
		t.Logf("%d served at a time, %d refused", len(good), failed.Load())
		if len(good) < 30 || failed.Load() == 0 {
			t.Errorf("%d served, %d refused", len(good), failed.Load())
		}
		if text := device.read("stderr"); !strings.Contains(text, "too many open files") {
			t.Errorf("the agent does not say why: %s", lines(text, 10))
		}
	})
	t.Run("P-18 the others go on", func(t *testing.T) {
		for i, c := range good {
			if err := exchange(c); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		if peak := memory(t, pid, "VmHWM"); peak > 64<<10 {
			t.Errorf("it had %d KiB", peak)
		} else {
			t.Logf("%d KiB at the most", peak)
		}
	})
	t.Run("P-18 and there is room again", func(t *testing.T) {
		for _, c := range good {
			_ = c.Close()
		}
		if err := works(); err != nil {
			t.Error(err)
		}
		if device.over() {
			t.Fatalf("the agent has ended: %s", lines(device.read("stderr"), 20))
		}
		if text := device.read("stdout"); strings.Count(text, "Connected to") != 1 {
			t.Errorf("it lost its channel: %s", text)
		}
		status := exec.Command(agent, "status")
		status.Env = env
		if out, err := status.CombinedOutput(); err != nil {
			t.Errorf("status: %v: %s", err, out)
		}
	})
}

// exchange says something on a connection to the echo service.
func exchange(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return err
}
