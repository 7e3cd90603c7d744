package socketxp

import (
	"context"
	"crypto/ed25519"
	"time"
)

// Offer tells a device that a visitor wants a link to one of its tunnels. Only
// the gateway that holds the device's control channel can deliver it.
type Offer struct {
	DeviceID    string
	SessionID   string
	Ticket      []byte // the device's half; LinkTicketSize bytes
	VisitorKey  []byte // the Ed25519 public key that the visitor will prove
	Destination string // canonical, exactly as the device published it
}

// LinkTicketSize is the number of random bytes of a ticket.
const LinkTicketSize = 16

// SingleUseKey is an SSH key that lets the gateway in to a device's sshd once: the
// device is to place it. Whether it does is the device's to say.
type SingleUseKey struct {
	ID          string // a UUID of this key alone
	DeviceID    string
	Destination string // canonical, exactly as the device published it
	User        string // "" for the first of those whom the device allows
	PublicKey   ed25519.PublicKey
	Life        time.Duration // after which the device takes it away by itself
}

// HintKind says what a Hint is about.
type HintKind string

// The hints.
const (
	HintTokenRevoked  HintKind = "token"   // ID: token
	HintUserDisabled  HintKind = "user"    // ID: user
	HintMemberRemoved HintKind = "member"  // ID: user, AccountID
	HintDeviceChanged HintKind = "device"  // ID: device; disabled, moved, renamed
	HintDeviceDeleted HintKind = "deleted" // ID: device
	HintSessionEnded  HintKind = "session" // ID: session
	HintSignInEnded   HintKind = "signin"  // ID: sign-in
	HintEvent         HintKind = "event"   // ID: event, AccountID
)

// Hint tells all gateways that something in the database changed. It may be
// lost: what it speeds up is also found by asking the database again.
type Hint struct {
	Kind      HintKind
	AccountID string
	ID        string
}

// DeviceHolder is a gateway's end of a device's control channel.
type DeviceHolder interface {
	// Offer sends an offer to the device. It does not wait for the device's answer.
	Offer(ctx context.Context, o Offer) error
	// PlaceKey has the device place a key, and returns the user whom it lets in. It
	// waits for the device's answer.
	PlaceKey(ctx context.Context, k SingleUseKey) (user string, err error)
	// RemoveKey has the device take a key away, and returns nil when it has.
	RemoveKey(ctx context.Context, keyID string) error
	// Supersede says that a newer control channel of the device took over.
	Supersede()
}

// DeviceSet is a set of devices by their ids. It may change while it is asked.
type DeviceSet interface {
	Len() int
	Has(id string) bool
	IDs() []string // in no order
}

// Cluster finds the gateway that holds a device and carries hints between
// gateways.
type Cluster interface {
	// Hold says that this gateway holds the device's control channel from now on;
	// a holder of before is superseded. Release ends it, unless a newer holder has
	// taken over; it may be called more than once.
	Hold(ctx context.Context, deviceID string, h DeviceHolder) (release func(), err error)
	// Online reports whether some gateway holds the device.
	Online(ctx context.Context, deviceID string) (bool, error)
	// OnlineDevices returns all devices held by some gateway.
	OnlineDevices(ctx context.Context) (DeviceSet, error)
	// Offer delivers an offer to the device's holder; ErrDeviceOffline if there is none.
	Offer(ctx context.Context, o Offer) error
	// PlaceKey and RemoveKey ask the device's holder; ErrDeviceOffline if there is none.
	PlaceKey(ctx context.Context, k SingleUseKey) (user string, err error)
	RemoveKey(ctx context.Context, deviceID, keyID string) error
	// Publish sends a hint to all subscribers of all gateways, this one included,
	// and does not wait for them.
	Publish(h Hint)
	// Subscribe calls fn for each hint, one at a time, until cancel is called. A
	// subscriber that falls 1024 hints behind gets a Hint of Kind "" instead of what
	// it missed: it must ask the database for everything.
	Subscribe(fn func(Hint)) (cancel func())
}
