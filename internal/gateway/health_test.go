package gateway

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
)

// stuckPing is a store that does not return from a question, whatever its context.
type stuckPing struct {
	socketxp.Store
	stuck atomic.Pointer[chan struct{}]
}

func (s *stuckPing) Ping(ctx context.Context) error {
	if c := s.stuck.Load(); c != nil {
		<-*c
	}
	return s.Store.Ping(ctx)
}

func TestHealthForTheServiceManager(t *testing.T) {
	serving := make(chan struct{})
	var failing failingPing
	var stuck stuckPing
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		stuck.Store = d.Store
		failing.Store = &stuck
		d.Store, d.Serving = &failing, func() { close(serving) }
	}, func(l *limits) { l.storeWithin = 200 * time.Millisecond })
	<-serving
	ask := func(words string, wantCurable bool) {
		t.Helper()
		curable, err := w.g.Health(t.Context())
		if (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) || curable != wantCurable {
			t.Errorf("curable %v, %v; want %q", curable, err, words)
		}
	}
	ask("", false)

	t.Run("P-08 the database does not answer", func(t *testing.T) {
		failing.yes.Store(true)
		ask("does not answer", true)
		w.g.cfg.Database = "postgres://db/gateway"
		ask("does not answer", false)
		w.g.cfg.Database = ""
		failing.yes.Store(false)
	})
	t.Run("the database's driver is stuck", func(t *testing.T) {
		free := make(chan struct{})
		stuck.stuck.Store(&free)
		w.g.cfg.Database = "postgres://db/gateway"
		ask("does not return", true)
		w.g.cfg.Database = ""
		stuck.stuck.Store(nil)
		close(free)
	})
	t.Run("nobody accepts", func(t *testing.T) {
		seen := w.g.accepting.Load()
		eventually(t, patience, "the accepting goroutine shows itself though nobody comes", func() bool { return w.g.accepting.Load() > seen })
		if err := w.stop(); err != nil { // nobody accepts any more
			t.Fatal(err)
		}
		w.g.accepting.Store(time.Now().Add(-acceptLate - time.Second).UnixNano())
		ask("no connection", true)
	})
}
