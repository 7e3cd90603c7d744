package socketxp

import (
	"context"
	"crypto/ed25519"
	"time"
)

// SigningKey is the public side of a key that auth tokens are signed with. Its
// private half is a file of the gateway that made it.
type SigningKey struct {
	ID        string // the kid
	PublicKey ed25519.PublicKey
	CreatedAt time.Time
	RetiredAt time.Time // zero while new tokens are signed with it
	// Until is when what it signed ends, whatever the tokens say: EndOfTime while it
	// is active, the end of the overlap when it is retired, and the zero time, which
	// is past by every clock, when it is compromised.
	Until         time.Time
	CompromisedAt time.Time
}

// EndOfTime is later than any token's expiry: the last second that RFC 3339 can
// write.
var EndOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// DefaultKeyOverlap is how long what a retired key signed goes on, and
// LongestKeyOverlap the most that can be asked for: no token lives longer.
const (
	DefaultKeyOverlap = 30 * 24 * time.Hour
	LongestKeyOverlap = 365 * 24 * time.Hour
)

// SigningKeyState is what a signing key is good for.
type SigningKeyState string

// The states of a signing key.
const (
	KeyActive      SigningKeyState = "active"      // signs
	KeyRetired     SigningKeyState = "retired"     // what it signed is good until the end of the overlap
	KeyEnded       SigningKeyState = "ended"       // retired, and the overlap is over
	KeyCompromised SigningKeyState = "compromised" // what it signed is refused
)

// State returns the state of the key at now.
func (k SigningKey) State(now time.Time) SigningKeyState {
	switch {
	case !k.CompromisedAt.IsZero():
		return KeyCompromised
	case !now.Before(k.Until):
		return KeyEnded
	case !k.RetiredAt.IsZero():
		return KeyRetired
	}
	return KeyActive
}

// ErrKeyNotActive is for a token that is signed with a key that has just been
// replaced.
var ErrKeyNotActive = Errorf(CodeUnavailable, "the gateway's signing key was just replaced").WithHint("try again")

// SigningKeyStore keeps the signing keys of all gateways on the database. Tokens
// are judged by it at every use.
type SigningKeyStore interface {
	// SigningKeys lists all keys, newest first.
	SigningKeys(ctx context.Context) ([]SigningKey, error)
	// RotateSigningKey does all of r in one transaction, or nothing. A key of Retire
	// that is not active stays as it is; one of Compromise that is unknown is
	// ErrNotFound. The audit entry is of the gateway's own chain.
	RotateSigningKey(ctx context.Context, r KeyRotation, entry AuditEntry) error
	// KeyUses counts the tokens that are usable at now, by signing key and kind, and
	// of these the ones that expire later than until.
	KeyUses(ctx context.Context, now, until time.Time) ([]KeyUse, error)
}

// KeyRotation is a change of signing keys.
type KeyRotation struct {
	At         time.Time
	Add        *SigningKey // active from now on; nil for none
	Retire     []string    // kids: sign no more, and what they signed ends at Until
	Until      time.Time
	Compromise string // kid: what it signed is refused from now on; "" for none
}

// KeyUse counts the usable tokens of one kind that one key signed.
type KeyUse struct {
	KeyID         string
	Kind          TokenKind
	Tokens, Later int // all, and those that expire after the time that was asked for
}
