package e2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// terminal is a shell that somebody sits at.
type terminal struct {
	t   *testing.T
	pty *os.File

	mu   sync.Mutex // guards the following
	seen strings.Builder
}

func openTerminal(t *testing.T, env []string, argv ...string) *terminal {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(env, "TERM=xterm", "PS1=$ ", "LC_ALL=C.UTF-8")
	p, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, pty: p}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(term, p)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = p.Close()
		<-read
	})
	return term
}

// Write is for io.Copy.
func (m *terminal) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.Write(b)
}

func (m *terminal) send(text string) {
	m.t.Helper()
	if _, err := io.WriteString(m.pty, text); err != nil {
		m.t.Fatal(err)
	}
}

func (m *terminal) shows(text string) {
	m.t.Helper()
	err := waitFor(60*time.Second, func() error {
		if !strings.Contains(m.text(), text) {
			return errNotYet
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("the terminal does not show %q: %q", text, m.text())
	}
}

// Somebody presses the tab key in a real shell.
func TestShellCompletion(t *testing.T) {
	needs(t, "bash", "zsh", "fish")
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	env := append(os.Environ(), "HOME="+s.work, "XDG_CONFIG_HOME="+filepath.Join(s.work, "config"), "PATH="+programs+":"+os.Getenv("PATH"))
	dir := filepath.Join(s.work, "gateway")
	if err := createOwner(dir, env); err != nil {
		t.Fatal(err)
	}
	url, err := startGateway(s, env, dir, "0")
	if err != nil {
		t.Fatal(err)
	}
	owner, err := s.owner(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.must("POST", "/api/v1/devices", `{"name":"valve-north-1"}`); err != nil {
		t.Fatal(err)
	}
	token, _, err := owner.token(`{"kind":"api","name":"completion"}`)
	if err != nil {
		t.Fatal(err)
	}
	env = append(env, "SOCKETXP_API_TOKEN="+token)
	for shell, c := range map[string]struct {
		argv []string
		load string
	}{
		"bash": {[]string{"bash", "--norc", "--noprofile", "-i"}, ". /usr/share/bash-completion/bash_completion; source <(socketxp completion bash)"},
		"zsh":  {[]string{"zsh", "-f", "-i"}, "autoload -U compinit; compinit -u -D; source <(socketxp completion zsh)"},
		"fish": {[]string{"fish", "--no-config", "-i"}, "socketxp completion fish | source"},
	} {
		t.Run(shell, func(t *testing.T) {
			m := openTerminal(t, env, c.argv...)
			m.send(c.load + "; echo loa'ded'\n")
			m.shows("loaded")
			// The name of a device, then of a command: what is run shows what it was
			// completed to.
			m.send("socketxp devices show val\t\n")
			m.shows("SHA256:")
			m.send("socketxp whoa\t\n")
			m.shows("owner@example.com")
		})
	}
	t.Run("powershell, by its text alone", func(t *testing.T) {
		cmd := exec.Command(filepath.Join(programs, "socketxp"), "completion", "powershell")
		cmd.Env = env
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"Register-ArgumentCompleter -CommandName 'socketxp'", "__complete", "CompletionResult"} {
			if !strings.Contains(string(out), part) {
				t.Errorf("it does not have %q", part)
			}
		}
	})
}

// A person is asked whether the key of a gateway is the right one, and before a device
// is deleted: at a terminal, where they can answer.
func TestTerminalQuestions(t *testing.T) {
	needs(t, "bash")
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	env := append(os.Environ(), "HOME="+s.work, "XDG_CONFIG_HOME="+filepath.Join(s.work, "config"), "PATH="+programs+":"+os.Getenv("PATH"), "SOCKETXP_API_TOKEN=")
	dir := filepath.Join(s.work, "gateway")
	if err := createOwner(dir, env); err != nil {
		t.Fatal(err)
	}
	url, err := startGateway(s, env, dir, "0")
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := s.proc("gateway")
	if err != nil {
		t.Fatal(err)
	}
	found, err := gateway.await("stdout", `(?m)^Key  (\S+)$`, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	pin := found[1]
	owner, err := s.owner(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.must("POST", "/api/v1/devices", `{"name":"valve"}`); err != nil {
		t.Fatal(err)
	}
	m := openTerminal(t, env, "bash", "--norc", "--noprofile", "-i")
	m.send("socketxp signin " + url + "; echo status $?\n")
	m.shows("    " + pin + "\r\n")
	m.shows("Is it the same?")
	m.send("no\n")
	m.shows("nothing was sent to it")
	m.shows("status 1")
	if _, err := os.Stat(filepath.Join(s.work, "config")); err == nil {
		t.Fatal("a gateway that nobody trusted was remembered")
	}
	m.clear()
	m.send("socketxp signin " + url + "\n")
	m.shows("Is it the same?")
	m.send(pin + "\n")
	code := m.finds(`approve the code ([B-Z-]+):`)
	if _, err := owner.must("POST", "/api/v1/device-authorization/confirm", `{"user_code":"`+code+`","approve":true}`); err != nil {
		t.Fatal(err)
	}
	m.shows("Signed in to " + url)
	m.clear()
	m.send("socketxp devices delete valve; echo status $?\n")
	m.shows("Delete valve (")
	m.shows("[y/N] ")
	m.send("\n")
	m.shows("nothing was done")
	m.shows("status 1")
	m.clear()
	m.send("socketxp devices ls; socketxp devices delete valve; socketxp devices ls --quiet; echo status $?\n")
	m.shows("[y/N] ")
	m.send("y\n")
	m.shows("The device valve is deleted.")
	m.shows("status 0")
	// A table is cut to the width of the terminal, and redrawn by --watch.
	if _, err := owner.must("POST", "/api/v1/devices", `{"name":"pump","display_name":"`+strings.Repeat("long ", 25)+`"}`); err != nil {
		t.Fatal(err)
	}
	m.clear()
	m.send("socketxp devices ls --watch --interval 500ms\n")
	m.finds(`pump +default +offline +- +(long )+.*… `)
	m.finds(`(?s)\x1b\[H\x1b\[2J.*\x1b\[H\x1b\[2J`)
	m.send("\x03")
	m.send("socketxp tokens create access --name x --token-file " + filepath.Join(s.work, "x") + "; socketxp tokens reveal x\n")
	m.shows("Password of owner@example.com: ")
	m.clear()
	m.send(ownerPassword + "\n")
	text, err := os.ReadFile(filepath.Join(s.work, "x"))
	if err != nil {
		t.Fatal(err)
	}
	m.shows(strings.TrimSpace(string(text))[:150])
	if strings.Contains(m.text(), ownerPassword) {
		t.Error("the password was echoed")
	}
}

func (m *terminal) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.String()
}

// clear forgets what was shown.
func (m *terminal) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Reset()
}

// finds waits for a pattern and returns its first group, if it has any.
func (m *terminal) finds(pattern string) string {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	err := waitFor(60*time.Second, func() error {
		if found = re.FindStringSubmatch(m.text()); found == nil {
			return errNotYet
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("the terminal does not show %s: %q", pattern, m.text())
	}
	return found[len(found)-1]
}
