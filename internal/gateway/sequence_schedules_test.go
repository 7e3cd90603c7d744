package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/store"
)

// The schedules: agents and gateways that crash between any two steps, connections
// that are cut or given up with bytes still on their way, late and repeated bytes,
// databases that commit and don't answer. The gateway's half is the real code on a
// real SQLite database; the agent's is schedAgent.connect, which takes the steps of
// (*agent.Dir).openDevice.
//
// One actor runs at a time, and it is the scheduler's dice that say which one, and
// what happens to it, so that a seed is a schedule.

// schedules is how many of each kind are played: SEQUENCE_SCHEDULES, or a number
// that takes a few seconds.
func schedules(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("SEQUENCE_SCHEDULES"))
	if err != nil {
		return 1000
	}
	return n
}

// actor is a goroutine that runs only when the scheduler lets it.
type actor struct {
	s      *schedule
	name   string
	resume chan bool // false: it has crashed, and does nothing any more
	parked chan bool // true: it has ended
	// crashed is called for one that crashes.
	crashed func()
}

// yield lets the scheduler go on. It does not return in an actor that crashes there.
func (a *actor) yield(where string) {
	a.s.trace = append(a.s.trace, a.name+": "+where)
	a.parked <- false
	if !<-a.resume {
		runtime.Goexit()
	}
}

// schedule is one play.
type schedule struct {
	t      *testing.T
	dice   *rand.Rand
	faults bool
	db     *store.DB
	device socketxp.Device
	actors []*actor
	trace  []string

	opened   int
	old      []*wire           // connections that were given up or cut, whose bytes may still arrive
	welcomed map[string]string // who was let in by which value
}

// start adds an actor.
func (s *schedule) start(name string, crashed func(), do func(a *actor)) {
	a := &actor{s: s, name: name, resume: make(chan bool), parked: make(chan bool), crashed: crashed}
	s.actors = append(s.actors, a)
	go func() {
		ended := false
		defer func() {
			if !ended && a.crashed != nil {
				a.crashed()
			}
			a.parked <- true
		}()
		if !<-a.resume {
			return
		}
		do(a)
		ended = true
	}()
}

// step lets one actor run to its next yield, or crashes it.
func (s *schedule) step(i int, crash bool) {
	a := s.actors[i]
	a.resume <- !crash
	if crash {
		s.trace = append(s.trace, a.name+": CRASH")
	}
	if <-a.parked {
		s.actors = append(s.actors[:i], s.actors[i+1:]...)
	}
}

// crashAll crashes the actors whose names begin with prefix.
func (s *schedule) crashAll(prefix string) {
	for i := len(s.actors) - 1; i >= 0; i-- {
		if strings.HasPrefix(s.actors[i].name, prefix) {
			s.step(i, true)
		}
	}
}

// wire is a connection: TLS, so that what arrives is a prefix of what was sent.
type wire struct {
	toGate, toAgent []control.Message
	said            []control.Message // all that the agent has said on it
	// agentGone and gateGone say that an end has closed or crashed: what is on its way
	// to the other one may still arrive.
	agentGone, gateGone bool
}

func (w *wire) say(m control.Message) {
	w.toGate, w.said = append(w.toGate, m), append(w.said, m)
}

// gateEnd is the gateway's end of a wire.
type gateEnd struct {
	a *actor
	w *wire
}

var errCut = errors.New("the connection is cut")

func (e gateEnd) Send(_ context.Context, m control.Message) error {
	e.a.yield(fmt.Sprintf("sends %T", m))
	if e.w.agentGone && e.a.s.dice.IntN(2) == 0 {
		return errCut // else the kernel takes it, and nobody reads it
	}
	e.w.toAgent = append(e.w.toAgent, m)
	return nil
}

func (e gateEnd) Receive(context.Context) (control.Message, error) {
	for patience := 0; ; patience++ {
		e.a.yield("waits")
		if len(e.w.toGate) > 0 && (!e.a.s.faults || e.a.s.dice.IntN(3) > 0) { // else it is slow to arrive
			m := e.w.toGate[0]
			e.w.toGate = e.w.toGate[1:]
			return m, nil
		}
		if len(e.w.toGate) == 0 && (e.w.agentGone && e.a.s.dice.IntN(4) == 0 || patience > 40) {
			return nil, errCut // closed, or too slow
		}
	}
}

