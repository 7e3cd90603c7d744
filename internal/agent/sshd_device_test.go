//go:build unix

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestSSHDeviceDecides has a gateway that lets its visitor reach whatever it asks
// for: who may log in and what may be done is the device's to say all the same.
func TestSSHDeviceDecides(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "only root can serve other users")
	}
	b := newBed(t)
	dir, _ := b.login("kiosk")
	server, echoing := tunnel(t, "tcp://localhost:22"), service(t, echo)
	server.SSH, server.Users = true, []string{"nobody"}
	wide := tunnel(t, "tcp://localhost:2222")
	wide.SSH, wide.Users, wide.Policy = true, []string{"nobody"}, DefaultSSHPolicy()
	r := connect(t, dir, server, wide, echoing)
	await(t, r.connected)
	dial := func(t *testing.T, port int, user string) (*ssh.Client, error) {
		t.Helper()
		v := b.visit(newDir(t), "kiosk", port)
		_, local, _ := strings.Cut(await(t, v.listening), "://")
		key := b.deviceByName("kiosk").report.SSHHostKey
		host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		c, err := ssh.Dial("tcp", local, &ssh.ClientConfig{User: user, HostKeyCallback: ssh.FixedHostKey(host), Auth: []ssh.AuthMethod{ssh.Password("x")}, Timeout: soon})
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return c, err
	}
	for _, user := range []string{"root", "daemon", "nobody@root"} {
		t.Run("the grant of a gateway does not let in "+printable(user), func(t *testing.T) {
			if _, err := dial(t, 22, user); err == nil || !strings.Contains(err.Error(), "handshake failed") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("without a name it is the one who may", func(t *testing.T) {
		c, err := dial(t, 22, "")
		if err != nil {
			t.Fatal(err)
		}
		// The account's shell is nologin, and says so.
		if out, err := newSession(t, c).Output("id -un"); err == nil || !strings.Contains(string(out), "not available") {
			t.Errorf("%q, %v", out, err)
		}
	})
	to := echoing.Destination.Host + ":" + strconv.Itoa(echoing.Destination.Port)
	t.Run("N-11 no forwarding where the device forbids it", func(t *testing.T) {
		c, err := dial(t, 22, "nobody")
		if err != nil {
			t.Fatal(err)
		}
		var refused *ssh.OpenChannelError
		if _, err := c.Dial("tcp", to); !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("%v", err)
		}
		s := newSession(t, c)
		for _, kind := range []string{agentRequest, "x11-req"} {
			if ok, err := s.SendRequest(kind, true, nil); ok || err != nil {
				t.Errorf("%s: %t, %v", kind, ok, err)
			}
		}
		if s.Setenv("LANG", "C") == nil {
			t.Error("LANG was set")
		}
		// The account's shell is nologin.
		if out, err := s.Output("id -un"); err == nil || !strings.Contains(string(out), "not available") {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("N-11 forwarding to what the device publishes, through a link", func(t *testing.T) {
		c, err := dial(t, 2222, "nobody")
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, "there and back"); err != nil {
			t.Fatal(err)
		}
		_ = f.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(f); err != nil || string(got) != "there and back" {
			t.Errorf("%q, %v", got, err)
		}
		for _, not := range []string{"localhost:22", "localhost:2222", "localhost:1", "127.0.0.1:" + b.port, "169.254.169.254:80"} {
			var refused *ssh.OpenChannelError
			if _, err := c.Dial("tcp", not); !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
				t.Errorf("%s: %v", not, err)
			}
		}
	})
}

// deviceByName waits until the device's report has come.
func (b *bed) deviceByName(name string) bedDevice {
	b.t.Helper()
	var found bedDevice
	until(b.t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, d := range b.devices {
			if d.name == name && d.reports > 0 {
				found = *d
				return nil
			}
		}
		return errNotYet
	})
	return found
}

// serveEnv is set for a copy of the test program that is a server and nothing else,
// so that its memory can be looked at. It holds the server's folder.
const serveEnv = "SOCKETXP_TEST_SSHD"

func init() {
	if dir := os.Getenv(serveEnv); dir != "" {
		if err := serveAlone(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is a main
		}
		os.Exit(0) //nolint:forbidigo // this is a main
	}
}

// serveAlone tells its port and serves until its standard input ends.
func serveAlone(dir string) error {
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	server, err := NewSSHServer(SSHConfig{HostKeyFile: filepath.Join(dir, "key"), Policy: DefaultSSHPolicy(), Executable: executable})
	if err != nil {
		return err
	}
	server.untakenLimit = time.Second
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), fmt.Appendf(nil, "[127.0.0.1]:%d %s\n", l.Addr().(*net.TCPAddr).Port, server.HostKey()), 0o600); err != nil {
		return err
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port) //nolint:forbidigo // this is a main
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = server.ServeConn(ctx, c) }()
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// alone starts a server in a process of its own; of the bed only what clients need
// is there.
func alone(t *testing.T) (b *sshBed, pid int) {
	t.Helper()
	me := newSSHBed(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	port := atoi(t, out.after(t, ""))
	return &sshBed{t: t, user: me.user, port: port, known: filepath.Join(dir, "known_hosts")}, cmd.Process.Pid
}

// memory returns a process's resident memory in MiB, now or at its highest.
func memory(t *testing.T, pid int, field string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	return atoi(t, strings.Fields(rest)[0]) >> 10
}

// TestSSHOutputFlood has programs write without end to clients that take nothing.
func TestSSHOutputFlood(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		skip(t, "needs /proc")
	}
	t.Parallel()
	b, pid := alone(t)
	for range 8 {
		// The client's own output goes to a pipe that nobody reads, and it is stopped.
		cmd := b.ssh("yes | head -c 5G", "-o", "ServerAliveInterval=0")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = r.Close()
		})
		if _, err := r.Read(make([]byte, 1)); err != nil { // it flows
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("N-22 the others go on", func(t *testing.T) {
		for range 5 {
			start := time.Now()
			if got := mustRun(t, b.ssh("head -c 5000000 /dev/zero | wc -c")); got != "5000000\n" {
				t.Errorf("%q", got)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("in %v", took)
			}
		}
	})
	t.Run("P-18 memory is bounded", func(t *testing.T) {
		if got := memory(t, pid, "VmHWM"); got > 64 {
			t.Errorf("%d MiB", got)
		}
	})
}
