//go:build unix

package agent

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxUntaken is how much a connection may have sent that no program and no
	// destination has taken yet, in bytes on the wire. A channel's window bounds what
	// is inside packets, 2 MiB, but not what a packet costs: one of one byte has 36 on
	// the wire and takes 56 of memory. Three channels that are stuck with their windows
	// full have room in it, and what others send beside them.
	maxUntaken = 8 << 20
	// untakenLimit is how long a connection beyond that is left unread while nothing is
	// taken; then it is closed.
	untakenLimit = 30 * time.Second
	// sayLimit is how long a client may take to be told why.
	sayLimit = time.Second
	// channelWindow is what the library lets a client send into a channel ahead.
	channelWindow = 2 << 20
	// leastOverhead is what a packet of data has on the wire besides the data with the
	// tersest of all ciphers: length, padding, header, checksum.
	leastOverhead = 30
	// reviewEvery is after how many bytes it is looked what has been taken of those
	// before.
	reviewEvery = 64 << 10
	// settled is after what time a read that waits, of a connection that isn't read, is
	// taken to have found nothing.
	settled = 100 * time.Millisecond
	// inputBuffer is more than the largest packet, so that one is read in one go and
	// seen to be all.
	inputBuffer = 33 << 10
)

// What a connection ends by: too much that nobody takes, and data in a stream whose
// end was told before, which nobody would ever take.
var (
	errUntaken  = errors.New("the client has sent too much that no program takes")
	errAfterEnd = errors.New("the client has sent data after their end")
)

// inflow is a connection that isn't read while what came from it lies untaken. The
// library holds that, packet by packet, without saying how many there are and of
// which channel; so it is counted from outside, and never too low: all bytes since
// a mark that every channel has been emptied after, less those that were seen to be
// taken. The mark follows when the channels have been emptied once more.
//
// Between the connection and a channel the library has up to 17 packets and 4 KiB
// more, which may be missed.
type inflow struct {
	*listened
	limit    int64
	patience time.Duration
	telling  sync.WaitGroup // those who tell the client why; they end with the connection

	mu      sync.Mutex // guards the following, and all streams
	wire    int64      // bytes that came
	streams map[*stream]bool
	// All that is untaken came after marks[0]. marks[1] is the one that follows it.
	marks [2]mark
	taken chan struct{} // has one if something was taken while the connection waits
	waits bool

	closing sync.Once
	closed  chan struct{}
}

// mark is a point in what came.
type mark struct {
	at      int64 // of wire
	claimed int64 // bytes on the wire after it that were taken
}

// stream is one of a channel's two directions of input: its data, or what it has in
// place of an error output.
type stream struct {
	flow *inflow
	from io.Reader
	say  io.Writer // for the client to read; nil if there is none

	ended   bool
	taken   int64    // bytes, by whoever reads
	emptied int64    // of wire: what came before was taken
	reading int64    // of wire, since when a read is under way; -1 if none is
	reads   int      // that were begun
	seen    int      // of reads, when the connection was last looked at
	ahead   [2]int64 // of taken: what is taken after that came after the mark
}

