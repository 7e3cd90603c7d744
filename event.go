package socketxp

import (
	"context"
	"time"
)

// EventType says what changed.
type EventType string

// The events.
const (
	EventDeviceRegistered EventType = "device.registered"
	EventDeviceOnline     EventType = "device.online"
	EventDeviceOffline    EventType = "device.offline"
	EventDeviceChanged    EventType = "device.changed"
	EventDeviceDeleted    EventType = "device.deleted"
	// EventDeviceQuarantined says that a second holder of a device's key was found.
	EventDeviceKeyChanged EventType = "device.key_changed"
	// EventDeviceKeyRetired says that somebody has shown a key that the device had once.
	EventDeviceKeyRetired  EventType = "device.key_retired"
	EventDeviceQuarantined EventType = "device.quarantined"
	// EventSingleUseKey says that the device lets the gateway in to its sshd, once.
	EventSingleUseKey   EventType = "device.single_use_key"
	EventTokenCreated   EventType = "token.created"
	EventTokenRevoked   EventType = "token.revoked"
	EventSessionStarted EventType = "session.started"
	EventSessionEnded   EventType = "session.ended"
)

// Event is a change that the portal and programs follow live. Events are kept
// for EventLife and then pruned; the audit is what stays.
type Event struct {
	ID         string // UUIDv7; sorts by time
	AccountID  string
	At         time.Time
	Type       EventType
	DeviceID   string
	DeviceName string
	ObjectID   string // token or session id, where one is meant
	Message    string // one line for people, without secrets
}

// EventLife is how long events are kept.
const EventLife = 30 * 24 * time.Hour

// EventStore keeps events.
type EventStore interface {
	AddEvent(ctx context.Context, e Event) error
	// Events lists events: newest first, or with q.After those after that id, oldest first.
	Events(ctx context.Context, accountID string, q EventQuery) ([]Event, error)
}

// EventQuery selects a page of events. Zero fields select all.
type EventQuery struct {
	DeviceID string
	Type     EventType
	Before   string // id: older than this, newest first
	After    string // id: newer than this, oldest first
	Limit    int    // 1 to 200
}
