package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"socketxp"
)

// frame returns a frame of type t that announces size bytes and has payload.
func frame(t frameType, size int, payload string) []byte {
	b := make([]byte, headerSize)
	putHeader(b, t, size)
	return append(b, payload...)
}

func say(t frameType, payload string) []byte { return frame(t, len(payload), payload) }

// script is a raw connection to a hostile peer that has said all it will.
type script struct {
	net.Conn // nil: what isn't below is not called
	*bytes.Reader
}

func (s script) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (script) Write(p []byte) (int, error)      { return len(p), nil }
func (script) Close() error                     { return nil }
func (script) SetDeadline(time.Time) error      { return nil }
func (script) SetReadDeadline(time.Time) error  { return nil }
func (script) SetWriteDeadline(time.Time) error { return nil }

// hear plays script to an end that does what an agent does, without TLS, and
// returns what its data was and why it ended.
func hear(visitor bool, said []byte) (data []byte, err error) {
	w := &wire{Conn: script{Reader: bytes.NewReader(said)}}
	l := newLink(w, w, destination, visitor)
	defer func() { _ = l.Close() }()
	next := l.Accept
	if visitor {
		next = l.Open
	}
	for {
		c, err := next()
		if err != nil {
			return data, err
		}
		b, err := io.ReadAll(c)
		data = append(data, b...)
		if err == nil {
			err = c.CloseWrite()
		}
		if err == nil && visitor { // what follows on an idle link
			l.mu.Lock()
			l.startWatch()
			l.mu.Unlock()
			return data, l.watch()
		}
		if err != nil && socketxp.CodeOf(err) == socketxp.CodeInternal {
			return data, err
		}
		_ = c.Close()
		if visitor {
			return data, err
		}
	}
}

