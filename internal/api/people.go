package api

import (
	"time"

	"socketxp"
)

// SetUpState says whether the gateway waits for its first owner.
type SetUpState struct {
	Needed bool `json:"needed" doc:"nobody can sign in yet: open the link that the gateway printed at its start"`
}

// SetUpRequest makes the first owner and their account.
type SetUpRequest struct {
	Secret   string `json:"secret" doc:"the one-time secret: what follows # in the set-up link" maxLength:"200"`
	Email    string `json:"email" doc:"with which the owner signs in" maxLength:"254" example:"you@example.com"`
	Password string `json:"password" doc:"12 characters or more" maxLength:"1024"`
	Name     string `json:"name,omitempty" doc:"of the owner" maxLength:"128"`
	Account  string `json:"account" doc:"name of the account" minLength:"1" maxLength:"128" example:"home"`
}

// SignUpRequest makes an account of the caller's own.
type SignUpRequest struct {
	Email    string `json:"email" doc:"with which its owner signs in" maxLength:"254" example:"you@example.com"`
	Password string `json:"password" doc:"12 characters or more" maxLength:"1024"`
	Name     string `json:"name,omitempty" doc:"of the owner" maxLength:"128"`
	Account  string `json:"account" doc:"name of the account" minLength:"1" maxLength:"128" example:"home"`
}

// SignInRequest signs a person in.
type SignInRequest struct {
	Email    string `json:"email" maxLength:"254"`
	Password string `json:"password" maxLength:"1024"`
}

// ReauthRequest enters the password again.
type ReauthRequest struct {
	Password string `json:"password" maxLength:"1024"`
}

// PasswordRequest changes the caller's password.
type PasswordRequest struct {
	Current string `json:"current_password" maxLength:"1024"`
	New     string `json:"new_password" doc:"12 characters or more" maxLength:"1024"`
}

// Me is who is calling, and what they may do.
type Me struct {
	User       User             `json:"user"`
	Account    Account          `json:"account"`
	Role       socketxp.Role    `json:"role"`
	Credential Credential       `json:"credential"`
	Rights     []socketxp.Right `json:"rights" nullable:"false" doc:"what this credential may do with the API"`
}

// User is a person.
type User struct {
	ID    string `json:"id"`
	Email string `json:"email"`
	Name  string `json:"name,omitempty"`
}

// Account is a tenant.
type Account struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	BasicTokens    bool   `json:"basic_tokens" doc:"whether basic tokens can be made and used"`
	BasicTokenLife int64  `json:"basic_token_life" doc:"longest life of a basic token, in seconds"`
	DeviceQuota    int    `json:"device_quota" doc:"most devices"`
}

// Credential is what the request was made with.
type Credential struct {
	Kind       socketxp.Kind `json:"kind" enum:"basic,api,signin"`
	ID         string        `json:"id"`
	ExpiresAt  time.Time     `json:"expires_at"`
	FreshUntil *time.Time    `json:"fresh_until,omitempty" doc:"until when the password counts as just entered"`
}

// SignIn is one browser in which the caller is signed in.
type SignIn struct {
	ID         string    `json:"id"`
	Current    bool      `json:"current" doc:"the one that is asking"`
	CreatedAt  time.Time `json:"created_at"`
	LastSeenAt time.Time `json:"last_seen_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	RemoteAddr string    `json:"remote_addr"`
	UserAgent  string    `json:"user_agent" doc:"as the browser calls itself"`
}

// NewSignIn returns s for a caller whose own sign-in is current.
func NewSignIn(s socketxp.SignIn, current string) SignIn {
	return SignIn{
		ID: s.ID, Current: s.ID == current, CreatedAt: s.CreatedAt, LastSeenAt: s.LastSeenAt, ExpiresAt: s.ExpiresAt,
		RemoteAddr: s.RemoteAddr, UserAgent: s.UserAgent,
	}
}
