//go:build unix

package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestSSHHostKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ssh_host_ed25519_key")
	first, err := NewSSHServer(SSHConfig{HostKeyFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("is an authorized_keys line", func(t *testing.T) {
		key, comment, _, rest, err := ssh.ParseAuthorizedKey([]byte(first.HostKey()))
		if err != nil || comment != "" || len(rest) != 0 || key.Type() != ssh.KeyAlgoED25519 || strings.ContainsAny(first.HostKey(), "\r\n") {
			t.Errorf("%q: %v", first.HostKey(), err)
		}
	})
	t.Run("stays the same over restarts", func(t *testing.T) {
		again, err := NewSSHServer(SSHConfig{HostKeyFile: file})
		if err != nil {
			t.Fatal(err)
		}
		if again.HostKey() != first.HostKey() {
			t.Errorf("%q, then %q", first.HostKey(), again.HostKey())
		}
	})
	t.Run("is alone in its folder with mode 0600", func(t *testing.T) {
		entries, err := os.ReadDir(filepath.Dir(file))
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
}

func TestSSHHostKeyFileIsRefused(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	good := pem.EncodeToMemory(block)
	for _, c := range []struct {
		name string
		data []byte
		mode os.FileMode
		want string
	}{
		{"readable by others", good, 0o644, "must be a file of mode 0600"},
		{"cut short", good[:len(good)/2], 0o600, "no key found"},
		{"empty", nil, 0o600, "no key found"},
		{"too large", append(slices.Clone(good), make([]byte, maxHostKeyFile)...), 0o600, "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(file, c.data, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := NewSSHServer(SSHConfig{HostKeyFile: file})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			after, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(after, c.data) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("no folder", func(t *testing.T) {
		if _, err := NewSSHServer(SSHConfig{HostKeyFile: filepath.Join(t.TempDir(), "none", "key")}); err == nil {
			t.Error("no error")
		}
	})
}

func TestSSHUnknownUserInConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	_, err := NewSSHServer(SSHConfig{HostKeyFile: file, Users: []string{"no-such-user"}})
	if err == nil || !strings.Contains(err.Error(), `"no-such-user"`) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made all the same: %v", err)
	}
}

func TestSSHOtherHostKeyIsNoticed(t *testing.T) {
	t.Parallel()
	b, other := newSSHBed(t), newSSHBed(t)
	line, err := os.ReadFile(other.known)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(string(line), " ")
	mine, err := os.ReadFile(b.known)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(string(mine), " ")
	if err := os.WriteFile(b.known, []byte(host+" "+key), 0o600); err != nil {
		t.Fatal(err)
	}
	o := runCmd(t, b.ssh("true"))
	if o.code != 255 || !strings.Contains(o.stderr, "Host key verification failed") {
		t.Errorf("%+v", o)
	}
}

func TestSSHLogin(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	methods := []ssh.AuthMethod{
		ssh.PublicKeys(signer),
		ssh.Password("hunter2"),
		ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil }),
	}

	t.Run("the user in the list", func(t *testing.T) {
		if got := mustRun(t, b.ssh("echo here")); got != "here\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("a preference for other methods changes nothing", func(t *testing.T) {
		mustRun(t, b.ssh("true", "-o", "PreferredAuthentications=password,publickey,keyboard-interactive"))
	})
	t.Run("another user is told who may", func(t *testing.T) {
		cmd := b.program("ssh", append(b.options(), "eve@127.0.0.1", "true")...)
		o := runCmd(t, cmd)
		want := `socketxp: user "eve" may not log in on this device; it lets in: ` + b.user
		if o.code != 255 || !strings.Contains(o.stderr, want) || o.stdout != "" {
			t.Errorf("%+v", o)
		}
	})
	for _, name := range []string{"eve", strings.ToUpper(b.user), b.user + " ", b.user + "\x00", b.user + ",eve", strings.Repeat("a", 100_000)} {
		t.Run("no other user by any method "+printable(name), func(t *testing.T) {
			if _, err := b.dial(name, methods...); err == nil {
				t.Error("let in")
			}
		})
	}
	t.Run("X-13 a hostile name is escaped in log and banner", func(t *testing.T) {
		evil := "x\x1b]0;owned\x07\n{\"level\":\"error\"}\u202e"
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)))
		if err != nil {
			t.Fatal(err)
		}
		var banner string
		_, _, _, err = ssh.NewClientConn(c, "", &ssh.ClientConfig{
			User:            evil,
			HostKeyCallback: ssh.FixedHostKey(b.server.signer.PublicKey()),
			BannerCallback:  func(m string) error { banner = m; return nil },
		})
		if err == nil {
			t.Fatal("let in")
		}
		if !strings.Contains(banner, `"x\x1b]0;owned\a\n`) || strings.ContainsAny(banner, "\x1b\x07\u202e") {
			t.Errorf("banner %q", banner)
		}
		b.log.after(t, "") // there is a line
		waitFor(t, "the refusal in the log", func() bool { return strings.Contains(b.log.String(), "owned") })
		if strings.ContainsAny(b.log.String(), "\x1b\x07\u202e") || strings.Contains(b.log.String(), "\n{") {
			t.Errorf("log %q", b.log)
		}
	})
	t.Run("what ServeConn returns", func(t *testing.T) {
		b := newSSHBed(t)
		if _, err := b.dial("eve"); err == nil {
			t.Fatal("let in")
		}
		if err := <-b.ended; err == nil || !strings.Contains(err.Error(), `"eve" is not a user who may log in`) {
			t.Errorf("wrong user: %v", err)
		}
		c, err := b.dial(b.user)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if err := <-b.ended; err != nil {
			t.Errorf("orderly end: %v", err)
		}
		if _, err := b.dial(b.user); err != nil {
			t.Fatal(err)
		}
		b.cancel()
		if err := <-b.ended; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	t.Run("not SSH at all", func(t *testing.T) {
		b := newSSHBed(t)
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\x1b\r\n"), 100)); err != nil {
			t.Fatal(err)
		}
		if err := <-b.ended; err == nil {
			t.Error("no error")
		}
		if strings.Contains(b.log.String(), "\x1b") {
			t.Errorf("log %q", b.log)
		}
	})
}

