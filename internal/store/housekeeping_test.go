package store_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
)

func TestSettings(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		_, err := s.Setting(t.Context(), "k")
		wantCode(t, err, socketxp.CodeNotFound)
		for _, value := range []string{"one", "", "two"} {
			if err := s.SetSetting(t.Context(), "k", value); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Setting(t.Context(), "k"); got != value || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		}
		if got, err := s.InitSetting(t.Context(), "k", "three"); got != "two" || err != nil {
			t.Errorf("InitSetting of a known key: %q, %v", got, err)
		}
		var wg sync.WaitGroup
		got := make([]string, 8)
		for i := range got {
			wg.Go(func() {
				var err error
				if got[i], err = s.InitSetting(t.Context(), "id", string(rune('a'+i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, g := range got {
			if g != got[0] || g == "" {
				t.Errorf("InitSetting in parallel: %q", got)
			}
		}
	})
}

func TestRaiseClock(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		high := t0
		for _, step := range []time.Duration{0, time.Hour, -24 * time.Hour, time.Microsecond, 0} {
			at := t0.Add(step)
			if at.After(high) {
				high = at
			}
			if got, err := s.RaiseClock(t.Context(), at); !got.Equal(high) || err != nil {
				t.Errorf("T-12 raised to %v: %v, want %v (%v)", at, got, high, err)
			}
		}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if _, err := s.RaiseClock(t.Context(), high.Add(time.Duration(i)*time.Second)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got, err := s.RaiseClock(t.Context(), t0); !got.Equal(high.Add(15*time.Second)) || err != nil {
			t.Errorf("after raising in parallel: %v, %v", got, err)
		}
	})
}

func TestIdempotency(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		request := socketxp.IdempotentRequest{KeyHash: [32]byte{1}, RequestHash: [32]byte{2}, At: t0}
		begin := func(after time.Duration, wantFresh bool, want socketxp.IdempotentRequest) {
			t.Helper()
			r := request
			r.At = t0.Add(after)
			got, fresh, err := s.BeginIdempotent(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if fresh != wantFresh {
				t.Errorf("fresh: %v, want %v", fresh, wantFresh)
			}
			wantEqual(t, got, want)
		}
		var none socketxp.IdempotentRequest
		claimed := func(after time.Duration) socketxp.IdempotentRequest {
			r := request
			r.At = t0.Add(after)
			return r
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		begin(0, true, none)
		begin(time.Second, false, claimed(0))
		must(s.AbandonIdempotent(t.Context(), request.KeyHash))
		begin(2*time.Second, true, none)
		begin(2*time.Second+time.Minute-time.Microsecond, false, claimed(2*time.Second))
		begin(2*time.Second+time.Minute, true, none) // left behind

		done := request
		done.Status, done.Body = 201, []byte("sealed")
		must(s.FinishIdempotent(t.Context(), done))
		done.At = t0.Add(2*time.Second + time.Minute)
		begin(time.Hour, false, done)
		late := request // of the claim that was taken over
		late.Status, late.Body = 500, nil
		must(s.FinishIdempotent(t.Context(), late))
		must(s.AbandonIdempotent(t.Context(), request.KeyHash))
		begin(time.Hour, false, done)

		// The same key with another request is for the caller to see.
		request.RequestHash = [32]byte{3}
		begin(time.Hour, false, done)
		begin(socketxp.IdempotencyLife, false, done)
		begin(socketxp.IdempotencyLife+time.Hour, true, none)

		request.KeyHash = [32]byte{4}
		begin(0, true, none)
		empty := request
		empty.Status = 204
		must(s.FinishIdempotent(t.Context(), empty))
		begin(0, false, empty)
	})
}

func TestIdempotencyInParallel(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		var fresh atomic.Int64
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				_, won, err := s.BeginIdempotent(t.Context(), socketxp.IdempotentRequest{KeyHash: [32]byte{1}, At: t0})
				if err != nil {
					t.Error(err)
				}
				if won {
					fresh.Add(1)
				}
			})
		}
		wg.Wait()
		if fresh.Load() != 1 {
			t.Errorf("%d requests won the same key", fresh.Load())
		}
	})
}

