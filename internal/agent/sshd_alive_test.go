//go:build unix

package agent

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// bufferedPipe is net.Pipe with room for what is written before it is read: both
// ends of SSH begin by writing.
func bufferedPipe() (net.Conn, net.Conn) {
	a, b := net.Pipe()
	return &queued{Conn: a, queue: make(chan []byte, 1000)}, &queued{Conn: b, queue: make(chan []byte, 1000)}
}

type queued struct {
	net.Conn
	start, stop sync.Once
	queue       chan []byte
}

func (q *queued) Write(p []byte) (int, error) {
	q.start.Do(func() {
		go func() {
			for p := range q.queue {
				if _, err := q.Conn.Write(p); err != nil {
					return
				}
			}
		}()
	})
	q.queue <- bytes.Clone(p)
	return len(p), nil
}

func (q *queued) Close() error {
	q.stop.Do(func() { q.queue <- nil }) // which fails
	return q.Conn.Close()
}

// TestSSHKeepalive has a client that answers, and one that does not.
func TestSSHKeepalive(t *testing.T) {
	server, err := NewSSHServer(SSHConfig{HostKeyFile: filepath.Join(t.TempDir(), "key")})
	if err != nil {
		t.Fatal(err)
	}
	// connect is a client by hand that is asked for signs of life through global.
	connect := func(t *testing.T, serve func(net.Conn)) (ssh.Conn, <-chan *ssh.Request) {
		ours, theirs := bufferedPipe()
		go serve(ours)
		c, _, global, err := ssh.NewClientConn(theirs, "", &ssh.ClientConfig{
			User: server.users[0], HostKeyCallback: ssh.FixedHostKey(server.signer.PublicKey()),
		})
		if err != nil {
			t.Fatal(err)
		}
		return c, global
	}
	t.Run("N-10 a client that answers stays, and is asked only when silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			c, global := connect(t, func(conn net.Conn) { ended <- server.ServeConn(t.Context(), conn) })
			asked := 0
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				for r := range global {
					asked++
					_ = r.Reply(false, nil) // any answer will do
				}
			}()
			<-time.After(time.Hour)
			select {
			case err := <-ended:
				t.Fatalf("it ended: %v", err)
			default:
			}
			_ = c.Close()
			<-answered
			if asked < 55 || asked > 60 {
				t.Errorf("asked %d times in an hour", asked)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("N-10 a client that gives no sign of life is left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			c, global := connect(t, func(conn net.Conn) { ended <- server.ServeConn(t.Context(), conn) })
			start := time.Now()
			if err := <-ended; err != nil { // nobody answers what came through global
				t.Error(err)
			}
			if took := time.Since(start); took < deadLimit || took > deadLimit+aliveInterval {
				t.Errorf("after %v", took)
			}
			_ = c.Close()
			for range global {
				continue
			}
		})
	})
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{every: time.Second / 100, burst: 50}
		start := time.Now()
		for range 50 {
			p.wait(t.Context())
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the burst took %v", took)
		}
		for range 1000 {
			p.wait(t.Context())
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("1,000 more took %v", took)
		}
		<-time.After(time.Hour)
		start = time.Now()
		for range 50 {
			p.wait(t.Context())
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the burst after a rest took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.next = time.Now().Add(time.Hour)
		p.wait(ctx)
		if took := time.Since(start); took != 0 {
			t.Errorf("at the end it took %v", took)
		}
	})
}

// TestSSHFlood has one connection flood the server with what it answers, and
// another that works meanwhile.
func TestSSHFlood(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	flood := func(t *testing.T, one func(*ssh.Client) error) {
		t.Helper()
		client := b.client()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		done, n := make(chan struct{}), 0
		go func() {
			defer close(done)
			for ctx.Err() == nil && one(client) == nil {
				n++
			}
		}()
		for ctx.Err() == nil {
			start := time.Now()
			if got := mustRun(t, b.ssh("echo fine")); got != "fine\n" {
				t.Errorf("%q", got)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("the others wait %v", took)
			}
		}
		<-done
		if ctx.Err() == nil {
			t.Error("the flood ended early")
		}
		if most := max(opensPerSecond, requestsPerSecond)*4 + max(openBurst, requestBurst); n > most {
			t.Errorf("%d were served in 3 s", n)
		}
	}
	t.Run("N-03 of opens", func(t *testing.T) {
		flood(t, func(c *ssh.Client) error {
			_, _, err := c.OpenChannel("nonsense", nil)
			if errors.As(err, new(*ssh.OpenChannelError)) {
				return nil
			}
			return err
		})
	})
	t.Run("N-03 of global requests", func(t *testing.T) {
		flood(t, func(c *ssh.Client) error {
			_, _, err := c.SendRequest("tcpip-forward", true, nil)
			return err
		})
	})
	t.Run("N-03 of requests in a session", func(t *testing.T) {
		var s *ssh.Session
		flood(t, func(c *ssh.Client) error {
			if s == nil {
				s = newSession(t, c)
				if err := s.Start("exec sleep 1000"); err != nil {
					return err
				}
			}
			_, err := s.SendRequest("window-change", true, make([]byte, 16))
			return err
		})
	})
}

// A client of many sessions at once, and of one after the other, in one connection.
func TestSSHControlMaster(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	socket := filepath.Join(b.home, "mux")
	master := b.program("ssh", append(b.options("-M", "-N", "-S", socket, "-o", "ControlPersist=no"), b.host())...)
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = master.Process.Kill()
		_ = master.Wait()
	})
	slave := func(command string) *exec.Cmd {
		return b.program("ssh", append(b.options("-S", socket, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"), b.host(), command)...)
	}
	waitFor(t, "the master", func() bool { return slave("true").Run() == nil })
	for range 30 {
		if o := runCmd(t, slave("echo out; echo err >&2; exit 3")); o.code != 3 || o.stdout != "out\n" || o.stderr != "err\n" {
			t.Fatalf("%+v", o)
		}
	}
	results := make(chan outcome, maxSessions-1)
	for range cap(results) {
		cmd := slave("head -c 3000000 /dev/zero | wc -c")
		go func() { results <- runCmd(t, cmd) }()
	}
	for range cap(results) {
		if o := <-results; o.stdout != "3000000\n" || o.code != 0 {
			t.Errorf("%+v", o)
		}
	}
	if n := len(b.ended); n != 0 {
		t.Errorf("%d connections more than the one", n)
	}
}
