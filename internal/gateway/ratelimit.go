package gateway

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"socketxp"
)

// httpLimits bound what one caller can make the HTTP half do.
type httpLimits struct {
	// address is for all requests of one address, whoever makes them: enough for an
	// office behind one, and 1000/s of refused tokens cost a fifth of a core.
	address quota
	// credential is for all requests of one token or sign-in.
	credential quota
	// signIn is for the requests of one address that try a password or the set-up
	// secret.
	signIn quota
	// signUp is for the accounts that one address makes: they stay.
	signUp quota
	// register is for registrations, by address, by token and by account.
	register, registerToken, registerAccount quota
	// authorize is for the device authorizations that one address asks for, and poll
	// for how often each may ask whether somebody has decided.
	authorize, poll quota
	// codes is for the user codes that one person, and one address, may enter wrongly.
	// Of 2^34.5 codes (RFC 8628 section 5.1), that is 20 in the ten minutes of a code's
	// life: one that waits is hit with a chance of 2^-30, and who hits it has given
	// access to their own account to a stranger.
	codes quota
	// terminals is for the terminals that one person opens.
	terminals quota
	// refusals is how many refusals of one account are audited.
	refusals quota

	streams, exports int // at a time, of one account
	passwords        int // hashed at a time: 46 MiB and a core each
	passwordQueue    int // waiting for that
	// passwordWait is how long, and refuseAfter how long a wrong password takes to be
	// refused whatever was done to find out.
	passwordWait, refuseAfter time.Duration

	// headers, body and answer are how long a request's headers and all of it may take
	// to come, and its answer to be taken in: with bodies of 1 MiB at most, that is a
	// rate too. Idle is for the time between requests, and stuck for a connection that
	// takes not a byte: over HTTP/2 only the answers have ends by answer, not what
	// carries them.
	headers, body, answer, idle, stuck time.Duration

	heartbeat, recheck time.Duration // of an event stream
	request            time.Duration // to serve one, its body read; a claim of an Idempotency-Key lives for a minute
}

func defaultHTTPLimits() httpLimits {
	return httpLimits{
		address:    quota{1000, 2000},
		credential: quota{200, 400},
		signIn:     quota{0.5, 30},
		signUp:     quota{1.0 / 360, 10},
		register:   quota{20, 200}, registerToken: quota{10, 100}, registerAccount: quota{50, 500},
		authorize: quota{1.0 / 30, 30}, poll: quota{0.25, 2}, codes: quota{1.0 / 60, 10},
		terminals: quota{0.5, 30},
		refusals:  quota{0.2, 60},
		streams:   50, exports: 2,
		passwords: 2, passwordQueue: 40, passwordWait: 5 * time.Second, refuseAfter: 300 * time.Millisecond,
		headers: 5 * time.Second, body: 30 * time.Second, answer: time.Minute, idle: 2 * time.Minute, stuck: 15 * time.Second,
		heartbeat: 15 * time.Second, recheck: 30 * time.Second,
		request: 20 * time.Second,
	}
}

// quota is so many a second on average, and so many at once.
type quota struct {
	perSecond rate.Limit
	burst     int
}

// maxBuckets bounds the memory of rates: about 10 MiB. Callers beyond share one
// bucket until others have been quiet for long enough to be forgotten.
const maxBuckets = 1 << 16

// rates holds a token bucket for each key.
type rates[K comparable] struct {
	quota

	mu      sync.Mutex // guards the following
	buckets map[K]*rate.Limiter
	others  *rate.Limiter
	swept   time.Time
}

func newRates[K comparable](q quota) *rates[K] {
	return &rates[K]{quota: q, buckets: make(map[K]*rate.Limiter), others: rate.NewLimiter(q.perSecond, q.burst)}
}

// verdict is what a bucket says: whether the request may pass, how many may follow
// at once, and when the next one may.
type verdict struct {
	ok        bool
	limit     int
	remaining int
	wait      time.Duration
}

// take takes one out of the key's bucket if there is one.
func (r *rates[K]) take(key K) verdict {
	now := time.Now()
	b := r.bucket(key, now)
	v := verdict{ok: b.AllowN(now, 1), limit: r.burst}
	left := b.TokensAt(now)
	v.remaining = max(0, int(left))
	if missing := 1 - left; missing > 0 {
		v.wait = time.Duration(missing / float64(r.perSecond) * float64(time.Second))
	}
	return v
}

