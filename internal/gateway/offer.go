package gateway

import (
	"slices"
	"sync"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/relay"
)

// offers are the tickets that devices may still refuse.
type offers struct {
	g *Gateway

	mu       sync.Mutex // guards the following
	byTicket map[[socketxp.LinkTicketSize]byte]*offer
}

// offer is one device ticket on its way.
type offer struct {
	deviceID    string
	pair        *relay.Pair
	to          holder
	visit, link uint32
	sent        chan struct{} // closed once the visitor has been told its ticket
}

func newOffers(g *Gateway) *offers {
	return &offers{g: g, byTicket: make(map[[socketxp.LinkTicketSize]byte]*offer)}
}

func (f *offers) add(deviceID string, pair *relay.Pair, to holder, visit, link uint32) *offer {
	o := &offer{deviceID: deviceID, pair: pair, to: to, visit: visit, link: link, sent: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byTicket[[socketxp.LinkTicketSize]byte(pair.DeviceTicket())] = o
	return o
}

func (f *offers) remove(pair *relay.Pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byTicket, [socketxp.LinkTicketSize]byte(pair.DeviceTicket()))
}

// refused passes a device's no on to the visitor. A ticket that was not offered to
// this device is ignored: a device can end nobody else's links.
func (f *offers) refused(deviceID string, m control.OfferRefused) {
	if len(m.Ticket) != socketxp.LinkTicketSize {
		return
	}
	key := [socketxp.LinkTicketSize]byte(m.Ticket)
	f.mu.Lock()
	o := f.byTicket[key]
	if o == nil || o.deviceID != deviceID {
		f.mu.Unlock()
		return
	}
	delete(f.byTicket, key)
	f.mu.Unlock()
	o.pair.Cut()
	f.g.stats.refused(doorLink, deviceCode(m.Code))
	f.g.spawn("message", func() {
		<-o.sent
		_ = o.to.tell(control.LinkRefused{Visit: o.visit, Link: o.link, Code: deviceCode(m.Code), Message: "the device refused: " + m.Message})
	})
}

// deviceCode returns the reason that a device gave if it is one that a device can
// know: a visitor acts on codes, and must not be made to believe, say, that its
// token was revoked.
func deviceCode(c socketxp.Code) socketxp.Code {
	if slices.Contains([]socketxp.Code{socketxp.CodeNotPublished, socketxp.CodeDialFailed, socketxp.CodeTooManyLinks, socketxp.CodeGoingAway}, c) {
		return c
	}
	return socketxp.CodeUnavailable
}
