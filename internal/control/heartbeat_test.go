package control

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"
)

// hearing starts to receive at c and returns where the first error comes out.
func hearing(t *testing.T, c *Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Receive(t.Context()); err != nil {
				done <- err
				return
			}
		}
	}()
	return done
}

// wire is a net.Conn whose writes can be lost, counted and delayed.
type wire struct {
	net.Conn
	lost  atomic.Bool
	delay atomic.Int64 // a time.Duration
	sent  atomic.Int64
}

func (w *wire) Write(b []byte) (int, error) {
	if w.lost.Load() {
		return len(b), nil
	}
	w.sent.Add(int64(len(b)))
	<-time.After(time.Duration(w.delay.Load()))
	return w.Conn.Write(b)
}

func TestHeartbeats(t *testing.T) {
	t.Run("a healthy idle channel stays, and costs little", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			aw, gw := &wire{Conn: ac}, &wire{Conn: gc}
			agent, gateway := opened(t, RoleDevice, aw, gw, Options{})
			heardByAgent, heardByGateway := hearing(t, agent), hearing(t, gateway)
			aw.sent.Store(0)
			gw.sent.Store(0)
			<-time.After(24 * time.Hour)
			synctest.Wait()
			// After 10, 15 and 22.5 s one each 24 s, of 4 bytes: the arithmetic of SPEC.md
			// section 6.
			if a, g, want := aw.sent.Load(), gw.sent.Load(), int64(3601*headerSize); a != want || g != want {
				t.Errorf("a day took %d and %d bytes, want %d each", a, g, want)
			}
			_ = agent.Close()
			if err := <-heardByAgent; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if err := <-heardByGateway; !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	})

	t.Run("pongs that take almost 6 s are in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			gw := &wire{Conn: gc}
			agent, gateway := opened(t, RoleVisitor, ac, gw, Options{})
			gw.delay.Store(int64(5900 * time.Millisecond))
			heardByAgent, heardByGateway := hearing(t, agent), hearing(t, gateway)
			<-time.After(time.Hour)
			select {
			case err := <-heardByAgent:
				t.Error(err)
			case err := <-heardByGateway:
				t.Error(err)
			default:
			}
			_ = gateway.Close()
			for _, heard := range []<-chan error{heardByAgent, heardByGateway} {
				if err := <-heard; err == nil {
					t.Error("Receive ended without an error")
				}
			}
		})
	})

	t.Run("N-10 the agent sees a dead gateway within 30 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			gw := &wire{Conn: gc}
			agent, gateway := opened(t, RoleDevice, ac, gw, Options{})
			heardByAgent, heardByGateway := hearing(t, agent), hearing(t, gateway)
			<-time.After(10 * time.Minute)
			gw.lost.Store(true)
			start := time.Now()
			err := <-heardByAgent
			wantCode(t, err, socketxp.CodeUnavailable)
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("seen after %v", d)
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the cause of %v is hidden from the log", err)
			}
			if err := <-heardByGateway; err == nil {
				t.Error("Receive ended without an error")
			}
		})
	})

	t.Run("N-10 the gateway sees a dead agent within 30 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			aw := &wire{Conn: ac}
			// A cut cable: not even the agent's own end comes through.
			agent, gateway := opened(t, RoleDevice, aw, gc, Options{PongWithin: time.Hour})
			heardByAgent, heardByGateway := hearing(t, agent), hearing(t, gateway)
			<-time.After(10 * time.Minute)
			aw.lost.Store(true)
			start := time.Now()
			wantCode(t, <-heardByGateway, socketxp.CodeUnavailable)
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("seen after %v", d)
			}
			if err := <-heardByAgent; err == nil {
				t.Error("Receive ended without an error")
			}
		})
	})

	t.Run("a gateway that never answers Hello is dead too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			agent := NewAgent(ac, RoleVisitor, Options{})
			go func() { _, _ = io.Copy(io.Discard, gc) }()
			if err := agent.Send(t.Context(), Hello{Version: 1, Role: RoleVisitor}); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			wantCode(t, <-hearing(t, agent), socketxp.CodeUnavailable)
			if d := time.Since(start); d != firstPace+pongWithin {
				t.Errorf("seen after %v", d)
			}
		})
	})

	t.Run("N-10 a gateway that does not read is dead too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			agent, _ := opened(t, RoleDevice, ac, gc, Options{})
			start := time.Now()
			wantCode(t, <-hearing(t, agent), socketxp.CodeUnavailable)
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("seen after %v", d)
			}
		})
	})
}

