package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"socketxp"
	"socketxp/internal/link"
)

const (
	// quietAfterEnd is how long standard input may be silent once the device has said
	// all it had to say, before that counts as its end too: who waits for this program
	// to end would else wait for as long as its input stays open.
	quietAfterEnd = 3 * time.Second
	// reasonWithin is how long the gateway may take to say why it has cut a link, which
	// it does right after it.
	reasonWithin = time.Second
	// freshFor is how long a connection to the gateway's port may wait for its ticket;
	// the gateway closes it after 10 s.
	freshFor = 5 * time.Second
)

// ProxyOptions configure Proxy.
type ProxyOptions struct {
	Peer
	// In and Out are standard input and output. Out is closed when the device's end has
	// been passed on, if it is an io.Closer. A Read of In that is under way when Proxy
	// returns is left to end with the program.
	In  io.Reader
	Out io.Writer
	// Warn is told what does no harm; nil means nothing.
	Warn func(error)
}

// Proxy connects standard input and output to a device's tunnel until both have
// ended, until nobody takes the output any more, or until ctx ends, which are no
// errors. The end of In is passed on to the device, and the device's to Out. If the
// access is ended meanwhile, the error says why.
func Proxy(ctx context.Context, o ProxyOptions) error {
	v, err := newVisitor(o.Peer)
	if err != nil {
		return err
	}
	v.hosts = sshHostName(o.Peer)
	if o.Warn != nil {
		v.warn = o.Warn
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	door := ahead(ctx, v.gateway.link)
	defer door.close()
	g, first, err := v.open(ctx, true)
	if err != nil {
		return whyNot(ctx, err)
	}
	defer g.close()
	var why error // the grant has ended; valid once ended is closed
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		why = g.serve()
	}()
	defer func() {
		g.close()
		<-ended
	}()
	l, err := first.dial(ctx, door.take)
	if err != nil {
		return whyNot(ctx, err)
	}
	defer func() { _ = l.Close() }()
	conn, err := l.Open()
	if err != nil {
		return whyNot(ctx, err)
	}
	err = o.pipe(ctx, conn)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	// A link that was cut says less than the gateway does.
	wait := time.NewTimer(reasonWithin)
	defer wait.Stop()
	select {
	case <-ended:
		if errors.As(why, new(*RefusedError)) {
			return why
		}
	case <-wait.C:
	}
	return err
}

// whyNot returns err, or nil if it is only that the program was told to end.
func whyNot(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that it was told to end is none
	}
	return err
}

// pipe carries the one connection.
func (o ProxyOptions) pipe(ctx context.Context, conn *link.Conn) error {
	local := newStreams(o.In, o.Out)
	defer func() { _ = local.Close() }()
	var (
		up, down int64
		err      error
		done     = make(chan struct{})
	)
	go func() {
		defer close(done)
		up, down, err = link.Pipe(local, conn)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		_ = conn.Reset("")
		_ = local.Close()
		return nil // a write to standard output that blocks ends with the program
	}
	if o.Log != nil {
		o.Log.Debug("the connection has ended", "sent", up, "received", down, "err", err)
	}
	switch {
	case local.gone.Load():
		return nil
	case errors.Is(err, errInput):
		return err
	case err != nil && socketxp.CodeOf(err) == socketxp.CodeInternal:
		return &socketxp.Error{Code: socketxp.CodeUnavailable, Message: "the connection to the device was cut", Err: err}
	}
	return err
}

// aheadDial is a connection to the gateway's port that is made while the grant is
// asked for: it costs no time then.
type aheadDial struct {
	dial   func(context.Context) (net.Conn, error)
	cancel context.CancelFunc
	done   chan struct{} // closed when conn and at are set
	conn   net.Conn      // nil if it could not be made, and once it is taken
	at     time.Time
}

func ahead(ctx context.Context, dial func(context.Context) (net.Conn, error)) *aheadDial {
	ctx, cancel := context.WithCancel(ctx)
	a := &aheadDial{dial: dial, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.conn, _ = dial(ctx) // if it can't be done, the one that counts says why
		a.at = time.Now()
	}()
	return a
}

// take returns the connection that was made ahead, once, or another one.
func (a *aheadDial) take(ctx context.Context) (net.Conn, error) {
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if conn := a.conn; conn != nil && time.Since(a.at) < freshFor {
		a.conn = nil
		return conn, nil
	}
	return a.dial(ctx)
}

// close gives up what was not taken. It is not called concurrently with take.
func (a *aheadDial) close() {
	a.cancel()
	<-a.done
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

// errInput says that standard input could not be read, or only that it has failed.
var errInput = errors.New("read standard input")

// streams makes one connection of standard input and output. Reads go by way of a
// goroutine: of a terminal, or of a pipe that others use too, there is no other one
// that could be given up.
type streams struct {
	out    io.Writer
	chunks chan chunk
	gone   atomic.Bool // nobody takes the output

	closing sync.Once
	closed  chan struct{}
	ending  sync.Once
	ended   chan struct{} // closed by CloseWrite

	// Only Read uses these.
	rest []byte
	err  error
}

// chunk is what one read of standard input gave.
type chunk struct {
	data []byte
	err  error
}

// chunkSize is the capacity of a pipe, and what a frame of a link holds.
const chunkSize = 64 << 10

func newStreams(in io.Reader, out io.Writer) *streams {
	s := &streams{out: out, chunks: make(chan chunk), closed: make(chan struct{}), ended: make(chan struct{})}
	go s.feed(in)
	return s
}

// feed reads ahead by one chunk: while one is used the other is filled.
func (s *streams) feed(in io.Reader) {
	var buffers [2][]byte
	for i := 0; ; i = 1 - i {
		if buffers[i] == nil {
			buffers[i] = make([]byte, chunkSize)
		}
		n, err := in.Read(buffers[i])
		select {
		case s.chunks <- chunk{buffers[i][:n], err}:
		case <-s.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements net.Conn.
func (s *streams) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// next takes the next chunk.
func (s *streams) next() error {
	var quiet <-chan time.Time
	for ended := s.ended; ; {
		select {
		case c := <-s.chunks:
			s.rest, s.err = c.data, c.err
			if s.err != nil && !errors.Is(s.err, io.EOF) {
				s.err = fmt.Errorf("%w: %w", errInput, s.err)
			}
			return nil
		case <-s.closed:
			return net.ErrClosed
		case <-ended:
			ended = nil
			timer := time.NewTimer(quietAfterEnd)
			defer timer.Stop()
			quiet = timer.C
		case <-quiet:
			return io.EOF
		}
	}
}

// Write implements net.Conn.
func (s *streams) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	if err != nil {
		s.gone.Store(true)
	}
	return n, err
}

// CloseWrite passes the end on.
func (s *streams) CloseWrite() error {
	var err error
	s.ending.Do(func() {
		if c, ok := s.out.(io.Closer); ok {
			err = c.Close()
		}
		close(s.ended)
	})
	return err
}

// Close implements net.Conn.
func (s *streams) Close() error {
	s.closing.Do(func() { close(s.closed) })
	return nil
}

// LocalAddr, RemoteAddr and the deadlines implement net.Conn; there are none.
func (*streams) LocalAddr() net.Addr              { return streamsAddr{} }
func (*streams) RemoteAddr() net.Addr             { return streamsAddr{} }
func (*streams) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (*streams) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (*streams) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

type streamsAddr struct{}

func (streamsAddr) Network() string { return "stdio" }
func (streamsAddr) String() string  { return "standard input and output" }
