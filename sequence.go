package socketxp

import "crypto/subtle"

// SequenceSize is the number of random bytes of a value of a device's sequence.
const SequenceSize = 16

// Sequence is what the gateway knows of a device's sequence, by which a second
// holder of its key is found. The one device holds Current or Next, whatever has
// crashed: Next from the moment at which it has written down what it was offered,
// and Current until then. Each connection that is let in has moved the sequence by
// one, alone. Zero is the sequence of a device that was never given a value.
type Sequence struct {
	Current []byte // the value that the device confirmed last; nil for none
	Next    []byte // the value that it is offered; nil only if there is no sequence yet
}

// Begun reports whether the device was ever given a value.
func (s Sequence) Begun() bool { return len(s.Next) > 0 }

// Equal reports whether s and o are the same.
func (s Sequence) Equal(o Sequence) bool {
	return sameValue(s.Current, o.Current) && sameValue(s.Next, o.Next)
}

// SequenceVerdict is what a value that a device shows says of it. The zero verdict
// lets nobody in.
type SequenceVerdict int

// The verdicts.
const (
	// SequenceForeign is a value that the one device can't hold any more: another
	// holder of the key has connected since. It means so only if whoever shows it is
	// there at that moment: it may also come late, from a connection that the one
	// device has given up.
	SequenceForeign SequenceVerdict = iota
	// SequenceHeld is Current: Next is offered, again if need be.
	SequenceHeld
	// SequenceMoves is Next, of which the device's confirmation was lost, or any value
	// if there is no sequence yet: the sequence moves before a value is offered.
	SequenceMoves
)

// Judge says what the value shown says, nil for none.
func (s Sequence) Judge(shown []byte) SequenceVerdict {
	switch {
	case !s.Begun(), sameValue(shown, s.Next):
		return SequenceMoves
	case sameValue(shown, s.Current):
		return SequenceHeld
	}
	return SequenceForeign
}

func sameValue(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// SequenceMove replaces one device's sequence, if it is From still.
type SequenceMove struct {
	AccountID, DeviceID string
	From, To            Sequence
}
