package gateway

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"socketxp/internal/terminal"
)

// limits bound what peers can make the gateway hold, and for how long.
type limits struct {
	// showWithin is how long a connection may take to show what it is and to
	// finish its handshake, and a control channel to say who it is.
	showWithin time.Duration
	// preAuth is how many connections may be doing that at a time, and preAuthPerIP
	// how many of one address (of one /64 for IPv6). They also shed the load when
	// 10,000 agents come back at once: a handshake is 1 ms of CPU, so what is let
	// in can finish within showWithin, also on a busy machine that does 450 in a
	// second, and before an agent tries another door after 8 s. The rest come again by
	// their jitter.
	preAuth, preAuthPerIP int
	// https and httpsPerIP bound the connections to the HTTPS door as long as they
	// are open: any request on them may be anyone's.
	https, httpsPerIP int

	linkWait  time.Duration // for both halves of a link to meet
	visits    int           // of one visitor's channel
	links     int           // open or waiting, of one visit
	linkRate  rate.Limit    // new links of one visitor's channel, per second
	linkBurst int
	// storeWithin is how long one question to the database may take.
	storeWithin time.Duration

	sweepEvery  time.Duration // all that is open is judged again
	sweepRetry  time.Duration // the same, after the database did not answer
	strictAfter time.Duration // sessions end when they could not be judged for so long

	countEvery   time.Duration // the counters of open sessions are written
	touchEvery   time.Duration // last-seen times are written
	clockEvery   time.Duration // the high-water mark of the clock is raised
	pruneEvery   time.Duration
	keysEvery    time.Duration // changes of the signing keys are looked for
	acme         acmeTiming
	certEvery    time.Duration // the data folder is looked at for a change of the key
	calmEvery    time.Duration // memory is looked after
	newsEvery    time.Duration // comings and goings of devices are told
	offlineAfter time.Duration // a device is told to be offline when it has not come back by then
	presenceRate time.Duration // per device: one event or report is written per so long, on average
	sampleEvery  time.Duration // a refused device key is audited once per so long
	alarmEvery   time.Duration // the use of a retired device key is told once per so long
	keyDueEvery  time.Duration // devices with old keys are asked for new ones
	keyDueAtOnce int           // so many of them: 10,000 keys that were made on one day are not changed in one minute
	// keyWithin is how long a device may take to place a single-use key, and keyLife how
	// long the key is good: for one sign-in by a network. Of each device there may be
	// keysAtOnce, and so many as keyRate says.
	keyWithin, keyLife time.Duration
	keysAtOnce         int
	keyRate            quota
	silence            time.Duration // of a control channel; 0 for the protocol's

	// terminals and terminalsPerUser are how many terminals people may have: each can
	// hold 4 MiB.
	terminals, terminalsPerUser int
	terminal                    terminal.Limits
	terminalPing                time.Duration // a browser is asked whether it is still there

	http httpLimits
}

func defaultLimits() limits {
	return limits{
		showWithin: 10 * time.Second,
		preAuth:    2048, preAuthPerIP: 512,
		https: 16384, httpsPerIP: 1024,
		linkWait: 10 * time.Second,
		visits:   64, links: 2048, linkRate: 500, linkBurst: 2048,
		storeWithin: 5 * time.Second,
		sweepEvery:  30 * time.Second, sweepRetry: 5 * time.Second, strictAfter: time.Minute,
		countEvery: 10 * time.Second, touchEvery: 30 * time.Second, clockEvery: 30 * time.Second, pruneEvery: time.Hour, keysEvery: 2 * time.Second, certEvery: time.Second,
		calmEvery:    time.Second,
		newsEvery:    500 * time.Millisecond,
		offlineAfter: 5 * time.Second, presenceRate: 30 * time.Second,
		sampleEvery: 10 * time.Minute, alarmEvery: 24 * time.Hour,
		keyDueEvery: 10 * time.Second, keyDueAtOnce: 50,
		keyWithin: 15 * time.Second, keyLife: 30 * time.Second, keysAtOnce: 4, keyRate: quota{0.2, 10},
		terminals: 256, terminalsPerUser: 20, terminal: terminal.DefaultLimits(), terminalPing: 15 * time.Second,
		http: defaultHTTPLimits(),
	}
}

// places are what connections must have one of: so many in all, and so many per
// address.
type places struct {
	total, perIP int

	mu    sync.Mutex // guards the following
	taken int
	byIP  map[netip.Prefix]int
}

func newPlaces(total, perIP int) *places {
	return &places{total: total, perIP: perIP, byIP: make(map[netip.Prefix]int)}
}

// take returns a function that gives the place back and may be called more than
// once, or ok false if there is none.
func (p *places) take(addr netip.Addr) (release func(), ok bool) {
	return p.takeFor(network(addr), p.perIP)
}

// takeFor is take for a key of which there may be most at a time.
func (p *places) takeFor(key netip.Prefix, most int) (release func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.total || p.byIP[key] >= most {
		return nil, false
	}
	p.taken++
	p.byIP[key]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken--
		if p.byIP[key]--; p.byIP[key] == 0 {
			delete(p.byIP, key)
		}
	}), true
}

func (p *places) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// network returns what one peer is counted by: an IPv4 address, or the /64 that
// an IPv6 host commonly has to itself.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// sampler lets the first of many equal things through, and the next one a while
// later.
type sampler struct {
	every time.Duration

	mu    sync.Mutex // guards the following
	last  map[string]time.Time
	swept time.Time // when old ones were dropped last
}

// maxSamples bounds the memory of a sampler: about 1 MiB. A thing that does not
// fit is not let through; when old ones have gone there is room again.
const maxSamples = 8192

func newSampler(every time.Duration) *sampler {
	return &sampler{every: every, last: make(map[string]time.Time)}
}

func (s *sampler) allow(key string) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.last[key]; ok && now.Sub(t) < s.every {
		return false
	}
	if len(s.last) >= maxSamples && !s.sweep(now) {
		return false
	}
	s.last[key] = now
	return true
}

// sweep drops what is old, and reports whether there is room now. It looks at
// everything, so it does so ten times in a period at most. The caller holds mu.
func (s *sampler) sweep(now time.Time) bool {
	if now.Sub(s.swept) < s.every/10 {
		return false
	}
	s.swept = now
	for k, t := range s.last {
		if now.Sub(t) >= s.every {
			delete(s.last, k)
		}
	}
	return len(s.last) < maxSamples
}
