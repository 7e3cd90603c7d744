//go:build unix

package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"socketxp"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
)

func TestSSHExec(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	for _, code := range []int{0, 3, 255} {
		t.Run(fmt.Sprintf("exit status %d", code), func(t *testing.T) {
			if o := runCmd(t, b.ssh(fmt.Sprintf("exit %d", code))); o.code != code {
				t.Errorf("%+v", o)
			}
		})
	}
	t.Run("standard error is apart", func(t *testing.T) {
		o := runCmd(t, b.ssh("echo out; echo err >&2"))
		if o.stdout != "out\n" || o.stderr != "err\n" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("the end of input is the end of input", func(t *testing.T) {
		cmd := b.ssh("cat; echo end")
		cmd.Stdin = strings.NewReader("x\n")
		if got := mustRun(t, cmd); got != "x\nend\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("a program that reads no input", func(t *testing.T) {
		cmd := b.ssh("exec 0<&-; echo done")
		cmd.Stdin = bytes.NewReader(make([]byte, 8<<20)) // more than the window
		if got := mustRun(t, cmd); got != "done\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("a quoted command arrives as it was", func(t *testing.T) {
		if got := mustRun(t, b.ssh(`printf '%s|' "a  b" '$HOME' "$(printf '\\n')"`)); got != "a  b|$HOME|\\n|" {
			t.Errorf("%q", got)
		}
	})
	t.Run("starts in the home folder, in a session of its own", func(t *testing.T) {
		got := mustRun(t, b.ssh(`pwd; cut -d ' ' -f 6 /proc/$$/stat; echo $$`))
		lines := strings.Split(got, "\n")
		if lines[0] != b.home || lines[1] != lines[2] {
			t.Errorf("%q", got)
		}
	})
	t.Run("a shell without terminal", func(t *testing.T) {
		cmd := b.program("ssh", append(b.options("-T"), b.host())...)
		cmd.Stdin = strings.NewReader("echo $0\nexit 5\n")
		if o := runCmd(t, cmd); o.stdout != "-sh\n" || o.code != 5 {
			t.Errorf("%+v", o)
		}
	})
}

func TestSSHExitSignal(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	client := b.client()
	for sig, want := range map[string]string{"TERM": "TERM", "KILL": "KILL", "HUP": "HUP", "BUS": "other@socketxp"} {
		t.Run(sig, func(t *testing.T) {
			err := newSession(t, client).Run("kill -" + sig + " $$")
			var exit *ssh.ExitError
			if !errors.As(err, &exit) || exit.Signal() != want {
				t.Errorf("%v", err)
			}
		})
	}
	if o := runCmd(t, b.ssh("kill -TERM $$")); o.code != 255 {
		t.Errorf("OpenSSH: %+v", o)
	}
}

func TestSSHBigData(t *testing.T) {
	t.Parallel()
	const size = 50 << 20
	b := newSSHBed(t)
	data := func() io.Reader { return io.LimitReader(&counter{}, size) }
	sum := sha256.New()
	if _, err := io.Copy(sum, data()); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x", sum.Sum(nil))

	t.Run("out", func(t *testing.T) {
		f, err := os.Create(filepath.Join(b.home, "big"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(f, data()); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		got := sha256.New()
		cmd := b.ssh("cat big")
		cmd.Stdout = got
		mustRun(t, cmd)
		if s := fmt.Sprintf("%x", got.Sum(nil)); s != want {
			t.Errorf("%s, want %s", s, want)
		}
	})
	t.Run("in", func(t *testing.T) {
		cmd := b.ssh("sha256sum")
		cmd.Stdin = data()
		if got := mustRun(t, cmd); !strings.HasPrefix(got, want+" ") {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("in and out at once", func(t *testing.T) {
		got := sha256.New()
		cmd := b.ssh("cat")
		cmd.Stdin, cmd.Stdout = data(), got
		mustRun(t, cmd)
		if s := fmt.Sprintf("%x", got.Sum(nil)); s != want {
			t.Errorf("%s, want %s", s, want)
		}
	})
}

// counter gives bytes that don't repeat within a packet's or a page's length.
type counter struct{ n uint64 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		c.n++
		p[i] = byte(c.n ^ c.n>>8 ^ c.n>>16)
	}
	return len(p), nil
}

func TestSSHEnvironment(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	got := mustRun(t, b.ssh("env", "-o", "SetEnv=LANG=de_DE.UTF-8 LC_TIME=C LD_PRELOAD=/x BASH_ENV=/x PATH=/evil HOME=/evil LC_=x LANGUAGE=x SSH_ORIGINAL_COMMAND=x"))
	env := map[string]string{}
	for line := range strings.Lines(got) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	me := os.Geteuid()
	path := "/usr/local/bin:/usr/bin:/bin"
	if me == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for name, want := range map[string]string{
		"HOME": b.home, "USER": b.user, "LOGNAME": b.user, "SHELL": "/bin/sh", "PATH": path, "LANG": "de_DE.UTF-8", "LC_TIME": "C",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
		delete(env, name)
	}
	var port, to int
	if n, err := fmt.Sscanf(env["SSH_CONNECTION"], "127.0.0.1 %d 127.0.0.1 %d", &port, &to); n != 2 || err != nil || to != b.port {
		t.Errorf("SSH_CONNECTION is %q", env["SSH_CONNECTION"])
	}
	if want := fmt.Sprintf("127.0.0.1 %d %d", port, to); env["SSH_CLIENT"] != want {
		t.Errorf("SSH_CLIENT is %q, want %q", env["SSH_CLIENT"], want)
	}
	for _, name := range []string{"SSH_CONNECTION", "SSH_CLIENT", "PWD", "OLDPWD", "_", "SHLVL", "LC_ALL"} { // the shell's own, and the client's LC_ALL
		delete(env, name)
	}
	if len(env) != 0 {
		t.Errorf("X-16 more than there should be: %v", slices.Sorted(maps.Keys(env)))
	}
}

func TestSSHNoAddress(t *testing.T) {
	s := &session{sshConn: &sshConn{user: account{name: "pi", home: "/home/pi", shell: "/bin/sh", uid: 1000}}}
	if env := s.environment(); !slices.Contains(env, "SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535") {
		t.Errorf("%q", env)
	}
}

func TestSSHEnvironmentBounds(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	client := b.client()
	for _, c := range []struct {
		name, value string
		want        bool
	}{
		{"LANG", "C.UTF-8", true},
		{"LC_ALL", "de_DE@euro", true},
		{"LC_ALL", "", true},
		{"LC_ALL", "../../tmp/evil", false},
		{"LC_ALL", "C\n", false},
		{"LC_ALL", "$(id)", false},
		{"LC_ALL", strings.Repeat("x", maxVariable), true},
		{"LC_ALL", strings.Repeat("x", maxVariable+1), false},
		{"LC_" + strings.Repeat("A", maxVariableName), "C", false},
		{"LC_", "C", false},
		{"LANG=x", "C", false},
		{"LANG\n", "C", false},
		{"LD_LIBRARY_PATH", "x", false},
		{"TERM", "xterm", true},
		{"TERM", "xterm\x1b[2J", false},
		{"COLORTERM", "truecolor", true},
		{"COLORTERM", "() { :; }; id", false},
		{"COLORTERM", "a\nb", false},
		{"COLORTERM", "\xff", false},
	} {
		t.Run(printable(c.name+"="+c.value), func(t *testing.T) {
			err := newSession(t, client).Setenv(c.name, c.value)
			if (err == nil) != c.want {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("how many", func(t *testing.T) {
		s := newSession(t, client)
		for i := range maxVariables {
			for _, value := range []string{"C", "POSIX"} { // the second replaces the first
				if err := s.Setenv("LC_"+strings.Repeat("A", i+1), value); err != nil {
					t.Fatal(err)
				}
			}
		}
		if s.Setenv("LANG", "C") == nil {
			t.Error("one too many was taken")
		}
	})
	t.Run("N-03 a flood of requests ends the session", func(t *testing.T) {
		s := newSession(t, client)
		waitFor(t, "the end of the session", func() bool {
			_, err := s.SendRequest("nonsense", true, nil)
			return errors.Is(err, io.EOF)
		})
		if err := newSession(t, client).Run("true"); err != nil {
			t.Errorf("the next session: %v", err)
		}
	})
}

func TestSSHCommandBounds(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	client := b.client()
	t.Run("N-02 as long as may be", func(t *testing.T) {
		command := "exit 3 #"
		err := newSession(t, client).Run(command + strings.Repeat("x", maxCommand-len(command)))
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
			t.Errorf("%v", err)
		}
	})
	for name, payload := range map[string][]byte{
		"N-02 longer than may be":   ssh.Marshal(struct{ S string }{strings.Repeat("x", maxCommand+1)}),
		"N-02 a length that lies":   {0xff, 0xff, 0xff, 0xff, 'x'},
		"N-02 nothing":              nil,
		"N-02 more than one string": append(ssh.Marshal(struct{ S string }{"true"}), 'x'),
		"a NUL byte":                ssh.Marshal(struct{ S string }{"touch \x00ran"}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, client)
			if ok, err := s.SendRequest("exec", true, payload); ok || err != nil {
				t.Error(ok, err)
			}
		})
	}
	t.Run("one program in a session", func(t *testing.T) {
		s := newSession(t, client)
		if err := s.Start("exec sleep 1000"); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"exec", "shell", "subsystem", "pty-req", "env"} {
			if ok, err := s.SendRequest(kind, true, ssh.Marshal(struct{ S string }{"true"})); ok || err != nil {
				t.Error(kind, ok, err)
			}
		}
	})
	t.Run("no other subsystem", func(t *testing.T) {
		if newSession(t, client).RequestSubsystem("netconf") == nil {
			t.Error("there is")
		}
	})
	t.Run("a shell that is not there", func(t *testing.T) {
		b := newSSHBed(t, func(s *SSHServer) {
			s.lookup = func(name string) (account, error) {
				a, err := lookupAccount(name)
				a.shell = "/nonexistent/shell"
				return a, err
			}
		})
		o := runCmd(t, b.ssh("true"))
		if o.code != 1 || !strings.Contains(o.stderr, "start /nonexistent/shell: no such file or directory") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a home folder that is not there", func(t *testing.T) {
		if err := os.Remove(b.home); err != nil {
			t.Fatal(err)
		}
		o := runCmd(t, b.ssh(`pwd; echo "$HOME"`))
		if o.stdout != "/\n"+b.home+"\n" || !strings.Contains(o.stderr, "Could not chdir to home directory "+b.home+": no such file or directory") {
			t.Errorf("%+v", o)
		}
	})
}

// screen runs an OpenSSH client in a terminal of the given size and keeps what
// it shows.
func screen(t *testing.T, cmd *exec.Cmd, rows, columns uint16) (*os.File, *lockedBuffer) {
	t.Helper()
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	shown := new(lockedBuffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(shown, terminal) // ends by EIO when ssh has ended
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		<-done
		_ = terminal.Close()
	})
	return terminal, shown
}

func TestSSHTerminal(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	t.Run("a login shell, its size, and its end", func(t *testing.T) {
		cmd := b.program("ssh", append(b.options("-tt"), b.host())...)
		cmd.Env = append(cmd.Env, "TERM=screen-256color")
		terminal, shown := screen(t, cmd, 33, 101)
		// The quotes keep the echo of what is typed from looking like the answer, and
		// the empty line puts the answer below the prompt.
		_, err := io.WriteString(terminal, `echo; echo si""ze $(stty size); echo tt""y $(tty) $SSH_TTY; echo te""rm $TERM; echo ar""gv $0; test -t 2 && echo er""r yes`+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if got := shown.after(t, "size "); got != "33 101" {
			t.Errorf("size %q", got)
		}
		if got := strings.Fields(shown.after(t, "tty ")); len(got) != 2 || got[0] != got[1] || !strings.HasPrefix(got[0], "/dev/") {
			t.Errorf("tty %q", got)
		}
		if got := shown.after(t, "term "); got != "screen-256color" {
			t.Errorf("TERM %q", got)
		}
		if got := shown.after(t, "argv "); got != "-sh" {
			t.Errorf("argv0 %q", got)
		}
		shown.after(t, "err yes")

		if err := pty.Setsize(terminal, &pty.Winsize{Rows: 44, Cols: 122}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the new size", func() bool {
			_, err := io.WriteString(terminal, "stty size\n")
			return err != nil || strings.Contains(shown.String(), "44 122")
		})
		if _, err := io.WriteString(terminal, "exit 7\n"); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%v", err)
		}
	})
	t.Run("Ctrl-C interrupts the program in the foreground alone", func(t *testing.T) {
		cmd := b.program("ssh", append(b.options("-tt"), b.host())...)
		terminal, shown := screen(t, cmd, 24, 80)
		if _, err := io.WriteString(terminal, `echo; sh -c 'echo pi""d $$; exec sleep 1000'`+"\n"); err != nil {
			t.Fatal(err)
		}
		pid := atoi(t, shown.after(t, "pid "))
		if _, err := io.WriteString(terminal, "\x03"); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the end of the program", func() bool { return !alive(pid) })
		if _, err := io.WriteString(terminal, "echo; echo st\"\"ill\nexit\n"); err != nil {
			t.Fatal(err)
		}
		shown.after(t, "still")
	})
	t.Run("the end of input", func(t *testing.T) {
		if o := runCmd(t, b.ssh("cat; echo end", "-tt")); o.code != 0 || !strings.Contains(o.stdout, "end") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("output before the end is not lost", func(t *testing.T) {
		o := runCmd(t, b.ssh("seq 1 20000", "-tt"))
		if !strings.HasSuffix(o.stdout, "19999\r\n20000\r\n") || strings.Count(o.stdout, "\n") != 20000 {
			t.Errorf("%d lines, the last ones %q", strings.Count(o.stdout, "\n"), o.stdout[max(0, len(o.stdout)-30):])
		}
	})

	client := b.client()
	for _, c := range []struct {
		name, terminal string
		rows, columns  int
		want           string
	}{
		{"a hostile name", "xterm\x1b[2J", 24, 80, "dumb 24 80"},
		{"a path for a name", "../../tmp/evil", 24, 80, "dumb 24 80"},
		{"no name", "", 24, 80, "dumb 24 80"},
		{"N-02 a monstrous size", "xterm-256color", 1 << 30, 1<<31 - 1, "xterm-256color 4096 4096"},
		{"no size", "vt100", 0, 0, "vt100 0 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t, client)
			if err := s.RequestPty(c.terminal, c.rows, c.columns, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
				t.Fatal(err)
			}
			if s.RequestPty(c.terminal, c.rows, c.columns, nil) == nil {
				t.Error("a second terminal")
			}
			out, err := s.Output(`echo $TERM $(stty size)`)
			if err != nil || strings.TrimSpace(string(out)) != c.want {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

func TestSSHSignals(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	s := newSession(t, b.client())
	out := new(lockedBuffer)
	s.Stdout = out
	if err := s.Start(`trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 1000 & wait; done`); err != nil {
		t.Fatal(err)
	}
	out.after(t, "ready")
	for _, not := range []ssh.Signal{"STOP", "SEGV", "WINCH", "15", "SIGKILL", "\x00"} {
		if ok, err := s.SendRequest("signal", true, ssh.Marshal(struct{ S string }{string(not)})); ok || err != nil {
			t.Error(not, ok, err)
		}
	}
	if err := s.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 9 {
		t.Errorf("%v", err)
	}
	out.after(t, "got")
}

// FuzzSSHRequest gives a client's payloads to all that reads them: nothing that
// gets through may hold more than its bound, or what a program couldn't be given.
func FuzzSSHRequest(f *testing.F) {
	f.Add(ssh.Marshal(struct{ S string }{"ls -l"}))
	f.Add(ssh.Marshal(struct{ N, V string }{"LC_ALL", "C.UTF-8"}))
	f.Add(ssh.Marshal(struct {
		T          string
		C, R, W, H uint32
		M          string
	}{"xterm", 80, 24, 640, 480, "\x00"}))
	f.Add(ssh.Marshal(struct{ C, R, W, H uint32 }{1, 1 << 31, 1<<32 - 1, 0}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if s, err := parseString(payload, 64); err == nil && (len(s) > 64 || strings.Contains(s, "\x00")) {
			t.Errorf("string %q", s)
		}
		if v, err := parseVariable(payload, DefaultSSHPolicy()); err == nil {
			if len(v.value) > maxVariable || strings.ContainsAny(v.name+v.value, "\x00\n") || strings.HasPrefix(v.name, "L") && strings.ContainsAny(v.value, "/ $`") {
				t.Errorf("variable %q", v)
			}
		}
		if v, err := parseVariable(payload, SSHPolicy{AcceptEnv: []string{"LD*", "PATH", "BA*", "__*"}}); err == nil && !strings.HasPrefix(v.name, "__") && neverSet(v.name) {
			t.Errorf("variable %q", v)
		}
		if to, err := parseForward(payload); err == nil {
			if again, err := socketxp.ParseDestination(to.String()); err != nil || again != to || to.Scheme != "tcp" {
				t.Errorf("forward to %v", to)
			}
		}
		if modes, err := parseModes(string(payload)); err == nil && len(modes) > maxModes {
			t.Errorf("%d modes", len(modes))
		}
		if name, size, modes, err := parseTerminal(payload); err == nil {
			if len(modes) > maxModes || name == "" || len(name) > 64 || strconv.Quote(name) != `"`+name+`"` || size.columns > 4096 || size.rows > 4096 {
				t.Errorf("terminal %q %v", name, size)
			}
		}
		if size, err := parseSize(payload); err == nil && (size.columns > 4096 || size.rows > 4096) {
			t.Errorf("size %v", size)
		}
		if sig, err := parseSignal(payload); err == nil && !signalNames[sig].sendable {
			t.Errorf("signal %v", sig)
		}
	})
}

// TestSSHStatusBeforeEnd is for clients that close the channel when the output ends,
// as PuTTY's programs do: by then they must have the exit status.
func TestSSHStatusBeforeEnd(t *testing.T) {
	order := new(saidChannel)
	(&session{channel: order}).report(exitStatus(7))
	if got := strings.Join(order.said, ", "); got != "exit-status, end" {
		t.Errorf("it says %s", got)
	}
}

// saidChannel is a channel that notes what is said on it.
type saidChannel struct {
	ssh.Channel
	said []string
}

func (c *saidChannel) SendRequest(name string, _ bool, _ []byte) (bool, error) {
	c.said = append(c.said, name)
	return true, nil
}

func (c *saidChannel) CloseWrite() error {
	c.said = append(c.said, "end")
	return nil
}
