package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// What is done again and again is done on time for 30 days, however long one turn
// takes, and ends when it is told to.
func TestEveryKeepsTime(t *testing.T) {
	for name, takes := range map[string]time.Duration{"P-19 at once": 0, "P-19 a minute each": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &Gateway{limits: defaultLimits()}
				ctx, cancel := context.WithCancel(t.Context())
				begin, turns := time.Now(), 0
				var last time.Time
				g.every(ctx, g.limits.pruneEvery, func(ctx context.Context) {
					turns++
					if since := time.Since(begin); since != time.Duration(turns)*g.limits.pruneEvery+time.Duration(turns-1)*takes {
						t.Errorf("turn %d is at %v", turns, since)
					}
					last = time.Now()
					wait(ctx, takes)
				})
				const month = 30 * 24 * time.Hour
				<-time.After(month)
				synctest.Wait()
				cancel()
				g.all.Wait()
				if want := int(month / (g.limits.pruneEvery + takes)); turns < want || turns > want+1 || time.Since(last) > g.limits.pruneEvery+takes {
					t.Errorf("%d turns in a month, want %d, the last %v ago", turns, want, time.Since(last))
				}
			})
		})
	}
}
