package control

import (
	"time"

	"socketxp"
)

// Role is what an agent is on its control channel.
type Role string

// The roles.
const (
	RoleDevice  Role = "device"
	RoleVisitor Role = "visitor"
)

// Message is one of the message types below, by value.
type Message interface {
	// check returns an error unless every field is within its bounds in SPEC.md.
	check() error
}

// Hello is the first message of an agent.
type Hello struct {
	Version int    `json:"version"` // of the protocol
	Role    Role   `json:"role"`
	Agent   string `json:"agent"` // version of the program
}

// Report follows a device's Hello, and again when something in it changed.
type Report struct {
	Facts      socketxp.Facts `json:"facts"`
	SSHHostKey string         `json:"ssh_host_key,omitempty"`
	Tunnels    []ReportTunnel `json:"tunnels"`
	// GatewayKnownBy says what the device verifies the gateway by, as
	// socketxp.GatewayAddress.KnownBy; "" does not say.
	GatewayKnownBy string `json:"gateway_known_by,omitempty"`
	// Sequence is the value of the device's sequence that it holds; nil for none. Only
	// the first Report of a channel is asked for it.
	Sequence []byte `json:"sequence,omitempty"`
}

// ReportTunnel is a tunnel in its wire form.
type ReportTunnel struct {
	Destination string `json:"destination"`
	SSH         bool   `json:"ssh,omitempty"`
}

// SequenceNext answers a device's first Report: the value to hold from now on. The
// device writes it down, durably, and then says so.
type SequenceNext struct {
	Next []byte `json:"next"`
}

// SequenceKept says that the device holds the value.
type SequenceKept struct {
	Next []byte `json:"next"`
}

// SequenceCheck answers a device's first Report that shows a value which the one
// device can't hold: if somebody is there who holds it, let them say so.
type SequenceCheck struct {
	Nonce []byte `json:"nonce"`
}

// SequenceHeld says that an agent is there, on this channel, and holds the value of
// its Report.
type SequenceHeld struct {
	Nonce []byte `json:"nonce"`
}

// Welcome answers a device's SequenceKept, or a visitor's Hello.
type Welcome struct {
	Version     int    `json:"version"`
	Gateway     string `json:"gateway"` // version of the program
	DeviceID    string `json:"device_id,omitempty"`
	DeviceName  string `json:"device_name,omitempty"`
	DeviceGroup string `json:"device_group,omitempty"`
	// Heartbeat is how many seconds an idle agent may be silent; 0 for
	// DefaultHeartbeat.
	Heartbeat int `json:"heartbeat,omitempty"`
	// GatewayPins are as in GatewayKeys.
	GatewayPins []string `json:"gateway_pins,omitempty"`
	// Nonce is what a KeyChange on this channel is signed with; of a device alone.
	Nonce []byte `json:"nonce,omitempty"`
}

// GatewayKeys says which keys the gateway may prove from now on: that of today and,
// if it is about to change it, the next.
type GatewayKeys struct {
	Pins []string `json:"pins"` // socketxp.PinOf; one or two
}

// KeyDue asks a device to change its key when it can.
type KeyDue struct{}

// KeyChange tells the gateway the key that a device will have next. Both keys sign.
type KeyChange struct {
	Next []byte `json:"next"`
	// Proof is the next key's signature over socketxp.KeyChangeProof with the Welcome's
	// nonce: the device has the key, now and on this channel.
	Proof []byte `json:"proof"`
	// Vouch is the current key's over socketxp.KeyVouch: for visitors who know that one.
	Vouch []byte `json:"vouch"`
}

// KeyStaged says that the gateway lets the device in with its next key, too; the
// first time that it does, the current one ends.
type KeyStaged struct {
	Next []byte `json:"next"`
}

// KeyRefused is the gateway's no to a KeyChange. The current key stays.
type KeyRefused struct {
	Code    socketxp.Code `json:"code"`
	Message string        `json:"message"`
	Hint    string        `json:"hint,omitempty"`
}

// PlaceKey asks a device to have the sshd at Destination take a key for one sign-in.
// The private half is in the gateway's memory alone.
type PlaceKey struct {
	ID          string `json:"id"`
	Destination string `json:"destination"`
	User        string `json:"user,omitempty"` // "" for the first of those whom the device allows
	PublicKey   []byte `json:"public_key"`     // Ed25519
	Life        int    `json:"life"`           // seconds until the device takes it away by itself
}