// serve is a gateway's handler of one connection: beginDevice, as far as the
// sequence is concerned.
func (s *schedule) serve(a *actor, w *wire) {
	defer func() { w.gateGone = true }()
	conn := gateEnd{a, w}
	sequences := &sequences{store: gateStore{a}, within: time.Minute, talk: time.Minute, move: func(ctx context.Context, m socketxp.SequenceMove) error {
		a.yield("is about to move")
		moved, err := s.db.MoveSequences(ctx, []socketxp.SequenceMove{m})
		a.yield("has moved")
		switch {
		case err != nil:
			return err
		case s.faults && s.dice.IntN(20) == 0:
			return errDown // it was committed, and the answer is lost
		case !moved[0]:
			return errBehind
		}
		return nil
	}}
	m, err := conn.Receive(context.Background())
	if err != nil {
		return
	}
	report, ok := m.(control.Report)
	if !ok {
		return
	}
	err = sequences.prove(context.Background(), conn, s.device.AccountID, s.device.ID, report.Sequence)
	var foreign *foreignError
	switch {
	case err == nil:
		_ = conn.Send(context.Background(), control.Welcome{})
	case errors.As(err, &foreign):
		a.yield("is about to quarantine")
		err = s.db.QuarantineDevice(context.Background(), s.device.AccountID, s.device.ID, foreign.seen, "found", socketxp.AuditEntry{
			AccountID: s.device.AccountID, At: s.device.CreatedAt, Action: "device.quarantine",
		})
		if err != nil && socketxp.CodeOf(err) != socketxp.CodeConflict {
			s.t.Error(err)
		}
		_ = conn.Send(context.Background(), control.Refused{Code: socketxp.CodeQuarantined})
	case errors.Is(err, errOver):
	default:
		_ = conn.Send(context.Background(), control.Refused{Code: socketxp.CodeOf(err)})
	}
}

// gateStore is the database as a gateway's handler asks it.
type gateStore struct{ a *actor }

func (g gateStore) Device(ctx context.Context, accountID, id string) (socketxp.Device, error) {
	g.a.yield("is about to read")
	d, err := g.a.s.db.Device(ctx, accountID, id)
	g.a.yield("has read")
	if err == nil && g.a.s.faults && g.a.s.dice.IntN(20) == 0 {
		err = errDown
	}
	return d, err
}

// schedAgent is a holder of the device's key. Disk is all that outlives it.
type schedAgent struct {
	s    *schedule
	name string
	disk []byte
	now  *wire // the connection it is on
	done int   // times it was welcomed
	last control.Message
	runs bool
}

// boot starts the agent's process.
func (h *schedAgent) boot() {
	h.runs = true
	h.s.start(h.name, func() { h.leave(); h.runs = false }, func(a *actor) {
		defer func() { h.runs = false }()
		h.connect(a)
	})
}

// leave gives the connection up; what is on its way may still arrive.
func (h *schedAgent) leave() {
	if h.now != nil {
		h.now.agentGone = true
		h.s.old = append(h.s.old, h.now)
		h.now = nil
	}
}

// connect is one try of an agent, in the steps of openDevice.
func (h *schedAgent) connect(a *actor) {
	defer h.leave()
	h.last = nil
	held := bytes.Clone(h.disk)
	w := h.s.dial()
	h.now = w
	a.yield("sends its report")
	w.say(control.Report{Sequence: held})
	for patience := 0; ; patience++ {
		a.yield("waits")
		if len(w.toAgent) == 0 {
			if w.gateGone && patience > 2 || patience > 60 || h.s.faults && h.s.dice.IntN(40) == 0 {
				return // the gateway is gone, or has not answered in time, or the network changed
			}
			continue
		}
		m := w.toAgent[0]
		w.toAgent = w.toAgent[1:]
		switch m := m.(type) {
		case control.SequenceNext:
			a.yield("is about to write")
			h.disk = m.Next // a rename: the one or the other
			a.yield("has written")
			w.say(control.SequenceKept(m))
		case control.SequenceCheck:
			a.yield("is about to answer a check")
			w.say(control.SequenceHeld(m))
		case control.Welcome:
			h.done++
			h.last = m
			if by, twice := h.s.welcomed[string(h.disk)]; twice {
				h.s.fail("%s was let in by the value that had let in %s", h.name, by)
			}
			h.s.welcomed[string(h.disk)] = h.name
			return
		default:
			h.last = m
			return
		}
	}
}

// dial opens a connection to the gateway that runs now.
func (s *schedule) dial() *wire {
	s.opened++
	w := &wire{}
	s.start(fmt.Sprintf("gateway %d", s.opened), func() { w.gateGone = true }, func(a *actor) { s.serve(a, w) })
	return w
}

func (s *schedule) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf(format+"\n%s", append(args, strings.Join(s.trace, "\n"))...)
}

// replay has a gateway get once more what a given-up connection carried, as if it
// came late: TLS alone would keep that out.
func (s *schedule) replay() {
	if len(s.old) == 0 {
		return
	}
	from := s.old[s.dice.IntN(len(s.old))]
	w := s.dial()
	w.agentGone = true
	w.toGate = append(w.toGate, from.said...)
}

// play lets the agents run for some steps, with all that can go wrong.
func (s *schedule) play(steps int, agents ...*schedAgent) {
	s.faults = true
	for range steps {
		for _, h := range agents {
			if !h.runs && s.dice.IntN(3) == 0 {
				h.boot()
			}
		}
		switch n := s.dice.IntN(200); {
		case n < 2:
			s.trace = append(s.trace, "THE GATEWAY CRASHES")
			s.crashAll("gateway")
		case n < 5:
			if h := agents[s.dice.IntN(len(agents))]; h.runs {
				s.crashAll(h.name)
			}
		case n < 7:
			s.replay()
		default:
			if len(s.actors) > 0 {
				s.step(s.dice.IntN(len(s.actors)), false)
			}
		}
	}
}

