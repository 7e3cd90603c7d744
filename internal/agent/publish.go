package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"socketxp"
	"socketxp/internal/control"
)

// Tunnel is a destination that a device publishes, as its own configuration says.
type Tunnel struct {
	Destination socketxp.Destination
	// SSH ends connections in the built-in SSH server, where Users may log in (none
	// means the user the agent runs as) and do what Policy says.
	SSH    bool
	Users  []string
	Policy SSHPolicy
	// SingleUseKeys lets the gateway in to the sshd that the tunnel leads to, as one of
	// Users, by keys that this device places for one sign-in each.
	SingleUseKeys bool
}

// Check returns an error if the built-in SSH server is asked for under a destination
// that is not this machine, or with a policy that is not valid, or single-use keys where
// there can be none.
func (t Tunnel) Check() error {
	if t.SingleUseKeys && !t.mayHaveKeys() {
		return hinted("they are for the sshd of this machine, published as tcp://localhost:22", "there are no single-use keys for %s", t.Destination)
	}
	if !t.SSH {
		return nil
	}
	if !onThisMachine(t.Destination.Host) || t.Destination.Scheme != "tcp" {
		return hinted("publish it as tcp://localhost:22", "the built-in SSH server is not at %s", t.Destination)
	}
	return t.Policy.Check()
}

// mayHaveKeys reports whether an sshd of this machine may be where the tunnel leads.
func (t Tunnel) mayHaveKeys() bool {
	return !t.SSH && t.Destination.Scheme == "tcp" && onThisMachine(t.Destination.Host)
}

// onThisMachine reports whether a host is this machine by its name or address.
func onThisMachine(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// publications are the tunnels that a device opens, and nothing else. A tunnel
// may be published by several commands; it is one as long as they agree on it.
type publications struct {
	newSSH func(Tunnel) (*SSHServer, error)

	mu   sync.Mutex // guards the following
	open map[string]*publication
	// changed is closed, and replaced, at each change of open.
	changed chan struct{}
}

// publication is one published tunnel.
type publication struct {
	Tunnel
	ssh    *SSHServer // nil unless SSH
	ctx    context.Context
	end    context.CancelFunc // ends the links to it
	owners int
	links  int
}

func newPublications(newSSH func(Tunnel) (*SSHServer, error)) *publications {
	return &publications{newSSH: newSSH, open: make(map[string]*publication), changed: make(chan struct{})}
}

// add publishes tunnels until remove is called or ctx ends, all of them or none.
func (p *publications) add(ctx context.Context, tunnels []Tunnel) (remove func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var added []string
	remove = sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.drop(added)
	})
	for _, t := range tunnels {
		name := t.Destination.String()
		if err := p.join(ctx, name, t); err != nil {
			p.drop(added)
			return nil, err
		}
		added = append(added, name)
	}
	p.change()
	return remove, nil
}

// join adds one owner to a tunnel. The caller holds mu.
func (p *publications) join(ctx context.Context, name string, t Tunnel) error {
	if known := p.open[name]; known != nil {
		if known.SSH != t.SSH || known.SingleUseKeys != t.SingleUseKeys || !slices.Equal(known.Users, t.Users) || !known.Policy.equal(t.Policy) {
			return hinted("end the other command first", "%s is published already, with other settings", name)
		}
		known.owners++
		return nil
	}
	if len(p.open) >= socketxp.MaxTunnels {
		return hinted("", "a device can't publish more than %d tunnels", socketxp.MaxTunnels)
	}
	if err := t.Check(); err != nil {
		return err
	}
	new := &publication{Tunnel: t, owners: 1}
	if t.SSH {
		var err error
		if new.ssh, err = p.newSSH(t); err != nil {
			return err
		}
	}
	new.ctx, new.end = context.WithCancel(ctx)
	p.open[name] = new
	return nil
}

// drop takes one owner from each tunnel. The caller holds mu.
func (p *publications) drop(names []string) {
	for _, name := range names {
		known := p.open[name]
		if known.owners--; known.owners == 0 {
			known.end()
			delete(p.open, name)
		}
	}
	p.change()
}

// change wakes whoever waits for a change. The caller holds mu.
func (p *publications) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// find returns the tunnel whose canonical destination is just this text.
func (p *publications) find(destination string) *publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[destination]
}

// leadingTo returns a tunnel that leads to a host and port, or nil. The names of
// this machine are as good as each other: a client asks for localhost where
// 127.0.0.1 is published. Those that end in the built-in SSH server lead nowhere.
func (p *publications) leadingTo(host string, port int) *publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	var alike *publication
	for _, name := range slices.Sorted(maps.Keys(p.open)) {
		t := p.open[name]
		switch {
		case t.SSH || t.Destination.Port != port:
		case t.Destination.Host == host:
			return t
		case alike == nil && onThisMachine(t.Destination.Host) && onThisMachine(host):
			alike = t
		}
	}
	return alike
}

// report returns what is published, and a channel that is closed when that has
// changed.
func (p *publications) report(version string) (control.Report, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := control.Report{Facts: facts(version), Tunnels: make([]control.ReportTunnel, 0, len(p.open))}
	for name, t := range p.open {
		r.Tunnels = append(r.Tunnels, control.ReportTunnel{Destination: name, SSH: t.SSH})
		if t.ssh != nil {
			r.SSHHostKey = t.ssh.HostKey() // of all the servers: they share the file
		}
	}
	slices.SortFunc(r.Tunnels, func(a, b control.ReportTunnel) int { return strings.Compare(a.Destination, b.Destination) })
	return r, p.changed
}

// count adds n to the number of open links of a tunnel.
func (p *publications) count(t *publication, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.links += n
}

// list returns the tunnels in the order of their destinations.
func (p *publications) list() []TunnelStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]TunnelStatus, 0, len(p.open))
	for name, t := range p.open {
		out = append(out, TunnelStatus{Destination: name, SSH: t.SSH, Users: t.Users, Links: t.links})
	}
	slices.SortFunc(out, func(a, b TunnelStatus) int { return strings.Compare(a.Destination, b.Destination) })
	return out
}
