//go:build unix

package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	// hangUpLimit is how long a program, its process group and the job in the
	// foreground of its terminal may go on after its client has left before they are
	// killed.
	hangUpLimit = 5 * time.Second
	// groupPoll is how often it is looked whether they are gone.
	groupPoll = 50 * time.Millisecond
	// quietLimit is how long the output of a program that has ended may be
	// silent before the session ends although something it left in the
	// background still holds it. sshd waits for ever there, and so does everybody
	// who starts a daemon through it; output that still comes is delivered.
	quietLimit = 2 * time.Second
	// endOfInput is what a terminal takes for the end of input (VEOF).
	endOfInput = "\x04"
)

// terminal is a session's pseudo-terminal.
type terminal struct {
	name   string   // for TERM
	device string   // the name of the program's end in the file system
	master *os.File // our end
	slave  *os.File // the program's; nil once it has been started
}

// openTerminal makes a terminal that belongs to the user.
func openTerminal(name string, size windowSize, modes []mode, user account) (*terminal, error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	// The library leaves its master in blocking mode, in which no Close or
	// deadline ends a read. A duplicate in non-blocking mode is ours.
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = blocking.Close()
	if err != nil {
		_ = slave.Close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		_ = slave.Close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t := &terminal{name: name, device: slave.Name(), master: os.NewFile(uintptr(fd), "terminal"), slave: slave}
	err = errors.Join(t.resize(size), t.setModes(modes))
	if err == nil && user.credential != nil {
		err = slave.Chown(int(user.uid), -1) // the group is the system's choice, tty as a rule
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("set up a terminal: %w", err)
	}
	return t, nil
}

func (t *terminal) resize(size windowSize) error {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{
			Row: size.rows, Col: size.columns, Xpixel: size.width, Ypixel: size.height,
		})
	})
	return errors.Join(err, failed)
}

// foreground returns the process group that the terminal's keys go to, or 0.
func (t *terminal) foreground() int {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return 0
	}
	group := 0
	if err := raw.Control(func(fd uintptr) {
		if g, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil {
			group = g
		}
	}); err != nil {
		return 0
	}
	return group
}

// close hangs up. A nil terminal has nothing to close.
func (t *terminal) close() {
	if t == nil {
		return
	}
	_ = t.master.Close()
	t.release()
}

// release closes the program's end, so that the master sees its end when the
// last program has.
func (t *terminal) release() {
	if t.slave != nil {
		_ = t.slave.Close()
		t.slave = nil
	}
}

// program is a running program and our ends of its streams. With a terminal,
// stdin and stdout are the same file and there is no stderr.
type program struct {
	process               *os.Process
	stdin, stdout, stderr *os.File
	terminal              *terminal // nil without
	// input is under way until the client closes the channel, even if the program
	// has ended and serve returned.
	input sync.WaitGroup

	mu     sync.Mutex // guards the following
	reaped bool       // the process id is the kernel's again
	state  *os.ProcessState
	failed error // why there is no state
}

// run starts the user's shell for what was asked.
func (s *session) run(what order) (*program, error) {
	p := &program{terminal: s.terminal}
	attributes := &syscall.SysProcAttr{Setsid: true, Credential: s.user.credential}
	var theirs []*os.File
	if t := s.terminal; t != nil {
		p.stdin, p.stdout = t.master, t.master
		theirs = []*os.File{t.slave, t.slave, t.slave}
		attributes.Setctty = true // of descriptor 0
		defer t.release()
	} else {
		var err error
		theirs, err = p.pipes()
		if err != nil {
			return nil, err
		}
		defer closeFiles(theirs...)
	}

	attr := &os.ProcAttr{Dir: s.user.home, Env: s.environment(), Files: theirs, Sys: attributes}
	arguments := what.arguments(s.user.shell)
	process, err := os.StartProcess(s.user.shell, arguments, attr)
	if err != nil {
		// Only the kernel knows whether the user may enter the home folder. So
		// if it works elsewhere, that was it; like sshd, say so and go on.
		attr.Dir = "/"
		var retried error
		process, retried = os.StartProcess(s.user.shell, arguments, attr)
		if retried != nil {
			p.closeStreams()
			return nil, fmt.Errorf("start %s: %w", s.user.shell, cause(retried))
		}
		_, _ = fmt.Fprintf(s.channel.Stderr(), "Could not chdir to home directory %s: %v\r\n", s.user.home, cause(err))
	}
	p.process = process
	return p, nil
}

// cause returns the system's error below what os adds to it.
func cause(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// pipes makes three pipes and returns the program's ends.
func (p *program) pipes() (theirs []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(theirs...)
			p.closeStreams()
		}
	}()
	for _, ours := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		if ours == &p.stdin {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
	}
	return theirs, nil
}

// closeStreams closes our ends. With a terminal that hangs it up.
func (p *program) closeStreams() { closeFiles(p.stdin, p.stdout, p.stderr) }

// closeFiles closes those files that are there; closing twice does no harm.
func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (p *program) pid() int { return p.process.Pid }

// signal sends sig to the program's process group, unless the program has been
// reaped: the group's number could be another's then.
func (p *program) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.process.Pid, sig)
	}
}

