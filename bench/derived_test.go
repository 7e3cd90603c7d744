package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"time"
)

var testSecret = bytes.Repeat([]byte{7}, 32)

// ends returns the four keys of a pair: of each direction, the sender's and the
// receiver's.
func ends(t testing.TB, of ticket) (visitorOut, deviceIn, deviceOut, visitorIn *recordKey) {
	t.Helper()
	visitorOut, visitorIn, err := deriveKeys(testSecret, of)
	if err != nil {
		t.Fatal(err)
	}
	deviceIn, deviceOut, err = deriveKeys(testSecret, of)
	if err != nil {
		t.Fatal(err)
	}
	return visitorOut, deviceIn, deviceOut, visitorIn
}

// sealed returns a frame of its own memory.
func sealed(t testing.TB, key *recordKey, kind recordType, payload []byte) []byte {
	t.Helper()
	room := make([]byte, recordSize)
	copy(room[recordHeader:], payload)
	frame, err := key.seal(kind, room, len(payload))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(frame)
}

// opened reads all frames' payloads up to the end or an error.
func opened(from io.Reader, key *recordKey) (all []byte, err error) {
	in := &recordReader{from: from, key: key}
	defer in.release()
	for {
		_, payload, err := in.next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, payload...)
	}
}

// pattern is n bytes that are not like each other.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	return b
}

func TestRecords(t *testing.T) {
	out, in, _, _ := ends(t, ticket{1})
	var line, want []byte
	for _, size := range []int{1, 100, recordMax, recordMax, 1, recordMax - 1} {
		line = append(line, sealed(t, out, recordData, pattern(size))...)
		want = append(want, pattern(size)...)
	}
	line = append(line, sealed(t, out, recordEnd, nil)...)
	for name, from := range map[string]io.Reader{
		"at once":        bytes.NewReader(line),
		"a byte a read":  iotest.OneByteReader(bytes.NewReader(line)),
		"half of a read": iotest.HalfReader(bytes.NewReader(line)),
		"with the error": iotest.DataErrReader(bytes.NewReader(line)),
	} {
		in.used = 0
		if got, err := opened(from, in); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
}

// What was done to the frames on their way is an error, and nothing of the frame that
// it was done to, nor of one after it, is given out.
func TestRecordsTamperedWith(t *testing.T) {
	frames := func(t *testing.T, key *recordKey) [][]byte {
		return [][]byte{
			sealed(t, key, recordData, []byte("one")), sealed(t, key, recordData, []byte("two")),
			sealed(t, key, recordData, []byte("six")), sealed(t, key, recordEnd, nil),
		}
	}
	for name, test := range map[string]struct {
		change func(f [][]byte) [][]byte
		want   string
		err    error
	}{
		"payload":        {func(f [][]byte) [][]byte { f[1][recordHeader] ^= 1; return f }, "one", errRecord},
		"tag":            {func(f [][]byte) [][]byte { f[1][len(f[1])-1] ^= 1; return f }, "one", errRecord},
		"type, to none":  {func(f [][]byte) [][]byte { f[1][0] = 9; return f }, "one", errRecord},
		"end, from data": {func(f [][]byte) [][]byte { f[1][0] = byte(recordEnd); return f }, "one", errRecord},
		"end, from nothing": {func(f [][]byte) [][]byte {
			f[1] = append([]byte{byte(recordEnd), 0, 0, 0}, make([]byte, recordTag)...)
			return f
		}, "one", errRecord},
		"open, from end":      {func(f [][]byte) [][]byte { f[3][0] = byte(recordOpen); return f }, "onetwosix", errRecord},
		"length, shorter":     {func(f [][]byte) [][]byte { f[1][3]--; return f }, "one", errRecord},
		"length, longer":      {func(f [][]byte) [][]byte { f[1][3]++; return f }, "one", errRecord},
		"a type too many":     {func(f [][]byte) [][]byte { f[1] = []byte{9, 0, 0, 1}; return f[:2] }, "one", errRecord},
		"length, beyond all":  {func(f [][]byte) [][]byte { f[1][1] = 0xff; return f }, "one", errRecord},
		"repeated":            {func(f [][]byte) [][]byte { return [][]byte{f[0], f[1], f[1], f[2], f[3]} }, "onetwo", errRecord},
		"left out":            {func(f [][]byte) [][]byte { return [][]byte{f[0], f[2], f[3]} }, "one", errRecord},
		"in another order":    {func(f [][]byte) [][]byte { return [][]byte{f[0], f[2], f[1], f[3]} }, "one", errRecord},
		"cut before the end":  {func(f [][]byte) [][]byte { return f[:3] }, "onetwosix", io.ErrUnexpectedEOF},
		"cut in a header":     {func(f [][]byte) [][]byte { f[2] = f[2][:2]; return f[:3] }, "onetwo", io.ErrUnexpectedEOF},
		"cut behind a header": {func(f [][]byte) [][]byte { f[2] = f[2][:recordHeader]; return f[:3] }, "onetwo", io.ErrUnexpectedEOF},
		"cut in a payload":    {func(f [][]byte) [][]byte { f[2] = f[2][:recordHeader+2]; return f[:3] }, "onetwo", io.ErrUnexpectedEOF},
		"cut in a tag":        {func(f [][]byte) [][]byte { f[3] = f[3][:len(f[3])-1]; return f }, "onetwosix", io.ErrUnexpectedEOF},
		"nothing came":        {func([][]byte) [][]byte { return nil }, "", io.ErrUnexpectedEOF},
	} {
		out, in, _, _ := ends(t, ticket{1})
		line := bytes.Join(test.change(frames(t, out)), nil)
		got, err := opened(bytes.NewReader(line), in)
		if string(got) != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: %q and %v, want %q and %v", name, got, err, test.want, test.err)
		}
	}
}

