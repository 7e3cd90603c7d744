package socketxp

import (
	"context"
	"time"
)

// HousekeepingStore keeps what the gateway itself has to remember.
type HousekeepingStore interface {
	// Setting returns ErrNotFound if the key was never set.
	Setting(ctx context.Context, key string) (string, error)
	SetSetting(ctx context.Context, key, value string) error
	// InitSetting sets key to value unless it is set, and returns what it now is.
	InitSetting(ctx context.Context, key, value string) (string, error)
	// RaiseClock raises the stored high-water mark of the clock to at, if that is
	// later, and returns it: time never runs backwards for an expiry.
	RaiseClock(ctx context.Context, at time.Time) (time.Time, error)

	// BeginEpoch is for a database that was restored from a backup, which knows of no
	// revocation since: tokens from before are good for nothing until they are
	// confirmed (TokenStore.ConfirmToken), and all sign-ins end. The audit entry is of
	// the gateway's own chain.
	BeginEpoch(ctx context.Context, at time.Time, entry AuditEntry) (Epoch, error)

	// BeginIdempotent claims an Idempotency-Key for a request. When the key is new
	// (or its claim was left behind for over a minute, or it expired) it returns
	// (zero, true). When it is known it returns what is stored, with Status 0 while
	// the first request is still being served.
	BeginIdempotent(ctx context.Context, r IdempotentRequest) (stored IdempotentRequest, fresh bool, err error)
	// FinishIdempotent stores the answer; AbandonIdempotent gives the key free.
	FinishIdempotent(ctx context.Context, r IdempotentRequest) error
	AbandonIdempotent(ctx context.Context, keyHash [32]byte) error

	// Prune removes what has outlived its use at now: sign-ins and device
	// authorizations over, events older than EventLife, idempotency keys, expired
	// tokens 90 days after their expiry (a revoked token is kept until then, too, so
	// that no revocation is forgotten while its token could still pass), sessions
	// older than 400 days, retired signing keys that ended more than 400 days ago and
	// that no token names.
	Prune(ctx context.Context, now time.Time) error
	// Ping returns nil if the database answers.
	Ping(ctx context.Context) error
}

// Epoch is the time between two restores of the database from a backup.
type Epoch struct {
	Number  int64 // how many restores so far
	Tokens  int   // that would be usable if they were confirmed
	SignIns int   // that ended
}

// IdempotentRequest is a write that may be sent again without being done again.
type IdempotentRequest struct {
	KeyHash     [32]byte // over key, credential and route
	RequestHash [32]byte // over the body: the same key with another body is a mistake
	At          time.Time
	Status      int    // 0 while being served
	Body        []byte // sealed: the database alone can't read it
}

// IdempotencyLife is how long the answer to a write is kept for those who send it
// again.
const IdempotencyLife = 24 * time.Hour

// Store is all stores together.
type Store interface {
	AccountStore
	UserStore
	AuthorizationStore
	TokenStore
	SigningKeyStore
	DeviceStore
	HostKeyStore
	SessionStore
	AuditStore
	EventStore
	HousekeepingStore
}
