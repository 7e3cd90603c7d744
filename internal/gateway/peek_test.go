package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
)

// clientHello returns what a TLS client says first.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	here, there := net.Pipe()
	go func() {
		_ = tls.Client(there, cfg).HandshakeContext(context.Background())
		_ = there.Close()
	}()
	defer func() { _ = here.Close() }()
	head := make([]byte, 5)
	if _, err := io.ReadFull(here, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(here, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// fragments cuts the one record of a hello into records of n bytes.
func fragments(hello []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(hello[5:], n) {
		out = append(out, hello[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func TestPeekClientHello(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "localhost", NextProtos: []string{"socketxp-control/1"}})
	long := make([]string, 500)
	for i := range long {
		long[i] = string(bytes.Repeat([]byte{'a' + byte(i%26)}, 100))
	}
	large := clientHello(t, &tls.Config{ServerName: "localhost", NextProtos: long[:120]})
	tests := []struct {
		name string
		in   []byte
		want []string
		ok   bool
	}{
		{"one record", hello, []string{"socketxp-control/1"}, true},
		{"X-09 records of 100 bytes", fragments(hello, 100), []string{"socketxp-control/1"}, true},
		{"X-09 records of one byte", fragments(hello, 1), []string{"socketxp-control/1"}, true},
		{"more than that follows", append(slices.Clone(hello), "early"...), []string{"socketxp-control/1"}, true},
		{"12 KiB of protocols", large, long[:120], true},
		{"no protocols", clientHello(t, &tls.Config{ServerName: "localhost"}), nil, true},
		{"nothing", nil, nil, false},
		{"the first byte", hello[:1], nil, false},
		{"all but the last byte", hello[:len(hello)-1], nil, false},
		{"not a hello", append([]byte{0x16, 3, 1, 0, 4}, 0x0b, 0, 0, 0), nil, false},
		{"an alert", []byte{0x15, 3, 1, 0, 2, 2, 40}, nil, false},
		{"N-02 a length of 2^24-1", append([]byte{0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, make([]byte, 1<<14)...), nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			protocols, read, err := peekClientHello(iotest.OneByteReader(bytes.NewReader(tt.in)))
			if (err == nil) != tt.ok {
				t.Fatalf("err = %v, want ok %v", err, tt.ok)
			}
			if !slices.Equal(protocols, tt.want) {
				t.Errorf("protocols = %q, want %q", protocols, tt.want)
			}
			if tt.ok && !bytes.HasPrefix(tt.in, read) {
				t.Error("what was read is not what was there")
			}
		})
	}
	t.Run("X-09 records without end are read to 64 KiB", func(t *testing.T) {
		endless := &countingReader{r: bytes.NewReader(bytes.Repeat([]byte{0x16, 3, 1, 0, 1, 1}, 1<<20))}
		if _, _, err := peekClientHello(endless); err == nil {
			t.Error("taken for a hello")
		}
		if endless.n > maxHello {
			t.Errorf("read %d bytes", endless.n)
		}
	})
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// FuzzPeekClientHello: whatever comes, no more than 64 KiB of it is read, and what
// was read can be given to the handshake unchanged, or in halves that say the same.
func FuzzPeekClientHello(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &countingReader{r: bytes.NewReader(in)}
		protocols, read, err := peekClientHello(c)
		if c.n > maxHello {
			t.Fatalf("read %d bytes", c.n)
		}
		if err == nil && !bytes.Equal(read, in[:c.n]) {
			t.Fatal("what was read is not what was there")
		}
		if err != nil && read != nil {
			t.Fatal("bytes beside an error")
		}
		if err != nil {
			return
		}
		if again, _, err := peekClientHello(bytes.NewReader(inHalves(read))); err != nil || !slices.Equal(again, protocols) {
			t.Fatalf("in halves it says %q, %v, and %q as it came", again, err, protocols)
		}
	})
}

func BenchmarkPeekClientHello(b *testing.B) {
	hello := clientHello(b, &tls.Config{ServerName: "localhost", NextProtos: []string{"socketxp-control/1"}})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := peekClientHello(bytes.NewReader(hello)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestInHalves(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "localhost", NextProtos: []string{"socketxp-control/1"}})
	got := inHalves(hello)
	protocols, read, err := peekClientHello(bytes.NewReader(got))
	if err != nil || !slices.Equal(protocols, []string{"socketxp-control/1"}) || !bytes.Equal(read, got) {
		t.Fatalf("%v, %v", protocols, err)
	}
	if first := 5 + int(binary.BigEndian.Uint16(got[3:])); len(got) != len(hello)+5 || first > len(hello)/2+5 {
		t.Errorf("%d bytes became %d, the first record of them %d", len(hello), len(got), first)
	}
	for name, in := range map[string][]byte{
		"none": nil, "a header": hello[:5], "a part": hello[:len(hello)-1], "more than one": append(slices.Clone(hello), 0x16), "records": fragments(hello, 100),
		"one byte": {0x16, 3, 1, 0, 1, 1},
	} {
		if out := inHalves(in); !bytes.Equal(out, in) {
			t.Errorf("%s: %d bytes became %d", name, len(in), len(out))
		}
	}
}
