//go:build unix

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

// publish has the bed's server forward to tunnels as a device's does. Each name
// resolves to addresses; remove ends the tunnels.
func (b *sshBed) publish(addresses string, tunnels ...Tunnel) (f *sshForwards, remove func()) {
	b.t.Helper()
	d := &device{log: slog.New(slog.DiscardHandler)}
	d.tunnels = newPublications(func(Tunnel) (*SSHServer, error) { return b.server, nil })
	d.links = newLinks(d)
	d.links.resolve = &names{answers: []string{addresses}}
	f = &sshForwards{device: d, places: make(chan struct{}, maxDeviceForwards)}
	remove, err := d.tunnels.add(context.Background(), tunnels)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(remove)
	b.server.dial = f.dial
	return f, remove
}

func portOf(t Tunnel) int { return t.Destination.Port }

// count answers the number of bytes that came before the end.
func count(c *net.TCPConn) {
	n, _ := io.Copy(io.Discard, c)
	_, _ = fmt.Fprintf(c, "%d", n)
}

func TestSSHForward(t *testing.T) {
	t.Parallel()
	counting := service(t, count)
	echoing := service(t, echo)
	b := newSSHBed(t)
	b.publish("", counting, echoing)

	t.Run("ssh -W, with half-close", func(t *testing.T) {
		cmd := b.program("ssh", append(b.options("-W", counting.Destination.Host+":"+strconv.Itoa(portOf(counting))), b.host())...)
		cmd.Stdin = io.LimitReader(&counter{}, 5_000_000)
		if got := mustRun(t, cmd); got != "5000000" {
			t.Errorf("%q", got)
		}
	})
	t.Run("localhost is as good as 127.0.0.1", func(t *testing.T) {
		cmd := b.program("ssh", append(b.options("-W", "localhost:"+strconv.Itoa(portOf(counting))), b.host())...)
		cmd.Stdin = strings.NewReader("12345")
		if got := mustRun(t, cmd); got != "5" {
			t.Errorf("%q", got)
		}
	})
	t.Run("ssh -N -L, many at once", func(t *testing.T) {
		// A socket in place of a port, which another could take in between.
		socket := b.home + "/forward"
		cmd := b.program("ssh", append(b.options("-N", "-L", socket+":localhost:"+strconv.Itoa(portOf(echoing)), "-o", "ExitOnForwardFailure=yes"), b.host())...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		waitFor(t, "the forwarded socket", func() bool {
			c, err := net.Dial("unix", socket)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				c, err := net.Dial("unix", socket)
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = c.Close() }()
				text := strings.Repeat(strconv.Itoa(i), 300_000)
				go func() {
					_, _ = io.WriteString(c, text)
					_ = c.(*net.UnixConn).CloseWrite()
				}()
				got, err := io.ReadAll(c)
				if err != nil || string(got) != text {
					t.Errorf("%d: %d bytes of %d, %v", i, len(got), len(text), err)
				}
			})
		}
		all.Wait()
	})
}

