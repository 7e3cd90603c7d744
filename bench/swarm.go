package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"socketxp"
	"socketxp/internal/api"
)

// The sizes of a swarm.
const (
	swarmAgents      = 10_000
	swarmQuickAgents = 2_000
	// agentsPerProcess leaves each agent three files (its connection, its lock and its
	// local socket) and one more for what it is just doing, within the 20,000 that a
	// process commonly may have.
	agentsPerProcess = 4_500
)

// patienceOfSwarm is how long all agents may take to be there.
const patienceOfSwarm = 3 * time.Minute

// swarm has many idle devices at one gateway: what each takes of its memory and its
// processor, and what happens when all of them come at once. The agents are the real
// ones, in processes beside the gateway's.
func swarm(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("swarm", flag.ContinueOnError)
	fast := f.Bool("quick", false, "2,000 agents, and four figures for programs to read, in 50 s")
	n := f.Int("agents", 0, "how many agents (10,000, or 2,000 with -quick)")
	soak := f.Duration("soak", 0, "have them stay for so long, with a little traffic")
	out := f.String("out", "", "a folder for a report with pictures")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *n == 0 {
		*n = swarmAgents
		if *fast {
			*n = swarmQuickAgents
		}
	}
	if err := ownNetwork(*n); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "# all agents come from one address, of which the gateway takes in few at a time:", err)
	}
	s, err := newSwarm(ctx, *n)
	if err != nil {
		return err
	}
	defer s.close()
	calm, idle := 20*time.Second, time.Minute
	if *fast {
		calm, idle = 11*time.Second, 12*time.Second
	}
	if err := s.gather(ctx, calm, idle); err != nil {
		return err
	}
	if *fast {
		err = s.restart(ctx)
	} else {
		err = s.storms(ctx, calm)
	}
	if err == nil && *soak > 0 {
		err = s.soak(ctx, *soak)
	}
	if err != nil {
		return err
	}
	s.watching()
	if err := s.print(); err != nil || *out == "" {
		return err
	}
	return s.report(*out)
}

