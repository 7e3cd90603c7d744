package terminal

import (
	"errors"
	"fmt"

	"socketxp"
)

const (
	// maxText is the longest text message of a client: ten times what any needs.
	maxText = 1 << 10
	// maxSide is the most columns and rows. What a screen says beyond is cut to it.
	maxSide = 4096
)

// clientMessage is a text message of the person's end.
type clientMessage struct {
	Type    string `json:"type"`
	From    *int64 `json:"from"`
	Columns *int   `json:"columns"`
	Rows    *int   `json:"rows"`
	Bytes   *int64 `json:"bytes"`
}

// parseMessage returns a text message that says all it must and nothing else.
func parseMessage(text []byte) (clientMessage, error) {
	var m clientMessage
	if len(text) > maxText {
		return m, fmt.Errorf("a message of %d bytes", len(text))
	}
	if err := socketxp.StrictUnmarshal(text, &m); err != nil {
		return m, err
	}
	size := m.Columns != nil || m.Rows != nil
	var ok bool
	switch m.Type {
	case "attach":
		ok = m.From != nil && *m.From >= 0 && m.Bytes == nil && !size
	case "ack":
		ok = m.Bytes != nil && *m.Bytes >= 0 && m.From == nil && !size
	case "resize":
		ok = m.Columns != nil && m.Rows != nil && m.From == nil && m.Bytes == nil
	case "trust":
		ok = m.From == nil && m.Bytes == nil && !size
	}
	if !ok {
		return m, errors.New("a message that is none")
	}
	return m, nil
}

// Size is how large a screen is.
type Size struct{ Columns, Rows int }

// Clamp returns the nearest size that there may be.
func (s Size) Clamp() Size {
	side := func(n int) int { return min(max(n, 1), maxSide) }
	return Size{side(s.Columns), side(s.Rows)}
}

// The states of a terminal, in their order; host-key is left out where the key is
// known.
const (
	stateConnecting = "connecting"
	stateHostKey    = "host-key"
	stateSigningIn  = "signing-in"
	stateOpen       = "open"
	stateEnded      = "ended"
)

// stateMessage tells the person's end how it stands.
type stateMessage struct {
	Type    string   `json:"type"`
	State   string   `json:"state"`
	HostKey *HostKey `json:"host_key,omitempty"`
	*Ending
}

// fromMessage says which byte of the output comes next.
type fromMessage struct {
	Type   string `json:"type"`
	Offset int64  `json:"offset"`
}

// noticeMessage is a word to the person.
type noticeMessage struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// Ending is why a terminal is over.
type Ending struct {
	// Reason is one of those below, or the code of what cut the terminal off.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// ExitStatus or Signal is how the program ended, if it did.
	ExitStatus *int   `json:"exit_status,omitempty"`
	Signal     string `json:"signal,omitempty"`
}

// The reasons of ours.
const (
	ReasonExited      = "exited"            // the program ended
	ReasonClosed      = "closed"            // the person closed the terminal
	ReasonRefused     = "refused"           // the device did not take the sign-in
	ReasonHostKey     = "host_key_mismatch" // the server has another key than the device says, and nobody may trust it
	ReasonNotTrusted  = "not_trusted"       // nobody has trusted the host key in time
	ReasonLost        = "connection_lost"
	ReasonUnreachable = "unreachable" // there was no connection
	ReasonDetached    = "detached"    // nobody looked at it for too long
	ReasonTakenOver   = "taken_over"  // for this socket only: another one has the terminal
	ReasonMisuse      = "protocol_error"
)