// KeyPlaced says that the key of a PlaceKey is good now, for User.
type KeyPlaced struct {
	ID   string `json:"id"`
	User string `json:"user"`
}

// KeyNotPlaced is a device's no to a PlaceKey.
type KeyNotPlaced struct {
	ID      string        `json:"id"`
	Code    socketxp.Code `json:"code"`
	Message string        `json:"message"`
	Hint    string        `json:"hint,omitempty"`
}

// RemoveKey says that the key of a PlaceKey is not needed any more.
type RemoveKey struct {
	ID string `json:"id"`
}

// KeyRemoved answers RemoveKey: the key is not in the user's file.
type KeyRemoved struct {
	ID string `json:"id"`
}

// Refused says why the gateway ends the channel; nothing follows it.
type Refused struct {
	Code       socketxp.Code `json:"code"`
	Message    string        `json:"message"`
	Hint       string        `json:"hint,omitempty"`
	RetryAfter int           `json:"retry_after,omitempty"` // seconds before trying again
}

// GoAway says that the gateway will close the channel soon: open another one
// after RetryAfter seconds (spread by the agent's own jitter).
type GoAway struct {
	Message    string `json:"message"`
	RetryAfter int    `json:"retry_after,omitempty"`
}

// Offer asks a device to dial the link door (see socketxp.Offer).
type Offer struct {
	SessionID   string `json:"session_id"`
	Ticket      []byte `json:"ticket"`
	VisitorKey  []byte `json:"visitor_key"`
	Destination string `json:"destination"`
}

// OfferRefused is a device's no to an Offer.
type OfferRefused struct {
	Ticket  []byte        `json:"ticket"`
	Code    socketxp.Code `json:"code"`
	Message string        `json:"message"`
}

// Logout asks the gateway to forget the device.
type Logout struct{}

// LoggedOut answers Logout: the device is forgotten, and nothing follows.
type LoggedOut struct{}

// Visit asks for access to a device's tunnel. Visit numbers are chosen by the
// visitor and unique on the channel.
type Visit struct {
	Visit      uint32 `json:"visit"`
	Token      string `json:"token"`
	DeviceID   string `json:"device_id,omitempty"`
	DeviceName string `json:"device_name,omitempty"`
	Host       string `json:"host,omitempty"`
	Port       int    `json:"port"`
}

// Granted says yes to a Visit.
type Granted struct {
	Visit      uint32 `json:"visit"`
	SessionID  string `json:"session_id"`
	DeviceID   string `json:"device_id"`
	DeviceName string `json:"device_name"`
	DeviceKey  []byte `json:"device_key"` // Ed25519
	// Vouchers are the keys that the device had before, oldest first: each vouches for
	// the next one, the last for DeviceKey.
	Vouchers    []Voucher `json:"vouchers,omitempty"`
	SSHHostKey  string    `json:"ssh_host_key,omitempty"`
	Destination string    `json:"destination"`
	SSH         bool      `json:"ssh,omitempty"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// Voucher is a socketxp.KeyVoucher in its wire form.
type Voucher struct {
	Key   []byte `json:"key"`
	Vouch []byte `json:"vouch"`
}

// Ended says no to a Visit, or that a granted one is over.
type Ended struct {
	Visit   uint32        `json:"visit"`
	Code    socketxp.Code `json:"code"`
	Message string        `json:"message"`
	Hint    string        `json:"hint,omitempty"`
}

// Leave says that the visitor ends a visit.
type Leave struct {
	Visit uint32 `json:"visit"`
}

// LinkRequest asks for a ticket for one more link of a visit. Link numbers are
// chosen by the visitor.
type LinkRequest struct {
	Visit uint32 `json:"visit"`
	Link  uint32 `json:"link"`
}

// LinkTicket answers a LinkRequest: dial the link door with this ticket.
type LinkTicket struct {
	Visit  uint32 `json:"visit"`
	Link   uint32 `json:"link"`
	Ticket []byte `json:"ticket"`
}

// LinkRefused answers a LinkRequest that can't be served now, or follows a
// LinkTicket when the device refused its half; the visit goes on.
type LinkRefused struct {
	Visit   uint32        `json:"visit"`
	Link    uint32        `json:"link"`
	Code    socketxp.Code `json:"code"`
	Message string        `json:"message"`
	Hint    string        `json:"hint,omitempty"`
}
