//go:build unix

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

const (
	// maxCommand is the longest command: half of what Linux takes as one argument.
	maxCommand = 64 << 10
	// maxRequests is how many requests may come before the one that starts the
	// program; OpenSSH sends a dozen at most. After it, requests need no memory.
	maxRequests = 128
	// maxVariables and maxVariable bound what a client adds to the environment:
	// LANG and the 13 LC_ variables of glibc, and as many of others.
	maxVariables = 32
	maxVariable  = 256
)

// What is taken from a client as it stands: languages that can't be taken for a
// path, and names of terminals.
var (
	languageValue = regexp.MustCompile(`^[A-Za-z0-9_.,:;@+=-]*$`)
	terminalName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
)

// session is one session channel: requests that set up a program, the program,
// and what ends it.
type session struct {
	*sshConn
	channel       ssh.Channel
	requests      <-chan *ssh.Request // closed when the client is gone, or has closed the channel
	client, local netip.AddrPort      // zero where the connection is not between addresses

	variables []variable // set by the client
	terminal  *terminal
	agent     *agentForward // nil unless asked for and allowed
}

// variable is one of a program's environment.
type variable struct{ name, value string }

// order is what a session is asked to run.
type order struct {
	kind    string // shell, exec or sftp
	command string // for the user's shell; "" for an interactive login
}

// serve runs the session to its end: the program's, and the channel's.
func (s *session) serve(ctx context.Context) {
	// The library stalls the whole connection if nobody takes a channel's requests.
	defer func() {
		for r := range s.requests {
			_ = r.Reply(false, nil)
		}
	}()
	defer func() { _ = s.channel.Close() }()
	defer func() { s.terminal.close() }()
	defer func() { s.agent.close() }()

	what, ok := s.prepare(ctx)
	if !ok {
		return
	}
	log := s.log.With("kind", what.kind, "terminal", s.terminal != nil)
	p, err := s.run(what)
	if err != nil {
		log.WarnContext(ctx, "ssh session: program not started", "err", err)
		_, _ = fmt.Fprintf(s.channel.Stderr(), "socketxp: %v\r\n", err)
		s.report(exitStatus(1)) // as sshd does when the shell can't be run
		return
	}
	log.InfoContext(ctx, "ssh session started", "pid", p.pid())

	gone := make(chan struct{})
	attended := make(chan struct{})
	go func() {
		defer close(attended)
		defer close(gone)
		guard(log, "ssh session", func() { s.attend(ctx, p) })
	}()
	if result, ok := p.serve(log, s.channel, gone); ok {
		s.report(result)
		log.InfoContext(ctx, "ssh session ended", "result", result)
	} else {
		log.InfoContext(ctx, "ssh session ended", "result", "the client left")
	}
	_ = s.channel.Close()
	<-attended
	p.input.Wait()
}

// prepare takes requests until one says what to run. It returns false if none
// does before the client leaves, or has sent too many.
func (s *session) prepare(ctx context.Context) (order, bool) {
	for range maxRequests {
		r, ok := <-s.requests
		if !ok {
			return order{}, false
		}
		what, err := s.orderOf(r)
		switch {
		case errors.Is(err, errNotOrder):
			s.answer(ctx, r, s.setUp(ctx, r))
		case err != nil:
			_, _ = fmt.Fprintf(s.channel.Stderr(), "socketxp: %v\r\n", err)
			s.answer(ctx, r, err)
		default:
			_ = r.Reply(true, nil)
			return what, true
		}
	}
	return order{}, false
}

var errNotOrder = errors.New("not a request to start a program")

// orderOf returns what a request asks to run. The error is errNotOrder for a
// request of another purpose, else a text for the client.
func (s *session) orderOf(r *ssh.Request) (order, error) {
	switch r.Type {
	case "shell":
		return order{kind: "shell"}, nil
	case "exec":
		command, err := parseString(r.Payload, maxCommand)
		if err != nil {
			return order{}, fmt.Errorf("the command is %w", err)
		}
		return order{kind: "exec", command: command}, nil
	case "subsystem":
		name, err := parseString(r.Payload, maxVariable)
		if err != nil || name != "sftp" || s.server.executable == "" {
			return order{}, errors.New("there is no such subsystem")
		}
		// By way of the shell, as sshd does it, so that an account whose shell
		// refuses (nologin) or restricts is refused or restricted here too.
		return order{kind: "sftp", command: "exec " + quote(s.server.executable) + " " + sftpCommand}, nil
	}
	return order{}, errNotOrder
}

