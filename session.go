package socketxp

import (
	"context"
	"time"
)

// Session is what the audit shows of one visitor reaching one tunnel of one
// device: it begins when the gateway grants it and ends when the visitor leaves
// or is cut off.
type Session struct {
	ID          string
	AccountID   string
	DeviceID    string
	DeviceName  string // as it was at the start
	UserID      string // the maker of the token
	TokenID     string
	Destination string
	RemoteAddr  string // the visitor's
	StartedAt   time.Time
	EndedAt     time.Time // zero while it goes on
	EndReason   Code      // "" when the visitor left by itself
	Links       int64     // links joined so far
	BytesUp     int64     // visitor to device, as they crossed the gateway (encrypted)
	BytesDown   int64
}

// SessionStore keeps sessions.
type SessionStore interface {
	CreateSession(ctx context.Context, s Session, entry AuditEntry) error
	// CountSession sets the counters of a session that goes on. It may be late.
	CountSession(ctx context.Context, accountID, id string, links, up, down int64) error
	// EndSession sets end, reason and counters, once: ending an ended session
	// changes nothing and writes no audit entry.
	EndSession(ctx context.Context, s Session, entry AuditEntry) error
	// EndAllSessions ends every session that is open in the database with reason,
	// and returns how many there were; a gateway that starts alone calls it, as none
	// can have outlived it.
	EndAllSessions(ctx context.Context, at time.Time, reason Code) (int, error)
	Session(ctx context.Context, accountID, id string) (Session, error)
	// Sessions lists sessions, newest first.
	Sessions(ctx context.Context, accountID string, q SessionQuery) ([]Session, error)
}

// SessionQuery selects a page of sessions. Zero fields select all.
type SessionQuery struct {
	DeviceID string
	UserID   string
	TokenID  string
	Live     *bool
	After    string // id of the last session of the page before
	Limit    int    // 1 to 200
}
