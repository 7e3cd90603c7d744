package socketxp

import (
	"context"
	"time"
)

// HostKey is the key of an SSH server on a device, other than the agent's own, that a
// person has trusted.
type HostKey struct {
	AccountID string
	DeviceID  string
	Port      int
	Key       string // in authorized_keys form
	TrustedAt time.Time
	TrustedBy string // user id
}

// HostKeyStore keeps host keys. They go with their device.
type HostKeyStore interface {
	// HostKey returns ErrNotFound if no key is trusted at the port.
	HostKey(ctx context.Context, accountID, deviceID string, port int) (HostKey, error)
	// TrustHostKey puts a key in the place of the one that was trusted at the port.
	// ErrNotFound if the account has no such device.
	TrustHostKey(ctx context.Context, k HostKey, entry AuditEntry) error
}