// ownNetwork starts this program anew in a network namespace of its own, where the
// loopback has an address for each account's devices: the gateway bounds what one
// address may do. It returns only in there, or if it can't be.
func ownNetwork(n int) error {
	const inside = "BENCH_OWN_NETWORK"
	if os.Getenv(inside) == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			return err
		}
		if err := exec.Command(unshare, "--net", "true").Run(); err != nil { //nolint:gosec,noctx // it is over at once
			return fmt.Errorf("a network namespace needs root: %w", err)
		}
		return unix.Exec(unshare, append([]string{unshare, "--net", self}, os.Args[1:]...), append(os.Environ(), inside+"=1"))
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil { //nolint:noctx // it is over at once
		return fmt.Errorf("%w: %s", err, out)
	}
	for i := range (n + accountSize - 1) / accountSize {
		if out, err := exec.Command("ip", "addr", "add", sourceAddress(i)+"/32", "dev", "lo").CombinedOutput(); err != nil { //nolint:gosec,noctx // it is over at once
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	manyAddresses = true
	return nil
}

// manyAddresses says that ownNetwork was heeded.
var manyAddresses bool

// sourceAddress is where the devices of an account come from: whoever connects to an
// address of the loopback does so from the same one.
func sourceAddress(account int) string { return fmt.Sprintf("127.0.1.%d", 1+account) }

// crowded is a gateway with its agents, and what was measured of them.
type crowded struct {
	*lab
	n       int
	dir     string // the gateway's data
	folders string // of the agents
	gateway *gateway
	crowd   []*process
	link    *way // through the gateway, for measuring beside the agents
	begun   time.Time

	// watching ends the samples.
	watching func()

	mu      sync.Mutex // guards the following
	samples []sample
	phases  []phase
	figures []figure
}

// sample is how things stood at a time.
type sample struct {
	at        time.Duration
	rss       float64 // of the gateway, in MiB
	connected int
}

// phase is what began at a time.
type phase struct {
	at   time.Duration
	name string
}

// figure is one that was measured.
type figure struct {
	name  string
	value float64
	about string
}

// figure keeps a figure, and says so: a soak may follow.
func (s *crowded) figure(name string, value float64, about string) {
	_, _ = fmt.Fprintf(os.Stderr, "# %s %.3f (%s)\n", name, value, about)
	s.figures = append(s.figures, figure{name, value, about})
}

// newSwarm starts a gateway that knows n devices, and nobody is there yet.
func newSwarm(ctx context.Context, n int) (_ *crowded, err error) {
	l, err := newLab()
	if err != nil {
		return nil, err
	}
	s := &crowded{lab: l, n: n, dir: filepath.Join(l.dir, "swarm"), begun: time.Now(), watching: func() {}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.folders, err = agentsFolder(l.dir); err != nil {
		return nil, err
	}
	// The database is in memory, too, until all are registered: that is not measured.
	onDisk := l.dir
	l.dir = s.folders
	inMemory := filepath.Join(s.folders, "swarm")
	if err := s.createOwners(ctx, inMemory); err != nil {
		return nil, err
	}
	if s.gateway, err = l.startGateway(ctx, "swarm", l.bin); err != nil {
		return nil, err
	}
	if err := s.register(ctx, inMemory); err != nil {
		return nil, fmt.Errorf("register devices: %w", err)
	}
	// Anew: to sign in has taken 46 MiB, which are not the devices'.
	s.gateway.stop()
	l.dir = onDisk
	if out, err := exec.CommandContext(ctx, "cp", "-a", inMemory, s.dir).CombinedOutput(); err != nil { //nolint:gosec // the lab's own folders
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s.gateway.metrics = "127.0.0.1:" + port
	s.gateway.listen = strings.Replace(strings.TrimPrefix(s.gateway.url, "https://"), "127.0.0.1", "0.0.0.0", 1)
	return s, s.serve(ctx)
}

// agentsFolder makes a folder for the agents' state: in memory if the system has a
// place for that, because each device would have a disk of its own.
func agentsFolder(dir string) (string, error) {
	const memory = "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		memory := filepath.Join(dir, "agents")
		return memory, os.Mkdir(memory, 0o700)
	}
	return os.MkdirTemp(memory, "socketxp-bench-")
}

func (s *crowded) close() {
	s.watching()
	s.lab.close()
	if s.folders != "" {
		_ = os.RemoveAll(s.folders)
	}
}

// accountSize is how many devices an account has: so many may be registered at once,
// and then 50 a second.
const accountSize = 500

func accountOwner(i int) string { return fmt.Sprintf("owner-%d@example.com", i) }

// createOwners makes the accounts, before the gateway serves.
func (s *crowded) createOwners(ctx context.Context, dir string) error {
	for i := 0; i*accountSize < s.n; i++ {
		if err := createOwner(ctx, s.bin, dir, accountOwner(i), fmt.Sprintf("account-%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// register has the gateway make all keys, as a factory does.
func (s *crowded) register(ctx context.Context, dir string) error {
	defer s.gateway.owner.Close()
	const workers = 4
	return atOnce(workers, func(w int) error {
		for from := w * accountSize; from < s.n; from += workers * accountSize {
			owner, err := s.signIn(ctx, s.gateway.process, dir, s.gateway.url, accountOwner(from/accountSize))
			if err != nil {
				return err
			}
			for i := from; i < min(from+accountSize, s.n) && err == nil; i++ {
				err = s.registerOne(ctx, owner, i)
			}
			owner.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *crowded) registerOne(ctx context.Context, owner *api.Client, i int) error {
	var made api.PreRegistered
	err := errors.New("not tried")
	for late := time.Now().Add(time.Minute); err != nil; {
		made, err = owner.PreRegister(ctx, api.PreRegisterRequest{Name: fmt.Sprintf("swarm-%05d", i)})
		if err != nil && (socketxp.CodeOf(err) != socketxp.CodeRateLimited || time.Now().After(late)) {
			return err
		}
		if err != nil && !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	if manyAddresses {
		made.DeviceKey.Gateway = strings.Replace(made.DeviceKey.Gateway, "127.0.0.1", sourceAddress(i/accountSize), 1)
	}
	key, err := json.Marshal(made.DeviceKey)
	if err != nil {
		return err
	}
	dir := agentDir(s.folders, i)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "device.key"), key, 0o600)
}

// pause returns true after d, or false if ctx was done before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve starts the gateway with the data of before. Nobody signs in.
func (s *crowded) serve(ctx context.Context) (err error) {
	s.gateway.process, err = s.startServing(s.gateway, s.dir)
	if err != nil {
		return err
	}
	return until(ctx, 30*time.Second, func() bool {
		_, err := s.scrape(ctx)
		return err == nil
	})
}

// scrape returns the gateway's metrics that have no labels.
func (s *crowded) scrape(ctx context.Context) (map[string]float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.gateway.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Timeout: patience}).Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	found := make(map[string]float64)
	lines := bufio.NewScanner(io.LimitReader(answer.Body, 1<<20))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			found[name] = v
		}
	}
	return found, lines.Err()
}

// watch takes samples from now on, every so often.
func (s *crowded) watch(every time.Duration) {
	s.watching()
	ctx, cancel := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			s.sample()
			if !pause(ctx, every) {
				return
			}
		}
	})
	s.watching = func() {
		cancel()
		watcher.Wait()
	}
}

func (s *crowded) sample() {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, _ := memoryOf(s.gateway.cmd.Process.Pid) // none while it is being restarted
	s.samples = append(s.samples, sample{time.Since(s.begun), float64(m.rss) / (1 << 20), s.census().Connected})
}

// enter says that a phase begins.
func (s *crowded) enter(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phases = append(s.phases, phase{time.Since(s.begun), name})
	_, _ = fmt.Fprintf(os.Stderr, "# %5.1f s: %s\n", time.Since(s.begun).Seconds(), name)
}

// census adds up what the processes of agents have said last.
func (s *crowded) census() (all census) {
	for _, p := range s.crowd {
		text := strings.TrimSpace(p.out.String())
		var c census
		if json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &c) == nil {
			all = all.plus(c)
		}
	}
	return all
}

