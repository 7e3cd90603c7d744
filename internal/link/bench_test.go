package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"socketxp"
)

// BenchmarkBulk moves data from a local connection through two Pipes, a link and
// a relay to another local connection.
func BenchmarkBulk(b *testing.B) {
	v, d := newRelayed(b, nil).links(newKeys())
	client, service, _ := piped(b, v, d)
	benchmarkBulk(b, client, service)
}

// BenchmarkBulkTLS is what BenchmarkBulk is measured by: two plain copies with
// crypto/tls between them, and no relay.
func BenchmarkBulkTLS(b *testing.B) {
	client, localV := tcpPair(b)
	localD, service := tcpPair(b)
	v, d := tcpPair(b)
	k := newKeys()
	server, err := config(k.device, public(k.visitor))
	if err != nil {
		b.Fatal(err)
	}
	user, err := config(k.visitor, public(k.device))
	if err != nil {
		b.Fatal(err)
	}
	go func() { _, _ = io.Copy(tls.Client(v, user), localV) }()
	go func() { _, _ = io.Copy(localD, tls.Server(d, server)) }()
	benchmarkBulk(b, client, service)
}

func benchmarkBulk(b *testing.B, client, service net.Conn) {
	const chunk = 256 << 10
	b.SetBytes(chunk)
	b.ReportAllocs()
	go func() {
		buf := make([]byte, chunk)
		for {
			if _, err := client.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, chunk)
	for b.Loop() {
		if _, err := io.ReadFull(service, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	v, d := newRelayed(b, nil).links(newKeys())
	client, service, _ := piped(b, v, d)
	go func() { _, _ = io.Copy(struct{ io.Writer }{service}, struct{ io.Reader }{service}) }()
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnection is a new connection on a link that was used before, with
// one round trip on it.
func BenchmarkConnection(b *testing.B) {
	p := newPool(b, newRelayed(b, nil), echoService(b))
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		c, err := p.Get(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		_ = c.CloseWrite()
		if _, err := c.Read(buf); !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkLink is a new link: two TCP connections and the handshake, both ends.
func BenchmarkLink(b *testing.B) {
	r, k := newRelayed(b, nil), newKeys()
	b.ReportAllocs()
	for b.Loop() {
		v, d := r.links(k)
		_ = v.Close()
		_ = d.Close()
	}
}

func BenchmarkPreface(b *testing.B) {
	ticket, buf := make([]byte, socketxp.LinkTicketSize), make([]byte, 0, PrefaceSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePreface(AppendPreface(buf, ticket)); err != nil {
			b.Fatal(err)
		}
	}
}
