//go:build unix

package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// withAgent starts an ssh-agent that holds one key, and returns its socket and the
// key's fingerprint.
func withAgent(t *testing.T) (socket, fingerprint string) {
	t.Helper()
	needPrograms(t, "ssh-agent", "ssh-add", "ssh-keygen")
	dir := t.TempDir()
	socket = filepath.Join(dir, "socket")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	key := filepath.Join(dir, "key")
	mustRun(t, exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "visitor", "-f", key))
	waitFor(t, "the agent takes the key", func() bool {
		add := exec.CommandContext(t.Context(), "ssh-add", "-q", key)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		return add.Run() == nil
	})
	return socket, strings.Fields(mustRun(t, exec.CommandContext(t.Context(), "ssh-keygen", "-l", "-f", key)))[1]
}

// sshWithAgent forwards the ssh agent at socket. Of an option the first counts.
func (b *sshBed) sshWithAgent(command, socket string) *exec.Cmd {
	b.t.Helper()
	args := append([]string{"-A", "-o", "IdentityAgent=" + socket}, b.options(b.host(), command)...)
	return b.program("ssh", args...)
}

func allowAgent(s *SSHServer) { s.policy.AgentForwarding = true }

func TestSSHAgentForwarding(t *testing.T) {
	t.Parallel()
	socket, fingerprint := withAgent(t)
	forwarded := func(b *sshBed, command string) outcome {
		return runCmd(t, b.sshWithAgent(command, socket))
	}
	t.Run("C-08 off unless allowed", func(t *testing.T) {
		b := newSSHBed(t)
		if o := forwarded(b, `echo "[$SSH_AUTH_SOCK]"`); o.stdout != "[]\n" || o.code != 0 {
			t.Errorf("%+v", o)
		}
	})
	t.Run("the visitor's key is there, and the socket goes with the session", func(t *testing.T) {
		b := newSSHBed(t, allowAgent)
		o := forwarded(b, `ssh-add -l; stat -c "%a %u" "$(dirname "$SSH_AUTH_SOCK")" "$SSH_AUTH_SOCK"; echo "$SSH_AUTH_SOCK"`)
		lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
		me := strconv.Itoa(os.Geteuid())
		if len(lines) != 4 || !strings.Contains(lines[0], fingerprint) || lines[1] != "700 "+me || lines[2] != "600 "+me {
			t.Fatalf("%+v", o)
		}
		waitFor(t, "the end of the folder", func() bool {
			_, err := os.Lstat(filepath.Dir(lines[3]))
			return errors.Is(err, os.ErrNotExist)
		})
	})
	t.Run("not without being asked for", func(t *testing.T) {
		b := newSSHBed(t, allowAgent)
		if got := mustRun(t, b.ssh(`echo "[$SSH_AUTH_SOCK]"`)); got != "[]\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("of another user", func(t *testing.T) {
		b := serveAs(t, "nobody", "/bin/sh")
		b.server.policy.AgentForwarding = true
		o := forwarded(b, `ssh-add -l; stat -c "%a %U" "$(dirname "$SSH_AUTH_SOCK")" "$SSH_AUTH_SOCK"`)
		lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], fingerprint) || lines[1] != "700 nobody" || lines[2] != "600 nobody" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("C-05 a third user can't reach it", func(t *testing.T) {
		b := serveAs(t, "nobody", "/bin/sh")
		b.server.policy.AgentForwarding = true
		s := newSession(t, b.client())
		if ok, err := s.SendRequest(agentRequest, true, nil); !ok || err != nil {
			t.Fatal(ok, err)
		}
		out := new(lockedBuffer)
		s.Stdout = out
		if err := s.Start("echo sock $SSH_AUTH_SOCK; exec sleep 1000"); err != nil {
			t.Fatal(err)
		}
		path := out.after(t, "sock ")
		other, err := lookupAccount("daemon")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/usr/bin/nc", "-U", path)
		needPrograms(t, "nc")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: other.credential}
		if o := runCmd(t, cmd); o.code == 0 || !strings.Contains(o.stderr, "Permission denied") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("C-05 what a user puts in the folder's place is left alone", func(t *testing.T) {
		b := serveAs(t, "nobody", "/bin/sh")
		b.server.policy.AgentForwarding = true
		precious := filepath.Join(openDir(t), "precious")
		if err := os.Mkdir(precious, 0o755); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(precious, agentSocket)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		o := forwarded(b, `d="$(dirname "$SSH_AUTH_SOCK")"; mv "$d" "$d.moved" && ln -s `+precious+` "$d" && echo "$d"`)
		dir := strings.TrimSpace(o.stdout)
		if dir == "" {
			t.Fatalf("%+v", o)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir + ".moved") })
		waitFor(t, "the end of the socket", func() bool {
			_, err := os.Lstat(filepath.Join(dir+".moved", agentSocket))
			return errors.Is(err, os.ErrNotExist)
		})
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
}

func TestSSHAgentForwardingLimits(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t, allowAgent)
	client := b.client()
	s := newSession(t, client)
	if ok, err := s.SendRequest(agentRequest, true, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := s.SendRequest(agentRequest, true, nil); ok || err != nil {
		t.Error("a second socket", ok, err)
	}
	out := new(lockedBuffer)
	s.Stdout = out
	if err := s.Start("echo sock $SSH_AUTH_SOCK; exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	path := out.after(t, "sock ")
	asked := client.HandleChannelOpen(agentChannel)
	dial := func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	t.Run("N-03 a client that answers no open, and one program too many", func(t *testing.T) {
		var opens []ssh.NewChannel
		for range maxAgentConns {
			dial()
			opens = append(opens, await(t, asked))
		}
		if _, err := dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
		for _, n := range opens {
			_ = n.Reject(ssh.Prohibited, "")
		}
		waitFor(t, "room again", func() bool {
			c := dial()
			select {
			case n := <-asked:
				_ = n.Reject(ssh.Prohibited, "")
				return true
			default:
				_ = c.Close()
				return false
			}
		})
	})
	t.Run("the session's end ends the socket, answered or not", func(t *testing.T) {
		dial()
		_ = s.Close()
		waitFor(t, "the end of the socket", func() bool {
			_, err := os.Lstat(path)
			return errors.Is(err, os.ErrNotExist)
		})
		if err := newSession(t, client).Run("true"); err != nil {
			t.Error(err)
		}
	})
}
