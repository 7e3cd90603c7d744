package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/link"
)

// The test program is the agent's sftp server, too: it is started with this one
// argument. init, because TestMain builds programs first.
func init() {
	if len(os.Args) == 2 && os.Args[1] == "sftp-server" {
		if err := agent.SFTPMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is a main
		}
		os.Exit(0) //nolint:forbidigo // this is a main
	}
}

// TestSoak has everything come and go for a while, and then looks whether all of it
// was given back. The gateway is the program, and the agents are the agent's own code
// in this process. SOAK says for how long (10s without it).
func TestSoak(t *testing.T) {
	length := 10 * time.Second
	if v := os.Getenv("SOAK"); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	s := newSoak(t)
	// What is made once and kept is made before the base is taken: connections to the
	// database, buffers, tables that grow.
	s.churn(warmUp)
	base := s.settle()
	t.Logf("base:   %v", base)
	s.churn(length)
	after := s.settleTo(base)
	t.Logf("after:  %v", after)
	for _, c := range s.churners {
		t.Logf("%d times: %s", c.done, c.name)
		if c.done == 0 {
			t.Errorf("P-17 %s: it was not done at all", c.name)
		}
	}
	for _, what := range after.beyond(base) {
		t.Errorf("P-17 not given back: %s", what)
	}
	if t.Failed() {
		var stacks bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Logf("the agents' goroutines:\n%s", stacks.String())
		s.gateway.signal(syscall.SIGQUIT)
		_, _ = s.gateway.wait(10 * time.Second)
		t.Logf("the gateway's:\n%s", lines(s.gateway.read("stderr"), 1000))
	}
}

const (
	warmUp = 5 * time.Second
	// quietFor is longer than all that ends by itself when nothing happens: a handshake
	// and a half link have 10 s, a connection that waits for its link 20.
	quietFor = 22 * time.Second
)

type soak struct {
	t        *testing.T
	stage    *stage
	env      []string
	gateway  *process
	url      string
	meter    *client // of the gateway's metrics, with one connection that stays
	owner    *client
	token    string // an access token that lasts
	device   *agent.Dir
	others   []*stormAgent
	echoPort int
	churners []*churner
}

// churner is one thing that comes and goes.
type churner struct {
	name string
	do   func(ctx context.Context, n int) error
	rest time.Duration // after each
	done int
}

// sshPort is the tunnel of the built-in server; nothing listens there.
const sshPort = 22

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, stage: &stage{work: t.TempDir(), procs: make(map[string]*process)}}
	t.Cleanup(s.stage.stopAll)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(s.tmp(), 0o700))
	t.Setenv("TMPDIR", s.tmp())
	dir := filepath.Join(s.stage.work, "gateway")
	// With GOGC=10 the gateway collects often, and its own figures show what it holds.
	s.env = append(os.Environ(), "HOME="+s.stage.work, "GORACE=halt_on_error=1 exitcode=66", "GOGC=10")
	must(createOwner(dir, s.env))
	var err error
	s.url, err = startGateway(s.stage, s.env, dir, "0", "--metrics-listen", "127.0.0.1:0")
	must(err)
	s.gateway, err = s.stage.proc("gateway")
	must(err)
	found, err := s.gateway.await("stderr", `(http://127\.0\.0\.1:\d+/metrics)`, 30*time.Second)
	must(err)
	s.meter = &client{url: found[1], http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableCompression: true}}}
	t.Cleanup(s.meter.http.CloseIdleConnections)
	s.owner, err = signIn(s.url)
	must(err)
	s.token, _, err = s.owner.token(`{"kind":"access","name":"soak"}`)
	must(err)
	for i := range 4 {
		a := &stormAgent{name: fmt.Sprintf("soak-%d", i), dir: filepath.Join(s.stage.work, "agents", strconv.Itoa(i))}
		must(a.register(s.owner))
		s.others = append(s.others, a)
	}
	s.device, err = agent.OpenDir(s.others[0].dir)
	must(err)
	s.echoPort = echoService(t)
	steady := startAgent(agent.ConnectOptions{Dir: s.device, Tunnels: []agent.Tunnel{
		{Destination: socketxp.Destination{Scheme: "tcp", Host: "127.0.0.1", Port: s.echoPort}},
		{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: sshPort}, SSH: true, Policy: agent.DefaultSSHPolicy()},
	}})
	t.Cleanup(func() {
		if err := steady.stop(); err != nil {
			t.Errorf("the device ended: %v", err)
		}
	})
	must(steady.awaitConnected(t.Context()))
	s.churners = []*churner{
		{name: "a device connects and goes", do: s.comeAndGo},
		{name: "a second command publishes a tunnel", do: s.publish, rest: time.Minute},
		{name: "a token is made and revoked in the middle of a visit", do: s.visit, rest: 100 * time.Millisecond},
		{name: "a program by the built-in SSH server", do: s.sshProgram},
		{name: "a terminal by it", do: s.sshTerminal},
		{name: "sftp by it", do: s.sshFiles},
		{name: "a person signs in and out", do: s.signInAndOut, rest: 2500 * time.Millisecond},
		{name: "events are followed", do: s.followEvents, rest: 50 * time.Millisecond},
		{name: "lists are read", do: s.readLists, rest: 50 * time.Millisecond},
		{name: "strangers knock", do: s.knock, rest: 50 * time.Millisecond},
	}
	return s
}

