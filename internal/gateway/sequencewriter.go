package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"socketxp"
)

// sequenceWriter writes moves of many devices in one transaction: when a fleet
// comes back, each device costs a row, and not an fsync.
type sequenceWriter struct {
	store interface {
		MoveSequences(ctx context.Context, moves []socketxp.SequenceMove) ([]bool, error)
	}
	within time.Duration // for one transaction

	wake chan struct{} // holds one token while a move may be waiting

	mu      sync.Mutex // guards the following
	waiting []waitingMove
	ended   bool
}

type waitingMove struct {
	socketxp.SequenceMove
	done chan error // has room for one
}

// maxMoves bounds one transaction, so that no other writer waits for long: 500 rows
// take some 10 ms.
const maxMoves = 500

// moveWithin is how long a move may wait for its turn. A device's first ping is due
// 22 s after its Hello, and until then it has more to wait for.
const moveWithin = 10 * time.Second

// move writes a move and returns when it is durable. It is errBehind if the
// sequence was another one by then. After any other error it may have been written.
func (s *sequenceWriter) move(ctx context.Context, m socketxp.SequenceMove) error {
	w := waitingMove{m, make(chan error, 1)}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return unavailable(errors.New("the gateway is ending"))
	}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	ring(s.wake)

	patience := time.NewTimer(moveWithin)
	defer patience.Stop()
	select {
	case err := <-w.done:
		return err
	case <-patience.C:
		return unavailable(errors.New("too many sequences are waiting to be moved"))
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

// run writes moves until ctx is done: while one transaction is being made durable,
// those that come gather for the next.
func (s *sequenceWriter) run(ctx context.Context) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			s.end()
			return
		}
		for {
			batch := s.take()
			if len(batch) == 0 {
				break
			}
			s.write(ctx, batch)
		}
	}
}

func (s *sequenceWriter) take() []waitingMove {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), maxMoves)
	batch := s.waiting[:n:n]
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil // gives the memory of a storm back
	}
	return batch
}

func (s *sequenceWriter) write(ctx context.Context, batch []waitingMove) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.within)
	defer cancel()
	moves := make([]socketxp.SequenceMove, len(batch))
	for i, w := range batch {
		moves[i] = w.SequenceMove
	}
	moved, err := s.store.MoveSequences(ctx, moves)
	for i, w := range batch {
		switch {
		case err != nil:
			w.done <- unavailable(err)
		case !moved[i]:
			w.done <- errBehind
		default:
			w.done <- nil
		}
	}
}

// end refuses what waits, and what comes.
func (s *sequenceWriter) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, w := range s.waiting {
		w.done <- unavailable(errors.New("the gateway is ending"))
	}
	s.waiting = nil
}
