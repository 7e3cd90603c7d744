package e2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	seen := func() string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.seen.String()
	}
	err := waitFor(60*time.Second, func() error {
		if !strings.Contains(seen(), text) {
			return errNotYet
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("the terminal does not show %q: %q", text, seen())
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
