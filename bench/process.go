package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lab is where everything of one measurement runs: its files and its processes.
type lab struct {
	dir  string
	bin  string // of the programs that are measured
	self string // this program
	// near and far are the network namespaces of the access side and of all others;
	// empty for the machine's own network.
	near, far *namespace

	mu    sync.Mutex // guards the following
	procs []*process // in the order in which they were started
}

// newLab makes a lab in a temporary folder. Close ends its processes.
func newLab() (*lab, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(bin, "socketxp-gateway")); err != nil {
		return nil, fmt.Errorf("%w (make go-build makes it)", err)
	}
	dir, err := os.MkdirTemp("", "socketxp-bench-")
	if err != nil {
		return nil, err
	}
	return &lab{dir: dir, bin: bin, self: self}, nil
}

// close ends all processes, the last one first, and removes the lab's files.
func (l *lab) close() {
	l.mu.Lock()
	procs := l.procs
	l.procs = nil
	l.mu.Unlock()
	for i := len(procs) - 1; i >= 0; i-- {
		procs[i].stop()
	}
	for _, ns := range []*namespace{l.near, l.far} {
		ns.close()
	}
	_ = os.RemoveAll(l.dir)
}

// process is a program that runs in the background. Its output is kept in memory.
type process struct {
	name string
	cmd  *exec.Cmd
	out  output
	done chan struct{}
}

// start runs a program. In a namespace it runs as this process's child all the same.
func (l *lab) start(name string, ns *namespace, env []string, argv ...string) (*process, error) {
	p := &process{name: name, done: make(chan struct{})}
	argv = ns.inside(argv)
	p.cmd = exec.Command(argv[0], argv[1:]...) //nolint:gosec,noctx // the lab's own programs; stop ends them
	p.cmd.Dir = l.dir
	p.cmd.Env = append(os.Environ(), "HOME="+l.dir)
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	l.mu.Lock()
	l.procs = append(l.procs, p)
	l.mu.Unlock()
	return p, nil
}

// role runs this program as something that is measured or that measures.
func (l *lab) role(name string, ns *namespace, args ...string) (*process, error) {
	return l.start(name, ns, nil, append([]string{l.self, "role", name}, args...)...)
}

// stop ends a process: politely, and after 5 s in any case.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	late := time.NewTimer(5 * time.Second)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// await waits for a line of output that matches, and returns the match's groups.
func (p *process) await(ctx context.Context, pattern string) ([]string, error) {
	re := regexp.MustCompile("(?m)" + pattern)
	var found []string
	err := until(ctx, 30*time.Second, func() bool {
		found = re.FindStringSubmatch(p.out.String())
		select {
		case <-p.done:
			return true
		default:
			return found != nil
		}
	})
	if found == nil {
		return nil, fmt.Errorf("%s did not say %q: %w\n%s", p.name, pattern, errors.Join(err, errors.New("it ended or is silent")), p.out.String())
	}
	return found, nil
}

// until waits until ok is true, looking every 10 ms, for at most limit.
func until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// output is what a process has said.
type output struct {
	mu sync.Mutex // guards the following
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

// String returns all that was said so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// cpu returns what a process and all that it has started have used of the CPUs, in the
// kernel's ticks of 10 ms.
func (p *process) cpu() time.Duration {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	used, parent := make(map[int]int64), make(map[int]int)
	for _, name := range stats {
		text, err := os.ReadFile(name) //nolint:gosec // of /proc
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil || len(f) < 15 {
			continue
		}
		parent[pid], _ = strconv.Atoi(f[1])
		for _, field := range f[11:15] { // utime, stime, and those of children that have ended
			n, _ := strconv.ParseInt(field, 10, 64)
			used[pid] += n
		}
	}
	var ticks int64
	for pid, n := range used {
		for at := pid; at > 1; at = parent[at] {
			if at == p.cmd.Process.Pid {
				ticks += n
				break
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

// memory is what a process holds, in bytes. Files are what of its resident memory is
// read from them: its program, and a database's.
type memory struct{ rss, peak, files int64 }

func memoryOf(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			m.rss = kib << 10
		case "VmHWM:":
			m.peak = kib << 10
		case "RssFile:", "RssShmem:":
			m.files += kib << 10
		}
	}
	return m, nil
}