func (s *soak) tmp() string { return filepath.Join(s.stage.work, "tmp") }

// churn does all that comes and goes, at the same time, for d.
func (s *soak) churn(d time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*d+2*time.Minute) // for what hangs
	defer cancel()
	until := time.Now().Add(d)
	var all sync.WaitGroup
	for _, c := range s.churners {
		all.Go(func() {
			for ; time.Now().Before(until); c.done++ {
				if err := c.do(ctx, c.done); err != nil {
					s.t.Errorf("%s, the %d. time: %v", c.name, c.done+1, err)
					return
				}
				select {
				case <-time.After(min(c.rest, time.Until(until))):
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *soak) comeAndGo(ctx context.Context, n int) error {
	dir, err := agent.OpenDir(s.others[1+n%(len(s.others)-1)].dir)
	if err != nil {
		return err
	}
	a := startAgent(agent.ConnectOptions{Dir: dir, Tunnels: []agent.Tunnel{{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: 80}}}})
	return errors.Join(a.awaitConnected(ctx), a.stop())
}

func (s *soak) publish(ctx context.Context, n int) error {
	a := startAgent(agent.ConnectOptions{Dir: s.device, Tunnels: []agent.Tunnel{{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: 8000 + n%10}}}})
	return errors.Join(a.awaitConnected(ctx), a.stop())
}

// visit has connections of which one is open when its token is revoked.
func (s *soak) visit(ctx context.Context, _ int) error {
	token, id, err := s.owner.token(`{"kind":"access","name":"soak"}`)
	if err != nil {
		return err
	}
	v := s.startVisit(token, s.echoPort)
	addr, err := v.awaitListening(ctx)
	if err != nil {
		return errors.Join(err, v.stop())
	}
	for range 3 {
		if err := echoOnce(addr, bytes.Repeat([]byte("soak "), 20_000)); err != nil {
			return errors.Join(err, v.stop())
		}
	}
	open, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return errors.Join(err, v.stop())
	}
	defer func() { _ = open.Close() }()
	_ = open.SetDeadline(time.Now().Add(time.Minute))
	if _, err := open.Write([]byte("x")); err != nil {
		return errors.Join(err, v.stop())
	}
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		return errors.Join(err, v.stop())
	}
	if _, err := s.owner.must("POST", "/api/v1/tokens/"+id+"/revoke", ""); err != nil {
		return errors.Join(err, v.stop())
	}
	select {
	case err = <-v.ended:
	case <-time.After(time.Minute):
		return errors.Join(errors.New("a revoked token did not end its visit"), v.stop())
	}
	if code := socketxp.CodeOf(err); code != socketxp.CodeTokenRevoked {
		return fmt.Errorf("the visit of a revoked token ended by %w", err)
	}
	if n, err := open.Read(make([]byte, 1)); err == nil {
		return fmt.Errorf("%d bytes came after the revocation", n)
	}
	return nil
}

// withSSH has a client of the device's built-in server do something.
func (s *soak) withSSH(ctx context.Context, do func(*ssh.Client) error) error {
	v := s.startVisit(s.token, sshPort)
	addr, err := v.awaitListening(ctx)
	if err != nil {
		return errors.Join(err, v.stop())
	}
	c, err := dialSSH(addr, s.device.Path())
	if err != nil {
		return errors.Join(err, v.stop())
	}
	err = do(c)
	_ = c.Close()
	return errors.Join(err, v.stop())
}

