package agent

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon is for what takes well under a second unless the machine is very busy, and
// for waits between tries, which take a few.
const soon = time.Minute

// until polls until ok returns nil.
func until(t *testing.T, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", soon, err)
		}
		sleep(t.Context(), 10*time.Millisecond)
	}
}

var errNotYet = errors.New("not yet")

// yes is until for a condition.
func yes(ok bool) error {
	if ok {
		return nil
	}
	return errNotYet
}

// await returns what c gives.
func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(soon):
		t.Fatalf("nothing came within %v", soon)
		panic("unreachable")
	}
}
