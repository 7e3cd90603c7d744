package agent

import (
	"crypto/tls"

	"socketxp"
)

// verify is the check of a gateway that is known by its key, at every handshake.
func (g *gateway) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return socketxp.ErrWrongGateway
	}
	pin := socketxp.PinOf(state.PeerCertificates[0])
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.known.Trusts(pin) {
		return socketxp.ErrWrongGateway
	}
	g.proved = pin
	return nil
}

// announced takes the keys that the gateway says it will prove from now on, and
// returns how it is known by them. Nil are no news.
func (g *gateway) announced(pins []string) socketxp.GatewayAddress {
	g.mu.Lock()
	defer g.mu.Unlock()
	if pins != nil {
		g.known = g.known.Announced(g.proved, pins)
	}
	return g.known
}

// sameGateway reports whether a and b may be two ways to know one gateway.
func sameGateway(a, b socketxp.GatewayAddress) bool {
	return a.URL == b.URL && (a.Pin == b.Pin || sharePin(a, b))
}

// sharePin reports whether one key would pass for both.
func sharePin(a, b socketxp.GatewayAddress) bool {
	return a.Trusts(b.Pin) || a.Trusts(b.NextPin)
}
