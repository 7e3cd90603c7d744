package control

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"reflect"

	"socketxp"
)

// Version is the protocol's version that this program speaks, and OldestVersion
// the oldest that it still speaks. Whenever an end gains an ability or a message
// changes its meaning, the number grows by one and a line says what is new:
//
//   - 1: the first
//   - 2: GatewayKeys
//   - 3: the sequence of a device, and the change of its key
//   - 4: single-use keys
const (
	Version       = 4
	OldestVersion = 1
	// SequenceVersion is the first with the sequence of a device and the change of its key.
	SequenceVersion = 3
	// SingleUseKeyVersion is the first with PlaceKey.
	SingleUseKeyVersion = 4
)

// side is an end of the channel.
type side uint8

const (
	agentSide side = iota + 1
	gatewaySide
)

// state is how far a channel has come. Each state is one bit, in the order in
// which they are reached; none is ever left backwards.
type state uint8

const (
	fresh    state = 1 << iota // nothing was said
	greeted                    // Hello
	reported                   // a device's first Report
	open                       // Welcome
	leaving                    // Logout
	over                       // Refused or LoggedOut: nothing may follow
)

// started are the states in which a device's channel, and a visitor's, has begun
// and has not ended.
const (
	started      = greeted | reported | open | leaving
	visitStarted = greeted | open
)

// rule says of one message who sends it, and when.
type rule struct {
	code   byte
	name   string
	sample Message // its type; nil for heartbeats, which carry nothing
	from   side
	// In which states it may be sent on a device's channel, and on a visitor's.
	device, visitor state
	// The channel has come at least this far when it was sent.
	reaches state
	// The longest payload in bytes.
	max    int
	decode func(data []byte) (Message, error)
}

const (
	codePing byte = 0x01
	codePong byte = 0x02
)

// rules is the protocol: what isn't in it is refused, by sender and receiver. A
// code is never used again for something else.
var rules = []rule{
	{codePing, "Ping", nil, agentSide, started, visitStarted, 0, 0, nil},
	{codePong, "Pong", nil, gatewaySide, started, visitStarted, 0, 0, nil},

	{0x10, "Hello", Hello{}, agentSide, fresh, fresh, greeted, 4 << 10, lax[Hello]},
	{0x11, "Report", Report{}, agentSide, greeted | open | leaving, 0, reported, maxPayload, lax[Report]},
	{0x12, "Welcome", Welcome{}, gatewaySide, reported, greeted, open, 4 << 10, lax[Welcome]},
	{0x13, "Refused", Refused{}, gatewaySide, started, visitStarted, over, 8 << 10, lax[Refused]},
	{0x14, "GoAway", GoAway{}, gatewaySide, open | leaving, open, 0, 8 << 10, lax[GoAway]},
	{0x15, "GatewayKeys", GatewayKeys{}, gatewaySide, open | leaving, open, 0, 512, lax[GatewayKeys]},

	{0x20, "Offer", Offer{}, gatewaySide, open | leaving, 0, 0, 4 << 10, strict[Offer]},
	{0x21, "OfferRefused", OfferRefused{}, agentSide, open | leaving, 0, 0, 8 << 10, strict[OfferRefused]},
	{0x22, "Logout", Logout{}, agentSide, open, 0, leaving, 64, strict[Logout]},
	{0x23, "LoggedOut", LoggedOut{}, gatewaySide, leaving, 0, over, 64, strict[LoggedOut]},
	{0x24, "SequenceNext", SequenceNext{}, gatewaySide, reported, 0, 0, 256, strict[SequenceNext]},
	{0x25, "SequenceKept", SequenceKept{}, agentSide, reported, 0, 0, 256, strict[SequenceKept]},
	{0x26, "SequenceCheck", SequenceCheck{}, gatewaySide, reported, 0, 0, 256, strict[SequenceCheck]},
	{0x27, "SequenceHeld", SequenceHeld{}, agentSide, reported, 0, 0, 256, strict[SequenceHeld]},
	{0x28, "KeyDue", KeyDue{}, gatewaySide, open | leaving, 0, 0, 64, strict[KeyDue]},
	{0x29, "KeyChange", KeyChange{}, agentSide, open, 0, 0, 512, strict[KeyChange]},
	{0x2a, "KeyStaged", KeyStaged{}, gatewaySide, open | leaving, 0, 0, 256, strict[KeyStaged]},
	{0x2b, "KeyRefused", KeyRefused{}, gatewaySide, open | leaving, 0, 0, 8 << 10, strict[KeyRefused]},

	{0x30, "Visit", Visit{}, agentSide, 0, visitStarted, 0, 8 << 10, strict[Visit]},
	{0x31, "Granted", Granted{}, gatewaySide, 0, open, 0, 16 << 10, strict[Granted]},
	{0x32, "Ended", Ended{}, gatewaySide, 0, open, 0, 8 << 10, strict[Ended]},
	{0x33, "Leave", Leave{}, agentSide, 0, visitStarted, 0, 256, strict[Leave]},
	{0x34, "LinkRequest", LinkRequest{}, agentSide, 0, visitStarted, 0, 256, strict[LinkRequest]},
	{0x35, "LinkTicket", LinkTicket{}, gatewaySide, 0, open, 0, 256, strict[LinkTicket]},
	{0x36, "LinkRefused", LinkRefused{}, gatewaySide, 0, open, 0, 8 << 10, strict[LinkRefused]},

	{0x40, "PlaceKey", PlaceKey{}, gatewaySide, open | leaving, 0, 0, 4 << 10, strict[PlaceKey]},
	{0x41, "KeyPlaced", KeyPlaced{}, agentSide, open | leaving, 0, 0, 512, strict[KeyPlaced]},
	{0x42, "KeyNotPlaced", KeyNotPlaced{}, agentSide, open | leaving, 0, 0, 8 << 10, strict[KeyNotPlaced]},
	{0x43, "RemoveKey", RemoveKey{}, gatewaySide, open | leaving, 0, 0, 256, strict[RemoveKey]},
	{0x44, "KeyRemoved", KeyRemoved{}, agentSide, open | leaving, 0, 0, 256, strict[KeyRemoved]},
}

