package link

import (
	"encoding/binary"

	"socketxp"
)

// A frame is a byte of type, three bytes of payload length in network order, and
// the payload.
const (
	headerSize = 4
	// maxFrame is a whole number of TLS records, so that a full frame fills them.
	maxFrame = 256 << 10
	maxData  = maxFrame - headerSize
	// maxDestination is the longest destination that socketxp.ParseDestination takes.
	maxDestination = 300
	maxCode        = 40
)

type frameType byte

// The frames. A type is never used again for something else.
const (
	frameOpen  frameType = 0x01 // visitor: a connection to the destination in the payload
	frameData  frameType = 0x02 // 1 to maxData bytes of the connection
	frameFin   frameType = 0x03 // the sender's direction is at its end; no payload
	frameReset frameType = 0x04 // the sender's direction was broken off; a socketxp.Code or nothing
)

func putHeader(b []byte, t frameType, size int) {
	binary.BigEndian.PutUint32(b, uint32(t)<<24|uint32(size)) //nolint:gosec // at most maxData
}

func parseHeader(b [headerSize]byte) (t frameType, size int) {
	return frameType(b[0]), int(binary.BigEndian.Uint32(b[:]) & 0xffffff)
}

// fits reports whether a frame of this type may have size bytes of payload.
func (t frameType) fits(size int) bool {
	switch t {
	case frameOpen:
		return size > 0 && size <= maxDestination
	case frameData:
		return size > 0 && size <= maxData
	case frameFin:
		return size == 0
	case frameReset:
		return size <= maxCode
	}
	return false
}

// validCode reports whether a peer's code may be shown: lower-case words.
func validCode(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return true
}

// incoming is the frame being read. It survives a read that times out in its
// middle.
type incoming struct {
	head [headerSize]byte
	got  int // bytes of head, then of head and body
	body [maxDestination]byte
	left int // bytes of a DATA frame's payload that were not read yet
}

// violation is what a peer did against the protocol.
func violation(format string, args ...any) *socketxp.Error {
	return socketxp.Errorf(socketxp.CodeProtocol, format, args...)
}