func TestPrune(t *testing.T) {
	const day = 24 * time.Hour
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		device := acme.newDevice("d")
		signIn := acme.newSignIn(acme.owner, acme.id)
		event := acme.newEvent(socketxp.EventDeviceOnline, device.ID)
		over := acme.newSession(device)
		over.EndedAt = t0
		acme.must(s.EndSession(t.Context(), over, acme.entry("session.end")))
		live := acme.newSession(device)
		living := func(life time.Duration) func(*socketxp.Token) {
			return func(tok *socketxp.Token) { tok.ExpiresAt = tok.CreatedAt.Add(life) }
		}
		expiring := acme.newToken(socketxp.TokenAccess, living(day))
		revoked := acme.newToken(socketxp.TokenAPI, living(365*day))
		if _, err := s.RevokeToken(t.Context(), acme.id, revoked.ID, t0, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.BeginIdempotent(t.Context(), socketxp.IdempotentRequest{KeyHash: [32]byte{1}, At: t0}); err != nil {
			t.Fatal(err)
		}
		records := len(acme.chain())

		there := map[string]func() bool{
			"sign-in": func() bool {
				err := s.TouchSignIn(t.Context(), signIn.ID, time.Time{}, false)
				return err == nil
			},
			"event": func() bool {
				events, err := s.Events(t.Context(), acme.id, socketxp.EventQuery{Limit: 1})
				return err == nil && len(events) == 1 && events[0] == event
			},
			"ended session":  func() bool { _, err := s.Session(t.Context(), acme.id, over.ID); return err == nil },
			"live session":   func() bool { _, err := s.Session(t.Context(), acme.id, live.ID); return err == nil },
			"expiring token": func() bool { return acme.token(expiring.ID, errNotFoundIsFine).ID != "" },
			"revoked token":  func() bool { return !acme.token(revoked.ID, errNotFoundIsFine).RevokedAt.IsZero() },
		}
		expiry := revoked.ExpiresAt.Sub(t0)
		for _, c := range []struct {
			after time.Duration
			gone  []string
		}{
			{0, nil},
			{socketxp.SignInIdle - time.Microsecond, nil},
			{socketxp.SignInIdle, []string{"sign-in"}},
			{socketxp.EventLife - time.Microsecond, nil},
			{socketxp.EventLife, []string{"event"}},
			{90 * day, nil},
			{91 * day, []string{"expiring token"}},
			{400*day - time.Microsecond, nil},
			{400 * day, []string{"ended session"}},
			{expiry + 90*day - time.Microsecond, nil}, // revoked 454 days ago, and still known
			{expiry + 90*day, []string{"revoked token"}},
			{10_000 * day, nil}, // a session that goes on stays, and so does the audit
		} {
			acme.must(s.Prune(t.Context(), t0.Add(c.after)))
			for _, name := range c.gone {
				if there[name]() {
					t.Errorf("after %v the %s is there", c.after, name)
				}
				delete(there, name)
			}
			for name, is := range there {
				if !is() {
					t.Errorf("after %v the %s is gone", c.after, name)
					delete(there, name)
				}
			}
		}
		if _, fresh, err := s.BeginIdempotent(t.Context(), socketxp.IdempotentRequest{KeyHash: [32]byte{1}, At: t0}); !fresh || err != nil {
			t.Errorf("the idempotency key is left: %v", err)
		}
		if len(there) != 1 || len(acme.chain()) != records {
			t.Errorf("left: %v, and %d of %d audit records", there, len(acme.chain()), records)
		}
	})
}

// More than one batch goes in one call.
func TestPruneMany(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s := open(t, url)
		acme := newTenant(t, s, "acme")
		mustExec(t, raw(t, url), `INSERT INTO events (id, account_id, at, type, device_id, device_name, object_id, message)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
			SELECT 'e' || CAST(i AS TEXT), $1, i, '', '', '', '', '' FROM n`, acme.id)
		acme.must(s.Prune(t.Context(), t0))
		if events, err := s.Events(t.Context(), acme.id, socketxp.EventQuery{Limit: 200}); len(events) != 0 || err != nil {
			t.Errorf("%d events are left, %v", len(events), err)
		}
	})
}

func TestPing(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		if err := s.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