// allows reports whether r's message may pass on a channel of this role and
// state. Before Hello the role is unknown.
func (r *rule) allows(role Role, s state) bool {
	switch role {
	case RoleDevice:
		return r.device&s != 0
	case RoleVisitor:
		return r.visitor&s != 0
	}
	return s == fresh && (r.device|r.visitor)&fresh != 0
}

var (
	ruleByCode = make(map[byte]*rule, len(rules))
	ruleByType = make(map[reflect.Type]*rule, len(rules))
)

func init() {
	for i := range rules {
		r := &rules[i]
		ruleByCode[r.code] = r
		if r.sample != nil {
			ruleByType[reflect.TypeOf(r.sample)] = r
		}
	}
}

// strict decodes messages that mean the same in all versions; lax those that a
// newer peer may have added fields to.
func strict[M Message](data []byte) (Message, error) {
	return decode[M](data, socketxp.StrictUnmarshal)
}

func lax[M Message](data []byte) (Message, error) { return decode[M](data, socketxp.LaxUnmarshal) }

func decode[M Message](data []byte, unmarshal func([]byte, any) error) (Message, error) {
	var m M
	if err := unmarshal(data, &m); err != nil {
		return nil, err
	}
	return m, m.check()
}

// A frame is a byte of type, three bytes of payload length in network order, and
// the payload.
const (
	headerSize = 4
	maxPayload = 64 << 10
)

func appendFrame(b []byte, code byte, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(code)<<24|uint32(len(payload))) //nolint:gosec // at most maxPayload, as the caller has checked
	return append(b, payload...)
}

func parseHeader(b [headerSize]byte) (code byte, size int) {
	return b[0], int(binary.BigEndian.Uint32(b[:]) & 0xffffff)
}

// readPayload reads size bytes. It allocates as they come, not as they were
// announced.
func readPayload(conn net.Conn, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil // a heartbeat: io.ReadAll would make 512 bytes of garbage
	}
	data, err := io.ReadAll(io.LimitReader(conn, int64(size)))
	if err != nil {
		return nil, err
	}
	if len(data) < size {
		return nil, io.ErrUnexpectedEOF
	}
	return data, nil
}

// violation is what a peer did against the protocol. What it quotes of the
// peer's is cut short and has no control characters.
func violation(format string, args ...any) *socketxp.Error {
	return socketxp.Errorf(socketxp.CodeProtocol, "%s", printable(fmt.Sprintf(format, args...), 200))
}
