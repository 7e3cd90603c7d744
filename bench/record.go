package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// The record layer of the derived way: what stands in TLS's place on a connection
// whose keys come from a session beside it.
//
// A frame is a byte of type, three bytes of payload length in network order, the
// payload under AES-128-GCM, and the tag. Header and payload are authenticated; the
// nonce is the frame's number, which is not sent.
const (
	recordSize   = 64 << 10 // the largest frame, all of it
	recordHeader = 4
	recordTag    = 16
	recordMax    = recordSize - recordHeader - recordTag
	// maxRecords is how many frames a key seals: 1 TiB of full ones, which is 2^36
	// blocks. A key gives out and is not replaced.
	maxRecords = 1 << 24
	// gatheredRecords is how many frames leave in one write.
	gatheredRecords = 4
)

type recordType byte

const (
	recordOpen recordType = 1 + iota // visitor, first and once: somebody has come; no payload
	recordData                       // 1 to recordMax bytes
	recordEnd                        // the sender's direction is at its end; no payload
)

// fits reports whether a frame of this type may have size bytes of payload.
func (t recordType) fits(size int) bool {
	switch t {
	case recordOpen, recordEnd:
		return size == 0
	case recordData:
		return size > 0 && size <= recordMax
	}
	return false
}

var (
	errRecord  = errors.New("a frame that the peer can't have sent")
	errUsedUp  = errors.New("the key has sealed as many frames as it may")
	errTooSoon = errors.New("a frame out of its place")
)

// recordKey is the key of one direction of one connection.
type recordKey struct {
	aead  cipher.AEAD
	used  uint64
	nonce [12]byte
}

// deriveKeys makes both keys of a connection from the session's exporter secret and
// the connection's ticket.
func deriveKeys(secret []byte, t ticket) (toDevice, toVisitor *recordKey, err error) {
	own, err := hkdf.Extract(sha256.New, secret, t[:])
	if err != nil {
		return nil, nil, err
	}
	key := func(label string) (*recordKey, error) {
		k, err := hkdf.Expand(sha256.New, own, label, 16)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(k)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		return &recordKey{aead: aead}, err
	}
	if toDevice, err = key("derived 1, sealed by the visitor"); err != nil {
		return nil, nil, err
	}
	toVisitor, err = key("derived 1, sealed by the device")
	return toDevice, toVisitor, err
}

// next returns the nonce of the next frame.
func (k *recordKey) next() ([]byte, error) {
	if k.used >= maxRecords {
		return nil, errUsedUp
	}
	binary.BigEndian.PutUint64(k.nonce[4:], k.used)
	k.used++
	return k.nonce[:], nil
}

// seal makes a frame in place, of size bytes of payload that lie in b behind room
// for the header. Behind them is room for the tag.
func (k *recordKey) seal(t recordType, b []byte, size int) ([]byte, error) {
	nonce, err := k.next()
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b, uint32(t)<<24|uint32(size)) //nolint:gosec // at most recordMax
	k.aead.Seal(b[recordHeader:recordHeader], nonce, b[recordHeader:recordHeader+size], b[:recordHeader])
	return b[:recordHeader+size+recordTag], nil
}

// sealEmpty makes a frame without payload.
func (k *recordKey) sealEmpty(t recordType) ([]byte, error) {
	return k.seal(t, make([]byte, recordHeader+recordTag), 0)
}

// parseRecord returns the size of the frame that b begins with, 0 if not even its
// header is there. It judges the header before anybody waits for the rest.
func parseRecord(b []byte) (t recordType, size int, err error) {
	if len(b) < recordHeader {
		return 0, 0, nil
	}
	head := binary.BigEndian.Uint32(b)
	t, size = recordType(head>>24), int(head&0xffffff)
	if !t.fits(size) {
		return 0, 0, errRecord
	}
	return t, recordHeader + size + recordTag, nil
}

// open returns the payload of a whole frame, in place.
func (k *recordKey) open(frame []byte) ([]byte, error) {
	nonce, err := k.next()
	if err != nil {
		return nil, err
	}
	payload, err := k.aead.Open(frame[recordHeader:recordHeader], nonce, frame[recordHeader:], frame[:recordHeader])
	if err != nil {
		return nil, errRecord
	}
	return payload, nil
}

// The buffers of both directions. Nobody holds one while they wait.
type (
	gatherRoom [gatheredRecords * recordSize]byte
	readRoom   [(gatheredRecords + 1) * recordSize]byte
)

var (
	gatherRooms = sync.Pool{New: func() any { return new(gatherRoom) }}
	readRooms   = sync.Pool{New: func() any { return new(readRoom) }}
)

// recordReader reads what a peer has sealed. After an error it has nothing more.
// Whoever has one releases it in the end.
type recordReader struct {
	from io.Reader
	key  *recordKey

	buf  *readRoom // nil while there is nothing in it
	r, w int       // what of it was not given out yet
	head [recordHeader]byte
	err  error
}

