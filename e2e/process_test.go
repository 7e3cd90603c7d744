package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// stage is what one script or test has running.
type stage struct {
	work string

	mu        sync.Mutex
	procs     map[string]*process
	listeners []net.Listener
	signedIn  *client
	middle    *hostile // nil if the script has none; only the script uses it
}

// process is a program in the background whose output goes to files.
type process struct {
	name     string
	cmd      *exec.Cmd
	out, err string // files
	done     chan struct{}
	code     int // once done is closed
}

// start runs a program in a process group of its own. Output is appended to
// NAME.out and NAME.err in the stage's folder, so that a restart keeps both.
func (s *stage) start(name string, env []string, argv ...string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.procs[name]; old != nil && !old.over() {
		return nil, fmt.Errorf("%s is running already", name)
	}
	p := &process{
		name: name, out: filepath.Join(s.work, name+".out"), err: filepath.Join(s.work, name+".err"),
		done: make(chan struct{}),
	}
	stdout, err := os.OpenFile(p.out, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdout.Close() }()
	stderr, err := os.OpenFile(p.err, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stderr.Close() }()
	path, err := lookPath(argv[0], env)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.Command(path, argv[1:]...)
	p.cmd.Env, p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = env, s.work, stdout, stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	s.procs[name] = p
	return p, nil
}

// lookPath finds a program on env's PATH.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		if list, ok := strings.CutPrefix(kv, "PATH="); ok {
			for _, dir := range filepath.SplitList(list) {
				path := filepath.Join(dir, name)
				if st, err := os.Stat(path); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
					return path, nil
				}
			}
		}
	}
	return exec.LookPath(name)
}

func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig to the program itself.
func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// wait waits for the end and returns the exit status (-1 when a signal ended it).
func (p *process) wait(total time.Duration) (int, error) {
	t := time.NewTimer(total)
	defer t.Stop()
	select {
	case <-p.done:
		return p.code, nil
	case <-t.C:
		return 0, fmt.Errorf("%s still runs after %v; its standard error ends:\n%s", p.name, total, lines(p.read("stderr"), 20))
	}
}

func (p *process) read(stream string) string {
	file := p.out
	if stream == "stderr" {
		file = p.err
	}
	b, _ := os.ReadFile(file)
	return string(b)
}

// await waits until a stream matches pattern and returns the groups.
func (p *process) await(stream, pattern string, total time.Duration) ([]string, error) {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return nil, err
	}
	var found []string
	err = waitFor(total, func() error {
		ended := p.over()
		if found = re.FindStringSubmatch(p.read(stream)); found != nil {
			return nil
		}
		if ended {
			return errors.New("it ended")
		}
		return errNotYet
	})
	if err != nil {
		return nil, fmt.Errorf("%s did not say %q on %s: %w\nstandard output:\n%s\nstandard error:\n%s",
			p.name, pattern, stream, err, lines(p.read("stdout"), 20), lines(p.read("stderr"), 20))
	}
	return found, nil
}

func (s *stage) proc(name string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[name]
	if p == nil {
		return nil, fmt.Errorf("no process %s was started", name)
	}
	return p, nil
}

// stopAll ends what still runs: politely, then not.
func (s *stage) stopAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	for _, p := range s.procs {
		if !p.over() {
			p.signal(syscall.SIGTERM)
		}
	}
	for _, p := range s.procs {
		if _, err := p.wait(10 * time.Second); err != nil {
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	}
}

func check(ts *testscript.TestScript, err error) {
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

// environ is the script's environment.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, k := range []string{
		"PATH", "HOME", "XDG_STATE_HOME", "TMPDIR", "NO_COLOR", "GORACE", "GW", "WORK",
		"SOCKETXP_AUTHTOKEN", "SOCKETXP_API_TOKEN", "SOCKETXP_PROFILE", "XDG_CONFIG_HOME", "SOCKETXP_WORK_DIR", "SOCKETXP_DATABASE", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE",
	} {
		if v := ts.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// start NAME COMMAND ARG... runs a program in the background.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME COMMAND ARG...")
	}
	_, err := stageOf(ts).start(args[0], environ(ts), args[1:]...)
	check(ts, err)
}

// end NAME [SIGNAL [STATUS]] signals a program (INT) and waits for its end.
func cmdEnd(ts *testscript.TestScript, _ bool, args []string) {
	p, err := stageOf(ts).proc(args[0])
	check(ts, err)
	sig := syscall.SIGINT
	if len(args) > 1 {
		known := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
		if sig = known[args[1]]; sig == 0 {
			ts.Fatalf("unknown signal %s", args[1])
		}
	}
	p.signal(sig)
	code, err := p.wait(20 * time.Second)
	check(ts, err)
	if len(args) > 2 && strconv.Itoa(code) != args[2] {
		ts.Fatalf("%s ended with status %d, want %s; its standard error ends:\n%s", p.name, code, args[2], lines(p.read("stderr"), 10))
	}
	if strings.Contains(p.read("stderr"), "WARNING: DATA RACE") {
		ts.Fatalf("%s: %s", p.name, p.read("stderr"))
	}
}

// await NAME stdout|stderr PATTERN [VAR] waits for a line; VAR gets the first group.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	p, err := stageOf(ts).proc(args[0])
	check(ts, err)
	if neg {
		if regexp.MustCompile("(?m)" + args[2]).MatchString(p.read(args[1])) {
			ts.Fatalf("%s said %q on %s", p.name, args[2], args[1])
		}
		return
	}
	groups, err := p.await(args[1], args[2], 30*time.Second)
	check(ts, err)
	if len(args) > 3 {
		ts.Setenv(args[3], groups[1])
	}
}

// ended NAME STATUS [WITHIN] waits until a program has ended by itself.
func cmdEnded(ts *testscript.TestScript, _ bool, args []string) {
	p, err := stageOf(ts).proc(args[0])
	check(ts, err)
	within := 20 * time.Second
	if len(args) > 2 {
		within, err = time.ParseDuration(args[2])
		check(ts, err)
	}
	code, err := p.wait(within)
	check(ts, err)
	if strconv.Itoa(code) != args[1] {
		ts.Fatalf("%s ended with status %d, want %s\nstandard error:\n%s", p.name, code, args[1], lines(p.read("stderr"), 10))
	}
}
