// Package terminal is a person's terminal on a device, as the gateway holds it for a
// browser: an SSH connection with a program in it that lives on when the browser is
// away for a moment, the last of its output, and the files of the device by the same
// connection. It dials nothing: it is handed connections, to the device and to the
// browser.
package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

const (
	// window is how much output may be on its way to the screen before the program is
	// held up; all of it is kept, with what two readers had at hand.
	window   = 1 << 20
	readSize = 32 << 10
	keep     = window + 2*readSize
	// maxInput is how much of what was typed may wait for a program that does not read.
	maxInput = 1 << 20
)

// Limits are how long things may take.
type Limits struct {
	Connect time.Duration // to the server, and signing in
	Trust   time.Duration // a person's look at a host key
	// Detached is how long a terminal lives that nobody looks at.
	Detached time.Duration
	// Cut is how long the person's end has to take in why it was cut off.
	Cut time.Duration
}

// DefaultLimits returns those of a gateway.
func DefaultLimits() Limits {
	return Limits{Connect: 15 * time.Second, Trust: 2 * time.Minute, Detached: time.Minute, Cut: 2 * time.Second}
}

// Options are what a terminal is made of.
type Options struct {
	// Dial opens a connection to the SSH server. It is called again after a person has
	// trusted the host key.
	Dial   func(context.Context) (net.Conn, error)
	User   string
	Size   Size
	SignIn *SignIn // the terminal wipes it
	// Known is the host key that the server should have; nil for none. Sure says that it
	// is certain, so that no person is asked to trust another.
	Known *HostKey
	Sure  bool
	// Trust is called when a person has trusted a host key.
	Trust func(context.Context, HostKey) error
	// Why returns why the connection was cut from our side, or nil.
	Why func() *socketxp.Error
	// Over is called once, when the terminal is over: nothing is shown any more.
	Over func()
	// Fault is called with what a goroutine of the terminal's has recovered from.
	Fault  func(v any)
	Limits Limits
}

// Terminal is one program on a device, with its screen. Run serves it; the other
// methods may be used concurrently, before, while and after it runs.
type Terminal struct {
	options Options
	known   *HostKey // Run's alone

	keySeen     chan struct{} // closed when the host key is known or asked about, or the terminal is over
	keySeenOnce func()
	trusted     chan struct{} // closed when a person has trusted the host key
	trustOnce   func()
	ended       chan struct{} // closed when there is an ending

	room   chan struct{} // has one in it when there may be room for output
	typed  chan struct{} // has one in it when there may be input, or another size
	seated chan struct{} // has one in it when an attachment has come or gone

	mu      sync.Mutex // guards the following
	state   string
	hostKey *HostKey
	ending  *Ending
	cut     bool // not a byte of output leaves any more
	close   func()
	client  *ssh.Client // nil unless signed in
	output  ring
	acked   int64 // bytes that the screen has taken
	input   []byte
	used    bool // the person has typed since Used was called
	size    Size
	fileOps int         // things that are being done with files
	att     *attachment // nil while nobody looks
	told    bool        // an attachment has taken the ending
	idle    *time.Timer // runs while nobody looks
	notices int
	notice  string // the last one
	gone    bool   // Run has returned, or is about to
}

