package gateway

import (
	"context"
	"sync"
	"time"

	"socketxp"

	"golang.org/x/time/rate"
)

// presence remembers which devices this gateway holds, writes when they were last
// seen, and tells of their coming and going. A device that comes and goes all the
// time costs one write per 30 s on average: what it does in between is not told,
// what it is in the end is.
type presence struct {
	g *Gateway

	mu      sync.Mutex // guards the following
	devices map[string]*presenceOf
}

// presenceOf is what is known of one device. It is kept for a while after the
// device has gone.
type presenceOf struct {
	accountID, id, name string

	channels int       // open; two for a moment when a newer one takes over
	leftAt   time.Time // of the last one
	told     bool      // online, as the last event said
	events   *rate.Limiter
	reports  *rate.Limiter
}

// A device may do a little at once: a restart, a person at work.
const (
	eventBurst  = 4
	reportBurst = 20
)

func newPresence(g *Gateway) *presence {
	return &presence{g: g, devices: make(map[string]*presenceOf)}
}

// of returns the record of a device. The caller holds mu.
func (p *presence) of(id string) *presenceOf {
	o := p.devices[id]
	if o == nil {
		every := rate.Every(p.g.limits.presenceRate)
		o = &presenceOf{id: id, events: rate.NewLimiter(every, eventBurst), reports: rate.NewLimiter(every, reportBurst)}
		p.devices[id] = o
	}
	return o
}

// mayReport reports whether the device may have another report written.
func (p *presence) mayReport(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(id).reports.Allow()
}

// up says that a control channel of the device was welcomed, and down that it is
// over.
func (p *presence) up(d socketxp.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.of(d.ID)
	o.accountID, o.name = d.AccountID, d.Name
	o.channels++
}

func (p *presence) down(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.of(id)
	o.channels--
	o.leftAt = time.Now()
}

// forget has no event told of a device that was deleted: that says it all.
func (p *presence) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(id).told = false
}

// news returns the events that are due, and forgets devices that have been gone
// for long enough to be new when they come again.
func (p *presence) news() []socketxp.Event {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var due []socketxp.Event
	for id, o := range p.devices {
		online := o.channels > 0
		gone := !online && now.Sub(o.leftAt) >= p.g.limits.offlineAfter
		switch {
		case online && !o.told && o.events.Allow():
			o.told = true
			due = append(due, o.event(socketxp.EventDeviceOnline, "is online"))
		case gone && o.told && o.events.Allow():
			o.told = false
			due = append(due, o.event(socketxp.EventDeviceOffline, "is offline"))
		case gone && !o.told && now.Sub(o.leftAt) > reportBurst*p.g.limits.presenceRate:
			delete(p.devices, id)
		}
	}
	return due
}

func (o *presenceOf) event(t socketxp.EventType, what string) socketxp.Event {
	return socketxp.Event{AccountID: o.accountID, Type: t, DeviceID: o.id, DeviceName: o.name, Message: "the device " + o.name + " " + what}
}

// seen lists the devices that are connected.
func (p *presence) seen(at time.Time) []socketxp.DeviceSeen {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]socketxp.DeviceSeen, 0, len(p.devices))
	for _, o := range p.devices {
		if o.channels > 0 {
			out = append(out, socketxp.DeviceSeen{AccountID: o.accountID, DeviceID: o.id, At: at})
		}
	}
	return out
}

// tell publishes what is due.
func (p *presence) tell(ctx context.Context) {
	for _, e := range p.news() {
		p.g.publishEvent(ctx, e)
	}
}

// touch writes when the connected devices were last seen, 500 at a time: one
// transaction of 10,000 rows would hold up every other writer for too long.
func (p *presence) touch(ctx context.Context) {
	const chunk = 500
	seen := p.seen(p.g.now())
	for len(seen) > 0 {
		n := min(chunk, len(seen))
		if err := p.write(ctx, seen[:n]); err != nil {
			p.g.storeFailed("last-seen times were not stored", err)
			return
		}
		seen = seen[n:]
	}
}

func (p *presence) write(ctx context.Context, seen []socketxp.DeviceSeen) error {
	ctx, cancel := p.g.asked(ctx)
	defer cancel()
	return p.g.store.TouchDevices(ctx, seen)
}
