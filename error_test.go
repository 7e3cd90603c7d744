package socketxp_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"socketxp"
)

func TestError(t *testing.T) {
	cause := &socketxp.Error{Code: socketxp.CodeConflict, Message: "the name is taken", Err: io.ErrUnexpectedEOF}
	wrapped := fmt.Errorf("register device: %w", cause)

	if !errors.Is(wrapped, socketxp.ErrConflict) || errors.Is(wrapped, socketxp.ErrNotFound) {
		t.Error("errors.Is does not go by the code")
	}
	if !errors.Is(wrapped, io.ErrUnexpectedEOF) {
		t.Error("the cause is not in the chain")
	}
	if errors.Is(socketxp.Errorf(socketxp.CodeInvalid, "x"), io.EOF) {
		t.Error("an error of ours is io.EOF")
	}
	if got := cause.Error(); got != "the name is taken: unexpected EOF" {
		t.Errorf("Error = %q", got)
	}
	hinted := socketxp.ErrNotFound.WithHint("look elsewhere")
	if hinted.Hint != "look elsewhere" || socketxp.ErrNotFound.Hint != "" || !errors.Is(hinted, socketxp.ErrNotFound) {
		t.Errorf("WithHint = %+v, and the original is %+v", hinted, socketxp.ErrNotFound)
	}
}

func TestCodeOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want socketxp.Code
	}{
		{nil, ""},
		{io.EOF, socketxp.CodeInternal},
		{socketxp.ErrDeviceOffline, socketxp.CodeDeviceOffline},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", socketxp.ErrUnavailable)), socketxp.CodeUnavailable},
		{errors.Join(io.EOF, socketxp.ErrUsesExhausted), socketxp.CodeUsesExhausted},
		{&socketxp.Error{Code: socketxp.CodeQuota, Err: socketxp.ErrNotFound}, socketxp.CodeQuota},
	} {
		if got := socketxp.CodeOf(c.err); got != c.want {
			t.Errorf("CodeOf(%v) = %q, want %q", c.err, got, c.want)
		}
	}
}