// settle has what is late arrive, without an agent that runs.
func (s *schedule) settle(agents ...*schedAgent) {
	s.faults = false
	for _, h := range agents {
		if h.runs {
			s.crashAll(h.name)
		}
	}
	s.drain()
}

func (s *schedule) drain() {
	for len(s.actors) > 0 {
		s.step(s.dice.IntN(len(s.actors)), false)
	}
}

// try has an agent connect with nothing going wrong, and returns what it was told.
func (s *schedule) try(h *schedAgent) control.Message {
	s.faults = false
	h.boot()
	s.drain()
	return h.last
}

func (s *schedule) quarantined() bool {
	s.t.Helper()
	d, err := s.db.Device(context.Background(), s.device.AccountID, s.device.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return !d.QuarantinedAt.IsZero()
}

// inSchedules plays n schedules of a kind.
func inSchedules(t *testing.T, n int, one func(s *schedule)) {
	t.Helper()
	dir := t.TempDir()
	// In memory where there is such a folder: thousands of schedules are not to wait for a disk.
	if shm, err := os.MkdirTemp("/dev/shm", "socketxp-schedules"); err == nil { //nolint:usetesting // TempDir is on the disk
		t.Cleanup(func() { _ = os.RemoveAll(shm) })
		dir = shm
	}
	db := must[*store.DB](t)(store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "db"), store.Options{}))
	t.Cleanup(func() { _ = db.Close() })
	at := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	account := socketxp.Account{ID: socketxp.NewID(at), Name: "acme", CreatedAt: at, DeviceQuota: 1 << 30, BasicLife: time.Hour}
	owner := socketxp.User{ID: socketxp.NewID(at), Email: "owner@example.com", PasswordHash: "x", CreatedAt: at}
	entry := socketxp.AuditEntry{AccountID: account.ID, At: at, Action: "test"}
	if err := db.CreateAccount(t.Context(), account, owner, false, entry); err != nil {
		t.Fatal(err)
	}
	device := must[socketxp.Device](t)(func() (socketxp.Device, error) {
		d, _, err := db.RegisterDevice(t.Context(), socketxp.Registration{Device: socketxp.Device{
			ID: socketxp.NewID(at), AccountID: account.ID, Name: "cam", PublicKey: newKey(t).Public().(ed25519.PublicKey), CreatedAt: at, CreatedBy: owner.ID,
		}}, at, entry)
		return d, err
	}())
	for seed := range n {
		if _, err := db.ReleaseDevice(t.Context(), account.ID, device.ID, entry); err != nil {
			t.Fatal(err)
		}
		s := &schedule{
			t: t, db: db, device: device, welcomed: make(map[string]string),
			dice: rand.New(rand.NewPCG(uint64(seed), 1)), // a schedule must come again
		}
		s.trace = append(s.trace, fmt.Sprintf("schedule %d", seed))
		one(s)
	}
}

func TestSequenceSchedules(t *testing.T) {
	n := schedules(t)
	t.Run("K-04 J6 one honest holder is never taken for two", func(t *testing.T) {
		checks, let := 0, 0
		inSchedules(t, n, func(s *schedule) {
			h := &schedAgent{s: s, name: "agent"}
			s.play(40+s.dice.IntN(300), h)
			s.settle(h)
			if s.quarantined() {
				s.fail("a false alarm")
			}
			// Whatever has happened, it gets in again at once.
			if _, ok := s.try(h).(control.Welcome); !ok {
				s.fail("it does not get in again: %T %+v", h.last, h.last)
			}
			checks += strings.Count(strings.Join(s.trace, "\n"), "sends control.SequenceCheck")
			let += h.done
		})
		t.Logf("%d schedules: no false alarm; %d times it was let in, %d late words were asked about", n, let, checks)
		if n >= 1000 && (checks == 0 || let < n) {
			t.Errorf("these schedules try nothing: %d times let in, %d checks", let, checks)
		}
	})
	t.Run("K-02 J6 the second of two holders is always found", func(t *testing.T) {
		sooner := 0
		inSchedules(t, n, func(s *schedule) {
			genuine := &schedAgent{s: s, name: "genuine"}
			s.play(s.dice.IntN(120), genuine)
			// The copy is made at any moment, also while the machine runs.
			second := &schedAgent{s: s, name: "copy", disk: bytes.Clone(genuine.disk)}
			before := [2]int{genuine.done, second.done}
			s.play(s.dice.IntN(300), genuine, second)
			s.settle(genuine, second)
			if s.quarantined() {
				sooner++
				return
			}
			// From here on nothing goes wrong, and they take turns.
			for turn := range 3 {
				h := []*schedAgent{genuine, second}[turn%2]
				s.try(h)
				if s.quarantined() {
					return
				}
			}
			s.fail("both were let in (%d and %d times since the copy was made), and nobody has noticed", genuine.done-before[0], second.done-before[1])
		})
		t.Logf("%d schedules: found in all, in %d of them while everything went wrong", n, sooner)
	})
}