// next returns the next frame, whose payload is good until the next call that finds
// ready false. The end that the peer has sealed is io.EOF, any other end is not.
func (in *recordReader) next() (recordType, []byte, error) {
	t, payload, err := in.read()
	in.err = err
	return t, payload, err
}

func (in *recordReader) read() (recordType, []byte, error) {
	if in.err != nil {
		return 0, nil, in.err
	}
	for {
		t, size, err := parseRecord(in.unread())
		if err != nil {
			return 0, nil, err
		}
		if size > 0 && size <= in.w-in.r {
			payload, err := in.key.open(in.buf[in.r : in.r+size])
			in.r += size
			if err == nil && t == recordEnd {
				err = io.EOF
			}
			return t, payload, err
		}
		if err := in.fill(); errors.Is(err, io.EOF) {
			return 0, nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, nil, err
		}
	}
}

// ready reports whether next has a frame at hand.
func (in *recordReader) ready() bool {
	if in.err != nil {
		return false
	}
	_, size, err := parseRecord(in.unread())
	return err == nil && size > 0 && size <= in.w-in.r
}

func (in *recordReader) unread() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf[in.r:in.w]
}

// fill reads more: a little without a buffer if there was nothing, and then all that
// there is.
func (in *recordReader) fill() error {
	if in.r == in.w {
		in.release()
		n, err := in.from.Read(in.head[:])
		if n == 0 {
			return err
		}
		in.buf = readRooms.Get().(*readRoom)
		in.r, in.w = 0, copy(in.buf[:], in.head[:n])
		return nil
	}
	if in.r > 0 {
		in.r, in.w = 0, copy(in.buf[:], in.buf[in.r:in.w])
	}
	n, err := in.from.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// release gives the buffer back.
func (in *recordReader) release() {
	if in.buf != nil {
		readRooms.Put(in.buf)
		in.buf, in.r, in.w = nil, 0, 0
	}
}

// carry moves bytes between a plain connection and a sealed one until both
// directions have ended. If one fails, both connections are reset: nobody takes what
// was cut for whole.
func carry(plain, sealed *net.TCPConn, out *recordKey, in *recordReader) error {
	var outErr, inErr error
	both(func() {
		if outErr = sealAll(sealed, plain, out); outErr != nil {
			reset(plain, sealed)
		}
	}, func() {
		if inErr = openAll(plain, in); inErr != nil {
			reset(plain, sealed)
		}
	})
	return errors.Join(outErr, inErr)
}

func reset(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// sealAll seals what a plain connection says, and its end. What there is to read goes
// straight to where the payloads of up to gatheredRecords frames belong.
func sealAll(to io.Writer, from *net.TCPConn, key *recordKey) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	var room *gatherRoom
	var n int
	places := make([][]byte, gatheredRecords)
	read := func(fd uintptr) bool {
		room = gatherRooms.Get().(*gatherRoom)
		for i := range places {
			places[i] = room[i*recordSize+recordHeader:][:recordMax]
		}
		for {
			if n, err = unix.Readv(int(fd), places); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if n <= 0 {
			gatherRooms.Put(room)
		}
		return !errors.Is(err, unix.EAGAIN)
	}
	for {
		if rawErr := raw.Read(read); rawErr != nil {
			return rawErr
		}
		if err != nil {
			return err
		}
		if n == 0 {
			end, err := key.sealEmpty(recordEnd)
			if err == nil {
				_, err = to.Write(end)
			}
			return err
		}
		err = sealRoom(to, room, n, key)
		gatherRooms.Put(room)
		if err != nil {
			return err
		}
	}
}

// sealRoom seals n bytes of payloads and lets them leave in one write.
func sealRoom(to io.Writer, room *gatherRoom, n int, key *recordKey) error {
	size := 0
	for i := 0; n > 0; i++ {
		frame, err := key.seal(recordData, room[i*recordSize:], min(n, recordMax))
		if err != nil {
			return err
		}
		size += len(frame)
		n -= recordMax
	}
	_, err := to.Write(room[:size])
	return err
}

// openAll gives a plain connection what the peer has sealed, and its end.
func openAll(to *net.TCPConn, in *recordReader) error {
	all := make([][]byte, 0, 4*gatheredRecords)
	var err error
	for err == nil {
		parts := all
		for err == nil && (len(parts) == 0 || in.ready() && len(parts) < cap(all)) {
			var t recordType
			var payload []byte
			switch t, payload, err = in.next(); {
			case err != nil:
			case t != recordData:
				err = errTooSoon
			default:
				parts = append(parts, payload)
			}
		}
		if werr := writeParts(to, parts); werr != nil {
			return werr
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	_ = to.CloseWrite() // if it is gone, reading it says so
	return nil
}

func writeParts(to *net.TCPConn, parts [][]byte) (err error) {
	switch len(parts) {
	case 0:
	case 1:
		_, err = to.Write(parts[0])
	default:
		bufs := net.Buffers(parts)
		_, err = bufs.WriteTo(to)
	}
	return err
}
