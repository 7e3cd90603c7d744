package link

import (
	"bytes"

	"socketxp"
)

// PrefaceSize is the number of bytes that each half sends to the gateway first:
// 4 of magic, 1 of version, 1 of kind, 2 reserved (zero), then the ticket.
const PrefaceSize = 8 + socketxp.LinkTicketSize

// Magic starts every preface. Its first byte can't start a TLS record.
const Magic = "SXPL"

// prefaceVersion is the version of the preface; what is said after it is ALPN's.
const prefaceVersion = 1

var (
	prefaceHead = []byte(Magic + string(rune(prefaceVersion)) + "\x00\x00\x00")
	// probeHead begins a probe: the kind is 1, and what follows is no ticket.
	probeHead = []byte(Magic + string(rune(prefaceVersion)) + "\x01\x00\x00")
)

// AppendPreface appends the preface of a ticket to b.
func AppendPreface(b, ticket []byte) []byte {
	return append(append(b, prefaceHead...), ticket...)
}

// ParsePreface returns the ticket in a preface of exactly PrefaceSize bytes, or
// a CodeProtocol error. The ticket is a part of b.
func ParsePreface(b []byte) (ticket []byte, err error) {
	switch {
	case len(b) != PrefaceSize || !bytes.HasPrefix(b, []byte(Magic)):
		return nil, socketxp.Errorf(socketxp.CodeProtocol, "this is not the beginning of a link")
	case b[len(Magic)] != prefaceVersion:
		return nil, socketxp.Errorf(socketxp.CodeProtocol, "links of version %d are not known here", b[len(Magic)])
	case !bytes.HasPrefix(b, prefaceHead):
		return nil, socketxp.Errorf(socketxp.CodeProtocol, "a reserved byte of the link's preface is not zero")
	}
	return b[len(prefaceHead):], nil
}

// AppendProbe appends a probe to b: it asks whether the link door can be reached,
// and the gateway answers with the same PrefaceSize bytes; a preface may follow. The
// nonce has the size of a ticket and is none.
func AppendProbe(b, nonce []byte) []byte {
	return append(append(b, probeHead...), nonce...)
}

// IsProbe reports whether b, of PrefaceSize bytes, is a probe.
func IsProbe(b []byte) bool {
	return len(b) == PrefaceSize && bytes.HasPrefix(b, probeHead)
}
