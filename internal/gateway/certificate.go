package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"socketxp"
)

// certificate is what the gateway shows of itself, read again by reload.
type certificate struct {
	certPath, keyPath string
	host              string // of the public URL
	now               atomic.Pointer[tls.Certificate]
}

// loadCertificate reads the configured files or, without any, the self-signed
// certificate in the data folder, which it makes at the first start.
func loadCertificate(cfg Config, host string) (*certificate, error) {
	c := &certificate{certPath: cfg.TLSCert, keyPath: cfg.TLSKey, host: host}
	if c.certPath == "" {
		c.certPath, c.keyPath = filepath.Join(cfg.DataDir, certFile), filepath.Join(cfg.DataDir, certKeyFile)
		if err := makeCertificate(c.certPath, c.keyPath, host); err != nil {
			return nil, fmt.Errorf("make the gateway's certificate: %w", err)
		}
	}
	pair, err := c.read()
	if err != nil {
		return nil, err
	}
	c.now.Store(pair)
	return c, nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.now.Load(), nil }

func (c *certificate) read() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certPath, c.keyPath)
	if err != nil {
		return nil, fmt.Errorf("the gateway's certificate: %w", err)
	}
	return &pair, nil
}

// reload takes the files as they are now, unless agents would not take the new
// certificate for this gateway's: they know its key by the pin in their tokens,
// and go on knowing it.
func (c *certificate) reload() error {
	pair, err := c.read()
	if err != nil {
		return err
	}
	if old, now := c.pin(), pinFor(pair, c.host, nil); now != old {
		return errors.New("the new certificate has another key than the one that agents have pinned: renew with the same key, or restart to use it for new tokens")
	}
	c.now.Store(pair)
	return nil
}

// pin returns what tokens say of the certificate.
func (c *certificate) pin() string { return pinFor(c.now.Load(), c.host, nil) }

// pinFor returns "" for a certificate that the authorities in roots (nil: the
// system's) vouch for under host, and the pin of its key for all others.
func pinFor(pair *tls.Certificate, host string, roots *x509.CertPool) string {
	others := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			others.AddCert(cert)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Intermediates: others, Roots: roots}); err == nil {
		return ""
	}
	return socketxp.PinOf(pair.Leaf)
}

// certificateLife is ten years: agents know the key by its pin, and whoever looks
// at the date has nothing to renew it with.
const certificateLife = 10 * 365 * 24 * time.Hour

// makeCertificate makes a self-signed certificate for host and this machine,
// unless it is there. Its key is made first, so that a crash in between leaves no
// certificate without a key, and a key without a certificate gets one.
func makeCertificate(certPath, keyPath, host string) error {
	if _, err := os.Stat(certPath); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var key *ecdsa.PrivateKey
	switch old, err := readPrivateKey(keyPath); {
	case errors.Is(err, fs.ErrNotExist):
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		text, err := encodePrivateKey(key)
		if err != nil {
			return err
		}
		if err := writeFile(keyPath, text, 0o600); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		var ok bool
		if key, ok = old.(*ecdsa.PrivateKey); !ok {
			return fmt.Errorf("%s holds a %T, not an ECDSA key", keyPath, old)
		}
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "SocketXP gateway"},
		NotBefore:             time.Now().Add(-24 * time.Hour), // for clients whose clock is a little behind
		NotAfter:              time.Now().Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true, // so that it can be trusted by hand, as its own authority
		MaxPathLenZero:        true,
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", host} {
		if addr, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
		} else if name != "localhost" || len(template.DNSNames) == 0 {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return writeFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
