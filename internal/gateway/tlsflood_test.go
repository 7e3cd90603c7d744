package gateway

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"socketxp/internal/control"
)

// tlsRecords is a TLS 1.3 client that goes on by the record once its handshake is
// done: it says what crypto/tls would never say.
type tlsRecords struct {
	*tls.Conn
	raw    net.Conn
	suite  uint16
	secret []byte // of the client's traffic
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// dialRecords does a handshake at a door. The suites differ in their hash, of which
// one will do.
func (w *world) dialRecords(cfg *tls.Config) *tlsRecords {
	w.Helper()
	var log bytes.Buffer
	cfg.KeyLogWriter = &log
	c := &tlsRecords{raw: w.dialRaw()}
	c.Conn = tls.Client(c.raw, cfg)
	if err := c.HandshakeContext(w.Context()); err != nil {
		w.Fatal(err)
	}
	if c.suite = c.ConnectionState().CipherSuite; c.suite == tls.TLS_AES_256_GCM_SHA384 {
		w.Fatal("the test knows SHA-256 only")
	}
	for line := range strings.Lines(log.String()) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			c.secret = must[[]byte](w.T)(hex.DecodeString(f[2]))
		}
	}
	c.keys(w.T)
	return c
}

// expand is HKDF-Expand-Label (RFC 8446 section 7.1) with an empty context.
func (c *tlsRecords) expand(t *testing.T, label string, size int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 "+label)))
	info = append(info, "tls13 "+label+"\x00"...)
	return must[[]byte](t)(hkdf.Expand(sha256.New, c.secret, string(info), size))
}

func (c *tlsRecords) keys(t *testing.T) {
	c.seq, c.iv = 0, c.expand(t, "iv", 12)
	if c.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		c.aead = must[cipher.AEAD](t)(chacha20poly1305.New(c.expand(t, "key", 32)))
		return
	}
	block := must[cipher.Block](t)(aes.NewCipher(c.expand(t, "key", 16)))
	c.aead = must[cipher.AEAD](t)(cipher.NewGCM(block))
}

// nextKeys is what follows a KeyUpdate.
func (c *tlsRecords) nextKeys(t *testing.T) {
	c.secret = c.expand(t, "traffic upd", sha256.Size)
	c.keys(t)
}

// record returns an encrypted record of a content type.
func (c *tlsRecords) record(kind byte, content []byte) []byte {
	inner := append(bytes.Clone(content), kind)
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(inner)+c.aead.Overhead()))
	nonce := bytes.Clone(c.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(c.seq >> (56 - 8*i))
	}
	c.seq++
	return c.aead.Seal(head, nonce, inner, head)
}

const (
	recordAlert       = 21
	recordApplication = 23
)

