//go:build unix

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

const (
	// handshakeLimit is how long a client may take to be logged in. Nobody types
	// anything in it, and the slowest devices do the key exchange in 2 s.
	handshakeLimit = 20 * time.Second
	// maxSessions is how many sessions a connection may have open (sshd's own
	// default). What they hold of a client's data that nobody has read is bounded for
	// all together: see maxUntaken.
	maxSessions = 10
	// maxForwards and maxAgentConns are how many forwarded connections, and how many
	// of programs to the visitor's ssh agent, a connection may have open: browsers
	// open 6 to a host.
	maxForwards   = 32
	maxAgentConns = 16
	// Opens and requests above these rates wait, and with them all that their
	// connection sends: a flood slows down its sender alone. A terminal whose window
	// is dragged sends 60 changes a second.
	opensPerSecond, openBurst       = 200, 400
	requestsPerSecond, requestBurst = 100, 300
	// When nothing has been heard from a client for aliveInterval it is asked for a
	// sign of life, and again each time; after deadLimit the connection is closed.
	// What carries the connection finds a dead machine in 30 s; this finds a client
	// that is stopped or hangs, and people do stop a client for a moment (~^Z).
	aliveInterval = time.Minute
	deadLimit     = 5 * time.Minute
	// maxLoggedText is how much of a client's text a log line holds.
	maxLoggedText = 256
)

// SSHServer is the built-in SSH server. It listens to nothing: it serves the
// connections that it is handed, from visitors whose right to be there has been
// proved before. So it asks for no password or key; what it decides is as whom
// a visitor may log in, and what its policy lets a visitor do. No displays,
// sockets, networks or ports of the visitor's side are forwarded. It may be used
// concurrently.
type SSHServer struct {
	users      []string
	policy     SSHPolicy
	dial       func(context.Context, socketxp.Destination) (net.Conn, error) // nil without forwarding
	lookup     func(name string) (account, error)
	signer     ssh.Signer
	log        *slog.Logger
	greeting   string
	executable string
	// What a connection may have untaken, and for how long: see maxUntaken.
	untaken      int64
	untakenLimit time.Duration
}

// NewSSHServer makes a server. It makes the host key if there is none, and
// fails if a user in c.Users doesn't exist or can't be served.
func NewSSHServer(c SSHConfig) (*SSHServer, error) {
	users := slices.Clone(c.Users)
	if len(users) == 0 {
		self, err := user.LookupId(strconv.Itoa(os.Geteuid()))
		if err != nil {
			return nil, fmt.Errorf("find the user the agent runs as: %w", err)
		}
		users = []string{self.Username}
	}
	for _, name := range users {
		if _, err := lookupAccount(name); err != nil {
			return nil, err
		}
	}
	if err := c.Policy.Check(); err != nil {
		return nil, err
	}
	if c.Executable != "" && !filepath.IsAbs(c.Executable) {
		return nil, fmt.Errorf("ssh: the sftp program %q is not an absolute path", c.Executable)
	}
	signer, err := hostKey(c.HostKeyFile)
	if err != nil {
		return nil, err
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	unignoreSignals()
	if !c.Policy.TCPForwarding {
		c.Dial = nil
	}
	return &SSHServer{
		users:      users,
		policy:     c.Policy,
		dial:       c.Dial,
		lookup:     lookupAccount,
		signer:     signer,
		log:        log,
		greeting:   greeting(c.Version),
		executable: c.Executable,
		untaken:    maxUntaken, untakenLimit: untakenLimit,
	}, nil
}

// unignoreSignals sees to it that no program inherits an ignored signal. An agent
// started by nohup, or by a script with "&", ignores SIGHUP or SIGINT, and with
// it would every program whose terminal is hung up or gets a Ctrl-C. A signal
// that is notified to a channel nobody reads is as ignored here, but not
// inherited.
func unignoreSignals() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}

// greeting returns the version line; RFC 4253 section 4.2 wants printable ASCII without
// spaces and minus signs in the part that is ours.
func greeting(version string) string {
	version = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '-' {
			return '_'
		}
		return r
	}, version)
	return "SSH-2.0-socketxp_" + version[:min(len(version), 64)]
}

// HostKey returns the server's public key as a line of authorized_keys without
// a comment.
func (s *SSHServer) HostKey() string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(s.signer.PublicKey())), "\n")
}

// Users returns the names that may log in.
func (s *SSHServer) Users() []string { return slices.Clone(s.users) }

// ServeConn serves one SSH connection on c, which it closes. It blocks until
// the connection and all programs started in it have ended: up to 5 s after the
// connection for programs that resist, and 10 s for forwarded bytes that a program
// of the device has yet to take. It ends early with ctx, and returns ctx's error
// then; nil if a user had logged in; else why none could, which it has logged.
func (s *SSHServer) ServeConn(ctx context.Context, c net.Conn) error {
	flow := newInflow(newListened(c), s.untaken, s.untakenLimit)
	defer func() { _ = flow.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = flow.Close() })
	defer stop()

	// Closing it ends reads and writes alike, whatever sets deadlines on c below.
	limit := time.AfterFunc(handshakeLimit, func() { _ = flow.Close() })
	var login login
	conn, channels, requests, err := ssh.NewServerConn(flow, s.config(&login))
	inTime := limit.Stop()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case !inTime:
		err = fmt.Errorf("ssh: nobody logged in within %v", handshakeLimit)
	case err != nil && login.refusal != nil:
		err = login.refusal
	case err != nil:
		err = fmt.Errorf("ssh: %s", printable(err.Error())) // may hold text of the client's
	}
	if err != nil {
		s.log.InfoContext(ctx, "ssh login refused", "err", err)
		return err
	}
	log := s.log.With("user", login.user.name)
	log.InfoContext(ctx, "ssh connection open")

	opened := sshConn{
		server: s, conn: conn, flow: flow, user: login.user, log: log,
		sessions: make(chan struct{}, maxSessions), forwards: make(chan struct{}, maxForwards), agentConns: make(chan struct{}, maxAgentConns),
	}
	opened.serve(ctx, channels, requests)
	flow.telling.Wait()
	if err := conn.Wait(); errors.Is(err, errUntaken) || errors.Is(err, errAfterEnd) {
		log.WarnContext(ctx, "ssh connection cut", "err", err)
	}
	log.InfoContext(ctx, "ssh connection closed")
	return ctx.Err()
}

