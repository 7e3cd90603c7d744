package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"socketxp"
	"socketxp/internal/agent"
)

// allBackWithin is how long it may take until every agent is connected again.
const allBackWithin = 90 * time.Second

// TestStorm has many agents lose one gateway at the same time: it is told to end, it
// is killed, and its database takes no writes when all of them come back. They are
// the agent's own code, all in this process; the gateway is the program. STORM_AGENTS
// sets their number (60 without it).
func TestStorm(t *testing.T) {
	n := 60
	if v := os.Getenv("STORM_AGENTS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s := newStorm(t, n)
	s.startAgents()
	s.allBack("start", time.Now())

	s.step("P-13 the gateway is restarted by SIGTERM", func() {
		begun := s.fresh()
		s.end(syscall.SIGTERM)
		s.startGateway()
		s.allBack("SIGTERM", begun)
		// An orderly end is told to all, and when to come again; nobody comes sooner.
		told := s.refusals(socketxp.CodeGoingAway)
		if told < n*9/10 {
			s.t.Errorf("%d of %d agents were told that the gateway was going away", told, n)
		}
		s.checkJitter()
	})
	s.step("P-13 the gateway is killed", func() {
		begun := s.fresh()
		s.end(syscall.SIGKILL)
		s.startGateway()
		s.allBack("SIGKILL", begun)
	})
	s.step("P-13 the gateway is overloaded when all come back", func() {
		s.stopAgents() // the new ones begin with short waits
		begun := s.fresh()
		s.startAgents()
		s.allBack("start again", begun)
		begun = s.fresh()
		release := s.lockDatabase()
		defer release()
		s.cutConnections()
		if err := waitFor(allBackWithin, func() error {
			if got := s.refusals(socketxp.CodeUnavailable); got < n {
				return fmt.Errorf("%d of %d agents were told to come later", got, n)
			}
			return nil
		}); err != nil {
			s.t.Fatal(err)
		}
		release()
		s.allBack("no writes to the database", begun)
	})
	s.checkRetryAfter()
}

// storm is a gateway with many agents.
type storm struct {
	t      *testing.T
	stage  *stage
	env    []string
	url    string
	owner  *client // signed in once: a password takes 46 MiB of the gateway
	agents []*stormAgent

	stopAgents func()
}

func newStorm(t *testing.T, n int) *storm {
	t.Helper()
	s := &storm{t: t, stage: &stage{work: t.TempDir(), procs: make(map[string]*process)}}
	t.Cleanup(s.stage.stopAll)
	s.env = append(os.Environ(), "HOME="+s.stage.work, "GORACE=halt_on_error=1 exitcode=66")
	if err := createOwner(s.gatewayDir(), s.env); err != nil {
		t.Fatal(err)
	}
	s.startGateway()
	var err error
	if s.owner, err = signIn(s.url); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s.agents = append(s.agents, &stormAgent{name: fmt.Sprintf("storm-%04d", i), dir: filepath.Join(s.stage.work, "agents", strconv.Itoa(i))})
	}
	s.register()
	return s
}

// step is a subtest, which the methods of s fail meanwhile.
func (s *storm) step(name string, do func()) {
	whole := s.t
	defer func() { s.t = whole }()
	whole.Run(name, func(t *testing.T) {
		s.t = t
		do()
	})
}

func (s *storm) gatewayDir() string { return filepath.Join(s.stage.work, "gateway") }

// startGateway starts it, on the port that it had before.
func (s *storm) startGateway() {
	s.t.Helper()
	port := "0"
	if s.url != "" {
		port = s.url[strings.LastIndex(s.url, ":")+1:]
	}
	var err error
	if s.url, err = startGateway(s.stage, s.env, s.gatewayDir(), port); err != nil {
		s.t.Fatal(err)
	}
}

func (s *storm) gateway() *process {
	s.t.Helper()
	p, err := s.stage.proc("gateway")
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *storm) end(sig syscall.Signal) {
	s.t.Helper()
	p := s.gateway()
	p.signal(sig)
	if code, err := p.wait(30 * time.Second); err != nil || sig == syscall.SIGTERM && code != 0 {
		s.t.Fatalf("the gateway ended with status %d, %v: %s", code, err, lines(p.read("stderr"), 20))
	}
}

