package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"socketxp"
)

const (
	// Waits between tries have full jitter under a bound that doubles: 10,000 agents
	// whose gateway restarts come back spread over the first seconds.
	firstBound = time.Second
	lastBound  = time.Minute
	// steadyAfter is how long a channel must have lived for the next trouble to be a
	// new one.
	steadyAfter = time.Minute

	// A device that is disabled, in quarantine or unknown, or whose key another agent uses, is not
	// let in again until a person has done something.
	deniedWait   = 5 * time.Minute
	replacedWait = time.Minute

	networkPoll = 5 * time.Second
)

// backoff says when to try again.
type backoff struct{ bound time.Duration }

// after returns how long to wait after a channel that lived for so long ended
// with err, and whether a change of the network makes it worth trying sooner.
func (b *backoff) after(err error, lived time.Duration) (wait time.Duration, sooner bool) {
	if lived > steadyAfter {
		b.bound = 0
	}
	b.bound = min(max(2*b.bound, firstBound), lastBound)
	wait = jitter(b.bound)

	var no *RefusedError
	if !errors.As(err, &no) {
		return wait, true
	}
	least := no.RetryAfter
	switch no.reason.Code {
	case socketxp.CodeDeviceDisabled, socketxp.CodeQuarantined, socketxp.CodeKeyRetired, socketxp.CodeDeviceUnknown, socketxp.CodeVersion, socketxp.CodeUnauthenticated:
		least = max(least, deniedWait)
	case socketxp.CodeReplaced:
		least = max(least, replacedWait)
	}
	if least == 0 {
		return wait, false
	}
	return least + max(wait, jitter(least/10)), false
}

// jitter returns a random time below bound.
func jitter(bound time.Duration) time.Duration {
	if bound <= 0 {
		return 0
	}
	return rand.N(bound) //nolint:gosec // G404: it spreads load and is no secret
}

// pause waits for d, or until kick, or, with sooner, shortly after the machine's
// addresses change. It returns false if ctx ended.
func pause(ctx context.Context, d time.Duration, sooner bool, kick <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	poll := time.NewTicker(networkPoll)
	defer poll.Stop()
	before := addresses()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-kick:
			return true
		case <-poll.C:
			if !sooner {
				continue
			}
			if now := addresses(); !slices.Equal(before, now) {
				// A network that has just come up often needs a moment more, and the agents
				// of one site see it at the same time.
				return sleep(ctx, jitter(firstBound))
			}
		}
	}
}

// addresses returns the addresses of this machine that others could reach, in a
// steady order.
func addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	slices.Sort(out)
	return out
}