func TestSSHForwardIsRefused(t *testing.T) {
	t.Parallel()
	published := service(t, echo)
	secret := service(t, func(*net.TCPConn) { t.Error("N-11 what isn't published was reached") })
	port := uint32(portOf(published))
	b := newSSHBed(t)
	builtin := tunnel(t, "tcp://localhost:22")
	builtin.SSH = true
	b.publish("169.254.169.254", published, builtin, tunnel(t, "tcp://innocent.example.com:80"))
	client := b.client()
	open := func(host string, port uint32) error {
		_, _, err := client.OpenChannel("direct-tcpip", ssh.Marshal(struct {
			Host     string
			Port     uint32
			From     string
			FromPort uint32
		}{host, port, "\x1b]0;owned\x07", 1 << 31}))
		return err
	}
	for _, c := range []struct {
		name, host string
		port       uint32
		want       ssh.RejectionReason
	}{
		{"N-11 another port", "127.0.0.1", uint32(portOf(secret)), ssh.Prohibited},
		{"N-11 another port by name", "localhost", uint32(portOf(secret)), ssh.Prohibited},
		{"N-11 another host, same port", "192.168.0.1", port, ssh.Prohibited},
		{"N-11 another address of this machine", "127.0.0.2.", port, ssh.Prohibited},
		{"N-11 the server itself", "localhost", 22, ssh.Prohibited},
		{"N-12 a private address", "10.0.0.1", 80, ssh.Prohibited},
		{"N-12 link-local", "fe80::1", 80, ssh.Prohibited},
		{"N-12 a zone", "fe80::1%eth0", 80, ssh.Prohibited},
		{"N-12 unspecified", "0.0.0.0", port, ssh.Prohibited},
		{"N-12 unspecified IPv6", "::", port, ssh.Prohibited},
		{"N-12 nothing", "", port, ssh.Prohibited},
		{"N-12 a short form", "127.1", port, ssh.Prohibited},
		{"N-12 octal", "0177.0.0.1", port, ssh.Prohibited},
		{"N-12 a number", "2130706433", port, ssh.Prohibited},
		{"N-12 a socket", "/run/docker.sock", 0, ssh.Prohibited},
		{"N-12 a URL", "file:///etc/passwd", 80, ssh.Prohibited},
		{"N-12 a user before the host", "x@127.0.0.1", port, ssh.Prohibited},
		{"N-12 a path after the host", "127.0.0.1/", port, ssh.Prohibited},
		{"N-13 metadata", "169.254.169.254", 80, ssh.Prohibited},
		{"N-13 metadata by name", "metadata.google.internal", 80, ssh.Prohibited},
		{"N-13 metadata in IPv6", "fd00:ec2::254", 80, ssh.Prohibited},
		{"N-15 a published name that leads to metadata", "innocent.example.com", 80, ssh.ConnectionFailed},
		{"port 0", "127.0.0.1", 0, ssh.Prohibited},
		{"a port beyond all", "127.0.0.1", 1<<16 + port, ssh.Prohibited},
		{"a port of 2^32-1", "127.0.0.1", 1<<32 - 1, ssh.Prohibited},
		{"N-02 a long name", strings.Repeat("a.", 10_000), port, ssh.Prohibited},
		{"a NUL byte", "127.0.0.1\x00", port, ssh.Prohibited},
		{"a line break", "127.0.0.1\r\n", port, ssh.Prohibited},
	} {
		t.Run(c.name, func(t *testing.T) {
			var refused *ssh.OpenChannelError
			if err := open(c.host, c.port); !errors.As(err, &refused) || refused.Reason != c.want {
				t.Errorf("%v", err)
			}
		})
	}
	for name, payload := range map[string][]byte{"N-02 no payload": nil, "N-02 cut short": {0, 0, 0, 9, '1'}, "N-02 a length that lies": bytes.Repeat([]byte{0xff}, 16)} {
		t.Run(name, func(t *testing.T) {
			_, _, err := client.OpenChannel("direct-tcpip", payload)
			var refused *ssh.OpenChannelError
			if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("what is published is reached all the same", func(t *testing.T) {
		if err := open("127.0.0.1", port); err != nil {
			t.Error(err)
		}
	})
	if log := b.log.String(); strings.ContainsAny(log, "\x1b\x07\x00") {
		t.Errorf("X-13 log %q", log)
	}
	t.Run("C-08 the policy forbids it", func(t *testing.T) {
		server, err := NewSSHServer(SSHConfig{HostKeyFile: t.TempDir() + "/key", Dial: b.server.dial})
		if err != nil {
			t.Fatal(err)
		}
		if server.dial != nil {
			t.Error("forwarding by the zero policy")
		}
	})
}

func TestSSHForwardEnds(t *testing.T) {
	t.Parallel()
	silent := make(chan *net.TCPConn, 1000)
	waiting := service(t, func(c *net.TCPConn) {
		silent <- c
		_, _ = c.Read(make([]byte, 1))
	})
	b := newSSHBed(t)
	f, remove := b.publish("", waiting)
	port := portOf(waiting)
	places := func(n int) func() bool { return func() bool { return len(f.places) == n } }

	t.Run("with its channel", func(t *testing.T) {
		c, err := b.client().Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		await(t, silent)
		_ = c.Close()
		waitFor(t, "the place is free", places(0))
	})
	t.Run("with its connection", func(t *testing.T) {
		client := b.client()
		if _, err := client.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err != nil {
			t.Fatal(err)
		}
		await(t, silent)
		_ = client.Close()
		waitFor(t, "the place is free", places(0))
	})
	t.Run("N-03 one too many in a connection", func(t *testing.T) {
		client := b.client()
		for range maxForwards {
			if _, err := client.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := client.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
			t.Errorf("%v", err)
		}
		if err := newSession(t, client).Run("true"); err != nil {
			t.Errorf("a session beside them: %v", err)
		}
		_ = client.Close()
		waitFor(t, "the places are free", places(0))
	})
	t.Run("N-03 one too many in the device", func(t *testing.T) {
		taken := cap(f.places) - 1
		for range taken {
			f.places <- struct{}{}
		}
		defer func() {
			for range taken {
				<-f.places
			}
		}()
		client := b.client()
		if _, err := client.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err != nil {
			t.Fatal(err)
		}
		_, err := b.client().Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
			t.Errorf("%v", err)
		}
		_ = client.Close()
		waitFor(t, "the place is free", places(taken))
	})
	t.Run("L-03 with its tunnel", func(t *testing.T) {
		client := b.client()
		c, err := client.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		remove()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
		if _, err := client.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			t.Error("it was dialled again")
		}
		if err := newSession(t, client).Run("true"); err != nil {
			t.Errorf("the connection beside it: %v", err)
		}
	})
}

// leftChannel is a channel whose client said something, ended it, and closed it.
type leftChannel struct {
	ssh.Channel
	said io.Reader
}

func (c leftChannel) Read(p []byte) (int, error) { return c.said.Read(p) }
func (leftChannel) Write([]byte) (int, error)    { return 0, io.EOF }
func (leftChannel) Close() error                 { return io.EOF }
func (leftChannel) CloseWrite() error            { return io.EOF }

func TestCarryLastBytes(t *testing.T) {
	closed := make(chan *ssh.Request)
	close(closed)
	t.Run("are delivered after the client has left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go carry(t.Context(), slog.New(slog.DiscardHandler), leftChannel{said: strings.NewReader(strings.Repeat("x", 100_000))}, closed, ours)
			<-time.After(lastBytesLimit / 2) // a slow one
			got, err := io.ReadAll(theirs)
			if len(got) != 100_000 || err != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	})
	t.Run("N-07 not for ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			start := time.Now()
			carry(t.Context(), slog.New(slog.DiscardHandler), leftChannel{said: strings.NewReader(strings.Repeat("x", 100_000))}, closed, ours)
			if took := time.Since(start); took != lastBytesLimit {
				t.Errorf("after %v", took)
			}
			_ = theirs.Close()
		})
	})
}