// register has the gateway make all keys, as a factory does.
func (s *storm) register() {
	s.t.Helper()
	work := make(chan *stormAgent)
	var all sync.WaitGroup
	t := s.t
	for range 4 {
		all.Go(func() {
			for a := range work {
				if err := a.register(s.owner); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, a := range s.agents {
		work <- a
	}
	close(work)
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *storm) startAgents() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	s.stopAgents = func() {
		cancel()
		running.Wait()
	}
	s.t.Cleanup(s.stopAgents)
	t := s.t
	for _, a := range s.agents {
		dir, err := agent.OpenDir(a.dir)
		if err != nil {
			s.t.Fatal(err)
		}
		tunnel := agent.Tunnel{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: 22}}
		running.Go(func() {
			err := agent.Connect(ctx, agent.ConnectOptions{
				Dir: dir, Tunnels: []agent.Tunnel{tunnel}, Version: "1.0.0", Connected: a.connected, Problem: a.problem,
			})
			if err != nil {
				t.Errorf("%s ended: %v", a.name, err)
			}
		})
	}
}

// fresh has all agents counted as gone, and what happened to them as of before.
func (s *storm) fresh() time.Time {
	for _, a := range s.agents {
		a.mu.Lock()
		a.back, a.since = time.Time{}, len(a.troubles)
		a.mu.Unlock()
	}
	return time.Now()
}

// allBack waits until every agent is connected and the gateway says so too, and
// reports what that took.
func (s *storm) allBack(what string, begun time.Time) {
	s.t.Helper()
	before := cpuTime(os.Getpid())
	var last time.Time
	if err := waitFor(allBackWithin-time.Since(begun), func() error {
		away := 0
		for _, a := range s.agents {
			a.mu.Lock()
			if a.back.IsZero() {
				away++
			} else if a.back.After(last) {
				last = a.back
			}
			a.mu.Unlock()
		}
		if away > 0 {
			return fmt.Errorf("%d of %d agents are still away", away, len(s.agents))
		}
		return nil
	}); err != nil {
		s.t.Fatalf("%s: %v\n%s", what, err, lines(s.gateway().read("stderr"), 10))
	}
	answer, err := s.owner.must("GET", "/api/v1/devices?status=online&limit=1", "")
	if err != nil {
		s.t.Fatal(err)
	}
	if got, err := lookup(answer, "total"); err != nil || got != strconv.Itoa(len(s.agents)) {
		s.t.Errorf("%s: the gateway holds %s devices of %d, %v", what, got, len(s.agents), err)
	}
	pid := s.gateway().cmd.Process.Pid
	rss := mostRSS(pid)
	s.t.Logf("%s: %d agents back after %v; gateway: %d MiB RSS at most, %v CPU since its start; agents: %v CPU meanwhile",
		what, len(s.agents), last.Sub(begun).Round(10*time.Millisecond), rss>>20, cpuTime(pid).Round(10*time.Millisecond), (cpuTime(os.Getpid()) - before).Round(10*time.Millisecond))
	if most := int64(stormBase + len(s.agents)*stormPerAgent); rss > most && !raceEnabled {
		s.t.Errorf("%s: the gateway took %d MiB, more than %d", what, rss>>20, most>>20)
	}
}

// lockDatabase has the database take no writes, as a disk that does not keep up
// does. Reading goes on.
func (s *storm) lockDatabase() (release func()) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.gatewayDir(), "gateway.db")+"?_txlock=immediate&_busy_timeout=20000")
	if err != nil {
		s.t.Fatal(err)
	}
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return sync.OnceFunc(func() { _ = errors.Join(tx.Rollback(), db.Close()) })
}

// cutConnections shuts all connections of this process to the gateway down, as a
// firewall does that is switched off and on.
func (s *storm) cutConnections() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.url, "https://"))
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	cut := 0
	for _, f := range fds {
		fd, _ := strconv.Atoi(f.Name())
		peer, err := syscall.Getpeername(fd)
		if in4, ok := peer.(*syscall.SockaddrInet4); err == nil && ok && strconv.Itoa(in4.Port) == port && syscall.Shutdown(fd, syscall.SHUT_RDWR) == nil {
			cut++
		}
	}
	if cut < len(s.agents) {
		s.t.Fatalf("%d connections were cut", cut)
	}
}

// refusals counts the agents that were refused with a code since fresh.
func (s *storm) refusals(code socketxp.Code) int {
	n := 0
	for _, a := range s.agents {
		a.mu.Lock()
		if slices.ContainsFunc(a.troubles[a.since:], func(tr trouble) bool { return tr.retryAfter > 0 && tr.code == code }) {
			n++
		}
		a.mu.Unlock()
	}
	return n
}

