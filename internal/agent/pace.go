package agent

import (
	"net"
	"sync"

	"socketxp/internal/control"
)

// maxPaces is how many networks are remembered; a laptop comes by a few a day.
const maxPaces = 64

// paces is what the agent knows of the networks it was in, for as long as the
// process lives: to learn one anew costs one channel at most. The zero value knows
// nothing.
type paces struct {
	mu        sync.Mutex // guards the following
	byNetwork map[string]*control.Pace
}

// of returns the pace of the network that conn goes through. Networks are told
// apart by this machine's address in them and the gateway's.
func (p *paces) of(conn net.Conn) *control.Pace {
	key := hostOf(conn.LocalAddr()) + " " + hostOf(conn.RemoteAddr())
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.byNetwork[key]
	if known == nil {
		if p.byNetwork == nil || len(p.byNetwork) >= maxPaces {
			p.byNetwork = make(map[string]*control.Pace)
		}
		known = new(control.Pace)
		p.byNetwork[key] = known
	}
	return known
}

func hostOf(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
