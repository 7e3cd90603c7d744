package link

import (
	"bytes"
	"testing"

	"socketxp"
)

func TestPreface(t *testing.T) {
	want := bytes.Repeat([]byte{7}, socketxp.LinkTicketSize)
	good := AppendPreface([]byte{}, want)
	if len(good) != PrefaceSize || !bytes.HasPrefix(good, []byte("SXPL\x01\x00\x00\x00")) {
		t.Fatalf("%q", good)
	}
	got, err := ParsePreface(good)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatal(got, err)
	}
	for i := range PrefaceSize - socketxp.LinkTicketSize {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := ParsePreface(bad); socketxp.CodeOf(err) != socketxp.CodeProtocol {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	for _, bad := range [][]byte{nil, good[:PrefaceSize-1], append(bytes.Clone(good), 0)} {
		if _, err := ParsePreface(bad); socketxp.CodeOf(err) != socketxp.CodeProtocol {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func TestProbe(t *testing.T) {
	nonce := bytes.Repeat([]byte{7}, socketxp.LinkTicketSize)
	probe := AppendProbe(nil, nonce)
	if !bytes.HasPrefix(probe, []byte("SXPL\x01\x01\x00\x00")) || !IsProbe(probe) {
		t.Fatalf("%q", probe)
	}
	if _, err := ParsePreface(probe); err == nil {
		t.Error("a probe is a link")
	}
	for _, other := range [][]byte{AppendPreface(nil, nonce), probe[:PrefaceSize-1], append(bytes.Clone(probe), 0), nil} {
		if IsProbe(other) {
			t.Errorf("%q is a probe", other)
		}
	}
}

func FuzzParsePreface(f *testing.F) {
	f.Add(AppendPreface(nil, make([]byte, socketxp.LinkTicketSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		ticket, err := ParsePreface(b)
		if err != nil {
			if ticket != nil || socketxp.CodeOf(err) != socketxp.CodeProtocol {
				t.Fatal(ticket, err)
			}
			return
		}
		if IsProbe(b) || !bytes.Equal(AppendPreface(nil, ticket), b) {
			t.Fatalf("%q is not what its ticket makes", b)
		}
	})
}
