package relay

import (
	"crypto/sha256"
	"net"
	"sync/atomic"
	"time"

	"socketxp/internal/link"
)

// side is an end of a pair.
type side int

const (
	visitor side = iota
	device
)

func (s side) other() side { return 1 - s }

// checkEvery is how often a joined pair is looked at for a peer that has gone
// without a word.
const checkEvery = 10 * time.Second

// Pair is one link as the gateway sees it: two tickets, then two connections.
type Pair struct {
	relay   *Relay
	tickets [2][]byte
	moved   [2]atomic.Int64 // by the side that sent it
	joined  chan struct{}
	ended   chan struct{} // closed when no connection of the pair is open any more
	done    chan struct{}

	// Guarded by relay.mu.
	conns   [2]net.Conn
	copying int // directions that still copy
	over    bool
	timer   *time.Timer

	// expired says that Wait passed before both had come; it is written before done
	// is closed and read after.
	expired bool
}

// VisitorTicket and DeviceTicket are secrets for the two ends.
func (p *Pair) VisitorTicket() []byte { return p.tickets[visitor] }

// DeviceTicket is the device's half.
func (p *Pair) DeviceTicket() []byte { return p.tickets[device] }

// Joined is closed when both halves have met; Done when the pair is over,
// whether or not they ever met.
func (p *Pair) Joined() <-chan struct{} { return p.joined }

// Done is closed when the pair is over.
func (p *Pair) Done() <-chan struct{} { return p.done }

// Bytes returns how much went from visitor to device and back so far. It is
// exact once Done is closed.
func (p *Pair) Bytes() (up, down int64) { return p.moved[visitor].Load(), p.moved[device].Load() }

// Cut ends the pair now: waiting halves and joined connections are closed (with a
// TCP reset where there are connections) before it returns. No byte crosses after.
func (p *Pair) Cut() {
	p.end(true, false)
	<-p.ended
}

func (p *Pair) expire() { p.end(true, true) }

// end closes the pair's connections, with a reset if something of theirs was
// cut off. Only the first call has an effect.
func (p *Pair) end(reset, expired bool) {
	r := p.relay
	r.mu.Lock()
	if p.over || expired && p.copying > 0 {
		r.mu.Unlock()
		return
	}
	p.over = true
	p.timer.Stop()
	for _, ticket := range p.tickets {
		delete(r.halves, sha256.Sum256(ticket))
	}
	met := p.conns[visitor] != nil && p.conns[device] != nil
	r.mu.Unlock()

	for _, conn := range p.conns { // nobody writes conns after over
		if conn == nil {
			continue
		}
		if l, ok := conn.(interface{ SetLinger(sec int) error }); ok && reset {
			_ = l.SetLinger(0)
		}
		_ = conn.Close()
	}
	close(p.ended)
	if !met {
		p.expired = expired
		p.finish(false)
	}
}

// copy moves what side's connection says to the other one, until it says no more
// or the pair ends. Each side's Join calls it for its own direction.
func (p *Pair) copy(from side) {
	src, dst := p.conns[from], p.conns[from.other()]
	whole := false
	defer func() { p.copied(whole) }() // also of a copy that panics
	if p.relay.move(dst, src, &p.moved[from]) == nil {
		whole = closeWrite(dst) == nil
	}
}

// copied says that a direction copies no more, because its end was passed on or
// because it was cut off.
func (p *Pair) copied(whole bool) {
	if !whole {
		// A reset on one side is a reset on the other. After a Cut this is how the
		// copies end.
		p.end(true, false)
	}

	p.relay.mu.Lock()
	p.copying--
	last := p.copying == 0
	p.relay.mu.Unlock()
	if last {
		p.end(false, false)
		<-p.ended
		p.finish(true)
	}
}

// finish takes the pair off the relay's books, when nothing of it runs any more.
func (p *Pair) finish(met bool) {
	r := p.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pairs, p)
	if met {
		r.joined--
	}
	close(p.done)
	if r.closing && len(r.pairs) == 0 {
		close(r.empty)
	}
}

// check resets the pair if a peer is dead that TCP itself would still wait for.
func (p *Pair) check() {
	for s, conn := range p.conns { // nobody writes conns after both have come
		if why := link.Dead(conn); why != nil {
			p.relay.options.Log.Info("a link was cut", "side", side(s).String(), "remote", conn.RemoteAddr().String(), "error", why)
			p.end(true, false)
			return
		}
	}
	p.relay.mu.Lock()
	defer p.relay.mu.Unlock()
	if !p.over {
		p.timer.Reset(checkEvery)
	}
}

// String names the side in the log.
func (s side) String() string {
	if s == visitor {
		return "visitor"
	}
	return "device"
}