func TestSSHLookupFailsClosed(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t, func(s *SSHServer) {
		s.lookup = func(string) (account, error) { return account{}, errors.New("the directory is away") }
	})
	if _, err := b.dial(b.user); err == nil {
		t.Fatal("let in")
	}
	if err := <-b.ended; err == nil || !strings.Contains(err.Error(), "the directory is away") {
		t.Errorf("%v", err)
	}
}

func TestSSHHandshakeLimit(t *testing.T) {
	server, err := NewSSHServer(SSHConfig{HostKeyFile: filepath.Join(t.TempDir(), "key")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		talk func(net.Conn)
	}{
		{"N-04 a client that says nothing", func(net.Conn) {}},
		{"N-04 a client that says one byte every 5 s", func(c net.Conn) {
			for {
				<-time.After(5 * time.Second)
				if _, err := c.Write([]byte("S")); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				go c.talk(theirs)
				start := time.Now()
				err := server.ServeConn(t.Context(), ours)
				if took := time.Since(start); took != handshakeLimit || err == nil || !strings.Contains(err.Error(), "within 20s") {
					t.Errorf("after %v: %v", took, err)
				}
				_ = theirs.Close()
			})
		})
	}
}

func TestSSHForwardingIsRefused(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	go func() {
		if c, err := target.Accept(); err == nil {
			t.Error("N-12 a forwarded connection came out")
			_ = c.Close()
		}
	}()
	address := target.Addr().String()

	t.Run("N-11 local, by OpenSSH", func(t *testing.T) {
		o := runCmd(t, b.program("ssh", append(b.options("-W", address), b.host())...))
		if o.code != 255 || !strings.Contains(o.stderr, "administratively prohibited") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("N-11 remote, by OpenSSH", func(t *testing.T) {
		o := runCmd(t, b.program("ssh", append(b.options("-N", "-R", "0:"+address, "-o", "ExitOnForwardFailure=yes"), b.host())...))
		if o.code != 255 || !strings.Contains(o.stderr, "remote port forwarding failed") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("N-11 of the ssh agent, by OpenSSH", func(t *testing.T) {
		socket, _ := withAgent(t)
		if got := mustRun(t, b.sshWithAgent(`echo "[$SSH_AUTH_SOCK]"`, socket)); got != "[]\n" {
			t.Errorf("%q", got)
		}
	})
	client := b.client()
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "forwarded-tcpip", "x11", "auth-agent@openssh.com", "tun@openssh.com", "forwarded-streamlocal@openssh.com", "nonsense\x1b"} {
		want := ssh.Prohibited
		if strings.HasPrefix(kind, "nonsense") {
			want = ssh.UnknownChannelType
		}
		t.Run("N-11 channel "+printable(kind), func(t *testing.T) {
			payload := ssh.Marshal(struct {
				Host  string
				Port  uint32
				From  string
				FromP uint32
			}{"127.0.0.1", uint32(target.Addr().(*net.TCPAddr).Port), "127.0.0.1", 1})
			_, _, err := client.OpenChannel(kind, payload)
			var refused *ssh.OpenChannelError
			if !errors.As(err, &refused) || refused.Reason != want {
				t.Errorf("%v", err)
			}
		})
	}
	for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com", "hostkeys-prove-00@openssh.com", "no-more-sessions@openssh.com", ""} {
		t.Run("N-11 request "+kind, func(t *testing.T) {
			ok, _, err := client.SendRequest(kind, true, ssh.Marshal(struct {
				Host string
				Port uint32
			}{"127.0.0.1", 0}))
			if ok || err != nil {
				t.Error(ok, err)
			}
		})
	}
	for _, kind := range []string{"auth-agent-req@openssh.com", "x11-req", "nonsense"} {
		t.Run("N-11 request in a session "+kind, func(t *testing.T) {
			if ok, err := newSession(t, client).SendRequest(kind, true, nil); ok || err != nil {
				t.Error(ok, err)
			}
		})
	}
	t.Run("keepalive is answered", func(t *testing.T) {
		if ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
			t.Error(ok, err)
		}
	})
}

func TestSSHSessionLimit(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	client := b.client()
	var open []*ssh.Session
	for range maxSessions {
		open = append(open, newSession(t, client))
	}
	t.Run("N-03 one too many", func(t *testing.T) {
		for range 100 {
			_, err := client.NewSession()
			var refused *ssh.OpenChannelError
			if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
				t.Fatalf("%v", err)
			}
		}
	})
	t.Run("the others go on", func(t *testing.T) {
		out, err := open[3].Output("echo $((6*7))")
		if err != nil || string(out) != "42\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("an end makes room", func(t *testing.T) {
		_ = open[5].Close()
		waitFor(t, "a new session", func() bool {
			s, err := client.NewSession()
			if err != nil {
				return false
			}
			return s.Run("true") == nil
		})
	})
}

func TestGreeting(t *testing.T) {
	for in, want := range map[string]string{
		"1.2.3":                   "SSH-2.0-socketxp_1.2.3",
		"v1-4-gabc dirty\r\n\x00": "SSH-2.0-socketxp_v1_4_gabc_dirty___",
		"ü":                       "SSH-2.0-socketxp__",
		strings.Repeat("9", 300):  "SSH-2.0-socketxp_" + strings.Repeat("9", 64),
	} {
		if got := greeting(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
