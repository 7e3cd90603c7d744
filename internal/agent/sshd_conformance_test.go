//go:build unix

package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var update = flag.Bool("update", false, "write the conformance table into docs/SSH.md")

// conformanceFile holds the table between these two lines.
const (
	conformanceFile  = "../../docs/SSH.md"
	conformanceBegin = "<!-- begin of the table that TestSSHConformance checks; go test ./internal/agent -run Conformance -update writes it -->\n"
	conformanceEnd   = "<!-- end of the table -->\n"
)

// sshPeer is one of the two servers, as a client sees it.
type sshPeer struct {
	t            *testing.T
	args         []string // of every OpenSSH program
	user         string
	port         int
	auth         []ssh.AuthMethod
	hostKey      ssh.PublicKey
	echo, closed string // addresses that may be forwarded to; nothing listens at the second
	agent        string // an ssh agent's socket
}

func (p *sshPeer) program(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	needPrograms(p.t, name)
	cmd := exec.CommandContext(p.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DISPLAY=:99")
	return cmd
}

func (p *sshPeer) host() string { return p.user + "@127.0.0.1" }

// ssh runs a command; of an option the first counts.
func (p *sshPeer) ssh(command string, options ...string) *exec.Cmd {
	p.t.Helper()
	return p.program("ssh", slices.Concat(options, p.args, []string{p.host(), command})...)
}

func (p *sshPeer) client() *ssh.Client {
	p.t.Helper()
	c, err := ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)), &ssh.ClientConfig{
		User: p.user, Auth: p.auth, HostKeyCallback: ssh.FixedHostKey(p.hostKey), HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, Timeout: patience,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// see returns all of how a program ended.
func (p *sshPeer) see(cmd *exec.Cmd) string {
	p.t.Helper()
	o := runCmd(p.t, cmd)
	return fmt.Sprintf("status %d, output %q, errors %q", o.code, o.stdout, o.stderr)
}

// says returns whether a program fails with a message.
func (p *sshPeer) says(cmd *exec.Cmd, message string) string {
	p.t.Helper()
	o := runCmd(p.t, cmd)
	if !strings.Contains(o.stderr, message) {
		return fmt.Sprintf("status %d, errors %q", o.code, o.stderr)
	}
	return fmt.Sprintf("status %d, %s", o.code, message)
}

// in runs ssh in a terminal, types what is to be typed, and returns what follows
// "result " in a line of the screen.
func (p *sshPeer) in(rows, columns uint16, command, typed string, prepare ...string) string {
	p.t.Helper()
	if len(prepare) > 0 {
		command = "stty " + strings.Join(prepare, " ") + "; exec ssh " + strings.Join(p.args, " ") + " -tt " + p.host() + " " + quote(command)
	} else {
		command = "exec ssh " + strings.Join(p.args, " ") + " -tt " + p.host() + " " + quote(command)
	}
	cmd := p.program("sh", "-c", command)
	cmd.Env = append(cmd.Env, "TERM=vt220")
	terminal, shown := screen(p.t, cmd, rows, columns)
	if typed != "" {
		shown.after(p.t, "ready")
		if _, err := io.WriteString(terminal, typed); err != nil {
			p.t.Fatal(err)
		}
	}
	return shown.after(p.t, "result ")
}

// startSSHD runs OpenSSH's server, set up as the built-in one is.
func startSSHD(t *testing.T) *sshPeer {
	t.Helper()
	needSSHD(t)
	dir := openDir(t)
	for _, name := range []string{"host", "id"} {
		mustRun(t, exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", filepath.Join(dir, name)))
	}
	p := &sshPeer{t: t}
	p.forwardable()
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if p.hostKey, _, _, _, err = ssh.ParseAuthorizedKey(public); err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	p.auth = []ssh.AuthMethod{ssh.PublicKeys(signer)}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	p.user = me.Username
	config := fmt.Sprintf(`HostKey %[1]s/host
AuthorizedKeysFile %[1]s/id.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
PrintMotd no
PrintLastLog no
AcceptEnv LANG LC_* TERM COLORTERM NO_COLOR
AllowTcpForwarding local
PermitOpen %[2]s %[3]s
AllowStreamLocalForwarding no
X11Forwarding no
PermitTunnel no
Subsystem sftp internal-sftp
`, dir, p.echo, p.closed)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.port = serveSSHD(t, "127.0.0.1:0", filepath.Join(dir, "config"))
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.1]:%d %s", p.port, public), 0o600); err != nil {
		t.Fatal(err)
	}
	p.args = []string{
		"-F", "/dev/null", "-o", "Port=" + strconv.Itoa(p.port), "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlgorithms=ssh-ed25519", "-o", "IdentityFile=" + filepath.Join(dir, "id"), "-o", "IdentitiesOnly=yes",
		"-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
	}
	return p
}

