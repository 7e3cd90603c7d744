package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"socketxp"
	"socketxp/internal/api"
)

// statusOf is the one place where a code becomes an HTTP status.
func statusOf(err error) int {
	var special *statusError
	if errors.As(err, &special) {
		return special.status
	}
	switch socketxp.CodeOf(err) {
	case socketxp.CodeInvalid, socketxp.CodeVersion, socketxp.CodeProtocol,
		socketxp.CodeAuthorizationPending, socketxp.CodeSlowDown, socketxp.CodeAccessDenied, socketxp.CodeExpiredToken:
		return http.StatusBadRequest
	case socketxp.CodeUnauthenticated, socketxp.CodeTokenExpired, socketxp.CodeTokenNotYet, socketxp.CodeTokenRevoked,
		socketxp.CodeUsesExhausted, socketxp.CodeDeviceUnknown:
		return http.StatusUnauthorized
	case socketxp.CodeWrongPurpose, socketxp.CodeForbidden, socketxp.CodeReauthRequired, socketxp.CodeQuota, socketxp.CodeDeviceDisabled,
		socketxp.CodeQuarantined, socketxp.CodeKeyRetired:
		return http.StatusForbidden
	case socketxp.CodeNotFound, socketxp.CodeNotPublished:
		return http.StatusNotFound
	case socketxp.CodeConflict, socketxp.CodeAlreadyRegister, socketxp.CodeDeviceOffline, socketxp.CodeReplaced:
		return http.StatusConflict
	case socketxp.CodeSessionEnded:
		return http.StatusGone
	case socketxp.CodeRateLimited, socketxp.CodeTooManyLinks:
		return http.StatusTooManyRequests
	case socketxp.CodeUnavailable, socketxp.CodeGoingAway:
		return http.StatusServiceUnavailable
	case socketxp.CodeDialFailed:
		return http.StatusBadGateway
	case socketxp.CodeInternal:
	}
	return http.StatusInternalServerError
}

// statusError is a mistake in how HTTP was used, for which HTTP has a status of
// its own.
type statusError struct {
	cause  *socketxp.Error
	status int
}

func (e *statusError) Error() string { return e.cause.Error() }
func (e *statusError) Unwrap() error { return e.cause }

func misuse(status int, message, hint string) error {
	return &statusError{cause: socketxp.Errorf(socketxp.CodeInvalid, "%s", message).WithHint(hint), status: status}
}

var errNoRoute = socketxp.Errorf(socketxp.CodeNotFound, "there is nothing at this address").WithHint("the API is described at /api/docs")

// problem is an error as it is answered. huma takes it for one of its own by its
// methods.
type problem struct {
	api.Problem
	header http.Header
}

// newProblem returns what a client may know of err.
func newProblem(err error) *problem {
	e := clientError(err)
	p := &problem{header: http.Header{}, Problem: api.Problem{
		Status: statusOf(err), Code: e.Code, Detail: e.Message, Hint: e.Hint,
	}}
	p.Title = http.StatusText(p.Status)
	var wait *laterError
	switch {
	case errors.As(err, &wait):
		p.header.Set("Retry-After", strconv.Itoa(seconds(wait.after)))
	case p.Status == http.StatusServiceUnavailable:
		p.header.Set("Retry-After", "5")
	case p.Status == http.StatusUnauthorized:
		p.header.Set("WWW-Authenticate", "Bearer")
	}
	return p
}

// GetStatus is for huma.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders is for huma.
func (p *problem) GetHeaders() http.Header { return p.header }

// Error is for huma.
func (p *problem) Error() string { return p.Detail }

// ContentType is for huma.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// write answers with p, outside of huma.
func (p *problem) write(w http.ResponseWriter) {
	for name, values := range p.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Del("Content-Length")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p.Problem)
}

// maxProblemFields is how many mistakes of one request are told.
const maxProblemFields = 10

// huma has one such function for the whole process: by it, what a request's
// parameters or body break of the schema is told as all other errors are.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		p := &problem{header: http.Header{}, Problem: api.Problem{Status: status, Code: socketxp.CodeInvalid, Detail: message}}
		switch {
		case status == http.StatusUnprocessableEntity:
			p.Status = http.StatusBadRequest
		case status >= http.StatusInternalServerError:
			p.Code, p.Detail = socketxp.CodeInternal, clientError(nil).Message
			errs = nil
		}
		p.Title = http.StatusText(p.Status)
		for _, err := range errs {
			var d *huma.ErrorDetail
			if len(p.Errors) == maxProblemFields || !errors.As(err, &d) {
				break
			}
			// The value is left out: it may be a password.
			p.Errors = append(p.Errors, api.ProblemField{Location: clipText(d.Location), Message: clipText(d.Message)})
		}
		if len(p.Errors) > 0 {
			p.Detail = p.Errors[0].Location + ": " + p.Errors[0].Message
		}
		return p
	}
}

// clipText bounds text that a client sent and gets back.
func clipText(s string) string {
	const longest = 200
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
