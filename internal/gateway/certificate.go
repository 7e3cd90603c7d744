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
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"socketxp"
)

// certificate is what the gateway shows of itself, read again by reload, and the
// key that it will change to, if that is announced.
type certificate struct {
	certPath, keyPath string
	nextPath          string                           // of the operator's next certificate, or ""
	host              string                           // of the public URL
	roots             *x509.CertPool                   // of agents that know no pin; nil for the system's
	acme              atomic.Pointer[acme]             // nil without
	now               atomic.Pointer[tls.Certificate]  // the one of the files; beside ACME, for whom that has none
	said              atomic.Pointer[string]           // what tokens say of it: a pin, or "" if authorities vouch for it
	judged            atomic.Pointer[x509.Certificate] // for which that was found out
	next              atomic.Pointer[string]           // the pin of the announced key; nil for none
	changed           atomic.Int64                     // when the key changed last, as Unix nanoseconds; 0 for never
}

// loadCertificate reads the configured files or, without any, the self-signed
// certificate in the data folder, which it makes at the first start.
func loadCertificate(cfg Config, host string) (*certificate, error) {
	c := &certificate{certPath: cfg.TLSCert, keyPath: cfg.TLSKey, nextPath: cfg.TLSNextCert, host: host}
	if c.certPath == "" {
		c.certPath, c.keyPath = filepath.Join(cfg.DataDir, certFile), filepath.Join(cfg.DataDir, certKeyFile)
		if err := finishChange(cfg.DataDir); err != nil {
			return nil, err
		}
		if err := makeCertificate(c.certPath, c.keyPath, host); err != nil {
			return nil, fmt.Errorf("make the gateway's certificate: %w", err)
		}
	}
	pair, err := c.read()
	if err != nil {
		return nil, err
	}
	c.now.Store(pair)
	c.judge()
	return c, c.readNext()
}

// judge finds out who vouches for the certificate that agents are shown, and returns
// it if it is another than when it was judged last.
func (c *certificate) judge() (changed *x509.Certificate) {
	pair := c.shown()
	if c.judged.Swap(pair.Leaf) == pair.Leaf {
		return nil
	}
	pin := pinFor(pair, c.host, c.roots)
	c.said.Store(&pin)
	return pair.Leaf
}

// readNext takes the operator's next certificate for announced.
func (c *certificate) readNext() error {
	if c.nextPath == "" {
		return nil
	}
	pin, err := PinOfFile(c.nextPath)
	if err != nil {
		return fmt.Errorf("the gateway's next certificate: %w", err)
	}
	c.announce(pin)
	return nil
}

// announce has pin announced as that of the next key; "" for none.
func (c *certificate) announce(pin string) {
	if pin == "" || pin == c.keyPin() {
		c.next.Store(nil)
		return
	}
	c.next.Store(&pin)
}

// PinOfFile returns the pin of the first certificate in a PEM file.
func PinOfFile(path string) (string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator's own file
	if err != nil {
		return "", err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		return socketxp.PinOf(cert), nil
	}
	return "", fmt.Errorf("%s holds no certificate in PEM form", path)
}

// get is for crypto/tls.
func (c *certificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if a := c.acme.Load(); a != nil && hello.ServerName != "" {
		if pair := a.certificateFor(strings.ToLower(hello.ServerName)); pair != nil {
			return pair, nil
		}
	}
	return c.now.Load(), nil
}

// shown returns what agents are shown, who ask for the host of the public URL.
func (c *certificate) shown() *tls.Certificate {
	if a := c.acme.Load(); a != nil {
		if pair := a.certificateFor(c.host); pair != nil {
			return pair
		}
	}
	return c.now.Load()
}

func (c *certificate) read() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certPath, c.keyPath)
	if err != nil {
		return nil, fmt.Errorf("the gateway's certificate: %w", err)
	}
	return &pair, nil
}

// reload takes the files as they are now, unless agents would not take the new
// certificate for this gateway's: those who know its key by a pin go on knowing it
// or the announced one, and the others need authorities that vouch for it.
func (c *certificate) reload() error {
	pair, err := c.read()
	if err != nil {
		return err
	}
	known := slices.Contains(c.pins(), socketxp.PinOf(pair.Leaf))
	trusted, was := pinFor(pair, c.host, c.roots) == "", c.pin() == ""
	switch {
	case was && !trusted:
		return errors.New("no authority that agents know vouches for the new certificate, as one does for that of before")
	case !known && !was:
		return errors.New("the new certificate has another key than the one that agents have pinned: renew with the same key, " +
			"or announce the new one first, by tls_next_cert, until admin rotate-tls-key --status says that the devices know it")
	}
	c.show(pair)
	return c.readNext()
}

// show has pair shown from the next handshake on.
func (c *certificate) show(pair *tls.Certificate) {
	before := c.keyPin()
	c.now.Store(pair)
	c.judge()
	if now := c.keyPin(); now != before {
		c.changed.Store(time.Now().UnixNano())
		if next := c.next.Load(); next != nil && *next == now {
			c.next.Store(nil)
		}
	}
}

// pin returns what tokens say of the certificate.
func (c *certificate) pin() string { return *c.said.Load() }

// keyPin returns the pin of the key, whoever vouches for it.
func (c *certificate) keyPin() string { return socketxp.PinOf(c.now.Load().Leaf) }

// pins returns those of the key and, if one is announced, of the next.
func (c *certificate) pins() []string {
	pins := []string{c.keyPin()}
	if next := c.next.Load(); next != nil {
		pins = append(pins, *next)
	}
	return pins
}

// address returns how agents that were given none yet are to know the gateway.
func (c *certificate) address(url string) socketxp.GatewayAddress {
	a := socketxp.GatewayAddress{URL: url, Pin: c.pin()}
	if next := c.next.Load(); next != nil && a.Pin != "" {
		a.NextPin = *next
	}
	return a
}

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
		if err := writeFile(keyPath, text); err != nil {
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
	return writeFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