// dialSSH is a client of the built-in server of the device with this work folder.
func dialSSH(addr, dir string) (*ssh.Client, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "ssh_host_ed25519_key"))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", addr, &ssh.ClientConfig{User: me.Username, HostKeyCallback: ssh.FixedHostKey(key.PublicKey()), Timeout: time.Minute})
}

func (s *soak) sshProgram(ctx context.Context, n int) error {
	return s.withSSH(ctx, func(c *ssh.Client) error {
		for range 2 {
			session, err := c.NewSession()
			if err != nil {
				return err
			}
			out, err := session.Output("echo soak") // whatever the profile of this machine says besides
			if err != nil || string(out) != "soak\n" {
				return fmt.Errorf("echo said %q: %w", out, err)
			}
		}
		if n%2 == 0 {
			return nil
		}
		// And one that runs when its visitor goes.
		session, err := c.NewSession()
		if err != nil {
			return err
		}
		return session.Start("sleep 1000")
	})
}

func (s *soak) sshTerminal(ctx context.Context, n int) error {
	return s.withSSH(ctx, func(c *ssh.Client) error {
		session, err := c.NewSession()
		if err != nil {
			return err
		}
		in, err := session.StdinPipe()
		if err != nil {
			return err
		}
		out, err := session.StdoutPipe()
		if err != nil {
			return err
		}
		if err := errors.Join(session.RequestPty("xterm", 24, 80, nil), session.Start("/bin/sh")); err != nil {
			return err
		}
		if _, err := io.WriteString(in, "stty size; mktemp -u /soak-XXXX; echo do''ne\n"); err != nil {
			return err
		}
		var seen []byte
		for buf := make([]byte, 1024); !bytes.Contains(seen, []byte("done")); {
			n, err := out.Read(buf)
			if seen = append(seen, buf[:n]...); err != nil {
				return fmt.Errorf("the terminal showed %q: %w", seen, err)
			}
		}
		if n%2 == 0 {
			return nil // the window is closed
		}
		_, err = io.WriteString(in, "exit\n")
		go func() { _, _ = io.Copy(io.Discard, out) }()
		return errors.Join(err, session.Wait())
	})
}

func (s *soak) sshFiles(ctx context.Context, _ int) error {
	return s.withSSH(ctx, func(c *ssh.Client) error {
		session, err := c.NewSession()
		if err != nil {
			return err
		}
		in, err := session.StdinPipe()
		if err != nil {
			return err
		}
		out, err := session.StdoutPipe()
		if err != nil {
			return err
		}
		if err := session.RequestSubsystem("sftp"); err != nil {
			return err
		}
		// SSH_FXP_INIT of version 3, and the server's version.
		if _, err := in.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}); err != nil {
			return err
		}
		answer := make([]byte, 5)
		if _, err := io.ReadFull(out, answer); err != nil || answer[4] != 2 {
			return fmt.Errorf("the sftp server says %v, %w", answer, err)
		}
		return nil
	})
}

func (s *soak) signInAndOut(context.Context, int) error {
	c, err := signIn(s.url)
	if err != nil {
		return err
	}
	_, err = c.must("GET", "/api/v1/me", "")
	_, err2 := c.must("POST", "/api/v1/signout", "")
	return errors.Join(err, err2)
}

// followEvents goes on after an event that has successors: by itself, when all else
// has ended, nothing would happen any more that it could wait for.
func (s *soak) followEvents(ctx context.Context, _ int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	text, err := s.owner.must("GET", "/api/v1/events?limit=3", "")
	if err != nil {
		return err
	}
	var page struct {
		Items []struct {
			ID string `json:"id"`
		} `json:"items"`
	}
	if err := json.Unmarshal(text, &page); err != nil || len(page.Items) != 3 {
		return fmt.Errorf("3 events were asked for, and came as %q: %w", text, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v1/events/stream", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Last-Event-ID", page.Items[2].ID)
	resp, err := s.owner.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if lines.Text() == "id: "+page.Items[0].ID {
			return nil
		}
	}
	return fmt.Errorf("the stream ended before the newest event: %w", lines.Err())
}

func (s *soak) readLists(_ context.Context, _ int) error {
	var all sync.WaitGroup
	paths := []string{"/devices", "/tokens?limit=50", "/events?limit=50", "/audit?limit=50", "/sessions?limit=50", "/me", "/devices?status=online", "/tokens?live=true"}
	failed := make([]error, len(paths))
	for i, path := range paths {
		all.Go(func() { _, failed[i] = s.owner.must("GET", "/api/v1"+path, "") })
	}
	all.Wait()
	return errors.Join(failed...)
}

