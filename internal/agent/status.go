package agent

import (
	"context"
	"errors"
	"time"
)

// Status is what `socketxp status` says of a registered device.
type Status struct {
	DeviceID    string `json:"device_id"`
	DeviceName  string `json:"device_name"`
	DeviceGroup string `json:"device_group"`
	Fingerprint string `json:"fingerprint"` // of the device's public key
	Gateway     string `json:"gateway"`
	// Door and LinkDoor are how the agent reaches the gateway: "direct" or "websocket";
	// empty while it has not. Proxy is the one between, without user and password.
	Door      string `json:"door,omitempty"`
	LinkDoor  string `json:"link_door,omitempty"`
	Proxy     string `json:"proxy,omitempty"`
	Running   bool   `json:"running"` // an agent runs in the work folder
	Connected bool   `json:"connected"`
	// Since is when the agent was connected, or lost the gateway.
	Since     time.Time      `json:"since,omitzero"`
	LastError string         `json:"last_error,omitempty"`
	Version   string         `json:"version,omitempty"` // of the agent that runs
	Tunnels   []TunnelStatus `json:"tunnels"`
}

// TunnelStatus is a tunnel that is published.
type TunnelStatus struct {
	Destination string   `json:"destination"`
	SSH         bool     `json:"ssh"`
	Users       []string `json:"ssh_users,omitempty"`
	Links       int      `json:"links"` // open now
}

func newStatus(k DeviceKey) Status {
	return Status{
		DeviceID: k.ID, DeviceName: k.Name, DeviceGroup: k.Group, Fingerprint: k.Fingerprint(), Gateway: k.Gateway.URL,
		Tunnels: []TunnelStatus{},
	}
}

// status is the running agent's.
func (d *device) status() Status {
	tunnels := d.tunnels.list()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := newStatus(d.key)
	s.Running, s.Connected, s.Since = true, d.now.channel != nil, d.now.since.UTC().Truncate(time.Second)
	s.Version, s.Tunnels = d.version, tunnels
	s.Door, s.LinkDoor = d.gateway.ways.shown(errandTLS), d.gateway.ways.shown(errandLink)
	if d.gateway.proxy != nil {
		s.Proxy = d.gateway.proxy.String()
	}
	if d.now.trouble != nil {
		s.LastError = Printable(d.now.trouble.Error())
	}
	return s
}

// GetStatus asks the agent that runs in the folder; without one, the device key
// says what there is to say. It is a *NotRegisteredError without a key.
func GetStatus(ctx context.Context, dir *Dir) (Status, error) {
	key, err := dir.Key()
	if err != nil {
		return Status{}, err
	}
	reply, err := dir.askOnce(ctx, localRequest{Op: opStatus})
	switch {
	case errors.Is(err, errNoAgent):
		return newStatus(key), nil
	case err != nil:
		return Status{}, err
	case reply.Status == nil:
		return Status{}, errors.New("the agent that runs gave no answer")
	}
	return *reply.Status, nil
}

// NoAgent is the error of a command that needs the agent to run.
func NoAgent(dir *Dir) error {
	return hinted("socketxp connect or socketxp --config starts one", "no agent runs in %s", dir.Path())
}