// setUp does what a request asks for the program to come, or returns an error.
func (s *session) setUp(ctx context.Context, r *ssh.Request) error {
	switch r.Type {
	case "env":
		v, err := parseVariable(r.Payload, s.server.policy)
		if err != nil {
			return err
		}
		return s.set(v)
	case "pty-req":
		if s.terminal != nil {
			return errors.New("there is a terminal already")
		}
		name, size, modes, err := parseTerminal(r.Payload)
		if err != nil {
			return err
		}
		s.terminal, err = openTerminal(name, size, modes, s.user)
		return err
	case "window-change":
		return s.resize(r)
	case agentRequest:
		if !s.server.policy.AgentForwarding {
			return errors.New("the configuration does not allow it")
		}
		if s.agent != nil {
			return errors.New("the ssh agent is forwarded already")
		}
		agent, err := s.openAgent(ctx)
		if err != nil {
			return err
		}
		s.agent = agent
		return nil
	case aliveRequest:
		return nil
	}
	return errors.New("not served")
}

// set adds a variable, or replaces it.
func (s *session) set(v variable) error {
	for i := range s.variables {
		if s.variables[i].name == v.name {
			s.variables[i] = v
			return nil
		}
	}
	if len(s.variables) >= maxVariables {
		return errors.New("too many variables")
	}
	s.variables = append(s.variables, v)
	return nil
}

// attend does what a client may ask of a running program, until it is gone.
func (s *session) attend(ctx context.Context, p *program) {
	rate := pace{every: time.Second / requestsPerSecond, burst: requestBurst}
	for r := range s.requests {
		rate.wait(ctx)
		var err error
		switch r.Type {
		case aliveRequest:
		case "window-change":
			err = s.resize(r)
		case "signal":
			var sig syscall.Signal
			if sig, err = parseSignal(r.Payload); err == nil {
				p.signal(sig)
			}
		default:
			err = errors.New("not served")
		}
		s.answer(ctx, r, err)
	}
}

// answer tells the client whether its request was met; why not, only the log.
func (s *session) answer(ctx context.Context, r *ssh.Request, err error) {
	if err != nil {
		s.log.DebugContext(ctx, "ssh request refused", "request", printable(r.Type), "err", err)
	}
	_ = r.Reply(err == nil, nil)
}

func (s *session) resize(r *ssh.Request) error {
	if s.terminal == nil {
		return errors.New("there is no terminal")
	}
	size, err := parseSize(r.Payload)
	if err != nil {
		return err
	}
	return s.terminal.resize(size)
}

// report tells the client how the program ended, and that there is no more output.
// In this order: PuTTY, and OpenSSH's multiplexing, close the channel as soon as they
// hear of the output's end, and what is said then is lost.
func (s *session) report(r result) {
	_, _ = s.channel.SendRequest(r.request, false, r.payload)
	_ = s.channel.CloseWrite()
}

// environment returns all of the program's environment: none of the agent's.
func (s *session) environment() []string {
	path := "/usr/local/bin:/usr/bin:/bin"
	if s.user.uid == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	var env []string
	for _, v := range s.variables {
		if v.name != "TERM" || s.terminal == nil {
			env = append(env, v.name+"="+v.value)
		}
	}
	env = append(
		env,
		"HOME="+s.user.home,
		"USER="+s.user.name,
		"LOGNAME="+s.user.name,
		"SHELL="+s.user.shell,
		"PATH="+path,
	)
	// Programs look at these to know that they are run remotely, and some for the
	// client's address; sshd says UNKNOWN and 65535 where there is no address.
	from, fromPort := address(s.client)
	to, toPort := address(s.local)
	env = append(env,
		fmt.Sprintf("SSH_CLIENT=%s %d %d", from, fromPort, toPort),
		fmt.Sprintf("SSH_CONNECTION=%s %d %s %d", from, fromPort, to, toPort),
	)
	if s.terminal != nil {
		env = append(env, "TERM="+s.terminal.name, "SSH_TTY="+s.terminal.device)
	}
	if s.agent != nil {
		env = append(env, "SSH_AUTH_SOCK="+s.agent.path())
	}
	return env
}

// endpoint returns the address and port that a is, or zero.
func endpoint(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}

func address(a netip.AddrPort) (string, uint16) {
	if !a.IsValid() {
		return "UNKNOWN", 65535
	}
	return a.Addr().Unmap().String(), a.Port()
}

// arguments returns how the user's shell is called.
func (what order) arguments(shell string) []string {
	base := filepath.Base(shell)
	if what.kind == "shell" {
		return []string{"-" + base} // the sign of a login shell
	}
	return []string{base, "-c", what.command}
}

// quote makes one word of s in every shell that knows single quotes.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// parseString returns the one string that a payload holds. It refuses NUL bytes,
// which no argument of a program can hold.
func parseString(payload []byte, limit int) (string, error) {
	var m struct{ S string }
	switch err := ssh.Unmarshal(payload, &m); {
	case err != nil:
		return "", errors.New("malformed")
	case len(m.S) > limit:
		return "", fmt.Errorf("longer than %d bytes", limit)
	case strings.ContainsRune(m.S, 0):
		return "", errors.New("malformed: it has a NUL byte")
	}
	return m.S, nil
}

