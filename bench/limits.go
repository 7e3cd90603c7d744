package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"
)

// The limits: what this machine can do at best with so many hops, or with so much
// encryption.

// relayTo is a plain relay.
func relayTo(ctx context.Context, to string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		out, err := dial(ctx, to)
		if err != nil {
			return
		}
		defer func() { _ = out.Close() }()
		splice(out, c)
	}
}

// splice moves bytes between two connections, as short as Go can say it: between two
// sockets io.Copy does so inside the kernel.
func splice(a, b *net.TCPConn) {
	both(func() {
		_, _ = io.Copy(a, b)
		_ = a.CloseWrite()
	}, func() {
		_, _ = io.Copy(b, a)
		_ = b.CloseWrite()
	})
}

// both runs two things at once and returns when both are done.
func both(a, b func()) {
	var other sync.WaitGroup
	other.Go(a)
	b()
	other.Wait()
}

func dial(ctx context.Context, addr string) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("it is a %T", c)
	}
	return tcp, nil
}

// gathered is a socket below TLS that is read and written in large pieces: crypto/tls
// alone writes each record of 16 KiB by itself.
type gathered struct {
	*net.TCPConn
	in     *bufio.Reader
	out    *bufio.Writer
	corked bool
}

func gather(c *net.TCPConn) *gathered {
	return &gathered{c, bufio.NewReaderSize(c, 64<<10), bufio.NewWriterSize(c, 2*bulkBuffer), false}
}

func (g *gathered) Read(b []byte) (int, error) { return g.in.Read(b) }

func (g *gathered) Write(b []byte) (int, error) {
	n, err := g.out.Write(b)
	if err == nil && !g.corked {
		err = g.out.Flush()
	}
	return n, err
}

// sealedPipe copies between a plain connection and TLS, both ways, 256 KiB at a time.
func sealedPipe(plain *net.TCPConn, sealed *tls.Conn, below *gathered) {
	both(func() {
		buf := make([]byte, bulkBuffer)
		for {
			n, err := plain.Read(buf)
			if n > 0 {
				below.corked = true
				_, werr := sealed.Write(buf[:n])
				below.corked = false
				if werr != nil || below.out.Flush() != nil {
					return
				}
			}
			if err != nil {
				_ = sealed.CloseWrite()
				return
			}
		}
	}, func() {
		buf := make([]byte, bulkBuffer)
		for {
			n, err := sealed.Read(buf)
			if _, werr := plain.Write(buf[:n]); werr != nil || err != nil {
				_ = plain.CloseWrite()
				return
			}
		}
	})
}

// tlsAccess is the near half of tls-pair: a TLS 1.3 connection to the far half for
// each that comes.
func tlsAccess(ctx context.Context, to string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		raw, err := dial(ctx, to)
		if err != nil {
			return
		}
		defer func() { _ = raw.Close() }()
		below := gather(raw)
		sealed := tls.Client(below, &tls.Config{
			MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
			InsecureSkipVerify: true, //nolint:gosec // nobody is in between: it is the cost that counts
		})
		if sealed.HandshakeContext(ctx) != nil {
			return
		}
		sealedPipe(c, sealed, below)
	}
}

// tlsDevice is the far half.
func tlsDevice(ctx context.Context, to string) (func(*net.TCPConn), error) {
	cert, err := selfSigned()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
	}
	return func(c *net.TCPConn) {
		below := gather(c)
		sealed := tls.Server(below, cfg)
		if sealed.HandshakeContext(ctx) != nil {
			return
		}
		out, err := dial(ctx, to)
		if err != nil {
			return
		}
		defer func() { _ = out.Close() }()
		sealedPipe(out, sealed, below)
	}, nil
}

// selfSigned makes a certificate with an Ed25519 key, as devices have.
func selfSigned() (tls.Certificate, error) {
	cert, key, err := pemOfSelfSigned()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// pemOfSelfSigned is selfSigned for programs that read files.
func pemOfSelfSigned() (cert, key []byte, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, public, private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}
