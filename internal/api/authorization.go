package api

import (
	"context"
	"net/http"
	"time"
)

// DeviceAuthorizationRequest asks to act for a person.
type DeviceAuthorizationRequest struct {
	Host      string `json:"host,omitempty" doc:"what the machine is called, for the person who decides" maxLength:"255" example:"laptop"`
	ExpiresIn *int64 `json:"expires_in,omitempty" doc:"life of the token asked for, in seconds: 30 d if left out, 365 d at most" minimum:"60" maximum:"31536000"`
}

// DeviceAuthorization is what a program waits by (RFC 8628 section 3.2).
type DeviceAuthorization struct {
	DeviceCode              string `json:"device_code" doc:"what the program polls with: a secret"`
	UserCode                string `json:"user_code" doc:"what the person enters" example:"BDFH-JLNP"`
	VerificationURI         string `json:"verification_uri" doc:"the page where it is entered"`
	VerificationURIComplete string `json:"verification_uri_complete" doc:"the same with the code in it"`
	ExpiresIn               int64  `json:"expires_in" doc:"seconds until the codes run out"`
	Interval                int64  `json:"interval" doc:"seconds to wait between two polls"`
}

// DeviceTokenRequest polls.
type DeviceTokenRequest struct {
	DeviceCode string `json:"device_code" maxLength:"200"`
}

// DeviceToken is what a person has approved (RFC 6749 section 5.1).
type DeviceToken struct {
	AccessToken string `json:"access_token" doc:"the token: a secret"`
	TokenType   string `json:"token_type" enum:"Bearer"`
	ExpiresIn   int64  `json:"expires_in" doc:"its life in seconds"`
	TokenID     string `json:"token_id"`
}

// UserCodeRequest names an authorization by what a person typed.
type UserCodeRequest struct {
	UserCode string `json:"user_code" doc:"in any case, with or without hyphen" maxLength:"64"`
}

// ConfirmRequest decides on an authorization.
type ConfirmRequest struct {
	UserCode string `json:"user_code" doc:"in any case, with or without hyphen" maxLength:"64"`
	Approve  bool   `json:"approve" doc:"false denies it"`
}

// PendingAuthorization is who asks to act for a person.
type PendingAuthorization struct {
	UserCode       string    `json:"user_code"`
	Host           string    `json:"host" doc:"what the machine calls itself; unchecked text"`
	RemoteAddr     string    `json:"remote_addr" doc:"from where it asked"`
	CreatedAt      time.Time `json:"created_at"`
	ExpiresAt      time.Time `json:"expires_at"`
	TokenExpiresAt time.Time `json:"token_expires_at" doc:"until when the token would be good, if approved now"`
}

// AuthorizeDevice asks to act for a person.
func (c *Client) AuthorizeDevice(ctx context.Context, r DeviceAuthorizationRequest) (DeviceAuthorization, error) {
	return get[DeviceAuthorization](ctx, c, http.MethodPost, "/device-authorization", nil, r)
}

// PollAuthorization returns the token once a person has approved. Until then the
// error's code says how things are: CodeAuthorizationPending, CodeSlowDown,
// CodeAccessDenied or CodeExpiredToken.
func (c *Client) PollAuthorization(ctx context.Context, deviceCode string) (DeviceToken, error) {
	return get[DeviceToken](ctx, c, http.MethodPost, "/device-authorization/token", nil, DeviceTokenRequest{DeviceCode: deviceCode})
}

// ShowAuthorization shows who asks by a user code.
func (c *Client) ShowAuthorization(ctx context.Context, userCode string) (PendingAuthorization, error) {
	return get[PendingAuthorization](ctx, c, http.MethodPost, "/device-authorization/show", nil, UserCodeRequest{UserCode: userCode})
}

// ConfirmAuthorization approves or denies who asks by a user code.
func (c *Client) ConfirmAuthorization(ctx context.Context, userCode string, approve bool) error {
	return c.call(ctx, http.MethodPost, "/device-authorization/confirm", nil, ConfirmRequest{UserCode: userCode, Approve: approve}, nil)
}
