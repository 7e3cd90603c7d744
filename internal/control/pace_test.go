package control

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// nat is what is between an agent and a gateway: it forgets a connection over
// which nothing went for some time, and drops what comes later.
type nat struct {
	forgets atomic.Int64 // a time.Duration; 0 never
	cut     atomic.Bool  // nothing comes through, and nothing new opens
	resets  atomic.Bool  // it answers what it has forgotten with a reset

	mu   sync.Mutex
	used time.Time
	gone bool // it has forgotten the connection
}

// through returns conn behind n.
func (n *nat) through(conn net.Conn) net.Conn { return &natted{Conn: conn, nat: n} }

func (n *nat) connect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.used, n.gone = time.Now(), false
}

// passes reports whether what is sent now comes through.
func (n *nat) passes() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if limit := time.Duration(n.forgets.Load()); limit != 0 && time.Since(n.used) > limit {
		n.gone = true
	}
	n.used = time.Now()
	return !n.gone && !n.cut.Load()
}

type natted struct {
	net.Conn
	nat *nat
}

func (c *natted) Write(b []byte) (int, error) {
	if c.nat.passes() {
		return c.Conn.Write(b)
	}
	if c.nat.resets.Load() {
		_ = c.Close()
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: net.ErrClosed}
	}
	return len(b), nil
}

// An idle agent as it lives: whenever its channel is over, it opens another one.
type idler struct {
	t      *testing.T
	nat    nat
	pace   Pace
	limit  time.Duration
	deaths atomic.Int64
	stop   chan struct{}
	ended  sync.WaitGroup
}

func newIdler(t *testing.T, forgets, limit time.Duration) *idler {
	i := &idler{t: t, limit: limit, stop: make(chan struct{})}
	i.nat.forgets.Store(int64(forgets))
	i.ended.Go(i.live)
	t.Cleanup(func() {
		close(i.stop)
		i.ended.Wait()
	})
	return i
}

func (i *idler) live() {
	for {
		for i.nat.cut.Load() {
			if !i.rest(time.Second) {
				return
			}
		}
		i.nat.connect()
		ac, gc := net.Pipe()
		agent := NewAgent(i.nat.through(ac), RoleVisitor, Options{Pace: &i.pace})
		gateway := NewGateway(i.nat.through(gc), Options{Heartbeat: i.limit})
		var both sync.WaitGroup
		both.Go(func() {
			ctx := i.t.Context()
			if _, err := gateway.Receive(ctx); err != nil {
				return
			}
			if gateway.Send(ctx, Welcome{Version: 1, Heartbeat: int(i.limit / time.Second)}) != nil {
				return
			}
			_, _ = gateway.Receive(ctx)
		})
		over := make(chan struct{})
		both.Go(func() {
			defer close(over)
			ctx := i.t.Context()
			if agent.Send(ctx, Hello{Version: 1, Role: RoleVisitor}) != nil {
				return
			}
			if _, err := agent.Receive(ctx); err == nil {
				_, _ = agent.Receive(ctx)
			}
		})
		stopped := false
		select {
		case <-over:
			i.deaths.Add(1)
		case <-i.stop:
			stopped = true
		}
		_ = agent.Close()
		_ = gateway.Close()
		both.Wait()
		if stopped || !i.rest(500*time.Millisecond) { // the jitter of the first try
			return
		}
	}
}

func (i *idler) rest(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-i.stop:
		return false
	}
}

// now returns the pace that is used.
func (i *idler) now() time.Duration {
	synctest.Wait()
	i.pace.mu.Lock()
	defer i.pace.mu.Unlock()
	return i.pace.good
}