// sshConn is a connection in which a user has logged in.
type sshConn struct {
	server *SSHServer
	conn   *ssh.ServerConn
	flow   *inflow // what conn reads
	user   account
	log    *slog.Logger
	// running are the goroutines that serve it, all of which end with it.
	running sync.WaitGroup
	// Each holds a place for what is open.
	sessions, forwards, agentConns chan struct{}
}

// spawn guards do in a goroutine that serves the connection.
func (c *sshConn) spawn(what string, do func()) {
	c.running.Go(func() { guard(c.log, "ssh "+what, do) })
}

// serve runs the connection to its end, and that of all that was opened in it.
func (c *sshConn) serve(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	defer c.running.Wait()
	// What dials for the client stops when it has left.
	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	c.spawn("connection's requests", func() {
		defer func() { _ = c.conn.Close() }() // the library stalls without a reader
		rate := pace{every: time.Second / requestsPerSecond, burst: requestBurst}
		for r := range requests {
			rate.wait(dialing)
			// tcpip-forward and the like are refused with the unknown ones.
			_ = r.Reply(r.Type == aliveRequest, nil)
		}
	})
	c.spawn("sign of life", func() {
		if c.flow.keepAlive(dialing, c.conn) {
			c.log.InfoContext(ctx, "ssh connection: the client gives no sign of life", "after", deadLimit.String())
		}
	})
	rate := pace{every: time.Second / opensPerSecond, burst: openBurst}
	for n := range channels {
		// An open that is refused costs an answer, which the client has to take
		// before more of its opens are read.
		rate.wait(dialing)
		switch n.ChannelType() {
		case "session":
			c.openSession(ctx, n)
		case "direct-tcpip":
			c.openForward(ctx, dialing, n)
		case "direct-streamlocal@openssh.com", "tun@openssh.com", "forwarded-tcpip", "forwarded-streamlocal@openssh.com", "x11", agentChannel:
			_ = n.Reject(ssh.Prohibited, "not served here")
		default:
			_ = n.Reject(ssh.UnknownChannelType, "not known here")
		}
	}
}

func (c *sshConn) openSession(ctx context.Context, n ssh.NewChannel) {
	select {
	case c.sessions <- struct{}{}:
	default:
		_ = n.Reject(ssh.ResourceShortage, "too many sessions in this connection")
		return
	}
	channel, requests, err := n.Accept()
	if err != nil { // the connection is over
		<-c.sessions
		return
	}
	c.spawn("session", func() {
		defer func() { <-c.sessions }()
		in := c.input(channel)
		defer in.forget()
		in.announce()
		session := session{
			sshConn: c, channel: in, requests: requests,
			client: endpoint(c.conn.RemoteAddr()), local: endpoint(c.conn.LocalAddr()),
		}
		session.serve(ctx)
	})
}

// login is how a handshake came out.
type login struct {
	user    account // as whom the client has logged in
	refusal error   // why the last try was refused; nil if there was none
}

// config returns what one connection's handshake goes by. How it comes out is
// put into l.
func (s *SSHServer) config(l *login) *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		ServerVersion: s.greeting,
		NoClientAuth:  true,
		NoClientAuthCallback: func(conn ssh.ConnMetadata) (*ssh.Permissions, error) {
			name := conn.User()
			if name == "" { // whoever has no wish
				name = s.defaultUser()
			}
			if !slices.Contains(s.users, name) {
				l.refusal = fmt.Errorf("ssh: %s is not a user who may log in", printable(name))
				return nil, &ssh.BannerError{Err: l.refusal, Message: fmt.Sprintf(
					"socketxp: user %s may not log in on this device; it lets in: %s\r\n", printable(name), strings.Join(s.users, ", "))}
			}
			user, err := s.lookup(name)
			if err != nil {
				l.refusal = err
				return nil, &ssh.BannerError{Err: l.refusal, Message: fmt.Sprintf(
					"socketxp: user %s can't be served by this device now; its log says why\r\n", printable(name))}
			}
			l.user, l.refusal = user, nil
			return nil, nil
		},
	}
	c.AddHostKey(s.signer)
	return c
}

// defaultUser returns who logs in without a name: the user that the agent runs as,
// if it may log in, else the first who may.
func (s *SSHServer) defaultUser() string {
	if self, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil && slices.Contains(s.users, self.Username) {
		return self.Username
	}
	return s.users[0]
}

// printable returns a client's text quoted and short, in ASCII: safe for a log
// and for a terminal.
func printable(s string) string {
	if len(s) > maxLoggedText {
		return strconv.QuoteToASCII(s[:maxLoggedText]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
