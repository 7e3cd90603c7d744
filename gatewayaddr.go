package socketxp

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GatewayAddress is how an agent finds a gateway and knows that it is the right
// one.
type GatewayAddress struct {
	URL string // https://host[:port], no path
	Pin string // PinOf its certificate, or "" to trust the system's authorities
	// NextPin is the pin of the key that the gateway has announced to change to, or
	// "". Until it is seen, either key is the gateway's.
	NextPin string
}

// Trusts reports whether pin is one of those by which the gateway is known.
func (a GatewayAddress) Trusts(pin string) bool {
	eq := func(own string) bool {
		return own != "" && subtle.ConstantTimeCompare([]byte(own), []byte(pin)) == 1
	}
	return eq(a.Pin) || eq(a.NextPin)
}

// CheckPins returns an error unless pins may stand together in an address: a next
// one only beside another, and both of the right form.
func (a GatewayAddress) CheckPins() error {
	if a.Pin == "" && a.NextPin == "" {
		return nil
	}
	if err := CheckPin(a.Pin); err != nil {
		return err
	}
	if a.NextPin == "" {
		return nil
	}
	if a.NextPin == a.Pin {
		return Errorf(CodeInvalid, "the gateway's next key is the one that it has")
	}
	return CheckPin(a.NextPin)
}

// Announced returns the address as it is known after the gateway has announced the
// pins of its present key and, if it is about to change it, of the next, over a
// connection on which it proved the key of pin proved. An address without a pin,
// and one that did not trust the proved key, stay as they are; so does any if the
// proved key is not among those announced: then something in between ends TLS, or
// the gateway has changed its key since, which is seen when connecting next.
func (a GatewayAddress) Announced(proved string, pins []string) GatewayAddress {
	if a.Pin == "" || !a.Trusts(proved) || !slices.Contains(pins, proved) {
		return a
	}
	a.Pin, a.NextPin = proved, ""
	for _, p := range pins {
		if p != proved {
			a.NextPin = p
		}
	}
	return a
}

// KnownByAuthorities is what KnownBy returns without a pin.
const KnownByAuthorities = "authorities"

// KnownBy says in one text what the gateway is verified by: "authorities", a pin, or
// two with a space between.
func (a GatewayAddress) KnownBy() string {
	switch {
	case a.Pin == "":
		return KnownByAuthorities
	case a.NextPin == "":
		return a.Pin
	}
	return a.Pin + " " + a.NextPin
}

// CheckKnownBy returns an error unless s is a text that KnownBy returns.
func CheckKnownBy(s string) error {
	if s == KnownByAuthorities {
		return nil
	}
	pin, next, both := strings.Cut(s, " ")
	if both && next == "" || pin == "" {
		return Errorf(CodeInvalid, "the gateway's key pins are not valid")
	}
	return GatewayAddress{Pin: pin, NextPin: next}.CheckPins()
}

// CheckGatewayURL returns the URL in the form https://host[:port], or an error.
// What it returned once, it returns again.
func CheckGatewayURL(s string) (string, error) {
	bad := Errorf(CodeInvalid, "the gateway's address %q is not valid", clip(s)).WithHint("it looks like https://gateway.example.com")
	if len(s) > 300 {
		return "", bad
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", bad
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		if host = a.String(); a.Is6() {
			host = "[" + host + "]"
		}
	} else if host = strings.ToLower(host); !validHostname(host) {
		return "", bad
	}
	if text := u.Port(); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return "", bad
		}
		host += ":" + strconv.FormatUint(port, 10)
	}
	return "https://" + host, nil
}

// PinOf returns the SHA-256 of a certificate's public key (its
// SubjectPublicKeyInfo, as RFC 7469 section 2.4) in unpadded base64url.
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// CheckPin returns an error unless s is a SHA-256 in unpadded base64url.
func CheckPin(s string) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != sha256.Size || strings.ContainsAny(s, "\r\n") { // which Go's base64 would skip
		return Errorf(CodeInvalid, "the gateway's key pin is not valid")
	}
	return nil
}

// TokenAddress reads the gateway's address out of a token's claims gw, pin and npin
// WITHOUT verifying the token: only a gateway can. It is safe to use because a
// forged address can only lead to a gateway that the forger runs, as a URL typed
// by hand can. ok is false if the token carries none.
func TokenAddress(token string) (addr GatewayAddress, ok bool, err error) {
	bad := Errorf(CodeInvalid, "this is not a token").WithHint("copy it whole, without spaces or line breaks")
	if len(token) > MaxTokenBytes || strings.ContainsAny(token, "\r\n") { // which Go's base64 would skip
		return GatewayAddress{}, false, bad
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return GatewayAddress{}, false, bad
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return GatewayAddress{}, false, bad
	}
	var claims struct {
		GW   string `json:"gw"`
		Pin  string `json:"pin"`
		Next string `json:"npin"`
	}
	if LaxUnmarshal(payload, &claims) != nil {
		return GatewayAddress{}, false, bad
	}
	if claims.GW == "" {
		return GatewayAddress{}, false, nil
	}
	if addr.URL, err = CheckGatewayURL(claims.GW); err != nil {
		return GatewayAddress{}, false, bad
	}
	addr.Pin, addr.NextPin = claims.Pin, claims.Next
	if addr.CheckPins() != nil {
		return GatewayAddress{}, false, bad
	}
	return addr, true, nil
}

// clockFloor is the earliest time that certificates are judged by: a device
// whose clock starts in 1970 must still reach its gateway.
var clockFloor = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// TLSConfig returns the client configuration that reaches this gateway and no
// other: by its pinned keys if there are any, else by the authorities in roots
// (nil: the system's) and the host name. TLS 1.3 only.
func (a GatewayAddress) TLSConfig(roots *x509.CertPool) (*tls.Config, error) {
	u, err := url.Parse(a.URL)
	if err != nil || u.Hostname() == "" {
		return nil, Errorf(CodeInvalid, "the gateway's address %q is not valid", clip(a.URL))
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: u.Hostname(),
		RootCAs:    roots,
		Time: func() time.Time {
			if now := time.Now(); now.After(clockFloor) {
				return now
			}
			return clockFloor
		},
	}
	if a.Pin == "" {
		return cfg, nil
	}
	cfg.InsecureSkipVerify = true // the pinned key below is a stricter check than a chain and a name
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 || !a.Trusts(PinOf(state.PeerCertificates[0])) {
			return ErrWrongGateway
		}
		return nil
	}
	return cfg, nil
}

// ErrWrongGateway is what a TLS handshake fails with when the gateway's key is
// not the pinned one.
var ErrWrongGateway = errors.New("the gateway's key is not the one that was pinned")
