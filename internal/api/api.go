// Package api is the REST API as both ends see it: the JSON types, and a client.
package api

import (
	"time"

	"socketxp"
)

// Prefix is what the paths of all routes start with.
const Prefix = "/api/v1"

// Problem is the body of every error (RFC 9457, application/problem+json).
type Problem struct {
	Title  string         `json:"title" doc:"what the status says" example:"Not Found"`
	Status int            `json:"status" doc:"the HTTP status" example:"404"`
	Code   socketxp.Code  `json:"code" doc:"what went wrong, for programs; a code never changes its meaning" example:"not_found"`
	Detail string         `json:"detail" doc:"what went wrong, for people" example:"there is no such device"`
	Hint   string         `json:"hint,omitempty" doc:"what to do next"`
	Errors []ProblemField `json:"errors,omitempty" doc:"the parts of the request that break a rule"`
}

// ProblemField is a part of a request that breaks a rule.
type ProblemField struct {
	Location string `json:"location" doc:"where it is" example:"body.name"`
	Message  string `json:"message" doc:"the rule" example:"expected length <= 63"`
}

// Page is one page of a list.
type Page[T any] struct {
	Items      []T    `json:"items" nullable:"false"`
	NextCursor string `json:"next_cursor,omitempty" doc:"gets the next page as cursor; missing on the last one"`
}

// Gateway is what everybody may know of a gateway.
type Gateway struct {
	Version     string   `json:"version" doc:"of the program"`
	APIVersions []string `json:"api_versions" nullable:"false" example:"[\"v1\"]"`
	SetUp       bool     `json:"set_up" doc:"there is an owner; before, the set-up link makes one"`
	SignUp      bool     `json:"sign_up" doc:"anybody can make an account of their own"`
}

// RegisterRequest registers a device: POST /api/v1/register with a registration
// or basic token as bearer.
type RegisterRequest struct {
	PublicKey []byte `json:"public_key" doc:"the device's Ed25519 public key, 32 bytes" maxLength:"44"`
	Proof     []byte `json:"proof" doc:"signature by that key over \"socketxp-registration/1\", a NUL, the SHA-256 of the token and the public key" maxLength:"88"`
	Name      string `json:"name,omitempty" doc:"name asked for; refused if taken" maxLength:"200"`
	NameHint  string `json:"name_hint,omitempty" doc:"used if no name is asked for, with a number added if taken; a host name will do" maxLength:"255"`
	Group     string `json:"group,omitempty" doc:"group asked for" maxLength:"200"`
}

// ReloginRequest gives a device a new key. Both keys sign "socketxp-key-replace/1",
// a NUL, what the new key would sign to register, and the old key.
type ReloginRequest struct {
	OldKey    []byte `json:"old_key" doc:"a public key that the device has or had, 32 bytes" maxLength:"44"`
	OldProof  []byte `json:"old_proof" doc:"signature by that key over \"socketxp-key-replace/1\", a NUL, \"socketxp-registration/1\", a NUL, the SHA-256 of the token, the new public key and the old one" maxLength:"88"`
	PublicKey []byte `json:"public_key" doc:"the new Ed25519 public key, 32 bytes" maxLength:"44"`
	Proof     []byte `json:"proof" doc:"signature by the new key over the same" maxLength:"88"`
}

// RegisterResponse is the device as it is registered now.
type RegisterResponse struct {
	DeviceID string `json:"device_id"`
	Name     string `json:"name"`
	Group    string `json:"group"`
	Again    bool   `json:"again" doc:"the key was registered already; nothing changed and no use was taken"`
}

// timeOf returns nil for the zero time.
func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