func needSSHD(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		skip(t, err)
	}
	_ = os.MkdirAll("/run/sshd", 0o755) // where it confines itself
}

// serveSSHD has OpenSSH's server serve the connections to an address, and returns the
// port.
func serveSSHD(t *testing.T, address, config string) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			_ = c.Close()
			if err != nil {
				t.Error(err)
				return
			}
			cmd := exec.CommandContext(ctx, "/usr/sbin/sshd", "-i", "-f", config)
			cmd.Stdin, cmd.Stdout = f, f
			serving.Go(func() {
				defer func() { _ = f.Close() }()
				_ = cmd.Run()
			})
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// forwardable sets up what may be forwarded to.
func (p *sshPeer) forwardable() (tunnels []Tunnel) {
	p.t.Helper()
	echoing := service(p.t, echo)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.echo, p.closed = net.JoinHostPort(echoing.Destination.Host, strconv.Itoa(echoing.Destination.Port)), l.Addr().String()
	_ = l.Close()
	return []Tunnel{echoing, tunnel(p.t, "tcp://"+p.closed)}
}

// startBuiltin runs the built-in server for the same account.
func startBuiltin(t *testing.T) *sshPeer {
	t.Helper()
	b := newSSHBed(t, func(s *SSHServer) { s.lookup, s.policy.AgentForwarding = lookupAccount, true })
	p := &sshPeer{t: t, user: b.user, port: b.port, hostKey: b.server.signer.PublicKey(), args: b.options("-o", "LogLevel=ERROR")}
	b.publish("", p.forwardable()...)
	return p
}

// conformance is one row: what both servers are seen to do, or, with a reason, what
// each of them is.
type conformance struct {
	feature    string
	observe    func(*sshPeer) string
	sshd, ours string // as the table shows it; ours "" means the same
	reason     string // why ours differs; then what is observed has to differ
}