// TestFrames is the table of what a peer may say in which state: everything else
// breaks the link.
func TestFrames(t *testing.T) {
	dest := say(frameOpen, destination)
	long := string(make([]byte, 1000))
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	data, fin, reset := say(frameData, "hello"), say(frameFin, ""), say(frameReset, "")
	failed := say(frameReset, string(socketxp.CodeDialFailed))

	broken := []struct {
		name    string
		visitor bool
		said    []byte
	}{
		{"device: DATA on an idle link", false, data},
		{"device: FIN on an idle link", false, fin},
		{"device: RESET on an idle link", false, reset},
		{"device: OPEN inside a connection", false, join(dest, dest)},
		{"device: OPEN without a destination", false, say(frameOpen, "")},
		{"N-11 device: OPEN of another port", false, say(frameOpen, "tcp://localhost:5432")},
		{"N-11 device: OPEN of another host", false, say(frameOpen, "tcp://10.0.0.1:22")},
		{"N-11 device: OPEN of a prefix", false, say(frameOpen, destination[:len(destination)-1])},
		{"N-11 device: OPEN of another port the second time", false, join(dest, fin, say(frameOpen, "tcp://localhost:5432"))},
		{"N-02 device: a long OPEN", false, say(frameOpen, long)},
		{"N-02 device: OPEN of 2^24-1", false, frame(frameOpen, 1<<24-1, "x")},
		{"device: an unknown type", false, join(dest, say(0x05, "x"))},
		{"device: type 0", false, join(dest, say(0, ""))},
		{"N-02 device: empty DATA", false, join(dest, say(frameData, ""))},
		{"N-02 device: DATA of one too many", false, join(dest, frame(frameData, maxData+1, "x"))},
		{"N-02 device: DATA of 2^24-1", false, join(dest, frame(frameData, 1<<24-1, "x"))},
		{"device: FIN with a payload", false, join(dest, say(frameFin, "x"))},
		{"device: RESET with a long code", false, join(dest, say(frameReset, long))},
		{"device: RESET with a code that is none", false, join(dest, say(frameReset, "\x1b[2J"))},
		{"visitor: OPEN", true, dest},
		{"visitor: an unknown type", true, say(0xff, "")},
		{"visitor: empty DATA", true, say(frameData, "")},
		{"visitor: DATA of one too many", true, frame(frameData, maxData+1, "x")},
		{"visitor: FIN with a payload", true, say(frameFin, "x")},
		{"visitor: RESET with a code that is none", true, say(frameReset, "Hello!")},
	}
	for _, c := range broken {
		t.Run(c.name, func(t *testing.T) {
			_, err := hear(c.visitor, c.said)
			if socketxp.CodeOf(err) != socketxp.CodeProtocol {
				t.Fatal(err)
			}
		})
	}

	cut := []struct {
		name    string
		visitor bool
		said    []byte
	}{
		{"device: the end inside a header", false, dest[:2]},
		{"device: the end inside OPEN", false, dest[:len(dest)-1]},
		{"device: the end inside a connection", false, dest},
		{"device: the end inside DATA", false, join(dest, data[:6])},
		{"visitor: nothing", true, nil},
		{"visitor: the end after DATA", true, data},
		{"visitor: a second FIN", true, join(fin, fin)},
		{"visitor: DATA after FIN", true, join(fin, data)},
		{"visitor: DATA after RESET", true, join(failed, data)},
	}
	for _, c := range cut {
		t.Run(c.name, func(t *testing.T) {
			if _, err := hear(c.visitor, c.said); err == nil || errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		})
	}

	t.Run("device: three connections in order", func(t *testing.T) {
		got, err := hear(false, join(dest, data, fin, dest, data, data, reset, dest, fin))
		if !errors.Is(err, io.EOF) || string(got) != "hellohellohello" {
			t.Fatalf("%q %v", got, err)
		}
	})
	t.Run("visitor: data and an end", func(t *testing.T) {
		got, err := hear(true, join(data, say(frameData, string(make([]byte, maxData))), fin))
		if len(got) != 5+maxData || socketxp.CodeOf(err) == socketxp.CodeProtocol {
			t.Fatal(len(got), err)
		}
	})
	t.Run("visitor: dial failed", func(t *testing.T) {
		if _, err := hear(true, failed); socketxp.CodeOf(err) != socketxp.CodeDialFailed {
			t.Fatal(err)
		}
	})
}

// FuzzFrames lets each end hear a hostile peer: whatever it says, the end does not
// panic, allocates in proportion to what it heard, takes no byte for data that was
// not in a DATA frame, and comes to an end (goleak).
func FuzzFrames(f *testing.F) {
	dest := say(frameOpen, destination)
	for _, script := range [][]byte{
		nil,
		bytes.Join([][]byte{dest, say(frameData, "hello"), say(frameFin, "")}, nil),
		bytes.Join([][]byte{dest, say(frameReset, "dial_failed"), dest, say(frameFin, "")}, nil),
		bytes.Join([][]byte{say(frameData, "hello"), say(frameFin, "")}, nil),
		frame(frameData, 1<<24-1, "x"),
	} {
		f.Add(true, script)
		f.Add(false, script)
	}
	f.Fuzz(func(t *testing.T, visitor bool, script []byte) {
		if len(script) > 1<<20 {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		data, err := hear(visitor, script)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Fatal("no error at the end")
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(2<<20+16*len(script)) {
			t.Fatalf("%d bytes made it allocate %d", len(script), used)
		}
		if want := payloads(script); !bytes.HasPrefix(want, data) {
			t.Fatalf("%q was taken for data of %q", data, want)
		}
	})
}

// payloads is a slow reading of a script: what all its DATA frames carry, up to
// the first byte that is not a frame.
func payloads(script []byte) (data []byte) {
	for len(script) >= headerSize {
		t, size := parseHeader([headerSize]byte(script))
		if !t.fits(size) {
			break
		}
		script = script[headerSize:]
		body := script[:min(size, len(script))]
		if t == frameData {
			data = append(data, body...)
		}
		script = script[len(body):]
	}
	return data
}
