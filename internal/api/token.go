package api

import (
	"time"

	"socketxp"
)

// TokenState is what a token is good for today.
type TokenState string

// The states.
const (
	TokenLive    TokenState = "live"
	TokenUsedUp  TokenState = "used_up"
	TokenExpired TokenState = "expired"
	TokenRevoked TokenState = "revoked"
	// TokenWithdrawn: its signing key was withdrawn. TokenUnconfirmed: it is from
	// before the gateway was restored from a backup.
	TokenWithdrawn   TokenState = "withdrawn"
	TokenUnconfirmed TokenState = "unconfirmed"
)

// Token is an auth token without its text.
type Token struct {
	ID         string             `json:"id"`
	Kind       socketxp.TokenKind `json:"kind" enum:"basic,api,registration,access"`
	Name       string             `json:"name"`
	State      TokenState         `json:"state" enum:"live,used_up,expired,revoked,withdrawn,unconfirmed"`
	CreatedBy  string             `json:"created_by" doc:"user id"`
	ParentID   string             `json:"parent_id,omitempty" doc:"the token with which it was made; it ends with that one"`
	CreatedAt  time.Time          `json:"created_at"`
	ExpiresAt  time.Time          `json:"expires_at"`
	RevokedAt  *time.Time         `json:"revoked_at,omitempty"`
	LastUsedAt *time.Time         `json:"last_used_at,omitempty" doc:"to the minute"`
	MaxUses    int                `json:"max_uses" doc:"devices that a registration token can register; 0 for other kinds"`
	Uses       int                `json:"uses"`
	Scope      TokenScope         `json:"scope"`
}

// TokenScope narrows what a token may do. What is missing does not narrow.
type TokenScope struct {
	Rights      []socketxp.Right `json:"rights,omitempty" doc:"basic, api: what it may do with the API; left out when making a token: the usual ones of its kind" maxItems:"32"`
	Group       string           `json:"group,omitempty" doc:"registration: the group that the device gets" maxLength:"63"`
	NamePattern string           `json:"name_pattern,omitempty" doc:"registration: device names it is good for, with * and ? and [a-z]" maxLength:"128" example:"meter-*"`
	Networks    []string         `json:"networks,omitempty" doc:"networks it can be used from" maxItems:"32" example:"[\"192.0.2.0/24\"]"`
	Devices     []string         `json:"devices,omitempty" doc:"access, basic: ids of the devices that it reaches" maxItems:"200"`
	Groups      []string         `json:"groups,omitempty" doc:"access, basic: groups whose devices it reaches, besides devices" maxItems:"200"`
	Ports       []int            `json:"ports,omitempty" doc:"access, basic: ports that it reaches" maxItems:"64"`
}

// CreateTokenRequest makes a token.
type CreateTokenRequest struct {
	Kind      socketxp.TokenKind `json:"kind" enum:"basic,api,registration,access" doc:"what it is for: registration for \"socketxp login\", access for slave mode, api for this API, basic for all three while trying things"`
	Name      string             `json:"name" doc:"what it is called in lists" minLength:"1" maxLength:"128"`
	ExpiresIn *int64             `json:"expires_in,omitempty" doc:"life in seconds; left out: 24 h for basic, 30 d for api, 1 h for registration, 8 h for access. Caps: 7 d for basic (an account may have another), 365 d for api, 30 d for registration and access"`
	MaxUses   *int               `json:"max_uses,omitempty" doc:"registration: devices it can register, 1 if left out"`
	Scope     *TokenScope        `json:"scope,omitempty"`
}

// CreatedToken is a token with its text.
type CreatedToken struct {
	Token
	Text string `json:"token" doc:"the token itself: a secret"`
}

// NewToken returns t as it stands at now.
func NewToken(t socketxp.Token, now time.Time) Token {
	return Token{
		ID: t.ID, Kind: t.Kind, Name: t.Name, State: tokenState(t, now), CreatedBy: t.CreatedBy, ParentID: t.ParentID,
		CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, RevokedAt: timeOf(t.RevokedAt), LastUsedAt: timeOf(t.LastUsedAt),
		MaxUses: t.MaxUses, Uses: t.Uses, Scope: TokenScope(t.Scope),
	}
}

func tokenState(t socketxp.Token, now time.Time) TokenState {
	switch {
	case !t.RevokedAt.IsZero():
		return TokenRevoked
	case !now.Before(t.ExpiresAt):
		return TokenExpired
	case t.MaxUses > 0 && t.Uses >= t.MaxUses:
		return TokenUsedUp
	case !now.Before(t.KeyUntil):
		return TokenWithdrawn
	case t.Unconfirmed:
		return TokenUnconfirmed
	}
	return TokenLive
}