// knock is what a port on the internet hears all day.
func (s *soak) knock(ctx context.Context, n int) error {
	says := []string{"", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "\x00garbage", link.Magic + strings.Repeat("x", link.PrefaceSize-len(link.Magic))}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "https://"))
	if err != nil {
		return err
	}
	_, err = io.WriteString(c, says[n%len(says)])
	return errors.Join(err, c.Close())
}

// running is an agent of this process.
type running struct {
	end       context.CancelFunc
	connected chan struct{} // has room for one
	listening chan string   // has room for one
	ended     chan error    // has room for one
}

func startAgent(o agent.ConnectOptions) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{end: cancel, connected: make(chan struct{}, 1), ended: make(chan error, 1)}
	o.Version = "1.0.0"
	o.Connected = func() {
		select {
		case r.connected <- struct{}{}:
		default:
		}
	}
	go func() { r.ended <- agent.Connect(ctx, o) }()
	return r
}

func (s *soak) startVisit(token string, port int) *running {
	return startVisit(filepath.Join(s.stage.work, "laptop"), agent.Peer{Target: agent.Target{Token: token}, DeviceName: s.others[0].name, DevicePort: port})
}

// startVisit starts an agent in slave mode, on any port that is free.
func startVisit(dir string, peer agent.Peer) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{end: cancel, listening: make(chan string, 1), ended: make(chan error, 1)}
	local, err := agent.ParseLocalPort("tcp://127.0.0.1:0")
	if err == nil {
		peer.Dir, err = agent.OpenDir(dir)
	}
	if err != nil {
		r.ended <- err
		return r
	}
	peer.Version = "1.0.0"
	go func() {
		r.ended <- agent.Visit(ctx, agent.VisitOptions{
			Peer: peer, Local: local, Listening: func(url string) { r.listening <- url },
		})
	}()
	return r
}

func (r *running) awaitConnected(ctx context.Context) error {
	select {
	case <-r.connected:
		return nil
	case err := <-r.ended:
		r.ended <- err
		return fmt.Errorf("it ended: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("connect: %w", ctx.Err())
	}
}

// awaitListening returns the address of the local port.
func (r *running) awaitListening(ctx context.Context) (string, error) {
	select {
	case url := <-r.listening:
		return strings.TrimPrefix(url, "tcp://"), nil
	case err := <-r.ended:
		r.ended <- err
		return "", fmt.Errorf("it ended: %w", err)
	case <-ctx.Done():
		return "", fmt.Errorf("visit: %w", ctx.Err())
	}
}

func (r *running) stop() error {
	r.end()
	return <-r.ended
}

// echoService returns the port of a service that says what it hears, until the test
// ends.
func echoService(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
}

// echoOnce sends text and wants it back, and then the end.
func echoOnce(addr string, text []byte) error {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(text)
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite()) //nolint:forcetypeassert // it was dialled as TCP
	}()
	back, err := io.ReadAll(c)
	if err = errors.Join(err, <-sent); err == nil && !bytes.Equal(back, text) {
		err = fmt.Errorf("%d of %d bytes came back", len(back), len(text))
	}
	return err
}

// holding is what the programs hold. Timers have no count of their own: one that was
// not stopped holds memory.
type holding struct {
	counts counts
	heap   [2]int64 // of the agents and the gateway, after a collection
}

// counts must be the same afterwards.
type counts [len(countNames)]int

// What is counted. The agents are in this process.
const (
	goroutines = iota
	openFiles
	terminals
	children
	gatewayGoroutines
	gatewayFiles
	temporary
)

var countNames = [...]string{"goroutines", "open files", "terminals", "children", "goroutines of the gateway", "open files of the gateway", "temporary files"}

func (h holding) String() string {
	var b strings.Builder
	for i, n := range h.counts {
		fmt.Fprintf(&b, "%d %s, ", n, countNames[i])
	}
	fmt.Fprintf(&b, "%d and %d KiB", h.heap[0]>>10, h.heap[1]>>10)
	return b.String()
}

