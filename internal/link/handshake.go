package link

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"socketxp"
)

// ALPN is the TLS application protocol of links: the version of all that is said
// after the preface.
const ALPN = "socketxp-link/1"

// handshakeLimit bounds preface and handshake. The other half may come up to 10 s
// later (the gateway's Wait); the gateway closes the connection then.
const handshakeLimit = 10 * time.Second

// ErrWrongKey is what a handshake fails with when the peer is not the one that
// the gateway said it would be.
var ErrWrongKey = errors.New("the other end's key is not the expected one")

// Visit sends the preface on raw, a fresh connection to the link door, and does
// the handshake as the visitor: with key, and with whoever proves deviceKey. It
// owns raw, also when it fails. The link is for destination and nothing else.
// That the device has refused the visitor's key shows with the first Read, as
// always in TLS 1.3.
func Visit(ctx context.Context, raw net.Conn, ticket []byte, key ed25519.PrivateKey, deviceKey ed25519.PublicKey, destination string) (*Link, error) {
	return shake(ctx, raw, ticket, key, deviceKey, destination, true)
}

// Serve is Visit's other end, the device's.
func Serve(ctx context.Context, raw net.Conn, ticket []byte, key ed25519.PrivateKey, visitorKey ed25519.PublicKey, destination string) (*Link, error) {
	return shake(ctx, raw, ticket, key, visitorKey, destination, false)
}

func shake(ctx context.Context, raw net.Conn, ticket []byte, key ed25519.PrivateKey, peer ed25519.PublicKey, destination string, visitor bool) (_ *Link, err error) {
	defer func() {
		if err != nil {
			_ = raw.Close()
			err = fmt.Errorf("link: %w", err)
		}
	}()
	switch {
	case len(ticket) != socketxp.LinkTicketSize:
		return nil, fmt.Errorf("a ticket of %d bytes", len(ticket))
	case len(key) != ed25519.PrivateKeySize || len(peer) != ed25519.PublicKeySize:
		return nil, errors.New("a key of the wrong size")
	case destination == "" || len(destination) > maxDestination:
		return nil, fmt.Errorf("a destination of %d bytes", len(destination))
	}
	cfg, err := config(key, peer)
	if err != nil {
		return nil, err
	}
	if tcp := socket(raw); tcp != nil {
		_ = tcp.SetNoDelay(true) // Go's default, and what round trips depend on
	}
	KeepAlive(raw)

	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()

	w := &wire{Conn: raw}
	w.cork()
	_, _ = w.Write(AppendPreface(nil, ticket)) // gathers only
	var conn *tls.Conn
	if visitor {
		w.corked = false // the preface leaves with the ClientHello
		conn = tls.Client(w, cfg)
	} else {
		if err := w.uncork(); err != nil {
			return nil, or(ctx, err)
		}
		conn = tls.Server(w, cfg)
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, or(ctx, err)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return newLink(conn, w, destination, visitor), nil
}

// or returns why ctx is done, if it is: then err only says that the connection was
// closed.
func or(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// config is the TLS profile of both ends.
func config(key ed25519.PrivateKey, peer ed25519.PublicKey) (*tls.Config, error) {
	cert, err := certificate(key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{ALPN},
		Certificates: []tls.Certificate{*cert},
		ClientAuth:   tls.RequireAnyClientCert,
		// Key exchange and cipher are Go's choice. Its first key exchange,
		// X25519MLKEM768, costs both ends together 0.3 ms of CPU more than X25519 alone
		// (1.5 instead of 1.2 ms for a link), once per link. It is worth that: a gateway
		// can record what it splices today for the computers of tomorrow.
		//
		// Every link proves both keys: nothing is resumed.
		SessionTicketsDisabled: true,
		// Records of 16 KiB from the first one on.
		DynamicRecordSizingDisabled: true,
		// There is no authority and no name to verify. What counts is the one key that
		// the other end must prove, a stricter check than a chain and a name, done by
		// VerifyConnection. TLS itself checks that the peer has the key's private half,
		// whatever is set here.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != ALPN { // a server may stay silent about it
				return errors.New("the other end does not speak " + ALPN)
			}
			proved, err := socketxp.PeerKey(state)
			if err != nil {
				return err
			}
			if subtle.ConstantTimeCompare(proved, peer) != 1 {
				return ErrWrongKey
			}
			return nil
		},
	}, nil
}

// certificates keeps what certificate has made. A process has one key, or two.
var certificates struct {
	mu   sync.Mutex // guards the following
	made map[[ed25519.PublicKeySize]byte]*tls.Certificate
}

// maxCertificates bounds it in a process that goes through many keys.
const maxCertificates = 8

// certificate is socketxp.KeyCertificate, made once per key: a signature, a
// verification and a parse for each link would be a tenth of its handshake.
func certificate(key ed25519.PrivateKey) (*tls.Certificate, error) {
	public := [ed25519.PublicKeySize]byte(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
	certificates.mu.Lock()
	defer certificates.mu.Unlock()
	if cert := certificates.made[public]; cert != nil && key.Equal(cert.PrivateKey) {
		return cert, nil
	}
	cert, err := socketxp.KeyCertificate(key)
	if err != nil {
		return nil, err
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, err
	}
	if certificates.made == nil || len(certificates.made) >= maxCertificates {
		certificates.made = make(map[[ed25519.PublicKeySize]byte]*tls.Certificate)
	}
	certificates.made[public] = &cert
	return &cert, nil
}
