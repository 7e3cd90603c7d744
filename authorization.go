package socketxp

import (
	"context"
	"crypto/rand"
	"strings"
	"time"
)

// DeviceAuthorization is a program's wish to act for a person (RFC 8628; its
// "device" is the machine that the program runs on, none of ours): the program
// shows a user code, a person who is signed in elsewhere enters it and decides, and
// the program then gets a token for the device code that only it knows.
type DeviceAuthorization struct {
	ID         string
	DeviceHash [32]byte // SHA-256 of the device code
	UserCode   string   // as NewUserCode makes it; unique while the row exists
	Host       string   // what the program calls its machine; unchecked display text
	RemoteAddr string   // where it asked from
	TokenLife  time.Duration
	CreatedAt  time.Time
	ExpiresAt  time.Time
	State      AuthorizationState
	// Approver is who decided. Its credential is the token's parent, if it is a token.
	AccountID string
	Approver  Actor
}

// AuthorizationState is how far a DeviceAuthorization has come. It only ever goes
// from pending to denied, or from pending by approved to used.
type AuthorizationState string

// The states.
const (
	AuthorizationPending  AuthorizationState = "pending"
	AuthorizationApproved AuthorizationState = "approved"
	AuthorizationDenied   AuthorizationState = "denied"
	AuthorizationUsed     AuthorizationState = "used" // the program has its token
)

const (
	// AuthorizationLife is how long a person has to enter a user code.
	AuthorizationLife = 10 * time.Minute
	// AuthorizationInterval is how long a program waits between two polls.
	AuthorizationInterval = 5 * time.Second
	// MaxAuthorizations is how many may be pending in the whole gateway.
	MaxAuthorizations = 10_000
)

// userCodeLetters are consonants alone, so that no code is a word, and none of them
// is taken for another (RFC 8628 section 6.1). 20 letters in 8 places are 2^34.5
// codes.
const (
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLength  = 8
)

// NewUserCode returns a random user code, XXXX-XXXX.
func NewUserCode() string {
	code := make([]byte, 0, userCodeLength+1)
	var b [1]byte
	for len(code) < userCodeLength+1 {
		if len(code) == userCodeLength/2 {
			code = append(code, '-')
		}
		_, _ = rand.Read(b[:])                                // never fails: crypto/rand aborts the program instead
		if n := int(b[0]); n < 256-256%len(userCodeLetters) { // the rest would make some letters likelier
			code = append(code, userCodeLetters[n%len(userCodeLetters)])
		}
	}
	return string(code)
}

// ParseUserCode returns the code that a person typed, in any case and with or
// without hyphen and spaces, as NewUserCode makes it.
func ParseUserCode(s string) (string, error) {
	bad := Errorf(CodeInvalid, "this is not a code").WithHint("it has eight letters, like BDFH-JLNP")
	if len(s) > 64 {
		return "", bad
	}
	letters := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToUpper(strings.TrimSpace(s)))
	if len(letters) != userCodeLength || strings.Trim(letters, userCodeLetters) != "" {
		return "", bad
	}
	return letters[:userCodeLength/2] + "-" + letters[userCodeLength/2:], nil
}

// AuthorizationStore keeps device authorizations. They are of no account until
// somebody has decided.
type AuthorizationStore interface {
	// CreateAuthorization keeps a pending one. ErrConflict if its user code is in use;
	// CodeRateLimited if MaxAuthorizations are pending.
	CreateAuthorization(ctx context.Context, a DeviceAuthorization) error
	// AuthorizationByCode returns the pending one of a user code, or ErrNotFound if
	// there is none, it has run out at now, or somebody has decided.
	AuthorizationByCode(ctx context.Context, userCode string, now time.Time) (DeviceAuthorization, error)
	// AuthorizationByDevice returns the one of a device code in any state, or
	// ErrNotFound if there is none or it has run out at now.
	AuthorizationByDevice(ctx context.Context, deviceHash [32]byte, now time.Time) (DeviceAuthorization, error)
	// DecideAuthorization approves or denies the pending one with a.ID as a.State,
	// a.AccountID and a.Approver say. ErrNotFound if it is not pending any more or has
	// run out at now: of those who decide at the same time, one does.
	DecideAuthorization(ctx context.Context, a DeviceAuthorization, now time.Time, entry AuditEntry) error
	// UseAuthorization takes the approved one of t's account and keeps the token t made
	// for it, which hangs on its parent as with CreateToken. ErrNotFound if it is not
	// approved (any more) or has run out at now: it is used once.
	UseAuthorization(ctx context.Context, id string, t Token, now time.Time, entry AuditEntry) error
}
