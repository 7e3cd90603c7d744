// Package cluster knows which gateway holds a device's control channel and
// carries hints between gateways. Local is the cluster of one gateway, all within
// the process. DESIGN.md says what any other implementation has to keep.
package cluster

import (
	"context"
	"maps"
	"slices"
	"sync"

	"socketxp"
)

var _ socketxp.Cluster = (*Local)(nil)

// maxBehind is how many hints a subscriber may be behind: at 100 bytes each that
// is 100 KiB, and asking the database for everything is cheaper than reading more.
const maxBehind = 1024

// Local is the cluster of a gateway that is alone. It is safe for concurrent use.
// It has no goroutines but one for each subscription, which ends with it.
type Local struct {
	mu      sync.RWMutex // guards the following; nothing of a caller's runs under it
	holders map[string]*holding
	subs    map[*subscription]struct{}
}

// holding is one Hold. Its address tells it from another Hold by the same holder.
type holding struct{ holder socketxp.DeviceHolder }

// NewLocal returns a cluster that holds no device.
func NewLocal() *Local {
	return &Local{holders: make(map[string]*holding), subs: make(map[*subscription]struct{})}
}

// Hold implements socketxp.Cluster. The holder of before is superseded before
// Hold returns, and gets no offer any more.
func (l *Local) Hold(ctx context.Context, deviceID string, h socketxp.DeviceHolder) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	mine := &holding{holder: h}
	l.mu.Lock()
	old := l.holders[deviceID]
	l.holders[deviceID] = mine
	l.mu.Unlock()
	if old != nil {
		old.holder.Supersede()
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.holders[deviceID] == mine {
			delete(l.holders, deviceID)
		}
	}, nil
}

// Online implements socketxp.Cluster.
func (l *Local) Online(ctx context.Context, deviceID string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.holders[deviceID] != nil, nil
}

// OnlineDevices implements socketxp.Cluster. The set is the one of each moment: a copy
// of 100,000 devices would take longer than what it is wanted for.
func (l *Local) OnlineDevices(ctx context.Context) (socketxp.DeviceSet, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return held{l}, nil
}

// held are the devices that a Local holds.
type held struct{ in *Local }

func (h held) Len() int {
	h.in.mu.RLock()
	defer h.in.mu.RUnlock()
	return len(h.in.holders)
}

func (h held) Has(id string) bool {
	h.in.mu.RLock()
	defer h.in.mu.RUnlock()
	return h.in.holders[id] != nil
}

func (h held) IDs() []string {
	h.in.mu.RLock()
	defer h.in.mu.RUnlock()
	return slices.AppendSeq(make([]string, 0, len(h.in.holders)), maps.Keys(h.in.holders))
}

// Offer implements socketxp.Cluster.
func (l *Local) Offer(ctx context.Context, o socketxp.Offer) error {
	h, err := l.holder(ctx, o.DeviceID)
	if err != nil {
		return err
	}
	return h.Offer(ctx, o)
}

// PlaceKey implements socketxp.Cluster.
func (l *Local) PlaceKey(ctx context.Context, k socketxp.SingleUseKey) (user string, err error) {
	h, err := l.holder(ctx, k.DeviceID)
	if err != nil {
		return "", err
	}
	return h.PlaceKey(ctx, k)
}

// RemoveKey implements socketxp.Cluster.
func (l *Local) RemoveKey(ctx context.Context, deviceID, keyID string) error {
	h, err := l.holder(ctx, deviceID)
	if err != nil {
		return err
	}
	return h.RemoveKey(ctx, keyID)
}

func (l *Local) holder(ctx context.Context, deviceID string) (socketxp.DeviceHolder, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	held := l.holders[deviceID]
	if held == nil {
		return nil, socketxp.ErrDeviceOffline
	}
	return held.holder, nil
}

// Publish implements socketxp.Cluster.
func (l *Local) Publish(h socketxp.Hint) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for s := range l.subs {
		s.add(h)
	}
}

// Subscribe implements socketxp.Cluster. Cancel does not wait, so that fn itself
// may cancel: one call that was on its way can still run after it.
func (l *Local) Subscribe(fn func(socketxp.Hint)) (cancel func()) {
	s := &subscription{wake: make(chan struct{}, 1)}
	l.mu.Lock()
	l.subs[s] = struct{}{}
	l.mu.Unlock()
	go s.run(fn)
	return func() {
		l.mu.Lock()
		delete(l.subs, s)
		l.mu.Unlock()
		s.cancel()
	}
}

// subscription is the queue of one subscriber.
type subscription struct {
	wake chan struct{} // holds one token while there may be something to do

	mu    sync.Mutex // guards the following; taken under Local.mu, never the other way round
	queue []socketxp.Hint
	ended bool
}

// run calls fn until the subscription ends.
func (s *subscription) run(fn func(socketxp.Hint)) {
	for range s.wake {
		for {
			h, some, ended := s.next()
			if ended {
				return
			}
			if !some {
				break
			}
			fn(h)
		}
	}
}

func (s *subscription) next() (h socketxp.Hint, some, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.queue) == 0 {
		return socketxp.Hint{}, false, s.ended
	}
	h, s.queue = s.queue[0], s.queue[1:]
	return h, true, false
}

// add queues h. A queue that is full is replaced by the hint that says so.
func (s *subscription) add(h socketxp.Hint) {
	s.mu.Lock()
	if len(s.queue) == maxBehind {
		s.queue = append(s.queue[:0], socketxp.Hint{})
	} else {
		s.queue = append(s.queue, h)
	}
	s.mu.Unlock()
	s.signal()
}

func (s *subscription) cancel() {
	s.mu.Lock()
	s.ended, s.queue = true, nil
	s.mu.Unlock()
	s.signal()
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}