func TestForwardedWithoutHalfClose(t *testing.T) {
	ours, theirs := net.Pipe()
	left := false
	c := &forwarded{Conn: ours, leave: func() { left = true }}
	if err := c.CloseWrite(); err != nil || !left {
		t.Error(err, left)
	}
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestLeadingTo(t *testing.T) {
	p := newPublications(nil)
	remove, err := p.add(t.Context(), []Tunnel{
		tunnel(t, "tcp://localhost:80"), tunnel(t, "http://127.0.0.1:81"), tunnel(t, "tcp://[::1]:82"), tunnel(t, "tcp://db.lan:83"),
		tunnel(t, "tcp://localhost:84"), tunnel(t, "tcp://127.0.0.1:84"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	for ask, want := range map[string]string{
		"localhost:80": "tcp://localhost:80", "127.0.0.1:80": "tcp://localhost:80", "[::1]:80": "tcp://localhost:80",
		"localhost:81": "http://127.0.0.1:81", "localhost:82": "tcp://[::1]:82", "127.0.0.9:80": "tcp://localhost:80",
		"db.lan:83": "tcp://db.lan:83", "DB.lan:83": "tcp://db.lan:83", "localhost:83": "", "db.lan:80": "",
		"127.0.0.1:84": "tcp://127.0.0.1:84", "[::1]:84": "tcp://127.0.0.1:84",
	} {
		to, err := socketxp.ParseDestination("tcp://" + ask)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if found := p.leadingTo(to.Host, to.Port); found != nil {
			got = found.Destination.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", ask, got, want)
		}
	}
}