// giveBack undoes a take, for what turned out not to be meant by the quota.
func (r *rates[K]) giveBack(key K) {
	now := time.Now()
	r.bucket(key, now).AllowN(now, -1) // never above the burst: the limiter cuts there when it looks next
}

func (r *rates[K]) bucket(key K, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.buckets[key]; b != nil {
		return b
	}
	if len(r.buckets) >= maxBuckets && now.Sub(r.swept) >= time.Second {
		r.swept = now
		for k, b := range r.buckets {
			if b.TokensAt(now) >= float64(r.burst) {
				delete(r.buckets, k)
			}
		}
	}
	if len(r.buckets) >= maxBuckets {
		return r.others
	}
	b := rate.NewLimiter(r.perSecond, r.burst)
	r.buckets[key] = b
	return b
}

// tell sets the headers of a verdict. The strictest of several counts.
func (v verdict) tell(h http.Header) {
	if known, err := strconv.Atoi(h.Get("RateLimit-Remaining")); err == nil && v.ok && known <= v.remaining {
		return
	}
	h.Set("RateLimit-Limit", strconv.Itoa(v.limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(v.remaining))
	h.Set("RateLimit-Reset", strconv.Itoa(seconds(v.wait)))
}

// err is nil if the request may pass.
func (v verdict) err() error {
	if v.ok {
		return nil
	}
	return later(socketxp.CodeRateLimited, v.wait, "too many requests")
}

// seconds rounds up, so that whoever waits for them is not refused again.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// laterError is a refusal that says when to try again.
type laterError struct {
	cause *socketxp.Error
	after time.Duration
}

func (e *laterError) Error() string { return e.cause.Error() }
func (e *laterError) Unwrap() error { return e.cause }

func later(code socketxp.Code, after time.Duration, message string) error {
	after = max(after, time.Second)
	return &laterError{
		cause: socketxp.Errorf(code, "%s", message).WithHint("try again in " + strconv.Itoa(seconds(after)) + " s"),
		after: after,
	}
}

// counted bounds how many of something run at a time, for each key.
type counted struct {
	most int

	mu      sync.Mutex // guards the following
	running map[string]int
}

func newCounted(most int) *counted {
	return &counted{most: most, running: make(map[string]int)}
}

// enter returns a function that must be called at the end, or an error if too many
// are running.
func (c *counted) enter(key, what string) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[key] >= c.most {
		return nil, later(socketxp.CodeRateLimited, 10*time.Second, "too many "+what+" are running")
	}
	c.running[key]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running[key]--; c.running[key] == 0 {
			delete(c.running, key)
		}
	}, nil
}

// rest is what the HTTP half keeps in memory.
type rest struct {
	limits httpLimits

	addresses, signIns, registrations *rates[netip.Prefix]
	signUps                           *rates[netip.Prefix]
	authorizations, codesByAddress    *rates[netip.Prefix]
	polls, codesByUser                *rates[string]
	credentials                       *rates[string]
	tokenRegistrations                *rates[string]
	accountRegistrations              *rates[string]
	terminals                         *rates[string]
	refusals                          *refusals
	streams, exports                  *counted
	passwords                         *passwords
	passphrases                       *passwords // of private keys: nobody's sign-in to the gateway waits for them
	strangers                         *strangers
}

func newREST(l httpLimits) *rest {
	return &rest{
		limits:    l,
		addresses: newRates[netip.Prefix](l.address), signIns: newRates[netip.Prefix](l.signIn), registrations: newRates[netip.Prefix](l.register),
		signUps:        newRates[netip.Prefix](l.signUp),
		authorizations: newRates[netip.Prefix](l.authorize), polls: newRates[string](l.poll),
		codesByAddress: newRates[netip.Prefix](l.codes), codesByUser: newRates[string](l.codes),
		credentials: newRates[string](l.credential), tokenRegistrations: newRates[string](l.registerToken), accountRegistrations: newRates[string](l.registerAccount),
		terminals: newRates[string](l.terminals),
		refusals:  newRefusals(l.refusals),
		streams:   newCounted(l.streams), exports: newCounted(l.exports),
		passwords: newPasswords(l.passwords, l), passphrases: newPasswords(1, l), strangers: newStrangers(),
	}
}
