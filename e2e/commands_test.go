package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	ownerEmail    = "owner@example.com"
	ownerPassword = "correct horse battery staple"
)

// listening finds the port in what the gateway says when it is up.
const listening = `https://localhost:(\d+)`

// cmdGateway is `gateway init|start|kill|stop`: init makes the first owner and
// starts; the port is the one of the first start, and $GATEWAY its URL.
func cmdGateway(ts *testscript.TestScript, _ bool, args []string) {
	s := stageOf(ts)
	dir := ts.Getenv("GW")
	switch args[0] {
	case "init":
		check(ts, createOwner(dir, environ(ts)))
		fallthrough
	case "start":
		port := "0"
		if u := ts.Getenv("GATEWAY"); u != "" {
			port = u[strings.LastIndex(u, ":")+1:]
		}
		url, err := startGateway(s, environ(ts), dir, port, args[1:]...)
		check(ts, err)
		ts.Setenv("GATEWAY", url)
	case "kill", "stop":
		p, err := s.proc("gateway")
		check(ts, err)
		sig := syscall.SIGKILL
		if args[0] == "stop" {
			sig = syscall.SIGTERM
		}
		p.signal(sig)
		code, err := p.wait(30 * time.Second)
		check(ts, err)
		if args[0] == "stop" && code != 0 {
			ts.Fatalf("the gateway ended with status %d:\n%s", code, lines(p.read("stderr"), 20))
		}
	default:
		ts.Fatalf("usage: gateway init|start|kill|stop")
	}
}

// createOwner makes the first user, owner of account acme, in a data folder.
func createOwner(dir string, env []string) error {
	cmd := exec.Command(filepath.Join(programs, "socketxp-gateway"), "admin", "create-user",
		"--data-dir", dir, "--email", ownerEmail, "--account", "acme", "--password-file", "-")
	cmd.Env = env
	cmd.Stdin = strings.NewReader(ownerPassword + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("create the owner: %w\n%s", err, out)
	}
	return nil
}

// startGateway starts process "gateway" and returns its URL once it is ready.
func startGateway(s *stage, env []string, dir, port string, more ...string) (string, error) {
	argv := append([]string{
		filepath.Join(programs, "socketxp-gateway"), "serve", "--data-dir", dir,
		"--listen", "127.0.0.1:" + port, "--metrics-listen", "",
	}, more...)
	p, err := s.start("gateway", env, argv...)
	if err != nil {
		return "", err
	}
	if port == "0" {
		m, err := p.await("stdout", listening, 30*time.Second)
		if err != nil {
			return "", err
		}
		port = m[1]
	}
	url := "https://localhost:" + port
	err = waitFor(30*time.Second, func() error {
		if p.over() {
			return fmt.Errorf("the gateway ended with status %d:\n%s", p.code, lines(p.read("stderr"), 20))
		}
		return ready(url)
	})
	return url, err
}

// cmdAPI is `api METHOD PATH [JSON]` as the signed-in owner: the answer goes to
// standard output; ! expects a refusal.
func cmdAPI(ts *testscript.TestScript, neg bool, args []string) {
	s := stageOf(ts)
	c, err := s.owner(ts.Getenv("GATEWAY"))
	check(ts, err)
	body := ""
	if len(args) > 2 {
		body = args[2]
	}
	status, answer, err := c.do(args[0], args[1], body)
	check(ts, err)
	_, _ = ts.Stdout().Write(answer)
	if neg != (status >= 400) {
		ts.Fatalf("%s %s: status %d: %s", args[0], args[1], status, answer)
	}
}

// cmdAwaitAPI is `awaitapi METHOD PATH PATTERN` as the signed-in owner: until the
// answer matches, or with ! until it doesn't.
func cmdAwaitAPI(ts *testscript.TestScript, neg bool, args []string) {
	c, err := stageOf(ts).owner(ts.Getenv("GATEWAY"))
	check(ts, err)
	pattern, err := regexp.Compile(args[2])
	check(ts, err)
	check(ts, waitFor(20*time.Second, func() error {
		answer, err := c.must(args[0], args[1], "")
		if err == nil && pattern.Match(answer) == neg {
			err = fmt.Errorf("%w: %s", errNotYet, answer)
		}
		return err
	}))
}

// cmdCapture is `capture VAR PATH`: a value from the JSON on the last command's
// standard output, by names and indices with dots.
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	v, err := lookup([]byte(ts.ReadFile("stdout")), args[1])
	check(ts, err)
	ts.Setenv(args[0], v)
}

// lookup returns a value from JSON by a path such as "items.0.id".
func lookup(data []byte, path string) (string, error) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return "", fmt.Errorf("not JSON: %w: %s", err, data)
	}
	for _, name := range strings.Split(path, ".") {
		switch t := v.(type) {
		case map[string]any:
			v = t[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(t) {
				return "", fmt.Errorf("no %s of %s in %s", name, path, data)
			}
			v = t[i]
		default:
			return "", fmt.Errorf("no %s of %s in %s", name, path, data)
		}
	}
	if v == nil {
		return "", fmt.Errorf("no %s in %s", path, data)
	}
	return fmt.Sprint(v), nil
}

