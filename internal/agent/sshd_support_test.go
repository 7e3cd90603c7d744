//go:build unix

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// The test program is its own sftp server, as the agent is: it is started with
// this one argument. init, because it must come before any TestMain.
func init() {
	if len(os.Args) == 2 && os.Args[1] == sftpCommand {
		if err := SFTPMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is a main
		}
		os.Exit(0) //nolint:forbidigo // this is a main
	}
	if len(os.Args) == 2 && os.Args[1] == authorizedKeysCommand {
		if err := AuthorizedKeysMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is a main
		}
		os.Exit(0) //nolint:forbidigo // this is a main
	}
}

// patience is for what takes milliseconds unless the machine is very busy.
const patience = 60 * time.Second

// sshBed is a server on a loopback port, and what a client needs to trust it.
type sshBed struct {
	t      *testing.T
	server *SSHServer
	user   string // may log in
	home   string // of user, empty at first
	port   int
	known  string // a known_hosts file with the server's key
	log    *lockedBuffer
	cancel context.CancelFunc // ends all connections
	ended  chan error         // what each ServeConn returned
}

// newSSHBed starts a server in front of the user who runs the tests. When the
// test ends, so must all connections, by themselves or by cancel.
func newSSHBed(t *testing.T, changes ...func(*SSHServer)) *sshBed {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &sshBed{
		t: t, user: me.Username, home: filepath.Join(dir, "home"), known: filepath.Join(dir, "known_hosts"),
		log: new(lockedBuffer), ended: make(chan error, 100),
	}
	if err := os.Mkdir(b.home, 0o700); err != nil {
		t.Fatal(err)
	}
	b.server, err = NewSSHServer(SSHConfig{
		HostKeyFile: filepath.Join(dir, "ssh_host_ed25519_key"),
		Log:         slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Version:     "1.2.3-test",
		Policy:      DefaultSSHPolicy(),
		Executable:  executable,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.server.lookup = func(name string) (account, error) {
		a, err := lookupAccount(name)
		a.home, a.shell = b.home, "/bin/sh"
		return a, err
	}
	for _, change := range changes {
		change(b.server)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.port = l.Addr().(*net.TCPAddr).Port
	line := fmt.Sprintf("[127.0.0.1]:%d %s\n", b.port, b.server.HostKey())
	if err := os.WriteFile(b.known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				err := b.server.ServeConn(ctx, c)
				// A test of hundreds of connections reads none of their ends.
				select {
				case b.ended <- err:
				default:
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		serving.Wait()
	})
	return b
}

// options are what every OpenSSH program takes: this server, its key known,
// nothing of the machine's own configuration, and no questions.
func (b *sshBed) options(more ...string) []string {
	all := []string{
		"-F", "/dev/null",
		"-o", "Port=" + strconv.Itoa(b.port),
		"-o", "UserKnownHostsFile=" + b.known,
		"-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "HostKeyAlgorithms=ssh-ed25519",
		"-o", "IdentityFile=none",
		"-o", "IdentityAgent=none",
		"-o", "BatchMode=yes",
	}
	return append(all, more...)
}

func (b *sshBed) host() string { return b.user + "@127.0.0.1" }

// ssh is an OpenSSH client that runs command, with more options before it.
func (b *sshBed) ssh(command string, options ...string) *exec.Cmd {
	b.t.Helper()
	return b.program("ssh", append(b.options(options...), b.host(), command)...)
}

func (b *sshBed) program(name string, args ...string) *exec.Cmd {
	b.t.Helper()
	needPrograms(b.t, name)
	cmd := exec.CommandContext(b.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

// needPrograms skips the test at a desk where a program is missing; in CI it fails.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			skip(t, err)
		}
	}
}

// skip leaves a test out at a desk that has not what it needs. CI has it: there the
// test fails.
func skip(t *testing.T, why any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%v: CI must run everything", why)
	}
	t.Skip(why)
}

// outcome is how a program ended.
type outcome struct {
	stdout, stderr string
	code           int
}

func runCmd(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// mustRun runs a program that has to succeed and returns its output.
func mustRun(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	o := runCmd(t, cmd)
	if o.code != 0 {
		t.Fatalf("%v: exit status %d, stderr %q", cmd.Args, o.code, o.stderr)
	}
	return o.stdout
}

// dial is the Go SSH client, for what OpenSSH's never sends.
func (b *sshBed) dial(name string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	c, err := ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)), &ssh.ClientConfig{
		User:            name,
		Auth:            auth,
		HostKeyCallback: ssh.FixedHostKey(b.server.signer.PublicKey()),
		Timeout:         patience,
	})
	if err == nil {
		b.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (b *sshBed) client() *ssh.Client {
	b.t.Helper()
	c, err := b.dial(b.user)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func newSession(t *testing.T, c *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v: %s", patience, what)
		}
	}
}

// alive says whether a process exists that isn't a zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, rest, _ := strings.Cut(string(status), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// startUntil starts cmd and returns the rest of the first line of its output
// that starts with the given word.
func startUntil(t *testing.T, cmd *exec.Cmd, word string) string {
	t.Helper()
	var out lockedBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out.after(t, word)
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lockedBuffer may be written and read at the same time.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// after waits for a whole line that starts with word and returns what follows it.
func (l *lockedBuffer) after(t *testing.T, word string) string {
	t.Helper()
	var found string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output so far: %q", l)
		}
	})
	waitFor(t, fmt.Sprintf("a line %q", word), func() bool {
		for line := range strings.Lines(l.String()) {
			rest, ok := strings.CutPrefix(line, word)
			if ok && strings.HasSuffix(rest, "\n") {
				found = strings.TrimSpace(rest)
				return true
			}
		}
		return false
	})
	return found
}
