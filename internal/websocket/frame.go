package websocket

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// frame is the beginning of a frame with data, or a whole one without.
type frame struct {
	final   bool
	opcode  byte
	size    int64
	payload []byte // of a ping, pong or close
}

// status returns the status of a close, or 1005 if it has none.
func (f frame) status() int {
	if len(f.payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

// frameReader takes a stream of frames apart.
type frameReader struct {
	fromClient bool // frames must be masked

	head   [maxHeader + maxControl]byte // the header, and a payload that is not data
	got    int                          // bytes of head
	within bool                         // a message that has more frames
	left   int64                        // bytes of data that are still to come
	mask   [4]byte
	turn   int // index in mask of the next byte
}

var errFrame = errors.New("websocket: a frame is not valid")

// next reads the next frame, and its payload if that is no data. When read fails it
// may be called again and goes on. The data of the frame before must have been
// read.
func (r *frameReader) next(read func([]byte) (int, error)) (frame, error) {
	if err := r.fill(2, read); err != nil {
		return frame{}, err
	}
	f := frame{final: r.head[0]&0x80 != 0, opcode: r.head[0] & 0x0f, size: int64(r.head[1] & 0x7f)}
	if why := r.judge(f); why != "" {
		return frame{}, fmt.Errorf("%w: %s", errFrame, why)
	}
	need := 2
	switch f.size {
	case 126:
		need += 2
	case 127:
		need += 8
	}
	if r.fromClient {
		need += len(r.mask)
	}
	if err := r.fill(need, read); err != nil {
		return frame{}, err
	}
	short := f.size
	switch short {
	case 126:
		f.size = int64(binary.BigEndian.Uint16(r.head[2:]))
	case 127:
		f.size = int64(min(binary.BigEndian.Uint64(r.head[2:]), maxReceive+1))
	}
	if short == 126 && f.size < 126 || short == 127 && f.size < 1<<16 || f.size > maxReceive {
		return frame{}, fmt.Errorf("%w: its length is not", errFrame)
	}
	if r.fromClient {
		copy(r.mask[:], r.head[need-len(r.mask):need])
	}
	r.turn = 0
	if f.opcode&0x8 != 0 {
		end := need + int(f.size)
		if err := r.fill(end, read); err != nil {
			return frame{}, err
		}
		f.payload = append([]byte(nil), r.head[need:end]...)
		r.unmask(f.payload)
	} else {
		r.left = f.size
		r.within = !f.final
	}
	r.got = 0
	return f, nil
}

// judge returns what is wrong with the first two bytes of a frame, or "".
func (r *frameReader) judge(f frame) string {
	switch {
	case r.head[0]&0x70 != 0:
		return "reserved bits are set"
	case r.head[1]&0x80 != 0 != r.fromClient:
		return "what a client sends is masked, and nothing else"
	}
	switch f.opcode {
	case opBinary:
		if r.within {
			return "a message begins in another"
		}
	case opContinuation:
		if !r.within {
			return "it continues no message"
		}
	case opClose, opPing, opPong:
		if !f.final || f.size > maxControl {
			return "a control frame is in parts, or too long"
		}
	default:
		return fmt.Sprintf("its opcode is %#x", f.opcode)
	}
	return ""
}

// fill reads until the first n bytes of head are there.
func (r *frameReader) fill(n int, read func([]byte) (int, error)) error {
	for r.got < n {
		m, err := read(r.head[r.got:n])
		r.got += m
		if err != nil && r.got < n {
			return err
		}
	}
	return nil
}

// unmask takes the mask off the next bytes of a frame that were read.
func (r *frameReader) unmask(b []byte) {
	if r.fromClient {
		r.turn = xor(b, r.mask, r.turn)
	}
	r.left = max(0, r.left-int64(len(b)))
}

// xor masks or unmasks b from index turn of the mask on, and returns the index that
// follows.
func xor(b []byte, mask [4]byte, turn int) int {
	next := (turn + len(b)) & 3
	var turned [8]byte
	for i := range turned {
		turned[i] = mask[(turn+i)&3]
	}
	word := binary.NativeEndian.Uint64(turned[:])
	for ; len(b) >= 8; b = b[8:] {
		binary.NativeEndian.PutUint64(b, binary.NativeEndian.Uint64(b)^word)
	}
	for i := range b {
		b[i] ^= turned[i]
	}
	return next
}

// appendFrame appends a whole message, or a frame that is no data, to b.
func appendFrame(b []byte, opcode byte, payload []byte, masked bool) []byte {
	b = append(b, 0x80|opcode)
	var maskBit byte
	if masked {
		maskBit = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, maskBit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, maskBit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, maskBit|127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	mask := newMask()
	b = append(b, mask[:]...)
	from := len(b)
	b = append(b, payload...)
	xor(b[from:], mask, 0)
	return b
}