// parseVariable returns the variable of an env request, if it is one that a client
// may set, with a value that no program takes for anything but text.
func parseVariable(payload []byte, policy SSHPolicy) (variable, error) {
	var m struct{ Name, Value string }
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return variable{}, err
	}
	if !policy.accepts(m.Name) {
		return variable{}, errors.New("not a variable that may be set")
	}
	plain := len(m.Value) <= maxVariable && utf8.ValidString(m.Value)
	switch {
	case m.Name == "TERM":
		plain = plain && terminalName.MatchString(m.Value)
	case strings.HasPrefix(m.Name, "LANG") || strings.HasPrefix(m.Name, "LC_"):
		plain = plain && languageValue.MatchString(m.Value)
	default:
		// Shells of before 2014 run what follows "() {" in any variable.
		plain = plain && !strings.ContainsFunc(m.Value, unicode.IsControl) && !strings.HasPrefix(m.Value, "()")
	}
	if !plain {
		return variable{}, errors.New("not a value that may be set")
	}
	return variable{m.Name, m.Value}, nil
}

// parseTerminal reads a pty-req.
func parseTerminal(payload []byte) (name string, size windowSize, modes []mode, err error) {
	var m struct {
		Name                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return "", windowSize{}, nil, err
	}
	modes, err = parseModes(m.Modes)
	if err != nil {
		return "", windowSize{}, nil, err
	}
	if !terminalName.MatchString(m.Name) {
		m.Name = "dumb" // in every terminal database: the terminal that can do nothing
	}
	return m.Name, bound(m.Columns, m.Rows, m.Width, m.Height), modes, nil
}

// parseSize reads a window-change.
func parseSize(payload []byte) (windowSize, error) {
	var m struct{ Columns, Rows, Width, Height uint32 }
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return windowSize{}, err
	}
	return bound(m.Columns, m.Rows, m.Width, m.Height), nil
}

// windowSize is a terminal's size in characters and in pixels; 0 is unknown.
type windowSize struct{ columns, rows, width, height uint16 }

// bound cuts a size to what programs allocate a screen for without harm: 4096
// columns and rows are more than any screen shows.
func bound(columns, rows, width, height uint32) windowSize {
	return windowSize{
		columns: uint16(min(columns, 4096)),
		rows:    uint16(min(rows, 4096)),
		width:   uint16(min(width, 65535)),
		height:  uint16(min(height, 65535)),
	}
}

// signalNames are the signals of RFC 4254 section 6.10, by which a program's end
// is told; those with true may also be sent by a client: the ones that a person
// at a keyboard, or kill(1) in a script, would send.
var signalNames = map[syscall.Signal]struct {
	name     string
	sendable bool
}{
	syscall.SIGABRT: {"ABRT", false},
	syscall.SIGALRM: {"ALRM", false},
	syscall.SIGFPE:  {"FPE", false},
	syscall.SIGHUP:  {"HUP", true},
	syscall.SIGILL:  {"ILL", false},
	syscall.SIGINT:  {"INT", true},
	syscall.SIGKILL: {"KILL", true},
	syscall.SIGPIPE: {"PIPE", false},
	syscall.SIGQUIT: {"QUIT", true},
	syscall.SIGSEGV: {"SEGV", false},
	syscall.SIGTERM: {"TERM", true},
	syscall.SIGUSR1: {"USR1", true},
	syscall.SIGUSR2: {"USR2", true},
}

func parseSignal(payload []byte) (syscall.Signal, error) {
	name, err := parseString(payload, maxVariable)
	if err != nil {
		return 0, err
	}
	for sig, s := range signalNames {
		if s.name == name && s.sendable {
			return sig, nil
		}
	}
	return 0, errors.New("not a signal that may be sent")
}

// result is a program's end as the client is told it.
type result struct {
	request string
	payload []byte
	text    string
}

// String returns the result as the log shows it.
func (r result) String() string { return r.text }

func exitStatus(code uint32) result {
	return result{"exit-status", ssh.Marshal(struct{ Code uint32 }{code}), fmt.Sprintf("exit status %d", code)}
}

// resultOf returns how a program ended. The signals that RFC 4254 has no name
// for are told by one of ours, as it asks.
func resultOf(status syscall.WaitStatus) result {
	if !status.Signaled() {
		return exitStatus(uint32(status.ExitStatus())) //nolint:gosec // G115: 0 to 255
	}
	name := "other@socketxp"
	if s, ok := signalNames[status.Signal()]; ok {
		name = s.name
	}
	return result{
		"exit-signal",
		ssh.Marshal(struct {
			Name              string
			CoreDumped        bool
			Message, Language string
		}{name, status.CoreDump(), "", ""}),
		"signal " + name,
	}
}
