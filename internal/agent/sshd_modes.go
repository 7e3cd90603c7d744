//go:build unix

package agent

import (
	"encoding/binary"
	"errors"
)

// maxModes is 20 times what a client sends that sets each mode once.
const maxModes = 1000

// Opcodes of RFC 4254 section 8.
const (
	modesEnd     = 0
	modesUnknown = 160 // from here on the length of the argument is not known
	mode7Bit     = 90
	mode8Bit     = 91
)

// mode is one setting of a terminal, as a client's pty-req has it.
type mode struct {
	opcode byte
	value  uint32
}

// parseModes reads the encoded modes of a pty-req. An opcode that can't be read
// ends the list, as the RFC asks.
func parseModes(s string) ([]mode, error) {
	var modes []mode
	for b := []byte(s); len(b) > 0 && b[0] != modesEnd && b[0] < modesUnknown; b = b[5:] {
		if len(b) < 5 {
			return nil, errors.New("the terminal's modes are cut short")
		}
		if len(modes) == maxModes {
			return nil, errors.New("too many modes of the terminal")
		}
		modes = append(modes, mode{b[0], binary.BigEndian.Uint32(b[1:])})
	}
	return modes, nil
}
