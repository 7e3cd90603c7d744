package socketxp

import (
	"errors"
	"fmt"
)

// Code names a kind of failure. Codes are part of the API and the wire
// protocols: clients depend on them, so a code is never renamed or reused.
type Code string

// The codes. One function in internal/gateway gives each its HTTP status.
const (
	CodeInternal        Code = "internal"           // a fault of ours; the cause is only in the log
	CodeInvalid         Code = "invalid"            // the request breaks a documented rule
	CodeUnauthenticated Code = "unauthenticated"    // no credential, or one that is not valid
	CodeTokenExpired    Code = "token_expired"      // a genuine token past its expiry
	CodeTokenNotYet     Code = "token_not_yet"      // a genuine token before its nbf
	CodeTokenRevoked    Code = "token_revoked"      // a genuine token that was revoked, or whose maker was removed
	CodeUsesExhausted   Code = "uses_exhausted"     // a genuine registration token with no use left
	CodeWrongPurpose    Code = "wrong_purpose"      // a valid credential of a kind that may not do this
	CodeForbidden       Code = "forbidden"          // a valid credential whose scope or maker may not do this
	CodeReauthRequired  Code = "reauth_required"    // needs a password entered in the last 10 minutes
	CodeNotFound        Code = "not_found"          // no such object in the caller's account
	CodeConflict        Code = "conflict"           // a unique name is taken, or the object changed
	CodeAlreadyRegister Code = "already_registered" // the device key is registered under another name or group
	CodeQuota           Code = "quota_exceeded"
	CodeRateLimited     Code = "rate_limited"
	CodeUnavailable     Code = "unavailable"    // the database or the gateway can't answer now
	CodeDeviceOffline   Code = "device_offline" // no control channel of the device is open
	CodeDeviceDisabled  Code = "device_disabled"
	CodeQuarantined     Code = "device_quarantined" // a second holder of the device's key was found
	CodeKeyRetired      Code = "key_retired"        // the device has another key by now
	CodeDeviceUnknown   Code = "device_unknown"     // the device key is not registered (or the device was deleted)
	CodeNotPublished    Code = "not_published"      // the device publishes no such destination
	CodeDialFailed      Code = "dial_failed"        // the device could not reach the published destination
	CodeTooManyLinks    Code = "too_many_links"
	CodeSessionEnded    Code = "session_ended" // an operator ended the session
	CodeReplaced        Code = "replaced"      // a newer control channel of the same device took over
	CodeGoingAway       Code = "going_away"    // the gateway is shutting down; reconnect
	CodeVersion         Code = "unsupported_version"
	CodeProtocol        Code = "protocol_error"

	// Those of RFC 8628 section 3.5, for a program that waits for a person to confirm.
	CodeAuthorizationPending Code = "authorization_pending" // nobody has decided yet; ask again
	CodeSlowDown             Code = "slow_down"             // asked again too soon; wait for 5 s more from now on
	CodeAccessDenied         Code = "access_denied"         // somebody said no
	CodeExpiredToken         Code = "expired_token"         // the device code has run out, or was used
)

// Error is a failure with two readers: Code and Message go to the client, Err
// only to the log. Message is a lower-case sentence without a full stop and
// holds no secret; Hint says what to do next and may be empty.
type Error struct {
	Code    Code
	Message string
	Hint    string
	Err     error
}

// Error returns the text for the log: message and cause.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Message, e.Err)
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same code, so that
// errors.Is(err, ErrNotFound) holds for every error of that code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf returns an *Error of code whose message is formatted like
// fmt.Sprintf. A %w verb is not interpreted: set Err for a cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that says what to do next.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// CodeOf returns the code of the first *Error in err's chain, CodeInternal for
// any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// The sentinels that stores and callers compare with by errors.Is.
var (
	ErrNotFound      = Errorf(CodeNotFound, "not found")
	ErrConflict      = Errorf(CodeConflict, "already exists")
	ErrUsesExhausted = Errorf(CodeUsesExhausted, "the registration token has no use left")
	ErrDeviceOffline = Errorf(CodeDeviceOffline, "the device is offline")
	ErrUnavailable   = Errorf(CodeUnavailable, "the service can't answer now")
)
