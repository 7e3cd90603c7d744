package terminal

import (
	"context"
	"encoding/json"
	"time"
)

// Socket is the person's end: whole messages in both directions. Close ends what is
// in progress, and may be called more than once and by anybody.
type Socket interface {
	Read(ctx context.Context) (text bool, message []byte, err error)
	Write(ctx context.Context, text bool, message []byte) error
	Close()
}

// attachWithin is how long the person's end may take to say where it stands.
const attachWithin = 10 * time.Second

const escape = 0x1b

// attachment is one person's end while it has the terminal.
type attachment struct {
	socket Socket
	bell   chan struct{} // has one in it when there may be something to send

	// Guarded by the terminal's mu.
	sent     int64 // output up to here
	replaced bool  // another one has the terminal
	misuse   bool  // it said what it may not
	late     *time.Timer

	// The writing goroutine's alone.
	state   string
	notices int
}

// Attach gives the terminal to socket, from whoever had it, until the socket or the
// terminal is over. It closes the socket. With ctx ends what has not begun yet; a
// terminal that ends still says so.
func (t *Terminal) Attach(ctx context.Context, socket Socket) {
	defer socket.Close()
	m, ok := t.firstMessage(ctx, socket)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	a := &attachment{socket: socket, bell: make(chan struct{}, 1)}
	offset, ok := t.seat(a, *m.From)
	if !ok {
		return
	}
	defer t.unseat(a)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		defer cancel()
		t.guard(func() { t.listen(ctx, a) })
	}()
	if send(ctx, socket, fromMessage{Type: "from", Offset: offset}) == nil {
		t.show(ctx, a)
	}
	socket.Close() // before cancel, which would cut off the last message
	cancel()
	<-reading
}

// firstMessage takes the one that every other must follow.
func (t *Terminal) firstMessage(ctx context.Context, socket Socket) (clientMessage, bool) {
	ctx, cancel := context.WithTimeout(ctx, attachWithin)
	defer cancel()
	text, b, err := socket.Read(ctx)
	if err != nil || !text {
		return clientMessage{}, false
	}
	m, err := parseMessage(b)
	return m, err == nil && m.Type == "attach"
}

// seat gives the terminal to a, which has the first from bytes of the output. It
// returns which byte comes next, or false if nobody may look any more.
func (t *Terminal) seat(a *attachment, from int64) (offset int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || t.ending != nil && t.cut {
		return 0, false
	}
	if old := t.att; old != nil {
		old.replaced = true
		old.late = time.AfterFunc(t.options.Limits.Cut, old.socket.Close)
		wake(old.bell)
	}
	t.att = a
	t.idle.Stop()
	a.sent = min(max(from, t.output.start()), t.output.end)
	t.acked = a.sent // whatever its predecessor had
	a.notices = t.notices
	wake(t.room)
	return a.sent, true
}

// unseat takes the terminal from a.
func (t *Terminal) unseat(a *attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.late != nil {
		a.late.Stop()
	}
	if t.att == a {
		t.att = nil
		if !t.gone && t.ending == nil {
			t.idle.Reset(t.options.Limits.Detached)
		}
	}
	wake(t.seated)
}

// listen takes what the person's end says, until it says what it may not, or no
// more.
func (t *Terminal) listen(ctx context.Context, a *attachment) {
	for {
		text, b, err := a.socket.Read(ctx)
		if err != nil {
			return
		}
		if !t.take(a, text, b) {
			t.mu.Lock()
			a.misuse = true
			a.late = time.AfterFunc(t.options.Limits.Cut, a.socket.Close)
			t.mu.Unlock()
			wake(a.bell)
			<-ctx.Done()
			return
		}
	}
}

// take acts on a message, and reports whether it was one that may be sent.
func (t *Terminal) take(a *attachment, text bool, b []byte) bool {
	var m clientMessage
	if text {
		var err error
		if m, err = parseMessage(b); err != nil {
			return false
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.replaced || t.ending != nil {
		return true // it can't know that yet
	}
	switch m.Type {
	case "": // typed
		if len(t.input)+len(b) > maxInput {
			return false
		}
		t.input = append(t.input, b...)
		// A screen answers by itself what a program asks it, always by an escape sequence: a
		// device could keep up that somebody is there.
		t.used = t.used || len(b) > 0 && b[0] != escape
		wake(t.typed)
	case "ack":
		if *m.Bytes > a.sent {
			return false
		}
		t.acked = max(t.acked, *m.Bytes)
		wake(t.room)
	case "resize":
		t.size = Size{*m.Columns, *m.Rows}.Clamp()
		wake(t.typed)
	case "trust":
		if t.state != stateHostKey {
			return false
		}
		t.trustOnce()
	default:
		return false
	}
	return true
}

// show sends the person's end what there is to see, until the terminal or the socket
// is over.
func (t *Terminal) show(ctx context.Context, a *attachment) {
	buf := make([]byte, readSize)
	for {
		message, n, last := t.next(a, buf)
		var err error
		switch {
		case message != nil:
			err = send(ctx, a.socket, message)
		case n > 0:
			err = a.socket.Write(ctx, false, buf[:n])
		default:
			select {
			case <-a.bell:
			case <-ctx.Done():
				return
			}
		}
		if last && err == nil {
			t.mu.Lock()
			t.told = t.told || !a.replaced && !a.misuse
			t.mu.Unlock()
		}
		if last || err != nil {
			return
		}
	}
}

// next returns what is to be sent now: a message, or n bytes of output that it has
// put into buf. After the last one there is nothing more.
func (t *Terminal) next(a *attachment, buf []byte) (message any, n int, last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ended := func(e Ending) (any, int, bool) {
		return stateMessage{Type: "state", State: stateEnded, Ending: &e}, 0, true
	}
	switch {
	case a.replaced:
		return ended(Ending{Reason: ReasonTakenOver, Message: "the terminal was opened in another window"})
	case a.misuse:
		return ended(Ending{Reason: ReasonMisuse, Message: "the terminal's page and the gateway don't understand each other", Hint: "reload the page"})
	case a.state != t.state && t.state != stateEnded:
		a.state = t.state
		m := stateMessage{Type: "state", State: t.state}
		if t.state == stateHostKey {
			key := *t.hostKey
			m.HostKey = &key
		}
		return m, 0, false
	case a.notices != t.notices:
		a.notices = t.notices
		return noticeMessage{Type: "notice", Message: t.notice}, 0, false
	}
	if !t.cut {
		if n = t.output.read(a.sent, buf); n > 0 {
			a.sent += int64(n)
			return nil, n, false
		}
	}
	if t.ending != nil {
		return ended(*t.ending)
	}
	return nil, 0, false
}

func send(ctx context.Context, socket Socket, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return socket.Write(ctx, true, b)
}