func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		forgets, limit time.Duration
		least          time.Duration // the pace in the end
		deaths         int64         // at most, in the first ten days
	}{
		"nothing forgets, and 30 s count":   {0, DefaultHeartbeat, DefaultHeartbeat, 0},
		"nothing forgets, and it may rest":  {0, MaxHeartbeat, MaxHeartbeat, 0},
		"a NAT of 24 h":                     {24 * time.Hour, MaxHeartbeat, MaxHeartbeat, 0},
		"a NAT of 30 s":                     {30 * time.Second, DefaultHeartbeat, DefaultHeartbeat, 0},
		"a NAT of 20 s":                     {20 * time.Second, DefaultHeartbeat, 17 * time.Second, 17},
		"a NAT of 8 s":                      {8 * time.Second, DefaultHeartbeat, 7 * time.Second, 17},
		"a NAT of 4 min":                    {4 * time.Minute, MaxHeartbeat, 210 * time.Second, 17},
		"a NAT of 60 s, and it may rest":    {time.Minute, MaxHeartbeat, 53 * time.Second, 17},
		"a NAT of 60 s, and 5 min are wide": {time.Minute, 5 * time.Minute, 53 * time.Second, 17},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIdler(t, c.forgets, c.limit)
				<-time.After(10 * 24 * time.Hour)
				got := i.now()
				if got < c.least || c.forgets > 0 && got > c.forgets {
					t.Errorf("after ten days it pings each %v", got)
				}
				if n := i.deaths.Load(); n > c.deaths {
					t.Errorf("%d channels died to find that out", n)
				}
			})
		})
	}
	t.Run("a NAT that resets what it has forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newIdler(t, 20*time.Second, DefaultHeartbeat)
			i.nat.resets.Store(true)
			<-time.After(24 * time.Hour)
			if got := i.now(); got < 15*time.Second || got > 20*time.Second {
				t.Errorf("it pings each %v", got)
			}
		})
	})
	t.Run("an outage teaches nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newIdler(t, 0, DefaultHeartbeat)
			for range 10 {
				<-time.After(time.Hour)
				i.nat.cut.Store(true)
				<-time.After(5 * time.Minute)
				i.nat.cut.Store(false)
			}
			<-time.After(time.Minute)
			if got := i.now(); got != DefaultHeartbeat || i.deaths.Load() != 10 {
				t.Errorf("it pings each %v after %d outages", got, i.deaths.Load())
			}
		})
	})
	t.Run("nor does one while it still slows down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newIdler(t, 0, MaxHeartbeat)
			<-time.After(time.Minute)
			i.nat.cut.Store(true)
			<-time.After(5 * time.Minute)
			i.nat.cut.Store(false)
			<-time.After(time.Hour)
			if got := i.now(); got != MaxHeartbeat {
				t.Errorf("it pings each %v", got)
			}
		})
	})
	t.Run("one loss at a time teaches nothing either", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newIdler(t, 0, DefaultHeartbeat)
			for range 5 {
				<-time.After(time.Hour)
				i.nat.mu.Lock()
				i.nat.gone = true // the NAT was switched off and on
				i.nat.mu.Unlock()
			}
			<-time.After(time.Minute)
			if got := i.now(); got != DefaultHeartbeat || i.deaths.Load() != 5 {
				t.Errorf("it pings each %v after %d losses", got, i.deaths.Load())
			}
		})
	})
	t.Run("a NAT that has become stricter, and then mild again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newIdler(t, 0, 5*time.Minute)
			<-time.After(24 * time.Hour)
			i.nat.forgets.Store(int64(40 * time.Second))
			<-time.After(24 * time.Hour)
			if got := i.now(); got < 35*time.Second || got > 40*time.Second {
				t.Errorf("it pings each %v through a NAT of 40 s", got)
			}
			i.nat.forgets.Store(0)
			<-time.After(3 * 24 * time.Hour)
			if got := i.now(); got != 5*time.Minute {
				t.Errorf("it pings each %v when nothing forgets any more", got)
			}
		})
	})
	t.Run("never faster than 5 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newIdler(t, time.Second, DefaultHeartbeat)
			<-time.After(time.Hour)
			if n := i.deaths.Load(); n > 3600/5 {
				t.Errorf("%d channels in an hour", n)
			}
		})
	})
}

// A ping after other traffic says nothing of how long the network lets a channel
// be idle.
func TestPaceIsLearnedFromSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ac, gc := pipe(t)
		pace := new(Pace)
		agent, gateway := opened(t, RoleDevice, ac, gc, Options{Pace: pace})
		heardByAgent, heardByGateway := hearing(t, agent), hearing(t, gateway)
		good := func() time.Duration {
			synctest.Wait()
			pace.mu.Lock()
			defer pace.mu.Unlock()
			return pace.good
		}
		for range 10 {
			<-time.After(4 * time.Second)
			if err := gateway.Send(t.Context(), samples[5]); err != nil {
				t.Fatal(err)
			}
		}
		if got := good(); got != 0 {
			t.Errorf("silence of %v was learned on a busy channel", got)
		}
		<-time.After(time.Minute)
		if got := good(); got < 15*time.Second {
			t.Errorf("a minute of silence taught %v", got)
		}
		_, _ = agent.Close(), gateway.Close()
		_, _ = <-heardByAgent, <-heardByGateway
	})
}

// A proxy that closes what is silent for a minute is never silent for so long.
func TestMaxPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ac, gc := pipe(t)
		pace := new(Pace)
		agent, gateway := opened(t, RoleDevice, ac, gc, Options{Heartbeat: MaxHeartbeat, Pace: pace, MaxPace: 25 * time.Second})
		heardByAgent, heardByGateway := hearing(t, agent), hearing(t, gateway)
		<-time.After(12 * time.Hour)
		synctest.Wait()
		pace.mu.Lock()
		good := pace.good
		pace.mu.Unlock()
		if good != 25*time.Second {
			t.Errorf("the channel was silent for %v", good)
		}
		_, _ = agent.Close(), gateway.Close()
		_, _ = <-heardByAgent, <-heardByGateway
	})
}