func TestNoFrameAfterAnError(t *testing.T) {
	out, key, _, _ := ends(t, ticket{1})
	bad, good := sealed(t, out, recordData, []byte("one")), sealed(t, out, recordData, []byte("two"))
	bad[recordHeader] ^= 1
	in := &recordReader{from: bytes.NewReader(append(bad, good...)), key: key}
	for range 2 {
		if _, payload, err := in.next(); !errors.Is(err, errRecord) {
			t.Errorf("%q, %v", payload, err)
		}
	}
	if in.ready() {
		t.Error("something is ready after an error")
	}
}

// A frame opens with the key of its own direction, pair and session only.
func TestKeysDiffer(t *testing.T) {
	one, two := ticket{1}, ticket{1}.numbered(1)
	visitorOut, deviceIn, deviceOut, visitorIn := ends(t, one)
	_, otherPair, _, _ := ends(t, two)
	otherSession, _, err := deriveKeys(bytes.Repeat([]byte{8}, 32), one)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		out, in *recordKey
		want    error
	}{
		"to the device":       {visitorOut, deviceIn, nil},
		"to the visitor":      {deviceOut, visitorIn, nil},
		"back to the visitor": {visitorOut, visitorIn, errRecord},
		"back to the device":  {deviceOut, deviceIn, errRecord},
		"another pair":        {visitorOut, otherPair, errRecord},
		"another session":     {visitorOut, otherSession, errRecord},
	} {
		for _, k := range []*recordKey{test.out, test.in} {
			k.used = 0
		}
		line := append(sealed(t, test.out, recordData, []byte("hello")), sealed(t, test.out, recordEnd, nil)...)
		if _, err := opened(bytes.NewReader(line), test.in); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyGivesOut(t *testing.T) {
	out, in, _, _ := ends(t, ticket{1})
	out.used, in.used = maxRecords-1, maxRecords-1
	line := sealed(t, out, recordData, []byte("last"))
	if _, err := out.sealEmpty(recordEnd); !errors.Is(err, errUsedUp) {
		t.Errorf("seal: %v", err)
	}
	// A peer that goes on all the same.
	out.used = maxRecords - 1
	line = append(line, sealed(t, out, recordEnd, nil)...)
	if got, err := opened(bytes.NewReader(line), in); string(got) != "last" || !errors.Is(err, errUsedUp) {
		t.Errorf("open: %q, %v", got, err)
	}
}

func TestWindow(t *testing.T) {
	var w window
	for i, step := range []struct {
		n     uint64
		fresh bool
	}{
		{1, true},
		{1, false},
		{3, true},
		{2, true},
		{2, false},
		{windowSize, true},
		{windowSize + 3, true},
		{3, false},
		{4, true},
		{4, false},
		{10 * windowSize, true},
		{9 * windowSize, false},
		{9*windowSize + 1, true},
		{10 * windowSize, false},
		{10*windowSize + 1, true},
		{1, false},
		{1<<64 - 1, false},
	} {
		if got := w.take(step.n); got != step.fresh {
			t.Errorf("step %d: %d is fresh: %v", i, step.n, got)
		}
	}
}

// listenAt serves in the background until the test ends, and returns where.
func listenAt(ctx context.Context, t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = serve(ctx, l, handle) }()
	return l.Addr().String()
}

// startDerived starts the whole way to a target with so much made ahead. What is
// between the access side and the gateway may be anything.
func startDerived(t *testing.T, ahead int, target func(*net.TCPConn), between func(gateway string) string) *derivedVisitor {
	t.Helper()
	ctx := t.Context()
	gateway := listenAt(ctx, t, derivedGateway(ctx))
	to := listenAt(ctx, t, target)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { ended <- derivedDevice(ctx, gateway, to, ahead, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err == nil {
			t.Error("the device ended without being told why")
		}
	})
	by := gateway
	if between != nil {
		by = between(gateway)
	}
	var v *derivedVisitor
	var err error
	// A gateway to which no device has come yet refuses.
	if late := until(ctx, 10*time.Second, func() bool {
		v, err = newDerivedVisitor(ctx, by, ahead)
		return err == nil
	}); late != nil {
		t.Fatal(err)
	}
	return v
}