// everyone waits until all agents were let in anew since a census, and returns what
// happened meanwhile.
func (s *crowded) everyone(ctx context.Context, since census) (happened census, err error) {
	var now census
	err = until(ctx, patienceOfSwarm, func() bool {
		now = s.census()
		return now.Connected == s.n && now.Comings >= since.Comings+s.n
	})
	if err != nil {
		what := ""
		for _, p := range append(s.crowd, s.gateway.process) {
			text := p.out.String()
			what += "\n" + text[max(0, len(text)-1000):]
		}
		return now, fmt.Errorf("%d of %d agents are there: %w%s", now.Connected, s.n, err, what)
	}
	// What a gateway holds is what counts.
	metrics, err := s.scrape(ctx)
	if err == nil && int(metrics["socketxp_devices_connected"]) < s.n {
		err = fmt.Errorf("the gateway holds %.0f devices of %d", metrics["socketxp_devices_connected"], s.n)
	}
	happened = census{now.Connected, now.Comings - since.Comings, now.Told - since.Told, now.Away - since.Away, now.Early - since.Early}
	if err == nil && happened.Early > 0 {
		err = fmt.Errorf("%d agents that were told when to come again planned to come sooner", happened.Early)
	}
	return happened, err
}

// gather starts all agents, and measures the gateway when they are there and calm.
func (s *crowded) gather(ctx context.Context, calm, idle time.Duration) error {
	s.enter("the gateway alone")
	if !pause(ctx, 3*time.Second) {
		return ctx.Err()
	}
	pid := s.gateway.cmd.Process.Pid
	before, err := memoryOf(pid)
	if err != nil {
		return err
	}
	metricsBefore, err := s.scrape(ctx)
	if err != nil {
		return err
	}
	kernelBefore := kernelMemory()
	s.watch(time.Second)
	s.enter("all agents start")
	begun := time.Now()
	for from := 0; from < s.n; from += agentsPerProcess {
		p, err := s.role("agents", nil, s.folders, strconv.Itoa(from), strconv.Itoa(min(from+agentsPerProcess, s.n)))
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.crowd = append(s.crowd, p)
		s.mu.Unlock()
	}
	happened, err := s.everyone(ctx, census{})
	if err != nil {
		return err
	}
	took := time.Since(begun).Seconds()
	peak, err := memoryOf(pid)
	if err != nil {
		return err
	}
	s.enter("all are there")
	if !pause(ctx, calm) {
		return ctx.Err()
	}
	s.enter("idle")
	cpu, since := s.gateway.cpu(), time.Now()
	if !pause(ctx, idle) {
		return ctx.Err()
	}
	cpu, lasted := s.gateway.cpu()-cpu, time.Since(since).Seconds()
	after, err := memoryOf(pid)
	if err != nil {
		return err
	}
	kernel := kernelMemory().minus(kernelBefore)
	metrics, err := s.scrape(ctx)
	if err != nil {
		return err
	}
	n := float64(s.n)
	each := func(bytes float64) float64 { return bytes / 1024 / n }
	s.figure("gateway_kib_per_idle_device", each(float64(after.rss-before.rss)), "growth of the gateway's RSS since before the first device, the devices idle")
	s.figure("gateway_idle_cpu_ms_per_1000_devices_per_s", float64(cpu.Milliseconds())/lasted/(n/1000), fmt.Sprintf("over %.0f s", lasted))
	s.figure("connect_per_s", n/took, "from the start of the first agent until the last was let in, all at once")
	s.figure("connect_told", float64(happened.Told), "refusals that said when to come again")
	s.figure("connect_away", float64(happened.Away), "connections that were turned away at the door or gave up")
	s.figure("gateway_kib_per_device_at_peak", each(float64(peak.peak-before.rss)), "the same at its highest, with handshakes in work")
	grown := func(name string) float64 { return each(metrics[name] - metricsBefore[name]) }
	s.figure("gateway_heap_kib_per_device", grown("go_memstats_heap_inuse_bytes"), "of the growth, the heap's spans in use, garbage too")
	s.figure("gateway_stack_kib_per_device", grown("go_memstats_stack_inuse_bytes"), "of the growth, the stacks of goroutines")
	s.figure("gateway_spare_kib_per_device", grown("go_memstats_heap_idle_bytes")-grown("go_memstats_heap_released_bytes"), "of the growth, what the heap keeps for later")
	s.figure("gateway_file_kib_per_device", each(float64(after.files-before.files)), "of the growth, pages of the program and of the database's files")
	s.figure("gateway_goroutines", metrics["go_goroutines"], "all of them")
	s.figure("gateway_rss_mib_alone", float64(before.rss)/(1<<20), "before the first device")
	s.figure("gateway_rss_mib_idle", float64(after.rss)/(1<<20), "with all devices")
	s.figure("kernel_buffers_kib_per_device", each(kernel.buffers), "of TCP, both ends, beside the RSS")
	if kernel.slabs > 0 {
		s.figure("kernel_sockets_kib_per_device", each(kernel.slabs), "TCP's structures, both ends, beside the RSS")
	}
	return nil
}

