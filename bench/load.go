package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// work is what the load does with a way, in one turn.
type work struct {
	// Kind is down, up, rtt, connect, fair or hold.
	Kind string
	// Conns is how many connections do it at once.
	Conns int
	// Bytes is how much each connection moves (down, up).
	Bytes int64
	// For is how long it goes on (rtt, connect, fair).
	For time.Duration
}

// result is what came of it. What a work doesn't measure is zero.
type result struct {
	Seconds float64 // down, up: from the moment when all connections had begun
	Bytes   int64
	// The 64-byte round trip, or the time from dialling to the first byte, in µs.
	P50, P99 float64
	PerS     float64 // new connections a second
	// What half of the connections, and the worst, have of their fair share (fair).
	Half, Worst float64
}

// bytesPerS is the throughput.
func (r result) bytesPerS() float64 { return float64(r.Bytes) / r.Seconds }

// load is the role that measures: `bench role load ADDRESS WORK`, with the work and
// the result as JSON. It says "begun" when all its connections are open, and ends by
// itself, but for hold, which holds them open until it is stopped.
func load(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return flag.ErrHelp
	}
	var w work
	if err := json.Unmarshal([]byte(args[1]), &w); err != nil {
		return err
	}
	d := driver{addr: args[0], work: w}
	do := map[string]func(context.Context) (result, error){
		"down": d.bulk, "up": d.bulk, "rtt": d.roundTrips, "connect": d.connects, "fair": d.fair, "hold": d.hold,
	}[w.Kind]
	if do == nil {
		return fmt.Errorf("there is no work %s", w.Kind)
	}
	r, err := do(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", w.Kind, err)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// driver does one work at one address.
type driver struct {
	addr string
	work work
}

// patience is how long any one step may take: beyond it the way is broken.
const patience = 30 * time.Second

// ask opens a connection and asks the target for something.
func (d driver) ask(ctx context.Context, what ...byte) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := dial(ctx, d.addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(what); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// askMany opens all connections of the work and waits until each has answered a byte.
func (d driver) askMany(ctx context.Context, what ...byte) (conns []*net.TCPConn, err error) {
	conns = make([]*net.TCPConn, d.work.Conns)
	errs := make([]error, len(conns))
	limit := make(chan struct{}, 32) // as a browser and a pool of a database would, not a flood
	var all sync.WaitGroup
	for i := range conns {
		limit <- struct{}{}
		all.Go(func() {
			defer func() { <-limit }()
			if conns[i], errs[i] = d.ask(ctx, what...); errs[i] == nil {
				_, errs[i] = io.ReadFull(conns[i], make([]byte, 1))
			}
		})
	}
	all.Wait()
	return conns, errors.Join(errs...)
}

// sized is an ask with a number of bytes.
func sized(what byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{what}, uint64(n)) //nolint:gosec // never negative
}

// atOnce runs do n times at once.
func atOnce(n int, do func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (d driver) bulk(ctx context.Context) (r result, err error) {
	what := byte(askDown)
	if d.work.Kind == "up" {
		what = askUp
	}
	conns, err := d.askMany(ctx, sized(what, d.work.Bytes)...)
	if err != nil {
		return r, err
	}
	begun := time.Now()
	err = atOnce(len(conns), func(i int) error {
		c := conns[i]
		defer func() { _ = c.Close() }()
		buf := make([]byte, bulkBuffer)
		move, left := c.Read, d.work.Bytes
		if what == askUp {
			move = c.Write
		}
		_ = c.SetDeadline(time.Now().Add(4 * patience))
		for left > 0 {
			n, err := move(buf[:min(left, bulkBuffer)])
			if err != nil {
				return err
			}
			left -= int64(n)
		}
		if what == askUp {
			_, err := io.ReadFull(c, buf[:1])
			return err
		}
		return nil
	})
	return result{Seconds: time.Since(begun).Seconds(), Bytes: d.work.Bytes * int64(len(conns))}, err
}

func (d driver) roundTrips(ctx context.Context) (r result, err error) {
	c, err := d.ask(ctx, askEcho)
	if err != nil {
		return r, err
	}
	defer func() { _ = c.Close() }()
	var times series
	buf := make([]byte, 64)
	_ = c.SetDeadline(time.Now().Add(d.work.For + patience))
	// The first ones find buffers, caches and clocks of the CPU cold.
	const warm = 50
	for begun := time.Now(); time.Since(begun) < d.work.For || len(times) <= warm+10; {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return r, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return r, err
		}
		times = append(times, float64(time.Since(start).Nanoseconds())/1e3)
		if len(times) == warm {
			begun = time.Now()
		}
	}
	times = times[warm:]
	return result{P50: times.median(), P99: times.quantile(0.99)}, nil
}

func (d driver) connects(ctx context.Context) (r result, err error) {
	times := make([]series, d.work.Conns)
	begun := time.Now()
	err = atOnce(d.work.Conns, func(i int) error {
		buf := make([]byte, 1)
		for more := true; more; more = time.Since(begun) < d.work.For {
			start := time.Now()
			c, err := d.ask(ctx, askFirst)
			if err != nil {
				return err
			}
			if _, err = io.ReadFull(c, buf); err == nil {
				times[i] = append(times[i], float64(time.Since(start).Nanoseconds())/1e3)
			}
			_ = c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(begun).Seconds()
	var all series
	for _, s := range times {
		all = append(all, s...)
	}
	return result{P50: all.median(), P99: all.quantile(0.99), PerS: float64(len(all)) / took}, err
}

// fair has one connection that takes nothing of what is sent to it, one that takes
// all it can get in great pieces, and others that take what comes.
func (d driver) fair(ctx context.Context) (r result, err error) {
	const slow, hog = 0, 1
	conns, err := d.askMany(ctx, sized(askDown, 1<<50)...)
	if err != nil {
		return r, err
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	got := make([]int64, len(conns))
	stop := time.Now().Add(d.work.For)
	err = atOnce(len(conns), func(i int) error {
		c := conns[i]
		if i == slow {
			return nil
		}
		size := 32 << 10
		if i == hog {
			size = 4 << 20
		}
		buf := make([]byte, size)
		_ = c.SetDeadline(stop)
		for {
			n, err := c.Read(buf)
			got[i] += int64(n)
			if err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					err = nil
				}
				return err
			}
		}
	})
	var all int64
	for _, n := range got {
		all += n
	}
	share := float64(all) / float64(len(got)-1)
	var others series
	for _, n := range got[hog+1:] {
		others = append(others, float64(n)/share)
	}
	return result{
		Seconds: d.work.For.Seconds(), Bytes: all,
		Half: others.median(), Worst: others.quantile(0),
	}, err
}

func (d driver) hold(ctx context.Context) (r result, err error) {
	conns, err := d.askMany(ctx, askEcho, 0)
	if err != nil {
		return r, err
	}
	if _, err := fmt.Fprintln(os.Stdout, "begun"); err != nil {
		return r, err
	}
	<-ctx.Done()
	for _, c := range conns {
		_ = c.Close()
	}
	return r, nil
}
