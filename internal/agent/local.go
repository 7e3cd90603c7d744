package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"socketxp"
)

// The commands of one work folder talk to the agent that runs there on a Unix
// socket in the folder: one request, then replies, each one JSON object in a line.

const (
	maxLocalLine  = 64 << 10
	maxLocalConns = 64
	// localLimit is how long a command may take to say what it wants, and the agent to
	// hand over a reply.
	localLimit = 10 * time.Second
	// askLimit is how long a command waits for an answer for which the agent has to ask
	// the gateway: longer than loginLimit, the longest of those.
	askLimit = loginLimit + 20*time.Second
	// maxSocketPath is the shortest limit of the systems for a socket's name (macOS).
	maxSocketPath = 103
)

// What a command asks for.
const (
	opStatus  = "status"
	opPublish = "publish" // until the command closes the connection
	opLogout  = "logout"
	opRotate  = "rotate"
	opRelogin = "relogin"
)

type localRequest struct {
	Op      string        `json:"op"`
	Tunnels []localTunnel `json:"tunnels,omitempty"`
	// Of a relogin.
	Token string `json:"token,omitempty"`
	Name  string `json:"name,omitempty"`
	Group string `json:"group,omitempty"`
}

type localTunnel struct {
	Destination string   `json:"destination"`
	SSH         bool     `json:"ssh,omitempty"`
	Users       []string `json:"users,omitempty"`
	// Absent is the narrowest.
	TCPForwarding   bool     `json:"tcp_forwarding,omitempty"`
	AgentForwarding bool     `json:"agent_forwarding,omitempty"`
	AcceptEnv       []string `json:"accept_env,omitempty"`
	SingleUseKeys   bool     `json:"single_use_keys,omitempty"`
}

func (t localTunnel) policy() SSHPolicy {
	return SSHPolicy{TCPForwarding: t.TCPForwarding, AgentForwarding: t.AgentForwarding, AcceptEnv: t.AcceptEnv}
}

// localReply is an answer: to a request that failed Error, else what was asked for.
type localReply struct {
	Error     *localError `json:"error,omitempty"`
	Status    *Status     `json:"status,omitempty"`
	Joined    bool        `json:"joined,omitempty"`     // publish: the tunnels are taken over
	Connected bool        `json:"connected,omitempty"`  // publish: and the gateway knows them
	LoggedOut bool        `json:"logged_out,omitempty"` // logout: the key is wiped
	Trouble   string      `json:"trouble,omitempty"`    // why the gateway was not told, or doesn't know yet
}

type localError struct {
	Code    socketxp.Code `json:"code"`
	Message string        `json:"message"`
	Hint    string        `json:"hint,omitempty"`
	// Of says whose error it is: the gateway's refusal, or that it was not reached.
	Of string `json:"of,omitempty"`
}

const (
	ofRefused     = "refused"
	ofUnreachable = "unreachable"
)

func newLocalError(err error) *localError {
	l := &localError{Code: socketxp.CodeOf(err), Message: err.Error()}
	var e *socketxp.Error
	if errors.As(err, &e) {
		l.Hint = e.Hint
	}
	switch {
	case errors.As(err, new(*RefusedError)):
		l.Of = ofRefused
	case errors.As(err, new(*UnreachableError)):
		l.Of = ofUnreachable
	}
	return l
}

func (l *localError) err() error {
	e := &socketxp.Error{Code: l.Code, Message: l.Message, Hint: l.Hint}
	switch {
	case l.Of == ofRefused:
		return &RefusedError{reason: e}
	case l.Of == ofUnreachable:
		return &UnreachableError{e}
	case l.Code == socketxp.CodeDeviceUnknown:
		return &NotRegisteredError{e}
	}
	return e
}

// listen opens the folder's socket. The caller holds the folder's lock.
func (d *Dir) listen() (net.Listener, error) {
	path := d.file(socketFile)
	if len(path) > maxSocketPath {
		return nil, hinted("choose a shorter --work-dir", "the name of the socket %s is longer than %d bytes", path, maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // left by a crash
		return nil, err
	}
	l, err := net.Listen("unix", path) //nolint:noctx // it does not block
	if err != nil {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // nobody else could enter the folder anyway
		_ = l.Close()
		return nil, fmt.Errorf("local socket: %w", err)
	}
	return l, nil
}

// serveLocal answers commands until the agent ends.
func (d *device) serveLocal(l net.Listener) {
	defer context.AfterFunc(d.ctx, func() { _ = l.Close() })()
	var serving sync.WaitGroup
	defer serving.Wait()
	places := make(chan struct{}, maxLocalConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			if d.ctx.Err() != nil {
				return
			}
			d.log.Warn("the local socket failed", "err", err)
			if !sleep(d.ctx, time.Second) {
				return
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		serving.Go(func() {
			defer func() { <-places }()
			guard(d.log, "command", func() { d.serveCommand(&localConn{Conn: conn}) })
		})
	}
}

// localConn is one end of a connection on the socket.
type localConn struct {
	net.Conn
	lines *bufio.Reader
}

// receive reads one line into v.
func (c *localConn) receive(v any) error {
	if c.lines == nil {
		c.lines = bufio.NewReaderSize(c.Conn, maxLocalLine)
	}
	line, err := c.lines.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return socketxp.LaxUnmarshal(line, v)
}

func (c *localConn) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(localLimit))
	_, err = c.Write(append(data, '\n'))
	return err
}