// kernelPart is what the kernel holds for sockets, in bytes.
type kernelPart struct{ buffers, slabs float64 }

func (k kernelPart) minus(other kernelPart) kernelPart {
	return kernelPart{k.buffers - other.buffers, k.slabs - other.slabs}
}

// kernelMemory reads what TCP's sockets of this machine take. The structures are
// shown to root alone.
func kernelMemory() (k kernelPart) {
	text, _ := os.ReadFile("/proc/net/sockstat")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "TCP:" && f[len(f)-2] == "mem" {
			pages, _ := strconv.ParseFloat(f[len(f)-1], 64)
			k.buffers = pages * float64(os.Getpagesize())
		}
	}
	text, _ = os.ReadFile("/proc/slabinfo")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch f[0] {
		case "TCP", "sock_inode_cache":
			objects, _ := strconv.ParseFloat(f[1], 64)
			size, _ := strconv.ParseFloat(f[3], 64)
			k.slabs += objects * size
		}
	}
	return k
}

// programFigures are those that are printed for programs to read.
var programFigures = map[string]bool{
	"gateway_kib_per_idle_device": true, "gateway_idle_cpu_ms_per_1000_devices_per_s": true, "connect_per_s": true, "storm_all_back_s": true,
}

func (s *crowded) print() error {
	for _, f := range s.figures {
		if programFigures[f.name] {
			if err := line(f.name, f.value); err != nil {
				return err
			}
		}
	}
	return nil
}