// await returns when the program has ended. Where the system allows it is left
// unreaped, so that what remains of its group can be told from others.
func (p *program) await() {
	if awaitExit(p.process.Pid) {
		return
	}
	state, err := p.process.Wait()
	// Between these two lines the number is free, but the kernel gives numbers
	// out in turn and doesn't come round in so short a time.
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped, p.state, p.failed = true, state, err
}

// reap gives the number of a program that has ended back to the kernel. It returns
// false if that was done before.
func (p *program) reap() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return false
	}
	p.state, p.failed = p.process.Wait()
	p.reaped = true
	return true
}

// result returns how a program that has ended did.
func (p *program) result() result {
	p.reap()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return exitStatus(255)
	}
	status, ok := p.state.Sys().(syscall.WaitStatus)
	if !ok {
		return exitStatus(255)
	}
	return resultOf(status)
}

// serve joins the program with the channel until both the program and its
// output have ended and returns how it ended. If the client is gone before that,
// the program and what is left of its group are hung up, killed if they resist, and
// false is returned. What has left the group (a daemon, a job that was put in the
// background of a terminal) goes on, but can't reach the channel or the terminal.
func (p *program) serve(log *slog.Logger, channel ssh.Channel, gone <-chan struct{}) (result, bool) {
	defer p.closeStreams()
	defer p.reap()

	ended := make(chan struct{}) // closed when the program has ended
	go func() {
		p.await()
		// Wakes the readers for the other rule that holds from now on. Before the
		// channel closes: a reader that has seen it close has set its own deadline.
		for _, f := range []*os.File{p.stdout, p.stderr} {
			if f != nil {
				_ = f.SetReadDeadline(time.Now())
			}
		}
		close(ended)
	}()

	// One stream that panics ends alone: the program sees its end, or the client does.
	p.input.Go(func() { guard(log, "ssh stream", func() { p.feed(channel) }) })
	var output sync.WaitGroup
	output.Go(func() { guard(log, "ssh stream", func() { drain(channel, p.stdout, ended) }) })
	if p.stderr != nil {
		output.Go(func() { guard(log, "ssh stream", func() { drain(channel.Stderr(), p.stderr, ended) }) })
	}
	delivered := make(chan struct{})
	go func() {
		output.Wait()
		close(delivered)
	}()

	select {
	case <-ended:
		select {
		case <-delivered:
		case <-gone:
		}
	case <-gone:
	}
	select {
	case <-gone:
		p.hangUp(ended)
		<-delivered
		return result{}, false
	default:
		return p.result(), true
	}
}

// hangUp ends a program whose client is gone: its group, and the job in the
// foreground of its terminal.
func (p *program) hangUp(ended <-chan struct{}) {
	var groups []int // besides the program's own while that isn't reaped
	if p.terminal != nil {
		// Only the terminal's own word that the group is of this session tells it from
		// a stranger's who has got the number since.
		if job := p.terminal.foreground(); job > 1 && job != p.pid() && inSession(job, p.pid()) {
			groups = append(groups, job)
		}
	}
	// With a terminal, closing it makes the kernel send SIGHUP to the shell and
	// to the job in the foreground. Without, nothing else tells the program.
	p.closeStreams()
	signal := func(sig syscall.Signal) {
		p.signal(sig)
		for _, g := range groups {
			_ = syscall.Kill(-g, sig)
		}
	}
	signal(syscall.SIGHUP)
	signal(syscall.SIGCONT) // or a stopped program would not see it
	patience := time.NewTimer(hangUpLimit)
	defer patience.Stop()
	poll := time.NewTicker(groupPoll)
	defer poll.Stop()
	for running := ended; running != nil || len(groups) > 0; {
		select {
		case <-running:
			running = nil
			if p.reap() {
				groups = append(groups, p.pid())
			}
		case <-poll.C:
		case <-patience.C:
			signal(syscall.SIGKILL)
			<-ended
			return
		}
		// A group that is empty is looked at no more: its number is free.
		groups = slices.DeleteFunc(groups, func(g int) bool { return errors.Is(syscall.Kill(-g, 0), syscall.ESRCH) })
	}
}

// feed copies the client's input to the program. When the client has no more,
// the program's input ends; a terminal, which has no end, gets the character for it.
// What comes for a program that has closed its input is thrown away.
func (p *program) feed(from io.Reader) {
	_, err := io.Copy(p.stdin, from)
	switch {
	case p.terminal == nil:
		_ = p.stdin.Close()
	case err == nil:
		_, _ = io.WriteString(p.stdin, endOfInput)
	}
	discard(from)
}

// drain copies a program's output to the client, as fast as the client takes
// it, until it ends, or is quiet for quietLimit after the program has ended.
func drain(to io.Writer, from *os.File, ended <-chan struct{}) {
	buffer := make([]byte, 32<<10) // a channel's largest packet
	for {
		last := false
		select {
		case <-ended:
			last = true
			_ = from.SetReadDeadline(time.Now().Add(quietLimit))
		default:
		}
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil && (last || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return // with a terminal the end is EIO
		}
	}
}