// New returns a terminal that does nothing before Run.
func New(o Options) *Terminal {
	t := &Terminal{
		options: o, known: o.Known, size: o.Size.Clamp(), state: stateConnecting, output: ring{limit: keep},
		keySeen: make(chan struct{}), trusted: make(chan struct{}), ended: make(chan struct{}),
		room: make(chan struct{}, 1), typed: make(chan struct{}, 1), seated: make(chan struct{}, 1),
	}
	t.keySeenOnce = sync.OnceFunc(func() { close(t.keySeen) })
	t.trustOnce = sync.OnceFunc(func() { close(t.trusted) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = time.AfterFunc(o.Limits.Detached, t.detached)
	return t
}

// wake wakes whoever waits for something that may have happened.
func wake(bell chan<- struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// HostKey waits until the server's host key is known, or a person is asked about it.
// Its error is why the terminal was over before that.
func (t *Terminal) HostKey(ctx context.Context) (HostKey, error) {
	select {
	case <-t.keySeen:
	case <-ctx.Done():
		return HostKey{}, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hostKey == nil || t.ending != nil && t.hostKey.State != HostKeyKnown {
		return HostKey{}, t.ending.err()
	}
	return *t.hostKey, nil
}

// err returns an ending as an error for people.
func (e *Ending) err() error {
	if e == nil {
		return errors.New("the terminal has no end")
	}
	code := socketxp.Code(e.Reason)
	switch e.Reason {
	case ReasonUnreachable, ReasonLost:
		code = socketxp.CodeDialFailed
	case ReasonHostKey, ReasonRefused, ReasonNotTrusted:
		code = socketxp.CodeForbidden
	case ReasonClosed, ReasonDetached, ReasonExited:
		code = socketxp.CodeSessionEnded
	}
	return socketxp.Errorf(code, "%s", e.Message).WithHint(e.Hint)
}

// Attached reports whether somebody looks at the terminal.
func (t *Terminal) Attached() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.att != nil
}

// Over reports whether the terminal has ended.
func (t *Terminal) Over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ending != nil
}

// Used reports whether the person has typed since it was last called.
func (t *Terminal) Used() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	used := t.used
	t.used = false
	return used
}

// become sets the state, unless the terminal has ended.
func (t *Terminal) become(state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending == nil {
		t.state = state
		t.wakeScreen()
	}
}

// wakeScreen is called with mu held.
func (t *Terminal) wakeScreen() {
	if t.att != nil {
		wake(t.att.bell)
	}
}

// Notice says something to the person.
func (t *Terminal) Notice(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notice = text
	t.notices++
	t.wakeScreen()
}

// End ends the terminal in an orderly way: what was put out before is still shown.
func (t *Terminal) End(e Ending) { t.end(e, false) }

// Cut ends the terminal now. Not a byte of output leaves after it has returned, and
// the person's end is closed soon.
func (t *Terminal) Cut(e Ending) { t.end(e, true) }

func (t *Terminal) end(e Ending, cut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending == nil {
		t.ending, t.state = &e, stateEnded
		close(t.ended)
		t.keySeenOnce()
		t.idle.Stop()
	}
	if t.close != nil {
		t.close()
		t.close = nil
	}
	if cut && !t.cut {
		t.cut = true
		t.output.drop()
		if a := t.att; a != nil {
			a.late = time.AfterFunc(t.options.Limits.Cut, a.socket.Close)
		}
	}
	t.wakeScreen()
	wake(t.room)
	wake(t.typed)
	wake(t.seated)
}

// detached ends a terminal that nobody looks at.
func (t *Terminal) detached() {
	if !t.Attached() {
		t.End(Ending{Reason: ReasonDetached, Message: "the terminal was left alone for too long"})
	}
}

// Run serves the terminal until it is over, and its last output was taken or nobody
// has come for it. It ends early with ctx.
func (t *Terminal) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		t.Cut(Ending{Reason: string(socketxp.CodeGoingAway), Message: "the gateway is shutting down", Hint: "try again in a moment"})
	})
	defer stop()
	t.guard(func() {
		e := t.serve(ctx)
		if why := t.options.Why(); why != nil {
			e = Ending{Reason: string(why.Code), Message: why.Message, Hint: why.Hint}
		}
		t.End(e)
	})
	t.options.SignIn.wipe()
	t.mu.Lock()
	t.client, t.input = nil, nil
	t.mu.Unlock()
	// What was put out is still shown, and may be cut off while it is.
	t.linger(ctx)
	t.options.Over()
}

// guard outlives do's panic, which costs the terminal and nothing else.
func (t *Terminal) guard(do func()) {
	defer func() {
		if v := recover(); v != nil {
			t.Cut(fault)
			t.options.Fault(v)
		}
	}()
	do()
}

var fault = Ending{Reason: string(socketxp.CodeInternal), Message: "the gateway has a fault", Hint: "its log says more"}

// linger waits until a person's end has taken in the last of the output, and why it
// is the last. A terminal that was cut off waits for nobody who is not there.
func (t *Terminal) linger(ctx context.Context) {
	limit := time.NewTimer(t.options.Limits.Detached)
	defer limit.Stop()
	for {
		t.mu.Lock()
		done := t.att == nil && (t.told || t.cut || t.ending.Reason == ReasonDetached || t.ending.Reason == ReasonClosed)
		t.mu.Unlock()
		if done {
			break
		}
		select {
		case <-t.seated:
			continue
		case <-limit.C:
		case <-ctx.Done(): // cut, which closes the socket
			ctx = context.Background()
			continue
		}
		break
	}
	t.mu.Lock()
	t.gone = true
	t.idle.Stop()
	a := t.att
	t.mu.Unlock()
	if a != nil { // it takes nothing in
		a.socket.Close()
	}
}

