package control

import (
	"sync"
	"time"
)

const (
	// firstPace is the pace on a network of which nothing is known: of the NATs that
	// forget a TCP connection at all, hardly one does so within 10 s.
	firstPace = 10 * time.Second
	// leastPace is the fastest that an agent pings, whatever dies.
	leastPace = 5 * time.Second

	// reopenWithin is how soon after a silent death the next channel must be open for
	// the network to be what killed the first: then the way to the gateway was there
	// all the time. A way that was gone for longer says nothing about silence.
	reopenWithin = 20 * time.Second

	// A pace that killed a channel is tried again after firstRetry, and after twice as
	// long each time that it kills another, up to lastRetry.
	firstRetry = time.Hour
	lastRetry  = 24 * time.Hour
)

// Pace is what an agent knows of one network: how long a channel over it may be
// silent before something on the way, a NAT or a firewall, forgets it without a
// word. It begins at 10 s and slows down by half of that each time a silence was
// survived; when one was not, it goes back to what was, and tries something in
// between an hour later.
//
// The zero Pace knows nothing. It may be used concurrently, and by one channel
// after another.
type Pace struct {
	mu   sync.Mutex    // guards the following
	good time.Duration // the longest silence that was survived; 0 before the first
	bad  time.Duration // the shortest that was not; 0 if all were
	// strikes counts channels that died, one after the other, of a silence that had
	// been survived before.
	strikes int
	// A channel died of the silence suspect at the time died. It counts if another is
	// open soon.
	suspect time.Duration
	died    time.Time

	retryAt   time.Time // a silence longer than good may be tried
	retryWait time.Duration
}

// next returns the silence after which to ping, of at most limit.
func (p *Pace) next(limit time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	pace := p.good
	switch {
	case p.bad == 0 && p.good == 0:
		pace = firstPace
	case p.bad == 0:
		pace += p.good / 2
	case p.good == 0:
		pace = p.bad / 2
	case time.Now().Before(p.retryAt):
	case p.bad-p.good > p.good/8:
		pace = (p.good + p.bad) / 2
	default:
		pace = p.bad // is it still?
	}
	return min(max(pace, leastPace), limit)
}

// survived says that a channel was silent for pace, and answered after that.
func (p *Pace) survived(pace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.strikes = 0
	p.good = max(p.good, pace)
	if p.good >= p.bad {
		p.bad, p.retryWait = 0, 0
	}
}

// lost says that a channel was silent for pace, and did not answer after that.
func (p *Pace) lost(pace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspect, p.died = pace, time.Now()
}

// opened says that the network has a channel (again).
func (p *Pace) opened() {
	p.mu.Lock()
	defer p.mu.Unlock()
	pace := p.suspect
	p.suspect = 0
	if pace == 0 || time.Since(p.died) > reopenWithin {
		return
	}
	if pace <= p.good {
		// Once may be a gateway that lost its power; twice is another network than it was.
		if p.strikes++; p.strikes < 2 {
			return
		}
		p.good, p.bad = 0, 0
	}
	p.strikes = 0
	if p.bad == 0 || pace < p.bad {
		p.bad = pace
	}
	p.retryWait = min(max(2*p.retryWait, firstRetry), lastRetry)
	p.retryAt = time.Now().Add(p.retryWait)
}