// leaves kills a client, and says what becomes of its program.
func leaves(p *sshPeer, options ...string) string {
	p.t.Helper()
	cmd := p.ssh(`echo pid $$; exec sleep 300`, options...)
	pid := atoi(p.t, startUntil(p.t, cmd, "pid "))
	p.t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	_ = cmd.Process.Kill()
	limit := time.After(2 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alive(pid) {
		select {
		case <-tick.C:
		case <-limit:
			return "it goes on"
		}
	}
	return "it ends"
}

var conformances = []conformance{
	{"exit status", func(p *sshPeer) string { return p.see(p.ssh("exit 7")) }, "passed on", "", ""},
	{"a program that is ended by a signal", func(p *sshPeer) string {
		var exit *ssh.ExitError
		s := newSession(p.t, p.client())
		if err := s.Run("kill -TERM $$"); !errors.As(err, &exit) {
			return fmt.Sprint(err)
		}
		return exit.Signal() + " " + p.see(p.ssh("kill -TERM $$"))
	}, "`exit-signal` with its name; ssh exits with 255", "", ""},
	{"a signal without a name in RFC 4254", func(p *sshPeer) string {
		var exit *ssh.ExitError
		if err := newSession(p.t, p.client()).Run("kill -BUS $$"); !errors.As(err, &exit) {
			return fmt.Sprint(err)
		}
		return exit.Signal()
	}, "`exit-signal` SIG@openssh.com", "`exit-signal` other@socketxp", "the RFC wants a name of the server's own domain"},
	{"standard output and error", func(p *sshPeer) string { return p.see(p.ssh("echo out; echo err >&2")) }, "two streams", "", ""},
	{"the end of standard input", func(p *sshPeer) string {
		cmd := p.ssh("cat; echo end")
		cmd.Stdin = strings.NewReader("in\n")
		return p.see(cmd)
	}, "passed on, output goes on", "", ""},
	{"5 MB in and out at once", func(p *sshPeer) string {
		cmd, sum := p.ssh("cat"), new(compared)
		cmd.Stdin, cmd.Stdout = io.LimitReader(&counter{}, 5_000_000), sum
		p.see(cmd)
		return fmt.Sprint(sum.n, sum.wrong)
	}, "whole", "", ""},
	{"new keys every 1 MB (`RekeyLimit`)", func(p *sshPeer) string {
		cmd, sum := p.ssh("cat", "-o", "RekeyLimit=1M"), new(compared)
		cmd.Stdin, cmd.Stdout = io.LimitReader(&counter{}, 5_000_000), sum
		p.see(cmd)
		return fmt.Sprint(sum.n, sum.wrong)
	}, "whole", "", ""},
	{"`ssh -C`", func(p *sshPeer) string { return p.see(p.ssh("echo fine", "-C")) }, "works", "", ""},
	{"what a command is run by", func(p *sshPeer) string { return p.see(p.ssh(`echo "$0" "  a  b  "; echo $(pwd) $(umask)`)) }, "the account's shell with `-c`, in the home folder", "", ""},
	{"a shell without command", func(p *sshPeer) string {
		cmd := p.program("ssh", slices.Concat([]string{"-T"}, p.args, []string{p.host()})...)
		cmd.Stdin = strings.NewReader("echo $0; pwd; exit 5\n")
		return p.see(cmd)
	}, "a login shell", "", ""},
	{"process, signals", func(p *sshPeer) string {
		return p.see(p.ssh(`test "$(cut -d ' ' -f 6 /proc/$$/stat)" = $$ && echo leader; grep -E 'Sig(Blk|Ign)' /proc/self/status`))
	}, "leads a session of its own; none is ignored or blocked", "", ""},
	{"environment", func(p *sshPeer) string {
		return p.see(p.ssh(`echo $HOME $USER $LOGNAME $SHELL $PATH; echo $SSH_CONNECTION | cut -d ' ' -f 1,3; test -n "$SSH_CLIENT" && echo client; echo [$TERM$SSH_TTY]`))
	}, "HOME, USER, LOGNAME, SHELL, PATH, SSH_CONNECTION, SSH_CLIENT", "", ""},
	{"MAIL in the environment", func(p *sshPeer) string { return p.see(p.ssh(`echo ${MAIL:+set}`)) }, "set", "not set", "devices have no mailboxes; a profile may set it"},
	{"variables that may be set (LANG, LC_*, COLORTERM …)", func(p *sshPeer) string {
		return p.see(p.ssh(`echo $LANG $LC_TIME $COLORTERM`, "-o", "SetEnv=LANG=C.UTF-8 LC_TIME=POSIX COLORTERM=truecolor"))
	}, "set (as Debian's `AcceptEnv`)", "", ""},
	{"other variables", func(p *sshPeer) string {
		return p.see(p.ssh(`echo [$FOO$LD_PRELOAD$BASH_ENV]; echo $HOME`, "-o", "SetEnv=FOO=x LD_PRELOAD=/x BASH_ENV=/x HOME=/x"))
	}, "left out, without a word", "", ""},
	{"LC_ALL=../../x", func(p *sshPeer) string {
		return p.see(p.ssh(`echo [$LC_MESSAGES]`, "-o", "SetEnv=LC_MESSAGES=../../x"))
	}, "taken", "left out", "no language has a path for a name, and libraries have opened such paths"},
	{"terminal (`ssh -tt`)", func(p *sshPeer) string {
		return p.in(24, 80, `test -t 0 && test -t 1 && test -t 2 && test "$(tty)" = "$SSH_TTY" && echo; echo result $TERM`, "")
	}, "all three streams, SSH_TTY, TERM", "", ""},
	{"size of the terminal", func(p *sshPeer) string { return p.in(33, 101, `echo; echo result $(stty size)`, "") }, "that of the client's", "", ""},
	{"modes of the terminal", func(p *sshPeer) string {
		return p.in(24, 80, `echo; echo result $(stty -a | grep -v speed)`, "", "erase ^H", "intr ^X", "-ixon", "iutf8", "-echoctl")
	}, "those of the client's", "", ""},
	{"a window that changes", func(p *sshPeer) string {
		s := newSession(p.t, p.client())
		if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
			return err.Error()
		}
		out := new(lockedBuffer)
		s.Stdout = out
		if _, err := s.StdinPipe(); err != nil {
			return err.Error()
		}
		if err := s.Start(`trap 'echo; echo signal' WINCH; echo ready; while test "$(stty size)" = "24 80"; do sleep 0.05; done; echo; echo size $(stty size)`); err != nil {
			return err.Error()
		}
		out.after(p.t, "ready")
		if err := s.WindowChange(44, 122); err != nil {
			return err.Error()
		}
		return out.after(p.t, "size ")
	}, "the new size, and SIGWINCH", "", ""},
	{"a window of 2^32-1 columns", func(p *sshPeer) string {
		s := newSession(p.t, p.client())
		if err := s.RequestPty("vt100", 24, 1<<32-1, nil); err != nil {
			return err.Error()
		}
		out, err := s.Output("stty size")
		return fmt.Sprintf("%q %v", out, err)
	}, "65535", "4096", "programs allocate a screen of that size"},
	{"Ctrl-C", func(p *sshPeer) string {
		return p.in(24, 80, `trap 'echo; echo result interrupted; exit' INT; echo ready; sleep 300`, "\x03")
	}, "SIGINT to the job in the foreground", "", ""},
	{"a `signal` request", func(p *sshPeer) string {
		s := newSession(p.t, p.client())
		out := new(lockedBuffer)
		s.Stdout = out
		if _, err := s.StdinPipe(); err != nil {
			return err.Error()
		}
		if err := s.Start(`trap 'exit 9' USR1; echo ready; for _ in $(seq 200); do sleep 0.05; done`); err != nil {
			return err.Error()
		}
		out.after(p.t, "ready")
		if err := s.Signal(ssh.SIGUSR1); err != nil {
			return err.Error()
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Wait() }()
		select {
		case err := <-ended:
			return err.Error()
		case <-time.After(2 * time.Second):
			return "nothing"
		}
	}, "to the program's process group, but not if the user is root", "to the program's process group", "root is a user like others here"},
	{"subsystem sftp", func(p *sshPeer) string {
		dir := p.t.TempDir()
		cmd := p.program("sftp", slices.Concat([]string{"-q", "-b", "-"}, p.args, []string{p.host()})...)
		cmd.Stdin = strings.NewReader("pwd\nput /etc/hostname " + dir + "/a\nchmod 640 " + dir + "/a\nrename " + dir + "/a " + dir + "/b\nln -s b " + dir + "/c\n")
		seen := strings.ReplaceAll(p.see(cmd), dir, "DIR")
		info, err := os.Stat(filepath.Join(dir, "c"))
		if err != nil {
			return err.Error()
		}
		return seen + info.Mode().String()
	}, "works", "", ""},
	{"scp, by sftp and with `-O`", func(p *sshPeer) string {
		var seen string
		file, data := sample(p.t)
		for _, flag := range []string{"-s", "-O"} {
			dir := p.t.TempDir()
			seen += p.see(p.program("scp", slices.Concat([]string{"-q", "-p", flag}, p.args, []string{file, p.host() + ":" + dir + "/there"})...))
			seen += p.see(p.program("scp", slices.Concat([]string{"-q", "-p", flag}, p.args, []string{p.host() + ":" + dir + "/there", dir + "/back"})...))
			sameFile(p.t, dir+"/back", data)
		}
		return seen
	}, "works", "", ""},
	{"another subsystem", func(p *sshPeer) string {
		return p.says(p.program("ssh", slices.Concat([]string{"-s"}, p.args, []string{p.host(), "nonsense"})...), "subsystem request failed")
	}, "refused", "", ""},
	{"sessions in one connection (`ControlMaster`)", func(p *sshPeer) string {
		socket := filepath.Join(p.t.TempDir(), "mux")
		master := p.program("ssh", slices.Concat([]string{"-M", "-N", "-S", socket}, p.args, []string{p.host()})...)
		if err := master.Start(); err != nil {
			return err.Error()
		}
		defer func() {
			_ = master.Process.Kill()
			_ = master.Wait()
		}()
		waitFor(p.t, "the master", func() bool { _, err := os.Stat(socket); return err == nil })
		var seen string
		for range 5 {
			seen += p.see(p.ssh("echo out; echo err >&2; exit 3", "-S", socket))
		}
		return seen
	}, "each has its own program, status and output", "", ""},
	{"most sessions at once", func(p *sshPeer) string {
		c := p.client()
		for n := 0; ; n++ {
			if _, err := c.NewSession(); err != nil {
				return strconv.Itoa(n)
			}
		}
	}, "10", "", ""},
	{"`ssh -W` to what may be reached", func(p *sshPeer) string {
		cmd := p.program("ssh", slices.Concat([]string{"-W", p.echo}, p.args, []string{p.host()})...)
		cmd.Stdin = strings.NewReader("there and back")
		return p.see(cmd)
	}, "works, with half-close (`PermitOpen`)", "works, with half-close (what the device publishes)", ""},
	{"`ssh -W` to another port", func(p *sshPeer) string {
		return p.says(p.program("ssh", slices.Concat([]string{"-W", "127.0.0.1:1"}, p.args, []string{p.host()})...), "administratively prohibited")
	}, "administratively prohibited", "", ""},
	{"`ssh -W` to a port where nothing listens", func(p *sshPeer) string {
		return p.says(p.program("ssh", slices.Concat([]string{"-W", p.closed}, p.args, []string{p.host()})...), "connect failed")
	}, "connect failed", "", ""},
	{"`ssh -R`", func(p *sshPeer) string {
		return p.says(p.program("ssh", slices.Concat([]string{"-N", "-R", "0:" + p.echo, "-o", "ExitOnForwardFailure=yes"}, p.args, []string{p.host()})...), "remote port forwarding failed")
	}, "refused (`AllowTcpForwarding local`)", "refused", ""},
	{"`ssh -L` to a socket", func(p *sshPeer) string {
		_, _, err := p.client().OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path, Reserved string
			Number         uint32
		}{"/run/x.sock", "", 0}))
		return strconv.FormatBool(errors.As(err, new(*ssh.OpenChannelError)))
	}, "refused (`AllowStreamLocalForwarding no`)", "refused", ""},
	{"a network device (`ssh -w`)", func(p *sshPeer) string {
		_, _, err := p.client().OpenChannel("tun@openssh.com", ssh.Marshal(struct{ Mode, Unit uint32 }{1, 1<<31 - 1}))
		return strconv.FormatBool(errors.As(err, new(*ssh.OpenChannelError)))
	}, "refused (`PermitTunnel no`)", "refused", ""},
	{"X11 (`ssh -X`)", func(p *sshPeer) string {
		o := runCmd(p.t, p.ssh("echo [$DISPLAY]", "-X"))
		return fmt.Sprint(o.code, o.stdout)
	}, "refused (`X11Forwarding no`)", "refused", ""},
	{"the visitor's ssh agent (`ssh -A`)", func(p *sshPeer) string {
		return p.see(p.ssh(`ssh-add -l | cut -d ' ' -f 2; stat -c "%a %u" "$(dirname "$SSH_AUTH_SOCK")"`, "-A", "-o", "IdentityAgent="+p.agent))
	}, "a socket in a folder of mode 0700; allowed unless forbidden", "the same; forbidden unless allowed (`allow_agent_forwarding`)", ""},
	{"keepalive of the client (`ServerAliveInterval`)", func(p *sshPeer) string {
		return p.see(p.ssh("sleep 2.5; echo alive", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"))
	}, "answered", "", ""},
	{"a background job that lets go of the output", func(p *sshPeer) string {
		o := runCmd(p.t, p.ssh(`sleep 300 >/dev/null 2>&1 & echo $!`))
		pid := atoi(p.t, o.stdout)
		defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
		return fmt.Sprint(o.code, o.stderr, alive(pid))
	}, "the session ends, the job goes on", "", ""},
	{"a background job that holds the output", func(p *sshPeer) string {
		o := runCmd(p.t, p.ssh(`sleep 9 & echo $!; exit 4`))
		return fmt.Sprint(o.code, alive(atoi(p.t, o.stdout)))
	}, "the session waits for it", "the session ends when the output is silent for 2 s", "nothing is left that keeps the channel"},
	{"the client leaves: a program with terminal", func(p *sshPeer) string { return leaves(p, "-tt") }, "SIGHUP", "SIGHUP, and SIGKILL after 5 s to its group and the job in the foreground", ""},
	{"the client leaves: a program without terminal", func(p *sshPeer) string { return leaves(p) }, "it goes on", "as with a terminal", "who loses the right to be there is not to leave a command running; what is meant to stay is put in a session of its own (`setsid`, a service manager)"},
	{"how a user proves who it is", func(p *sshPeer) string {
		o := runCmd(p.t, p.ssh("true", "-v"))
		_, method, _ := strings.Cut(o.stderr, `using "`)
		method, _, _ = strings.Cut(method, `"`)
		return method
	}, "key, password …", "method \"none\": by the grant alone", "the link proved it before the first byte of SSH"},
	{"a user who may not log in", func(p *sshPeer) string {
		o := runCmd(p.t, p.program("ssh", slices.Concat([]string{"-l", "no-such-user"}, p.args, []string{"127.0.0.1", "true"})...))
		return fmt.Sprint(o.code, o.stdout)
	}, "refused", "refused, and told who may", ""},
}

func TestSSHConformance(t *testing.T) {
	needPrograms(t, "ssh", "sftp", "scp", "ssh-keygen")
	theirs, ours := startSSHD(t), startBuiltin(t)
	theirs.agent, _ = withAgent(t)
	ours.agent = theirs.agent
	t.Run("rows", func(t *testing.T) {
		for _, c := range conformances {
			t.Run(c.feature, func(t *testing.T) {
				if strings.Contains(c.sshd, "if the user is root") && os.Geteuid() != 0 {
					skip(t, "only root sees it")
				}
				t.Parallel()
				a, b := *theirs, *ours
				a.t, b.t = t, t
				x, y := c.observe(&a), c.observe(&b)
				if same := x == y; same != (c.reason == "") {
					t.Errorf("sshd: %s\nours: %s", x, y)
				}
			})
		}
	})

	var table strings.Builder
	table.WriteString("| feature | OpenSSH's sshd | the built-in server |\n|---|---|---|\n")
	for _, c := range conformances {
		ours := c.ours
		if ours == "" {
			ours = "same"
		}
		if c.reason != "" {
			ours = "**differs**: " + ours + " – " + c.reason
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", c.feature, c.sshd, ours)
	}
	data, err := os.ReadFile(conformanceFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), conformanceBegin)
	old, after, ok2 := strings.Cut(rest, conformanceEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", conformanceFile)
	}
	if *update {
		if err := os.WriteFile(conformanceFile, []byte(before+conformanceBegin+table.String()+conformanceEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != table.String() {
		t.Errorf("the table in %s is not that of the checks: go test ./internal/agent -run Conformance -update", conformanceFile)
	}
}