// serve connects, signs in and runs the program. It returns how that ended.
func (t *Terminal) serve(ctx context.Context) Ending {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	if t.ending != nil {
		defer t.mu.Unlock()
		return *t.ending
	}
	t.close = cancel
	t.mu.Unlock()

	client, err := t.connect(ctx)
	if errors.Is(err, errUntrusted) {
		t.options.SignIn.unplace()
		if ending := t.awaitTrust(ctx); ending != nil {
			return *ending
		}
		client, err = t.connect(ctx)
	}
	t.options.SignIn.wipe()
	if err != nil {
		return t.notConnected(err)
	}
	defer func() { _ = client.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	return t.run(client)
}

// refusedError is what the server has said to a sign-in that it did not take.
type refusedError struct{ said string }

func (e *refusedError) Error() string { return "the sign-in was refused" }

// unreachableError says that there was no connection to be had.
type unreachableError struct{ error }

func (e *unreachableError) Unwrap() error { return e.error }

// connect returns a connection to the server on which the person is signed in.
func (t *Terminal) connect(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, t.options.Limits.Connect)
	defer cancel()
	in, user := t.options.SignIn, t.options.User
	// Where no key is known yet, the first connection ends when it has shown one.
	if in.place != nil && t.known != nil {
		as, remove, err := in.place(ctx)
		if err != nil {
			return nil, err
		}
		in.remove, user = remove, as
	}
	conn, err := t.options.Dial(ctx)
	if err != nil {
		return nil, &unreachableError{err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	said := ""
	c, channels, requests, err := ssh.NewClientConn(conn, "", &ssh.ClientConfig{
		User: user, HostKeyCallback: t.checkHostKey, HostKeyAlgorithms: algorithmsFor(t.known),
		Auth: in.methods(), ClientVersion: "SSH-2.0-socketxp_gateway",
		BannerCallback: func(message string) error {
			said = printable(said + message)
			return nil
		},
	})
	switch {
	case !stop() && err == nil:
		_ = c.Close()
		return nil, ctx.Err()
	case err == nil:
		return ssh.NewClient(c, channels, requests), nil
	}
	_ = conn.Close()
	if notTaken(err) {
		err = &refusedError{said}
	}
	return nil, err
}

// notTaken reports whether an error of a handshake says that the server did not take
// the sign-in. The library has no type for it; and where a server fails a sign-in by
// questions before it asks any, it complains of message 51, which is
// SSH_MSG_USERAUTH_FAILURE (RFC 4252 section 6).
func notTaken(err error) bool {
	text := err.Error()
	return strings.Contains(text, "unable to authenticate") || strings.HasSuffix(text, "unexpected message type 51 (expected 60)")
}

// awaitTrust asks the person to trust the host key that was shown. It returns nil
// when they have.
func (t *Terminal) awaitTrust(ctx context.Context) *Ending {
	t.mu.Lock()
	key := *t.hostKey
	t.mu.Unlock()
	t.become(stateHostKey)
	t.keySeenOnce()
	limit := time.NewTimer(t.options.Limits.Trust)
	defer limit.Stop()
	select {
	case <-t.trusted:
	case <-limit.C:
		return &Ending{Reason: ReasonNotTrusted, Message: "nobody has confirmed the host key in time", Hint: "open the terminal again"}
	case <-ctx.Done():
		return &Ending{Reason: ReasonLost, Message: "the terminal was closed"}
	}
	if err := t.options.Trust(ctx, key); err != nil {
		e := endingOf(err)
		return &e
	}
	known := key
	known.State, known.KnownFingerprint = HostKeyKnown, ""
	t.known = &known
	t.become(stateConnecting)
	return nil
}

// endingOf returns the ending that an error of ours is.
func endingOf(err error) Ending {
	var e *socketxp.Error
	if !errors.As(err, &e) {
		return fault
	}
	return Ending{Reason: string(e.Code), Message: e.Message, Hint: e.Hint}
}

// notConnected says why there is no connection.
func (t *Terminal) notConnected(err error) Ending {
	var no *refusedError
	var away *unreachableError
	var ours *socketxp.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Ending{Reason: ReasonUnreachable, Message: "the device's SSH server did not answer in time"}
	case errors.As(err, &no):
		return Ending{Reason: ReasonRefused, Message: "the device did not take the sign-in of user " + printable(t.options.User), Hint: no.said}
	case errors.Is(err, errMismatch):
		return Ending{Reason: ReasonHostKey, Message: errMismatch.Error(), Hint: "somebody may be in between, or the device was set up anew: restart its agent"}
	case errors.Is(err, errUntrusted):
		return Ending{Reason: ReasonHostKey, Message: "the server has shown another host key than the one that was trusted", Hint: "open the terminal again"}
	case errors.As(err, &ours):
		return endingOf(err)
	case errors.As(err, &away):
		return Ending{Reason: ReasonUnreachable, Message: "there is no connection to the device", Hint: "try again in a moment"}
	}
	return Ending{Reason: ReasonLost, Message: "what answers at the device's port does not speak SSH, or the connection was lost"}
}

// maxSaid is how much of what a server says at the sign-in is shown.
const maxSaid = 1 << 10

// printable returns text of the device in one line without anything that is no
// character.
func printable(s string) string {
	if len(s) > maxSaid {
		s = s[:maxSaid]
	}
	s = strings.Map(func(r rune) rune {
		if r != ' ' && socketxp.CheckDisplayText("", string(r), 1) != nil {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	return strings.Join(strings.Fields(s), " ")
}

// modes are those of a screen that is a screen.
var modes = ssh.TerminalModes{ssh.TTY_OP_ISPEED: 38400, ssh.TTY_OP_OSPEED: 38400}

// run runs the user's shell on client, to its end.
func (t *Terminal) run(client *ssh.Client) Ending {
	lost := Ending{Reason: ReasonLost, Message: "the connection to the device was lost", Hint: "open the terminal again"}
	session, err := client.NewSession()
	if err != nil {
		return lost
	}
	defer func() { _ = session.Close() }()
	in, err1 := session.StdinPipe()
	out, err2 := session.StdoutPipe()
	errOut, err3 := session.StderrPipe()
	if errors.Join(err1, err2, err3) != nil {
		return lost
	}
	t.mu.Lock()
	size := t.size
	t.mu.Unlock()
	if err := session.RequestPty("xterm-256color", size.Rows, size.Columns, modes); err != nil {
		return Ending{Reason: ReasonRefused, Message: "the device gives no terminal"}
	}
	if err := session.Shell(); err != nil {
		return Ending{Reason: ReasonRefused, Message: "the device runs no shell for this user"}
	}
	t.mu.Lock()
	t.client = client
	t.mu.Unlock()
	t.become(stateOpen)

	var pumps sync.WaitGroup
	done := make(chan struct{})
	pumps.Go(func() { t.guard(func() { t.pump(out) }) })
	pumps.Go(func() { t.guard(func() { t.pump(errOut) }) })
	var typing sync.WaitGroup
	typing.Go(func() { t.guard(func() { t.typing(session, in, size, done) }) })
	err = session.Wait()
	pumps.Wait()
	_ = session.Close() // a write of what was typed ends by it
	close(done)
	typing.Wait()

	var exit *ssh.ExitError
	switch {
	case err == nil:
		status := 0
		return Ending{Reason: ReasonExited, Message: "the program has ended", ExitStatus: &status}
	case errors.As(err, &exit) && exit.Signal() != "":
		return Ending{Reason: ReasonExited, Message: "the program was ended by a signal", Signal: printable(exit.Signal())}
	case errors.As(err, &exit):
		status := exit.ExitStatus()
		return Ending{Reason: ReasonExited, Message: fmt.Sprintf("the program has ended with status %d", status), ExitStatus: &status}
	}
	return lost
}

// pump keeps what r puts out, as fast as the screen takes it.
func (t *Terminal) pump(r io.Reader) {
	buf := make([]byte, readSize)
	for {
		if !t.awaitRoom() {
			_, _ = io.Copy(io.Discard, r) // ends with the connection, which is closed
			return
		}
		n, err := r.Read(buf)
		t.mu.Lock()
		if n > 0 && !t.cut {
			t.output.write(buf[:n])
			t.wakeScreen()
		}
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// awaitRoom waits until the screen has taken enough. It returns false if the
// terminal has ended.
func (t *Terminal) awaitRoom() bool {
	for {
		t.mu.Lock()
		free, over := t.output.end-t.acked < window, t.ending != nil
		t.mu.Unlock()
		switch {
		case over:
			wake(t.room) // for the other reader
			return false
		case free:
			return true
		}
		<-t.room
	}
}

// typing gives the program what was typed, and the screen's size, until done is
// closed. What can't be written any more is nobody's.
func (t *Terminal) typing(session *ssh.Session, in io.WriteCloser, size Size, done <-chan struct{}) {
	for {
		t.mu.Lock()
		input, want := t.input, t.size
		t.input = nil
		t.mu.Unlock()
		if want != size {
			size = want
			_ = session.WindowChange(size.Rows, size.Columns)
		}
		if len(input) > 0 {
			if _, err := in.Write(input); err != nil {
				return
			}
			continue
		}
		select {
		case <-t.typed:
		case <-done:
			return
		}
	}
}
