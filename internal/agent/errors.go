package agent

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"socketxp"
	"socketxp/internal/websocket"
)

// NotRegisteredError says that the work folder holds no key of a registered
// device.
type NotRegisteredError struct{ reason *socketxp.Error }

func notRegistered() error {
	return &NotRegisteredError{socketxp.Errorf(socketxp.CodeDeviceUnknown, "this device is not registered").
		WithHint("socketxp login TOKEN registers it")}
}

// Error returns the message.
func (e *NotRegisteredError) Error() string { return e.reason.Error() }

// Unwrap returns the *socketxp.Error with the hint.
func (e *NotRegisteredError) Unwrap() error { return e.reason }

// UnreachableError says that no gateway answered, or that what answered could not
// be verified to be the right one.
type UnreachableError struct{ reason *socketxp.Error }

func unreachable(url string, err error) error {
	hint := "check the address, the network and any firewall between"
	var own *socketxp.Error
	var answer *websocket.AnswerError
	switch {
	case errors.As(err, &own) && own.Hint != "":
		hint = own.Hint
	case errors.As(err, &answer) && answer.HTML:
		hint = "does this network ask people to sign in first? a browser shows it; else check the address"
	case errors.As(err, &answer):
		hint = "check the address; a load balancer in front must pass WebSockets to /door on, and needs a gateway behind it"
	case errors.Is(err, socketxp.ErrWrongGateway):
		hint = "ask who runs the gateway: if its key was changed while this machine was away, a new token knows the new one " +
			"(end this agent, then socketxp login TOKEN: the device stays the same); if it was not, somebody is in between"
	}
	return &UnreachableError{&socketxp.Error{
		Code: socketxp.CodeUnavailable, Message: "can't reach the gateway " + url,
		Hint: hint, Err: err,
	}}
}

// Error returns the message and its cause.
func (e *UnreachableError) Error() string { return e.reason.Error() }

// Unwrap returns the *socketxp.Error with the hint.
func (e *UnreachableError) Unwrap() error { return e.reason }

// RefusedError is the gateway's no.
type RefusedError struct {
	reason *socketxp.Error
	// RetryAfter is how long the gateway wants to be left alone; 0 if it did not say.
	RetryAfter time.Duration
}

func refused(code socketxp.Code, message, hint string, retryAfter int) error {
	return &RefusedError{
		reason:     &socketxp.Error{Code: code, Message: message, Hint: hint},
		RetryAfter: time.Duration(retryAfter) * time.Second,
	}
}

// Error returns the message.
func (e *RefusedError) Error() string { return e.reason.Error() }

// Unwrap returns the *socketxp.Error with code and hint.
func (e *RefusedError) Unwrap() error { return e.reason }

// Passing reports whether the same request may be granted later without anybody
// changing a right: the device is offline, say, or the gateway busy. A code that
// this program does not know is not passing.
func (e *RefusedError) Passing() bool {
	switch e.reason.Code {
	case socketxp.CodeInternal, socketxp.CodeRateLimited, socketxp.CodeUnavailable, socketxp.CodeDeviceOffline,
		socketxp.CodeDialFailed, socketxp.CodeTooManyLinks, socketxp.CodeGoingAway:
		return true
	}
	return false
}

// Printable returns s in one line, with whatever could move a terminal's cursor
// or hide itself replaced by question marks: for text of which a part came from
// elsewhere.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && !unicode.IsGraphic(r) || unicode.In(r, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// hinted is socketxp.Errorf for what a person at this machine can put right.
func hinted(hint, format string, args ...any) error {
	return socketxp.Errorf(socketxp.CodeInvalid, "%s", fmt.Sprintf(format, args...)).WithHint(hint)
}