func newInflow(l *listened, limit int64, patience time.Duration) *inflow {
	return &inflow{listened: l, limit: limit, patience: patience, streams: make(map[*stream]bool), taken: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Close ends the connection, and a wait for room.
func (f *inflow) Close() error {
	f.closing.Do(func() { close(f.closed) })
	return f.listened.Close()
}

// Read waits until there is room. It fails by errUntaken if there is none for too
// long.
func (f *inflow) Read(p []byte) (int, error) {
	if full, err := f.full(); err != nil {
		return 0, err
	} else if full {
		if err := f.wait(); err != nil {
			return 0, err
		}
	}
	n, err := f.listened.Read(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wire += int64(n)
	if err == nil && f.wire-f.marks[1].at >= reviewEvery {
		err = f.review()
	}
	return n, err
}

// full reports whether more is untaken than may be.
func (f *inflow) full() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	f.waits = f.untaken() > f.limit
	for range f.marks { // both follow if all is taken
		if f.waits && err == nil {
			err = f.review()
			f.waits = f.untaken() > f.limit
		}
	}
	return f.waits, err
}

// wait returns when there is room.
func (f *inflow) wait() error {
	limit := time.NewTimer(f.patience)
	defer limit.Stop()
	tick := time.NewTicker(settled)
	defer tick.Stop()
	for {
		select {
		case <-f.taken:
			f.hear() // not the client is silent, but this end is deaf
			limit.Reset(f.patience)
		case <-tick.C:
			f.settle()
		case <-limit.C:
			f.tell("socketxp: " + errUntaken.Error() + "; the connection is closed\r\n")
			return errUntaken
		case <-f.closed:
			return net.ErrClosed
		}
		if full, err := f.full(); !full || err != nil {
			return err
		}
	}
}

// settle finds the reads that wait since it was last called: nothing comes, so their
// streams are empty.
func (f *inflow) settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.streams {
		if s.reading >= 0 && s.reads == s.seen {
			s.emptied = f.wire
		}
		s.seen = s.reads
	}
}

// tell says something in all sessions. It returns when that was said or can't be.
func (f *inflow) tell(what string) {
	f.mu.Lock()
	for s := range f.streams {
		if s.say != nil {
			f.telling.Go(func() { _, _ = io.WriteString(s.say, what) })
		}
	}
	f.mu.Unlock()
	said := make(chan struct{})
	go func() {
		f.telling.Wait()
		close(said)
	}()
	limit := time.NewTimer(sayLimit)
	defer limit.Stop()
	select {
	case <-said:
	case <-limit.C:
	}
}

// untaken returns how many bytes are untaken at most. The caller holds mu.
func (f *inflow) untaken() int64 { return f.wire - f.marks[0].at - f.marks[0].claimed }

// review moves the marks if all streams have been emptied since the second. The
// caller holds mu.
func (f *inflow) review() error {
	for s := range f.streams {
		if s.ended {
			if n, _ := s.from.Read(make([]byte, 1)); n > 0 {
				return errAfterEnd
			}
			continue
		}
		// A read that is under way while so much came has found nothing before.
		if before := f.wire - reviewEvery; s.reading >= 0 && s.reading <= before {
			s.emptied = max(s.emptied, before)
		}
		if s.emptied < f.marks[1].at && s.taken < s.ahead[1] {
			return nil
		}
	}
	f.marks[0], f.marks[1] = f.marks[1], mark{at: f.wire}
	for s := range f.streams {
		s.ahead[0], s.ahead[1] = s.ahead[1], s.taken+channelWindow
	}
	return nil
}

// stream returns a reader of from, whose bytes come by the connection, until forget.
func (f *inflow) stream(from io.Reader) *stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &stream{flow: f, from: from, emptied: f.wire, reading: -1}
	f.streams[s] = true
	return s
}

// forget is called when nothing can come any more.
func (s *stream) forget() {
	s.flow.mu.Lock()
	defer s.flow.mu.Unlock()
	delete(s.flow.streams, s)
}

// Read notes what is taken. Only one may be under way.
func (s *stream) Read(p []byte) (int, error) {
	f := s.flow
	f.mu.Lock()
	since := f.wire
	s.reading, s.reads = since, s.reads+1
	f.mu.Unlock()
	n, err := s.from.Read(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	s.reading = -1
	before := s.taken
	s.taken += int64(n)
	short := n < len(p) // the library fills p as far as it can
	for i := range f.marks {
		m := &f.marks[i]
		if s.emptied >= m.at {
			m.claimed += int64(n)
			if short && n > 0 {
				m.claimed += leastOverhead // its last packet at least
			}
			continue
		}
		m.claimed += max(0, s.taken-max(before, s.ahead[i]))
	}
	if short {
		s.emptied = max(s.emptied, since)
	}
	s.ended = s.ended || err != nil // from then on reads don't wait
	if f.waits && n > 0 {
		select {
		case f.taken <- struct{}{}:
		default:
		}
	}
	return n, err
}

// input is a channel whose input is counted. Its error output may be written to by
// several at a time.
type input struct {
	ssh.Channel
	data, other *stream // the second is in place of an error output
	errors      *lockedWriter
}

// input starts to count what comes by a channel. Whoever reads it reads to the end,
// and calls forget when the client has closed it, or is gone.
func (c *sshConn) input(channel ssh.Channel) *input {
	in := &input{Channel: channel, data: c.flow.stream(channel), other: c.flow.stream(channel.Stderr()), errors: &lockedWriter{to: channel.Stderr()}}
	// No program has an input for it, but it takes room until it is read.
	c.spawn("stream", func() { discard(in.other) })
	return in
}

// announce has the client of a session told why the connection ends.
func (in *input) announce() {
	in.data.flow.mu.Lock()
	defer in.data.flow.mu.Unlock()
	in.data.say = in.errors
}

func (in *input) forget() {
	in.data.forget()
	in.other.forget()
}

// Read reads the channel's data.
func (in *input) Read(p []byte) (int, error) { return in.data.Read(p) }

// WriteTo is what io.Copy uses.
func (in *input) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, in.data, make([]byte, inputBuffer))
}

// Stderr returns the channel's error output. Nothing can be read from it.
func (in *input) Stderr() io.ReadWriter {
	return struct {
		io.Reader
		io.Writer
	}{eof{}, in.errors}
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// lockedWriter may be written to by several at a time.
type lockedWriter struct {
	mu sync.Mutex // guards to
	to io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

// discard reads to the end. Its buffer is small: most have nothing to say.
func discard(from io.Reader) {
	buffer := make([]byte, 512)
	for {
		if _, err := from.Read(buffer); err != nil {
			return
		}
	}
}