func TestX09TLS(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, key := w.register("cam", "default")
	doors := map[string]*tls.Config{}
	for _, proto := range []string{control.ALPN, "h2", "http/1.1"} {
		cfg := w.clientTLS(key)
		cfg.NextProtos = []string{proto}
		doors[proto] = cfg
	}
	keyUpdate := []byte{24, 0, 0, 1, 0}
	askedUpdate := []byte{24, 0, 0, 1, 1}
	empty := []byte{}
	const tooLong = "a handshake message of 16 MiB"
	for door, cfg := range doors {
		for name, flood := range map[string]func(*testing.T, *tlsRecords) []byte{
			"a renegotiation": func(t *testing.T, c *tlsRecords) []byte {
				return c.record(recordHandshake, clientHello(t, cfg)[5:])
			},
			"KeyUpdates": func(t *testing.T, c *tlsRecords) (out []byte) {
				for range 1000 {
					out = append(out, c.record(recordHandshake, keyUpdate)...)
					c.nextKeys(t)
				}
				return out
			},
			"KeyUpdates that ask for one": func(t *testing.T, c *tlsRecords) (out []byte) {
				for range 1000 {
					out = append(out, c.record(recordHandshake, askedUpdate)...)
					c.nextKeys(t)
				}
				return out
			},
			"records with nothing in them": func(_ *testing.T, c *tlsRecords) (out []byte) {
				for range 1000 {
					out = append(out, c.record(recordApplication, empty)...)
				}
				return out
			},
			tooLong: func(_ *testing.T, c *tlsRecords) []byte {
				return c.record(recordHandshake, []byte{24, 0xff, 0xff, 0xff, 0})
			},
			"a certificate that nobody asked for": func(_ *testing.T, c *tlsRecords) []byte {
				return c.record(recordHandshake, []byte{11, 0, 0, 4, 0, 0, 0, 0})
			},
			"alerts that are only warnings": func(_ *testing.T, c *tlsRecords) (out []byte) {
				for range 1000 {
					out = append(out, c.record(recordAlert, []byte{1, 90})...)
				}
				return out
			},
			"a record that is none": func(_ *testing.T, c *tlsRecords) []byte {
				return append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)
			},
		} {
			if name == tooLong && door == "h2" {
				continue // crypto/tls sends this alert without its lock, which is a race with net/http's SETTINGS
			}
			t.Run(fmt.Sprintf("X-09 %s at %s", name, door), func(t *testing.T) {
				c := w.dialRecords(cfg.Clone())
				_, _ = c.raw.Write(flood(t, c)) // it may be cut meanwhile
				if n := len(readEnd(t, c.raw)); n > 8<<10 {
					t.Errorf("%d bytes were said to it", n)
				}
			})
		}
	}
	t.Run("X-09 KeyUpdates within reason are heeded", func(t *testing.T) {
		c := w.dialRecords(doors["http/1.1"].Clone())
		for range 10 {
			_, _ = c.raw.Write(c.record(recordHandshake, keyUpdate))
			c.nextKeys(t)
		}
		_, _ = c.raw.Write(c.record(recordApplication, []byte("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")))
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if text := string(must[[]byte](t)(io.ReadAll(c.Conn))); !strings.HasPrefix(text, "HTTP/1.1 200 ") {
			t.Errorf("answered %q: the rest of this test means nothing", text)
		}
	})
	if !throughControl(t, w, w.clientTLS(newKey(t))) {
		t.Fatal("a good certificate was refused: the rest of this test means nothing")
	}
	// chain wraps a key in a certificate with so many names, followed by others.
	chain := func(t *testing.T, key ed25519.PrivateKey, names, others int) tls.Certificate {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
		for i := range names {
			template.DNSNames = append(template.DNSNames, fmt.Sprintf("n%d.a", i))
		}
		cert := tls.Certificate{PrivateKey: key, Certificate: [][]byte{must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))}}
		more := selfSigned(t, newKey(t))
		for range others {
			cert.Certificate = append(cert.Certificate, more.Certificate[0])
		}
		return cert
	}
	for name, c := range map[string]struct{ names, others int }{
		"16,000 names":                 {16_000, 0},
		"a chain of 100":               {0, 99},
		"a chain of 900, some 256 KiB": {0, 899},
		"a chain of 3,000":             {0, 2_999},
	} {
		t.Run("X-09 a certificate with "+name, func(t *testing.T) {
			key := newKey(t)
			cfg := w.clientTLS(key)
			cfg.Certificates = []tls.Certificate{chain(t, key, c.names, c.others)}
			if throughControl(t, w, cfg) {
				t.Error("let in")
			}
		})
	}
	hello := clientHello(t, w.clientTLS(key))
	for name, in := range map[string][]byte{
		"another record in between": append(append(fragments(hello, 100)[:105], 20, 3, 3, 0, 1, 1), fragments(hello, 100)[105:]...),
		"an alert in between":       append(append(fragments(hello, 100)[:105], 21, 3, 3, 0, 2, 1, 0), fragments(hello, 100)[105:]...),
		"records with nothing":      bytes.Repeat([]byte{22, 3, 1, 0, 0}, 10_000),
		"two of them":               append(bytes.Clone(hello), hello...),
	} {
		t.Run("X-09 a ClientHello with "+name, func(t *testing.T) {
			c := w.dialRaw()
			_, _ = c.Write(in)
			readEnd(t, c)
		})
	}
	eventually(t, patience, "all places are free again", func() bool { return w.g.preAuth.count()+w.g.httpsConns.count() == 0 })
	t.Run("X-09 a ClientHello in fragments, slowly", func(t *testing.T) {
		w := start(t, func(l *limits) { l.showWithin = 300 * time.Millisecond })
		c := w.dialRaw()
		go func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for part := fragments(hello, 1); len(part) > 6; part = part[6:] {
				if _, err := c.Write(part[:6]); err != nil {
					return
				}
				<-tick.C
			}
		}()
		readEnd(t, c)
		eventually(t, patience, "its place is free again", func() bool { return w.g.preAuth.count() == 0 })
	})
}
