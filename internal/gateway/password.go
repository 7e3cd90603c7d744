package gateway

import (
	"context"
	"time"

	"github.com/alexedwards/argon2id"

	"socketxp"
)

// passwordParams are OWASP's for argon2id with one pass: 46 MiB and about 34 ms of
// a core for each try.
var passwordParams = &argon2id.Params{Memory: 46 << 10, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// HashPassword returns the argon2id hash of a password in PHC form. What a good
// password is, socketxp.CheckPassword says.
func HashPassword(password string) (string, error) {
	return argon2id.CreateHash(password, passwordParams)
}

// unknownHash is compared with where there is no user, so that it takes as long to
// say no. It is the hash of nothing anybody knows.
const unknownHash = "$argon2id$v=19$m=47104,t=1,p=1$c29ja2V0eHAtbm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// passwords bounds how many passwords are hashed at a time: each takes a core, and one
// of the gateway's own 46 MiB.
type passwords struct {
	places chan struct{}
	queue  chan struct{}
	wait   time.Duration
}

func newPasswords(places int, l httpLimits) *passwords {
	return &passwords{places: make(chan struct{}, places), queue: make(chan struct{}, places+l.passwordQueue), wait: l.passwordWait}
}

// enter waits for a place. Whoever finds too many waiting, or waits for too long,
// is told to come again.
func (p *passwords) enter(ctx context.Context) (leave func(), err error) {
	busy := later(socketxp.CodeUnavailable, 2*time.Second, "too many people are signing in")
	select {
	case p.queue <- struct{}{}:
	default:
		return nil, busy
	}
	t := time.NewTimer(p.wait)
	defer t.Stop()
	select {
	case p.places <- struct{}{}:
		return func() { <-p.places; <-p.queue }, nil
	case <-t.C:
	case <-ctx.Done():
	}
	<-p.queue
	return nil, busy
}

// matches reports whether a password is the one of a hash.
func (p *passwords) matches(ctx context.Context, password, hash string) (bool, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	return argon2id.ComparePasswordAndHash(password, hash)
}

// hash is HashPassword in its turn.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return HashPassword(password)
}
