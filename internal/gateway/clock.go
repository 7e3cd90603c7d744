package gateway

import (
	"sync/atomic"
	"time"
)

// clock never runs backwards: a token that has expired stays so when the
// machine's clock is set back.
type clock struct {
	wall func() time.Time
	high atomic.Int64 // Unix microseconds
}

func newClock(wall func() time.Time, high time.Time) *clock {
	c := &clock{wall: wall}
	c.high.Store(high.UnixMicro())
	return c
}

// Now returns the later of the wall clock and all it returned before, in UTC to
// the microsecond.
func (c *clock) Now() time.Time {
	now := c.wall().UnixMicro()
	for {
		high := c.high.Load()
		if now <= high {
			return time.UnixMicro(high).UTC()
		}
		if c.high.CompareAndSwap(high, now) {
			return time.UnixMicro(now).UTC()
		}
	}
}

// behind returns how far the wall clock is behind the latest time that Now has
// returned; 0 if it isn't.
func (c *clock) behind() time.Duration {
	return max(0, time.Duration(c.high.Load()-c.wall().UnixMicro())*time.Microsecond)
}