// checkRetryAfter looks whether every agent that was told when to come again has
// heeded it: neither did it plan to come sooner, nor did it.
func (s *storm) checkRetryAfter() {
	s.t.Helper()
	told := 0
	for _, a := range s.agents {
		a.mu.Lock()
		for _, tr := range a.troubles {
			if tr.retryAfter == 0 {
				continue
			}
			told++
			if tr.wait < tr.retryAfter {
				s.t.Errorf("%s was told to come after %v, and would after %v", a.name, tr.retryAfter, tr.wait)
			}
			if !tr.next.IsZero() && tr.next.Sub(tr.at) < tr.retryAfter {
				s.t.Errorf("%s was told to come after %v, and came after %v", a.name, tr.retryAfter, tr.next.Sub(tr.at))
			}
		}
		a.mu.Unlock()
	}
	s.t.Logf("%d times agents were told when to come again", told)
}

// checkJitter compares the first waits of all agents with what full jitter gives, by
// the test of Kolmogorov and Smirnov: good waits fail it once in 10^9 runs, equal
// ones always.
func (s *storm) checkJitter() {
	s.t.Helper()
	var parts []float64
	for _, a := range s.agents {
		a.mu.Lock()
		if len(a.troubles) > 0 {
			parts = append(parts, a.troubles[0].jitter())
		}
		a.mu.Unlock()
	}
	slices.Sort(parts)
	n, most := float64(len(parts)), 0.0
	for i, p := range parts {
		most = max(most, p-float64(i)/n, float64(i+1)/n-p)
	}
	if limit := math.Sqrt(math.Log(2/1e-9) / (2 * n)); n < float64(len(s.agents))/2 || most > limit {
		s.t.Errorf("the waits of %d agents are not spread: they are off by %.2f, more than %.2f", len(parts), most, limit)
	}
}

// stormAgent is one of the agents, as its callbacks tell of it.
type stormAgent struct {
	name, dir string

	mu       sync.Mutex // guards the following
	back     time.Time  // when it was connected since fresh; zero if it was not
	troubles []trouble
	since    int // how many troubles there were before
}

// trouble is one end of a connection, or a try that failed.
type trouble struct {
	at, next   time.Time // when it came, and when what it did next had come to its end
	code       socketxp.Code
	retryAfter time.Duration // 0 if the gateway said nothing of it
	wait       time.Duration
}

// jitter returns which part of all waits that may follow a first trouble are shorter
// than this one: it is below 1 s if nothing was said, or beyond what was said by that
// or by a tenth of what was said, whichever is more.
func (tr trouble) jitter() float64 {
	more := (tr.wait - tr.retryAfter).Seconds()
	p := min(1, more)
	if tr.retryAfter > 0 {
		p *= min(1, more/(tr.retryAfter.Seconds()/10))
	}
	return p
}

func (a *stormAgent) register(owner *client) error {
	var answer []byte
	if err := waitFor(time.Minute, func() (err error) { // there is a limit of 200 a second
		answer, err = owner.must("POST", "/api/v1/devices", fmt.Sprintf(`{"name":%q,"group":"storm"}`, a.name))
		return err
	}); err != nil {
		return err
	}
	var made struct {
		Key json.RawMessage `json:"device_key"`
	}
	if err := json.Unmarshal(answer, &made); err != nil {
		return err
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.dir, "device.key"), made.Key, 0o600)
}

func (a *stormAgent) connected() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.back = time.Now()
	a.went(a.back)
}

func (a *stormAgent) problem(err error, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.went(now)
	tr := trouble{at: now, code: socketxp.CodeOf(err), wait: wait}
	var no *agent.RefusedError
	if errors.As(err, &no) {
		tr.retryAfter = no.RetryAfter
	}
	a.back = time.Time{}
	a.troubles = append(a.troubles, tr)
}

// went says when the try after the last trouble was over. The caller holds mu.
func (a *stormAgent) went(at time.Time) {
	if n := len(a.troubles); n > 0 && a.troubles[n-1].next.IsZero() {
		a.troubles[n-1].next = at
	}
}

// Memory that a gateway may take at a storm: what it takes when it is alone and hashes
// a password, and a handshake in work for every agent. The goal for one at rest is
// 20 KiB.
const (
	stormBase     = 112 << 20
	stormPerAgent = 128 << 10
)

// mostRSS returns the most memory that a process has had.
func mostRSS(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// cpuTime returns what a process has used of the CPUs.
func cpuTime(pid int) time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}