func TestOpeningIsBounded(t *testing.T) {
	for name, run := range map[string]func(c net.Conn){
		"N-04 nothing comes": func(net.Conn) {},
		"N-04 one byte per second": func(c net.Conn) {
			for _, b := range appendFrame(nil, 0x10, make([]byte, 100)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		},
		"N-04 a device that never reports": func(c net.Conn) {
			_, _ = c.Write(appendFrame(nil, 0x10, []byte(`{"version":1,"role":"device"}`)))
		},
		"N-04 a device that only pings": func(c net.Conn) {
			_, _ = c.Write(appendFrame(nil, 0x10, []byte(`{"version":1,"role":"device"}`)))
			for {
				if _, err := c.Write(ping()); err != nil {
					return
				}
				<-time.After(3 * time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ac, gc := pipe(t)
				gateway := NewGateway(gc, Options{})
				var wg sync.WaitGroup
				wg.Go(func() { _, _ = io.Copy(io.Discard, ac) })
				wg.Go(func() { run(ac) })
				start := time.Now()
				wantCode(t, <-hearing(t, gateway), socketxp.CodeUnavailable)
				if d := time.Since(start); d != openLimit {
					t.Errorf("closed after %v", d)
				}
				_ = ac.Close()
				wg.Wait()
			})
		})
	}
	t.Run("N-04 a frame that dribbles in later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			_, gateway := opened(t, RoleDevice, ac, gc, Options{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, b := range appendFrame(nil, 0x11, make([]byte, 100)) {
					if _, err := ac.Write([]byte{b}); err != nil {
						return
					}
					<-time.After(5 * time.Second)
				}
			})
			start := time.Now()
			err := <-hearing(t, gateway)
			if err == nil || time.Since(start) > 30*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			_ = ac.Close()
			wg.Wait()
		})
	})
}

func ping() []byte { return appendFrame(nil, codePing, nil) }
func pong() []byte { return appendFrame(nil, codePong, nil) }

func TestPingFlood(t *testing.T) {
	const never = 10_000 * time.Hour // the agent does not ping by itself
	// pings sends pings over an open channel, each after the one before was
	// answered, and returns how many were before the gateway had enough.
	pings := func(t *testing.T, n int, every time.Duration) (answered int, err error) {
		ac, gc := pipe(t)
		_, gateway := opened(t, RoleDevice, ac, gc, Options{Heartbeat: never, Pace: &Pace{good: never}})
		_ = ac.SetDeadline(time.Time{})
		heard := hearing(t, gateway)
		for answered < n {
			if _, err := ac.Write(ping()); err != nil {
				return answered, <-heard
			}
			var pong [headerSize]byte
			if _, err := io.ReadFull(ac, pong[:]); err != nil || pong[0] != codePong {
				_ = ac.Close()
				return answered, <-heard
			}
			answered++
			<-time.After(every)
		}
		_ = ac.Close()
		return answered, <-heard
	}
	t.Run("N-03 a burst of ten is answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if n, err := pings(t, pingBurst, 0); n != pingBurst || !errors.Is(err, io.EOF) {
				t.Errorf("%d were answered, %v", n, err)
			}
		})
	})
	t.Run("N-03 X-15 a flood ends the channel", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n, err := pings(t, 10_000, 100*time.Microsecond)
			wantCode(t, err, socketxp.CodeProtocol)
			if n > pingBurst+1 {
				t.Errorf("%d were answered", n)
			}
		})
	})
	t.Run("N-03 one per second may go on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if n, err := pings(t, 3600, time.Second); n != 3600 || !errors.Is(err, io.EOF) {
				t.Errorf("%d were answered, %v", n, err)
			}
		})
	})
	t.Run("N-03 a little more than one per second may not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, err := pings(t, 3600, 900*time.Millisecond)
			wantCode(t, err, socketxp.CodeProtocol)
		})
	})
}

func TestUnsolicitedPong(t *testing.T) {
	t.Run("N-07 before any ping", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			agent, _ := opened(t, RoleDevice, ac, gc, Options{})
			_ = gc.SetDeadline(time.Time{})
			heard := hearing(t, agent)
			_, _ = gc.Write(pong())
			wantCode(t, <-heard, socketxp.CodeProtocol)
		})
	})
	t.Run("N-07 twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			agent, _ := opened(t, RoleDevice, ac, gc, Options{})
			_ = gc.SetDeadline(time.Time{})
			heard := hearing(t, agent)
			var got [headerSize]byte
			if _, err := io.ReadFull(gc, got[:]); err != nil {
				t.Fatal(err)
			}
			_, _ = gc.Write(append(pong(), pong()...))
			wantCode(t, <-heard, socketxp.CodeProtocol)
		})
	})
}

func TestPeerThatDoesNotRead(t *testing.T) {
	t.Run("N-07 Send gives up after 10 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			_, gateway := opened(t, RoleDevice, ac, gc, Options{})
			start := time.Now()
			err := gateway.Send(t.Context(), samples[5])
			if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != writeLimit {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			if _, err := gateway.Receive(t.Context()); err == nil {
				t.Error("the channel is still open")
			}
		})
	})
	t.Run("N-07 Receive is held for 10 s at most", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			_, gateway := opened(t, RoleDevice, ac, gc, Options{})
			heard := hearing(t, gateway)
			if _, err := ac.Write(ping()); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := <-heard; err == nil || time.Since(start) > writeLimit {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("N-07 many senders are all freed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ac, gc := pipe(t)
			_, gateway := opened(t, RoleDevice, ac, gc, Options{})
			errs := make(chan error, 20)
			start := time.Now()
			for range cap(errs) {
				go func() { errs <- gateway.Send(t.Context(), samples[5]) }()
			}
			for range cap(errs) {
				if <-errs == nil {
					t.Error("sent to nobody")
				}
			}
			if d := time.Since(start); d != writeLimit {
				t.Errorf("the last was freed after %v", d)
			}
		})
	})
}
