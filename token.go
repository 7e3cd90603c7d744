package socketxp

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// TokenKind is what an auth token is for. A token is good for its kind's
// purposes only (see Kind and MayUse).
type TokenKind string

// The kinds of auth token.
const (
	TokenBasic        TokenKind = "basic"        // to get started: API, login and slave mode
	TokenAPI          TokenKind = "api"          // the REST API only
	TokenRegistration TokenKind = "registration" // `socketxp login` only
	TokenAccess       TokenKind = "access"       // slave mode only
)

// TokenKinds lists the kinds in the order of the documentation.
var TokenKinds = []TokenKind{TokenBasic, TokenAPI, TokenRegistration, TokenAccess}

// MaxTokenBytes is the longest token text that is looked at.
const MaxTokenBytes = 4096

// TokenLife returns the life a token of this kind gets when none is asked for,
// and the longest it may have. Both are 0 for an unknown kind. An account's
// BasicLife may raise or lower the cap of basic tokens, up to 365 days.
func (k TokenKind) TokenLife() (normal, longest time.Duration) {
	const day = 24 * time.Hour
	switch k {
	case TokenBasic:
		return day, DefaultBasicLife
	case TokenAPI:
		return 30 * day, 365 * day
	case TokenRegistration:
		return time.Hour, 30 * day
	case TokenAccess:
		return 8 * time.Hour, 30 * day
	}
	return 0, 0
}

// Token is the database's side of an auth token: all that says what it may do
// today. Its text is not kept.
type Token struct {
	ID        string // the jti
	AccountID string
	Kind      TokenKind
	Name      string // display text
	CreatedBy string // user id
	// ParentID is the token with which this one was made; empty for a sign-in.
	ParentID   string
	KeyID      string    // the signing key, so that the same text can be signed again
	CreatedAt  time.Time // to the second, as iat and nbf
	ExpiresAt  time.Time // to the second, as exp
	RevokedAt  time.Time // zero while not revoked
	LastUsedAt time.Time
	MaxUses    int // registration only, 1 or more; 0 for the others
	Uses       int
	Scope      TokenScope
	// KeyUntil is when what its signing key signed ends (SigningKey.Until). The zero
	// time is that of a key that nobody knows.
	KeyUntil time.Time
	// Unconfirmed is a token that was made before the database was restored from a
	// backup, which knows of no revocation since, and that no owner has confirmed.
	Unconfirmed bool
}

// TokenScope narrows what a token may do. An empty list does not narrow, but for
// Rights: an api or basic token without rights may do nothing with the API.
type TokenScope struct {
	Rights      []Right  `json:"rights,omitempty"`       // basic, api
	Group       string   `json:"group,omitempty"`        // registration: the group the device gets
	NamePattern string   `json:"name_pattern,omitempty"` // registration: path.Match pattern over device names
	Networks    []string `json:"networks,omitempty"`     // all kinds: CIDRs the caller's address must be in
	Devices     []string `json:"devices,omitempty"`      // access, basic: device ids
	Groups      []string `json:"groups,omitempty"`       // access, basic: groups; with Devices, either suffices
	Ports       []int    `json:"ports,omitempty"`        // access, basic: destination ports
}

// AllowsFrom reports whether the scope admits a caller at addr. An invalid
// address or network admits nobody.
func (s TokenScope) AllowsFrom(addr netip.Addr) bool {
	if len(s.Networks) == 0 {
		return true
	}
	for _, n := range s.Networks {
		p, err := netip.ParsePrefix(n)
		if err == nil && addr.IsValid() && p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// AllowsDevice reports whether the scope admits the device as it is now: a
// device moved to another group is judged by the group it is in.
func (s TokenScope) AllowsDevice(d Device) bool {
	if len(s.Devices) == 0 && len(s.Groups) == 0 {
		return true
	}
	return slices.Contains(s.Devices, d.ID) || d.Group != "" && slices.Contains(s.Groups, d.Group)
}

// AllowsPort reports whether the scope admits a destination port.
func (s TokenScope) AllowsPort(port int) bool {
	return len(s.Ports) == 0 || slices.Contains(s.Ports, port)
}

// Usable returns nil if the token is neither revoked nor outside its life at
// now, nor unconfirmed, and its signing key is good: it is valid from CreatedAt
// and while now is before ExpiresAt. Uses are not looked at: they are taken by
// the registration itself.
func (t Token) Usable(now time.Time) error {
	switch {
	case !t.RevokedAt.IsZero():
		return Errorf(CodeTokenRevoked, "the token was revoked")
	case t.ExpiresAt.IsZero() || !now.Before(t.ExpiresAt):
		return Errorf(CodeTokenExpired, "the token has expired")
	case now.Add(ClockLeeway).Before(t.CreatedAt):
		return Errorf(CodeTokenNotYet, "the token is not yet valid")
	case !now.Before(t.KeyUntil):
		return ErrKeyWithdrawn
	case t.Unconfirmed:
		return Errorf(CodeTokenRevoked, "the gateway was restored from a backup, and the token is from before that").
			WithHint("make a new one, or have the account's owner confirm this one")
	}
	return nil
}

// ErrKeyWithdrawn is for a token whose signing key was retired for longer than
// the overlap, or marked as compromised.
var ErrKeyWithdrawn = Errorf(CodeTokenRevoked, "the key that the token was signed with is withdrawn").WithHint("make a new token")

// ClockLeeway is how far in the future an iat or nbf may lie, for clocks of
// gateways that differ. Expiry has no leeway.
const ClockLeeway = 30 * time.Second

// TokenStore keeps auth tokens. Each method names the account; what is in
// another one is ErrNotFound.
type TokenStore interface {
	CreateToken(ctx context.Context, t Token, entry AuditEntry) error
	Token(ctx context.Context, accountID, id string) (Token, error)
	// Tokens lists tokens, newest first, page by page.
	Tokens(ctx context.Context, accountID string, q TokenQuery) ([]Token, error)
	// RevokeToken revokes the token and, by ParentID, all that were made with it, and
	// returns the ids that this call revoked. A token already revoked stays as it
	// is and is no error.
	RevokeToken(ctx context.Context, accountID, id string, at time.Time, entry AuditEntry) ([]string, error)
	// ConfirmToken makes a token from before a restore (Token.Unconfirmed) good again.
	// One that needs none stays as it is and is no error.
	ConfirmToken(ctx context.Context, accountID, id string, entry AuditEntry) error
	// TouchToken records use. It may be late and may be lost.
	TouchToken(ctx context.Context, accountID, id string, at time.Time) error
}

// TokenQuery selects a page of tokens. Zero fields select all.
type TokenQuery struct {
	Kind  TokenKind
	Live  time.Time // not zero: only tokens usable at that time
	After string    // id of the last token of the page before
	Limit int       // 1 to 200
}
