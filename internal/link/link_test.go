package link

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestReuse(t *testing.T) {
	v, d := newRelayed(t, nil).links(newKeys())
	for range 5 {
		vc, dc := open(t, v, d)
		if _, err := vc.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := vc.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(dc)
		if err != nil || string(got) != "hello" {
			t.Fatal(string(got), err)
		}
		big := bytes.Repeat([]byte("x"), 3<<20)
		go func() {
			_, _ = dc.Write(big)
			_ = dc.Close()
		}()
		got, err = io.ReadAll(vc)
		if err != nil || !bytes.Equal(got, big) {
			t.Fatal(len(got), err)
		}
		if err := vc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Accept(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}