// cmdNowhere is `nowhere TEXT DIR...`: no file below the folders holds the text.
func cmdNowhere(ts *testscript.TestScript, _ bool, args []string) {
	if len(args[0]) < 16 {
		ts.Fatalf("the text is too short to mean anything: %q", args[0])
	}
	files := 0
	for _, dir := range args[1:] {
		err := filepath.Walk(ts.MkAbs(dir), func(path string, info os.FileInfo, err error) error {
			if err != nil || !info.Mode().IsRegular() {
				return err
			}
			files++
			b, err := os.ReadFile(path)
			if err == nil && bytes.Contains(b, []byte(args[0])) {
				err = fmt.Errorf("%s holds it", path)
			}
			return err
		})
		check(ts, err)
	}
	if files == 0 {
		ts.Fatalf("there are no files in %v", args[1:])
	}
}

// cmdRandom is `random FILE MIB`.
func cmdRandom(ts *testscript.TestScript, _ bool, args []string) {
	mib, err := strconv.ParseInt(args[1], 10, 64)
	check(ts, err)
	f, err := os.Create(ts.MkAbs(args[0]))
	check(ts, err)
	_, err = io.CopyN(f, rand.Reader, mib<<20)
	check(ts, errors.Join(err, f.Close()))
}

// cmdSSHD is `sshd`: a real OpenSSH server on a free loopback port ($SSHD_PORT)
// that admits the key $WORK/id_ed25519 and is known in $WORK/sshd_known_hosts.
func cmdSSHD(ts *testscript.TestScript, _ bool, _ []string) {
	port, err := startSSHD(stageOf(ts), environ(ts))
	check(ts, err)
	ts.Setenv("SSHD_PORT", port)
}

func startSSHD(s *stage, env []string) (port string, err error) {
	dir := filepath.Join(s.work, "sshd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, key := range []string{filepath.Join(dir, "host"), filepath.Join(s.work, "id_ed25519")} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key).CombinedOutput(); err != nil {
			return "", fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	host, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		return "", err
	}
	// The name that clients are told to look the key up by, so that a local port
	// that changes does not matter.
	if err := os.WriteFile(filepath.Join(s.work, "sshd_known_hosts"), append([]byte("device "), host...), 0o600); err != nil {
		return "", err
	}
	config := filepath.Join(dir, "config")
	text := fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
		filepath.Join(dir, "host"), filepath.Join(s.work, "id_ed25519.pub"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	return serveSSHD(s, env, config, func() {})
}

// serveSSHD runs an OpenSSH server as config says. It calls accepted for each connection,
// before the server has it.
func serveSSHD(s *stage, env []string, config string, accepted func()) (port string, err error) {
	// Inetd mode: the listener is ours from the first moment, so there is no port
	// that could be taken in between.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_ = os.MkdirAll("/run/sshd", 0o755)
	sshd, err := lookPath("sshd", env)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				accepted()
				tcp, _ := c.(*net.TCPConn)
				f, err := tcp.File()
				if err != nil {
					return
				}
				defer func() { _ = f.Close() }()
				cmd := exec.Command(sshd, "-i", "-f", config)
				cmd.Stdin, cmd.Stdout = f, f
				_ = cmd.Run()
			}()
		}
	}()
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	_, port, err = net.SplitHostPort(l.Addr().String())
	return port, err
}

// cmdPostgres is `postgres DATABASE`: a fresh database on the tests' own
// PostgreSQL; $PGURL is its URL, and $PGPORT a TCP port of the server.
func cmdPostgres(ts *testscript.TestScript, _ bool, args []string) {
	url, err := postgresDatabase(args[0])
	check(ts, err)
	port, err := postgresPort(stageOf(ts))
	check(ts, err)
	ts.Setenv("PGURL", url)
	ts.Setenv("PGPORT", port)
}

// cmdFails is `fails STATUS COMMAND ARG...`: the program must end with just that
// status.
func cmdFails(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && args[0] != "0":
		ts.Fatalf("it succeeded, want status %s", args[0])
	case errors.As(err, &exit) && strconv.Itoa(exit.ExitCode()) != args[0]:
		ts.Fatalf("it ended with status %d, want %s", exit.ExitCode(), args[0])
	case err != nil && exit == nil:
		ts.Fatalf("%v", err)
	}
}

// cmdExpired is `expired TOKEN-ID`: waits until the token's expiry has passed.
func cmdExpired(ts *testscript.TestScript, _ bool, args []string) {
	c, err := stageOf(ts).owner(ts.Getenv("GATEWAY"))
	check(ts, err)
	answer, err := c.must("GET", "/api/v1/tokens/"+args[0], "")
	check(ts, err)
	text, err := lookup(answer, "expires_at")
	check(ts, err)
	at, err := time.Parse(time.RFC3339, text)
	check(ts, err)
	check(ts, waitFor(20*time.Second, func() error {
		if time.Now().After(at) {
			return nil
		}
		return errNotYet
	}))
}
