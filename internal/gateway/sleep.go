package gateway

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"socketxp/internal/control"
)

// sleeper lets a control channel be without a goroutine while nothing comes: one that
// waits inside crypto/tls has a stack of 8 KiB, more than half of what else an idle
// device takes. It is the control.Carrier of the channel.
type sleeper struct {
	beds *beds
	peek *peekedConn
	raw  syscall.RawConn // of the socket below
	id   uint64
	wake func() // serves the channel, in a goroutine of its own

	asleep atomic.Bool
	// late wakes it when the agent has been silent for too long; only who is awake
	// touches it.
	late *time.Timer
}

var _ control.Carrier = (*sleeper)(nil)

// beds are where channels sleep: all their sockets are in one epoll instance, which
// one goroutine looks at.
type beds struct {
	poller poller
	awake  atomic.Int32 // channels that were woken and do not sleep again yet

	mu       sync.Mutex // guards the following
	sleepers map[uint64]*sleeper
	last     uint64
	closed   bool
}

func newBeds() *beds { return &beds{sleepers: make(map[uint64]*sleeper)} }

// newSleeper returns what lets the channel over conn sleep, or nil if it can't: it is
// in a WebSocket, or this system has no epoll. Leave must be called in the end.
func (b *beds) newSleeper(conn *peekedConn) *sleeper {
	tcp, ok := conn.rawConn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.poller.opened() {
		return nil
	}
	b.last++
	s := &sleeper{beds: b, peek: conn, raw: raw, id: b.last}
	b.sleepers[s.id] = s
	return s
}

// run wakes who has something to read until ctx is done, and closes all connections
// then, which wakes everybody.
func (b *beds) run(ctx context.Context) {
	b.poller.run(ctx, func(id uint64) {
		b.mu.Lock()
		s := b.sleepers[id]
		b.mu.Unlock()
		if s != nil {
			s.rouse()
			b.ease(ctx)
		}
	})
	b.mu.Lock()
	b.closed = true
	all := make([]*sleeper, 0, len(b.sleepers))
	for _, s := range b.sleepers {
		all = append(all, s)
	}
	b.mu.Unlock()
	for _, s := range all {
		_ = s.peek.Close() // who is awake may be reading
		s.rouse()
	}
}

// When all devices of a network are cut off at once, those who are woken may be few at
// a time: the scheduler gives them turns in the order in which they were woken, and
// what is open besides would wait for the last. Who stays awake (a frame comes slowly)
// holds the others up for no longer than easeLimit.
const (
	mostAwake = 64
	easeLimit = 50 * time.Millisecond
	easeStep  = time.Millisecond
)

// ease waits while too many are awake.
func (b *beds) ease(ctx context.Context) {
	for waited := time.Duration(0); b.awake.Load() > mostAwake && waited < easeLimit; waited += easeStep {
		if !wait(ctx, easeStep) {
			return
		}
	}
}

func (b *beds) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// sleep has wake called when conn is worth polling again, and reports whether that is
// so: from then on the channel is somebody else's. Conn has just said that nothing
// has come.
func (s *sleeper) sleep(conn *control.Conn) bool {
	until := time.Until(conn.SilentAt())
	if s.late == nil {
		s.late = time.AfterFunc(until, s.rouse)
	} else {
		s.late.Reset(until) // it may have run out just before: to be woken for nothing harms nobody
	}
	s.asleep.Store(true)
	// From here on it may be woken. Who ended it before, or has woken all, did not find
	// it asleep.
	if err := s.beds.poller.arm(s.raw, s.id); err == nil && conn.Err() == nil && !s.beds.isClosed() {
		return true
	}
	return !s.asleep.CompareAndSwap(true, false)
}

// rouse wakes it if it is asleep.
func (s *sleeper) rouse() {
	if s.asleep.CompareAndSwap(true, false) {
		s.beds.awake.Add(1)
		s.wake()
	}
}

// leave gives its bed free.
func (s *sleeper) leave() {
	if s.late != nil {
		s.late.Stop()
	}
	s.beds.mu.Lock()
	defer s.beds.mu.Unlock()
	delete(s.beds.sleepers, s.id)
}

// Impatient implements control.Carrier.
func (s *sleeper) Impatient(on bool) {
	s.peek.impatient = nil
	if on {
		s.peek.impatient = s.raw
	}
}

// Ended implements control.Carrier.
func (s *sleeper) Ended() { s.rouse() }