// tcpPair returns both ends of a connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if a, err = dial(t.Context(), l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b = other.(*net.TCPConn)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	_ = a.SetDeadline(time.Now().Add(10 * time.Second))
	return a, b
}

// echo sends all that came back when it has ended.
func echo(c *net.TCPConn) {
	all, err := io.ReadAll(c)
	if err != nil {
		reset(c)
		return
	}
	_, _ = c.Write(all)
}

func TestDerived(t *testing.T) {
	want := pattern(9 * recordSize)
	for _, ahead := range []int{0, 1, 8} {
		v := startDerived(t, ahead, echo, nil)
		err := atOnce(12, func(int) error {
			client, c := tcpPair(t)
			visited := make(chan error, 1)
			go func() { visited <- v.visit(t.Context(), c) }()
			if _, err := client.Write(want); err != nil {
				return err
			}
			if err := client.CloseWrite(); err != nil {
				return err
			}
			got, err := io.ReadAll(client)
			if !bytes.Equal(got, want) {
				t.Errorf("%d ahead: %d bytes came back of %d", ahead, len(got), len(want))
			}
			return errors.Join(err, <-visited)
		})
		if err != nil {
			t.Errorf("%d ahead: %v", ahead, err)
		}
	}
}

// A gateway that cuts a pair in peace makes no end of it: both ends get a reset.
func TestDerivedCut(t *testing.T) {
	atTarget := make(chan error, 1)
	hold := func(c *net.TCPConn) {
		_, _ = c.Write([]byte("hello"))
		_, err := io.ReadAll(c)
		atTarget <- err
	}
	cut := make(chan struct{})
	v := startDerived(t, 0, hold, func(gateway string) string {
		return listenAt(t.Context(), t, func(c *net.TCPConn) {
			out, err := dial(t.Context(), gateway)
			if err != nil {
				return
			}
			go splice(out, c)
			<-cut
			_, _ = out.CloseWrite(), c.CloseWrite()
			<-t.Context().Done()
		})
	})
	client, c := tcpPair(t)
	visited := make(chan error, 1)
	go func() { visited <- v.visit(t.Context(), c) }()
	if _, err := io.ReadFull(client, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	close(cut)
	if _, err := io.ReadAll(client); err == nil {
		t.Error("the client sees an orderly end")
	}
	if err := <-visited; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the visitor: %v", err)
	}
	if err := <-atTarget; err == nil {
		t.Error("the target sees an orderly end")
	}
}

// What a visitor has sent does nothing when it is sent a second time.
func TestDerivedReplay(t *testing.T) {
	came := make(chan struct{}, 2)
	v := startDerived(t, 0, func(*net.TCPConn) { came <- struct{}{} }, nil)
	p, err := v.pair(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.conn.Close() }()
	open, err := p.toDevice.sealEmpty(recordOpen)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.conn.Write(open); err != nil {
		t.Fatal(err)
	}
	<-came
	for name, again := range map[string]ticket{
		"the same ticket":  v.name.numbered(v.last.Load()),
		"another ticket":   v.name.numbered(v.last.Load() + 1),
		"no known session": ticket{}.numbered(1),
	} {
		c, err := join(t.Context(), v.gateway, joinVisitor, again)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Write(open)
		if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		_ = c.Close()
	}
	if len(came) != 0 {
		t.Error("the target was dialled for what was sent again")
	}
}

func FuzzRecords(f *testing.F) {
	visitor, _, _, _ := ends(f, ticket{1})
	one, end := sealed(f, visitor, recordData, []byte("one")), sealed(f, visitor, recordEnd, nil)
	const whole = "one"
	f.Add([]byte{}, uint8(3))
	f.Add(slices.Concat(one, end), uint8(3))
	f.Add(one, uint8(1))
	f.Add(slices.Concat(one, one, end), uint8(200))
	f.Add([]byte{byte(recordData), 0xff, 0xff, 0xff, 1, 2, 3}, uint8(2))
	f.Add([]byte{byte(recordData), 0, 0xff, 0xec}, uint8(255))
	f.Fuzz(func(t *testing.T, line []byte, step uint8) {
		_, key, _, _ := ends(t, ticket{1})
		got, err := opened(&stepReader{line, int(step) + 1}, key)
		// Nobody without the key makes another stream than the one that was sealed.
		switch {
		case err == nil && (string(got) != whole || !bytes.HasPrefix(line, slices.Concat(one, end))):
			t.Errorf("an end after %q", got)
		case string(got) != "" && string(got) != whole:
			t.Errorf("%q was given out", got)
		}
	})
}

// stepReader gives a few bytes at a time.
type stepReader struct {
	left []byte
	step int
}

func (r *stepReader) Read(b []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.left[:min(r.step, len(r.left))])
	r.left = r.left[n:]
	return n, nil
}
