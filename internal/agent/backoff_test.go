package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"socketxp"
)

func TestBackoff(t *testing.T) {
	lost := unreachable("https://g", errors.New("refused"))
	var b backoff
	longest := time.Duration(0)
	for i := range 12 {
		bound := min(firstBound<<i, lastBound)
		wait, sooner := b.after(lost, 0)
		if wait < 0 || wait >= bound || !sooner {
			t.Errorf("P-13 try %d: %v, want less than %v", i, wait, bound)
		}
		longest = max(longest, wait)
	}
	if longest < firstBound {
		t.Errorf("the waits don't grow: %v", longest)
	}
	if wait, _ := b.after(lost, steadyAfter+1); wait >= firstBound {
		t.Errorf("after a steady channel it waits %v", wait)
	}
	if wait, _ := b.after(lost, 0); wait >= 2*firstBound {
		t.Errorf("then %v", wait)
	}
	for _, c := range []struct {
		code       socketxp.Code
		retryAfter int
		least      time.Duration
	}{
		{socketxp.CodeDeviceDisabled, 0, 5 * time.Minute},
		{socketxp.CodeQuarantined, 0, 5 * time.Minute},
		{socketxp.CodeKeyRetired, 0, 5 * time.Minute},
		{socketxp.CodeDeviceUnknown, 1, 5 * time.Minute},
		{socketxp.CodeDeviceUnknown, 3600, time.Hour},
		{socketxp.CodeReplaced, 0, time.Minute},
		{socketxp.CodeReplaced, 300, 5 * time.Minute},
		{socketxp.CodeUnavailable, 30, 30 * time.Second},
		{socketxp.CodeGoingAway, 2, 2 * time.Second},
	} {
		var b backoff
		wait, sooner := b.after(refused(c.code, "no", "", c.retryAfter), 0)
		if wait < c.least || wait > c.least+c.least/10+firstBound || sooner {
			t.Errorf("K-08 %s after %d s: %v, sooner %v", c.code, c.retryAfter, wait, sooner)
		}
	}
}

// TestReportPace: a device whose tunnels change all the time reports no more than a
// gateway takes, which would close its channel otherwise.
func TestReportPace(t *testing.T) {
	gateway := rate.NewLimiter(rate.Every(30*time.Second), 20)
	gateway.AllowN(time.Time{}, 10) // other reports, and other processes
	var pace reportPace
	start := time.Unix(0, 0)
	now := start
	for i := range 1000 {
		if !gateway.AllowN(now, 1) {
			t.Fatalf("report %d, after %v, is one too many", i, now.Sub(start))
		}
		now = now.Add(pace.after(now))
		if took := now.Sub(start); i == reportsAtOnce-2 && took > reportsAtOnce*reportEvery {
			t.Errorf("%d changes took %v", reportsAtOnce, took)
		}
	}
	if now = now.Add(time.Hour); pace.after(now) != reportEvery {
		t.Errorf("after an hour the next one waits %v", pace.after(now))
	}
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if !pause(t.Context(), 42*time.Second, true, nil) || time.Since(start) != 42*time.Second {
			t.Errorf("it took %v", time.Since(start))
		}
		start = time.Now()
		kick := make(chan struct{})
		time.AfterFunc(time.Second, func() { kick <- struct{}{} })
		if !pause(t.Context(), time.Hour, false, kick) || time.Since(start) != time.Second {
			t.Errorf("it took %v", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if pause(ctx, time.Hour, true, nil) {
			t.Error("it did not end with its context")
		}
	})
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"plain text, ünïcode":  "plain text, ünïcode",
		"\x1b[31mred":          "?[31mred",
		"two\nlines\r":         "two?lines?",
		"\u202egnihtemos":      "?gnihtemos",
		"zero\u200bwidth":      "zero?width",
		"line\u2028separator":  "line?separator",
		"not \xff UTF-8":       "not ? UTF-8",
		"\u009b31m, a C1 code": "?31m, a C1 code",
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: %q", s, got)
		}
	}
}