// beyond says what h has more than base: of what can be counted nothing, and at most
// 2 % more memory.
func (h holding) beyond(base holding) []string {
	var out []string
	for i, n := range h.counts {
		if n > base.counts[i] {
			out = append(out, fmt.Sprintf("%s: %d, and %d before", countNames[i], n, base.counts[i]))
		}
	}
	for i, who := range []string{"agents", "gateway"} {
		if h.heap[i] > base.heap[i]+max(base.heap[i]/50, heapNoise) {
			out = append(out, fmt.Sprintf("heap of the %s: %d KiB, and %d before", who, h.heap[i]>>10, base.heap[i]>>10))
		}
	}
	return out
}

// heapNoise is how much two looks at a heap at rest differ by, where 2 % are less.
const heapNoise = 32 << 10

// settle waits until nothing ends by itself any more, and returns what is held then.
func (s *soak) settle() holding {
	s.t.Helper()
	quiet := time.NewTimer(quietFor)
	<-quiet.C
	return s.look()
}

// settleTo waits until no more is held than base, for at most a minute, and returns
// what is held then.
func (s *soak) settleTo(base holding) holding {
	s.t.Helper()
	var now holding
	_ = waitFor(time.Minute, func() error {
		if now = s.look(); len(now.beyond(base)) > 0 {
			return errNotYet
		}
		return nil
	})
	return now
}

// look returns what is held: of each count the one that is seen most often, as the
// gateway does something in between now and then, of which the answer is a part.
func (s *soak) look() holding {
	s.t.Helper()
	seen := make([]map[int]int, len(countNames))
	for range 50 {
		for i, n := range s.count() {
			if seen[i] == nil {
				seen[i] = make(map[int]int)
			}
			seen[i][n]++
		}
	}
	var h holding
	for i := range seen {
		h.counts[i] = slices.MaxFunc(slices.Collect(maps.Keys(seen[i])), func(a, b int) int { return cmp.Compare(seen[i][a], seen[i][b]) })
	}
	h.heap = s.heaps()
	return h
}

func (s *soak) count() (c counts) {
	s.t.Helper()
	c[gatewayGoroutines] = int(s.scrape()["go_goroutines"])
	c[goroutines] = runtime.NumGoroutine()
	c[openFiles], c[terminals] = filesOf(s.t, os.Getpid())
	c[gatewayFiles], _ = filesOf(s.t, s.gateway.cmd.Process.Pid)
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range tasks {
		text, _ := os.ReadFile(f)
		c[children] += len(strings.Fields(string(text)))
	}
	_ = filepath.WalkDir(s.tmp(), func(string, fs.DirEntry, error) error {
		c[temporary]++
		return nil
	})
	return c
}

// filesOf counts a process's file descriptors and those of them that are the
// master's side of a terminal. Those of the database are left out: a pool of bounded
// size opens them when they are needed, and keeps them.
func filesOf(t *testing.T, pid int) (all, terminals int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fds {
		to, err := os.Readlink(filepath.Join(dir, f.Name()))
		switch {
		case err != nil: // the one by which they are read
		case strings.HasPrefix(filepath.Base(to), "gateway.db"):
		case strings.HasSuffix(to, "/ptmx"):
			terminals++
			fallthrough
		default:
			all++
		}
	}
	return all, terminals
}

// heaps returns what the agents and the gateway hold in memory.
func (s *soak) heaps() [2]int64 {
	s.t.Helper()
	var m runtime.MemStats
	for range 3 { // what a pool holds goes with the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	own := int64(m.HeapAlloc)
	// When the gateway will collect next follows from what was left at the last time,
	// which has some of what the answer to this takes.
	var goals []int64
	last := 0.0
	if err := waitFor(time.Minute, func() error {
		m := s.scrape()
		if at := m["go_memstats_last_gc_time_seconds"]; at != last {
			last = at
			goals = append(goals, int64(m["go_memstats_next_gc_bytes"]))
		}
		if len(goals) < 10 {
			return errNotYet
		}
		return nil
	}); err != nil {
		s.t.Fatalf("the gateway collects no garbage: %v", err)
	}
	goals = goals[3:]
	slices.Sort(goals)
	return [2]int64{own, goals[len(goals)/2]}
}

// scrape returns the gateway's metrics that have no labels.
func (s *soak) scrape() map[string]float64 {
	s.t.Helper()
	_, text, err := s.meter.do("GET", "", "")
	if err != nil {
		s.t.Fatal(err)
	}
	m := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				m[name] = v
			}
		}
	}
	return m
}
