package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"socketxp/internal/api"
)

// restart kills the gateway and starts it again, and waits until all are back. If
// there is a link, it is measured meanwhile.
func (s *crowded) restart(ctx context.Context) error {
	since := s.census()
	s.enter("the gateway is killed and started again")
	begun := time.Now()
	if err := syscall.Kill(s.gateway.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		return err
	}
	<-s.gateway.done
	p, err := s.startServing(s.gateway, s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.gateway.process = p
	s.mu.Unlock()
	trips := func() (series, error) { return nil, nil }
	if s.link != nil {
		trips = s.trips(ctx, s.link.addr)
	}
	happened, err := s.everyone(ctx, since)
	if err != nil {
		return err
	}
	s.figure("storm_all_back_s", time.Since(begun).Seconds(), "from the moment when the gateway was killed")
	s.figure("storm_told", float64(happened.Told), "refusals that said when to come again; all of those came back")
	s.figure("storm_away", float64(happened.Away), "connections that were turned away or gave up; all of those came back")
	times, err := trips()
	if err != nil || s.link == nil {
		return err
	}
	s.tripFigures("storm", times, "of connections that were opened as soon as the gateway was up again")
	return nil
}

func (s *crowded) tripFigures(name string, times series, about string) {
	s.figure(name+"_rtt_p50_ms", times.median(), "64-byte round trips "+about)
	s.figure(name+"_rtt_p99_ms", times.quantile(0.99), fmt.Sprintf("the same, of %d", len(times)))
	s.figure(name+"_rtt_most_ms", times.quantile(1), "the longest")
}

// storms has all agents come back at once: because the gateway was killed, and then
// because the network between was, the gateway and the links through it staying.
func (s *crowded) storms(ctx context.Context, calm time.Duration) error {
	s.enter("a device and a laptop beside them")
	target, err := s.listening(ctx, "target", nil)
	if err != nil {
		return err
	}
	if s.gateway.owner, err = s.signIn(ctx, s.gateway.process, s.dir, s.gateway.url, gatewayOwner); err != nil {
		return err
	}
	defer s.gateway.owner.Close()
	if s.link, err = s.pair(ctx, s.gateway, "swarm", target, false); err != nil {
		return err
	}
	trips := s.trips(ctx, s.link.addr)
	if !pause(ctx, 10*time.Second) {
		return ctx.Err()
	}
	times, err := trips()
	if err != nil {
		return err
	}
	s.tripFigures("calm", times, "while nothing happens")

	if err := s.restart(ctx); err != nil {
		return err
	}
	s.enter("all are back")
	if !pause(ctx, calm) {
		return ctx.Err()
	}
	m, err := memoryOf(s.gateway.cmd.Process.Pid)
	if err != nil {
		return err
	}
	s.figure("gateway_kib_per_device_at_storm", float64(m.peak)/1024/float64(s.n), "the restarted gateway's RSS at its highest, all of it")
	s.figure("gateway_kib_per_device_after_storm", float64(m.rss)/1024/float64(s.n), fmt.Sprintf("the same %v after it, all of it", calm))

	since := s.census()
	trips = s.trips(ctx, s.link.addr)
	if !pause(ctx, time.Second) { // the links are live
		return ctx.Err()
	}
	s.enter("all control channels are cut")
	begun := time.Now()
	for _, p := range s.crowd {
		if err := p.cmd.Process.Signal(unix.SIGUSR1); err != nil {
			return err
		}
	}
	happened, err := s.everyone(ctx, since)
	if err != nil {
		return err
	}
	s.figure("cut_all_back_s", time.Since(begun).Seconds(), "from the moment when all control channels were cut, the gateway alive")
	s.figure("cut_told", float64(happened.Told), "refusals that said when to come again; all of those came back")
	s.figure("cut_away", float64(happened.Away), "connections that were turned away or gave up; all of those came back")
	if times, err = trips(); err != nil {
		return err
	}
	s.tripFigures("cut", times, "of connections that were live all the time")
	return nil
}

const (
	tripConns = 4
	// tripPace is how often each connection is asked. A round trip counts from when it
	// was due: one that waits behind another that stalls has waited.
	tripPace = 10 * time.Millisecond
)

// trips measures round trips, in ms, of connections that it opens at once, or as soon
// as that is possible, until the function it returns is called.
func (s *crowded) trips(ctx context.Context, addr string) (stop func() (series, error)) {
	ctx, cancel := context.WithCancel(ctx)
	all := make([]series, tripConns)
	result := make(chan error, 1)
	go func() {
		result <- atOnce(tripConns, func(i int) (err error) {
			all[i], err = roundTrips(ctx, addr)
			return err
		})
	}()
	return func() (series, error) {
		cancel()
		err := <-result
		var times series
		for _, s := range all {
			times = append(times, s...)
		}
		if err == nil && len(times) == 0 {
			err = errors.New("no connection came through in all the time")
		}
		return times, err
	}
}

func roundTrips(ctx context.Context, addr string) (times series, err error) {
	buf := make([]byte, 64)
	d := driver{addr: addr}
	c, err := d.ask(ctx, askEcho)
	for ; ; c, err = d.ask(ctx, askEcho) { // until the agents are back that it goes through
		if err == nil {
			if _, err = c.Write(buf); err == nil {
				_, err = io.ReadFull(c, buf)
			}
			if err == nil {
				break
			}
			_ = c.Close()
		}
		if !pause(ctx, 100*time.Millisecond) {
			return nil, nil
		}
	}
	defer func() { _ = c.Close() }()
	for due := time.Now(); ; due = due.Add(tripPace) {
		if !pause(ctx, time.Until(due)) {
			return times, nil
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(buf); err != nil {
			return times, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return times, err
		}
		times = append(times, float64(time.Since(due).Microseconds())/1e3)
	}
}

// soak has all stay for a while, with a little traffic: every now and then a device
// is looked at by its owner and a connection is opened. The gateway's memory must not
// grow meanwhile.
func (s *crowded) soak(ctx context.Context, lasts time.Duration) error {
	s.watch(10 * time.Second)
	s.enter(fmt.Sprintf("a soak of %v", lasts))
	begun := time.Since(s.begun)
	for time.Since(s.begun) < begun+lasts {
		if _, err := s.gateway.owner.Devices(ctx, api.DeviceList{Limit: 50}); err != nil {
			return err
		}
		if s.link != nil {
			c, err := driver{addr: s.link.addr}.ask(ctx, askFirst)
			if err == nil {
				_, err = io.ReadFull(c, make([]byte, 1))
				_ = c.Close()
			}
			if err != nil {
				return err
			}
		}
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var hours, mib series
	warm := min(5*time.Minute, lasts/3) // caches fill and the storms' memory goes back
	for _, at := range s.samples {
		if at.at > begun+warm {
			hours, mib = append(hours, at.at.Hours()), append(mib, at.rss)
		}
	}
	s.figure("soak_growth_mib_per_hour", slope(hours, mib), fmt.Sprintf("of the gateway's RSS in %v, but for the first %v, by a straight line through %d samples", lasts, warm, len(mib)))
	s.figure("soak_rss_mib_most", mib.quantile(1), "at most")
	s.figure("soak_rss_mib_least", mib.quantile(0), "at least")
	return nil
}

// slope returns how steep the straight line is that fits best.
func slope(x, y series) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx += x[i]
		sy += y[i]
		sxx += x[i] * x[i]
		sxy += x[i] * y[i]
	}
	n := float64(len(x))
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return math.NaN()
}