// serveCommand answers one command.
func (d *device) serveCommand(c *localConn) {
	defer func() { _ = c.Close() }()
	if err := checkLocalPeer(c.Conn); err != nil {
		d.log.Warn("a local command was refused", "err", err)
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(localLimit))
	defer context.AfterFunc(d.ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	var r localRequest
	if err := c.receive(&r); err != nil {
		_ = c.send(localReply{Error: newLocalError(fmt.Errorf("request: %w", err))})
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	switch r.Op {
	case opStatus:
		s := d.status()
		_ = c.send(localReply{Status: &s})
	case opPublish:
		if err := d.publishFor(c, r.Tunnels); err != nil {
			_ = c.send(localReply{Error: newLocalError(err)})
		}
	case opLogout:
		// What was begun is finished, even when the agent ends by it.
		told, err := d.logout(context.WithoutCancel(d.ctx))
		if err != nil {
			_ = c.send(localReply{Error: newLocalError(err)})
			return
		}
		reply := localReply{LoggedOut: true}
		if told != nil {
			reply.Trouble = told.Error()
		}
		_ = c.send(reply)
	case opRotate, opRelogin:
		do := func() error { return d.rotate(context.WithoutCancel(d.ctx)) }
		if r.Op == opRelogin {
			do = func() error {
				return d.relogin(context.WithoutCancel(d.ctx), ReloginOptions{Token: r.Token, Name: r.Name, Group: r.Group})
			}
		}
		if err := do(); err != nil {
			_ = c.send(localReply{Error: newLocalError(err)})
			return
		}
		s := d.status()
		_ = c.send(localReply{Status: &s})
	default:
		_ = c.send(localReply{Error: newLocalError(hinted("end it, and start this version", "the agent that runs is of another version"))})
	}
}

// publishFor publishes another command's tunnels as long as its connection lives.
func (d *device) publishFor(c *localConn, asked []localTunnel) error {
	tunnels := make([]Tunnel, 0, len(asked))
	for _, t := range asked {
		dest, err := socketxp.ParseDestination(t.Destination)
		if err != nil {
			return err
		}
		tunnels = append(tunnels, Tunnel{Destination: dest, SSH: t.SSH, Users: t.Users, Policy: t.policy(), SingleUseKeys: t.SingleUseKeys})
	}
	remove, err := d.tunnels.add(d.ctx, tunnels)
	if err != nil {
		return err
	}
	defer remove()

	// The command says nothing more: what can be read is its end.
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }()
	watching.Go(func() {
		defer cancel()
		_ = c.receive(new(localRequest))
	})

	reply := localReply{Joined: true}
	if now := d.connection(); now.channel == nil && now.trouble != nil {
		reply.Trouble = now.trouble.Error()
	}
	if c.send(reply) != nil || d.published(ctx) == nil && c.send(localReply{Connected: true}) != nil {
		return nil // the command has gone, which is how this ends
	}
	<-ctx.Done()
	switch {
	case context.Cause(d.ctx) == error(errLoggedOut): //nolint:errorlint // this very cause
		return errLoggedOut
	case d.ctx.Err() != nil:
		return hinted("start it again", "the agent that had taken this tunnel over has ended")
	}
	return nil
}

// errNoAgent says that no agent listens in the work folder.
var errNoAgent = errors.New("no agent runs in the work folder")

// ask opens the socket of the agent that runs in the folder and sends a request.
func (d *Dir) ask(ctx context.Context, r localRequest) (*localConn, error) {
	conn, err := (&net.Dialer{Timeout: localLimit}).DialContext(ctx, "unix", d.file(socketFile))
	if err != nil {
		return nil, errNoAgent
	}
	c := &localConn{Conn: conn}
	if err := c.send(r); err != nil {
		_ = c.Close()
		return nil, errNoAgent
	}
	return c, nil
}

// join hands the tunnels to the agent that runs, until ctx or that agent ends.
func join(ctx context.Context, o ConnectOptions) error {
	r := localRequest{Op: opPublish}
	for _, t := range o.Tunnels {
		r.Tunnels = append(r.Tunnels, localTunnel{
			Destination: t.Destination.String(), SSH: t.SSH, Users: t.Users,
			TCPForwarding: t.Policy.TCPForwarding, AgentForwarding: t.Policy.AgentForwarding, AcceptEnv: t.Policy.AcceptEnv,
			SingleUseKeys: t.SingleUseKeys,
		})
	}
	c, err := o.Dir.ask(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for joined := false; ; joined = true {
		var reply localReply
		err := c.receive(&reply)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !joined:
			return errNoAgent
		case err != nil:
			return hinted("start it again", "the agent that had taken this tunnel over has ended")
		case reply.Error != nil:
			return reply.Error.err()
		case reply.Connected:
			o.Connected()
		case reply.Joined:
			o.Joined()
			if reply.Trouble != "" {
				o.Problem(errors.New(reply.Trouble), time.Second)
			}
		}
	}
}

// askLogout has the agent that runs log the device out.
func askLogout(ctx context.Context, dir *Dir) (told, err error) {
	reply, err := dir.askOnce(ctx, localRequest{Op: opLogout})
	switch {
	case err != nil:
		return nil, err
	case !reply.LoggedOut:
		return nil, errors.New("the agent that runs gave no answer")
	case reply.Trouble != "":
		return errors.New(reply.Trouble), nil
	}
	return nil, nil
}

// askOnce sends a request and returns the one reply.
func (d *Dir) askOnce(ctx context.Context, r localRequest) (localReply, error) {
	var reply localReply
	c, err := d.ask(ctx, r)
	if err != nil {
		return reply, err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_ = c.SetReadDeadline(time.Now().Add(askLimit))
	if err := c.receive(&reply); err != nil {
		return reply, fmt.Errorf("ask the agent that runs: %w", err)
	}
	if reply.Error != nil {
		return reply, reply.Error.err()
	}
	return reply, nil
}
