package api

import (
	"time"

	"socketxp"
)

// DeviceStatus is what a list shows of a device at a glance.
type DeviceStatus string

// The statuses.
const (
	DeviceOnline      DeviceStatus = "online"
	DeviceOffline     DeviceStatus = "offline"
	DeviceDisabled    DeviceStatus = "disabled"
	DeviceQuarantined DeviceStatus = "quarantined"
)

// Device is a registered machine. What its agent says of it (from os to
// local_addrs) is unchecked text.
type Device struct {
	ID               string       `json:"id"`
	Name             string       `json:"name"`
	DisplayName      string       `json:"display_name"`
	Group            string       `json:"group"`
	Status           DeviceStatus `json:"status" enum:"online,offline,disabled,quarantined"`
	Online           bool         `json:"online" doc:"its control channel is open"`
	KeySince         time.Time    `json:"key_since" doc:"when it got its key"`
	Fingerprint      string       `json:"fingerprint" doc:"of its key, as ssh shows keys"`
	CreatedAt        time.Time    `json:"created_at"`
	CreatedBy        string       `json:"created_by" doc:"user id"`
	TokenID          string       `json:"token_id,omitempty" doc:"the token that registered it; missing if it was pre-registered"`
	DisabledAt       *time.Time   `json:"disabled_at,omitempty"`
	QuarantinedAt    *time.Time   `json:"quarantined_at,omitempty" doc:"since when it is in quarantine: two machines use its key"`
	QuarantineReason string       `json:"quarantine_reason,omitempty"`
	LastSeenAt       *time.Time   `json:"last_seen_at,omitempty"`
	RemoteAddr       string       `json:"remote_addr,omitempty" doc:"from where it last connected"`
	OS               string       `json:"os,omitempty"`
	Arch             string       `json:"arch,omitempty"`
	Kernel           string       `json:"kernel,omitempty"`
	Hostname         string       `json:"hostname,omitempty"`
	Version          string       `json:"version,omitempty" doc:"of its agent"`
	LocalAddrs       []string     `json:"local_addrs,omitempty"`
	SSHHostKey       string       `json:"ssh_host_key,omitempty" doc:"of the agent's built-in SSH server"`
	Tunnels          []Tunnel     `json:"tunnels" nullable:"false" doc:"what it publishes, as last reported"`
}

// Tunnel is a destination that a device publishes.
type Tunnel struct {
	Destination string `json:"destination" example:"tcp://localhost:22"`
	SSH         bool   `json:"ssh" doc:"connections end in the agent's built-in SSH server"`
}

// DeviceTunnel is a tunnel with the device that publishes it.
type DeviceTunnel struct {
	DeviceID   string `json:"device_id"`
	DeviceName string `json:"device_name"`
	Tunnel
}

// DevicePage is one page of devices.
type DevicePage struct {
	Items       []Device `json:"items" nullable:"false"`
	Total       int      `json:"total" doc:"devices on all pages"`
	TotalOrMore bool     `json:"total_or_more,omitempty" doc:"there are more than total: those of a search, those that are online or offline, and those of a group and a version are counted to 1000"`
	NextCursor  string   `json:"next_cursor,omitempty" doc:"gets the next page as cursor; missing on the last one"`
}

// PreRegisterRequest registers a device ahead of time.
type PreRegisterRequest struct {
	Name        string `json:"name" maxLength:"200" example:"meter-0001"`
	DisplayName string `json:"display_name,omitempty" maxLength:"128"`
	Group       string `json:"group,omitempty" doc:"default if left out" maxLength:"200"`
}

// PreRegistered is a device with its key.
type PreRegistered struct {
	Device
	DeviceKey DeviceKey `json:"device_key" doc:"the content of the device's device.key. It is answered this once: the gateway keeps the public half alone"`
}

// DeviceKey is the content of a device.key file.
type DeviceKey struct {
	DeviceID    string `json:"DeviceId"`
	DeviceKey   string `json:"DeviceKey" doc:"base64url of the Ed25519 seed: a secret"`
	DeviceName  string `json:"DeviceName"`
	DeviceGroup string `json:"DeviceGroup"`
	Gateway     string `json:"Gateway"`
	GatewayPin  string `json:"GatewayPin"`
	// GatewayNextPin is there while the gateway is about to change its key.
	GatewayNextPin string `json:"GatewayNextPin,omitempty"`
}

// UpdateDeviceRequest changes what is set.
type UpdateDeviceRequest struct {
	Name        *string `json:"name,omitempty" maxLength:"200"`
	DisplayName *string `json:"display_name,omitempty" doc:"free text; may be empty" maxLength:"512"`
	Group       *string `json:"group,omitempty" doc:"made if it is new" maxLength:"200"`
}

// Group is a label that devices share.
type Group struct {
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Devices   int       `json:"devices" doc:"how many are in it"`
}

// GroupRequest makes or renames a group.
type GroupRequest struct {
	Name string `json:"name" maxLength:"200" example:"temp-sensor"`
}

// NewDevice returns d for clients.
func NewDevice(d socketxp.Device, online bool) Device {
	status := DeviceOffline
	switch {
	case !d.DisabledAt.IsZero():
		status = DeviceDisabled
	case !d.QuarantinedAt.IsZero():
		status = DeviceQuarantined
	case online:
		status = DeviceOnline
	}
	out := Device{
		ID: d.ID, Name: d.Name, DisplayName: d.DisplayName, Group: d.Group, Status: status, Online: online,
		Fingerprint: socketxp.Fingerprint(d.PublicKey), KeySince: d.KeySince, CreatedAt: d.CreatedAt, CreatedBy: d.CreatedBy, TokenID: d.TokenID,
		DisabledAt: timeOf(d.DisabledAt), QuarantinedAt: timeOf(d.QuarantinedAt), QuarantineReason: d.QuarantineReason, LastSeenAt: timeOf(d.LastSeenAt), RemoteAddr: d.RemoteAddr,
		OS: d.Facts.OS, Arch: d.Facts.Arch, Kernel: d.Facts.Kernel, Hostname: d.Facts.Hostname, Version: d.Facts.Version,
		LocalAddrs: d.Facts.LocalAddrs, SSHHostKey: d.SSHHostKey, Tunnels: make([]Tunnel, 0, len(d.Tunnels)),
	}
	for _, t := range d.Tunnels {
		out.Tunnels = append(out.Tunnels, NewTunnel(t))
	}
	return out
}

// NewTunnel returns t for clients.
func NewTunnel(t socketxp.Tunnel) Tunnel {
	return Tunnel{Destination: t.Destination.String(), SSH: t.SSH}
}
