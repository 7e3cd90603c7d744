// Package token signs and verifies auth tokens: JWTs (RFC 7519) in a strict
// profile with one algorithm, EdDSA over Ed25519 (RFC 8037), and a type of their
// own for each kind (RFC 8725 section 3.11). It does no I/O: what a token may do
// today is in the database, under its ID.
package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"socketxp"

	"github.com/golang-jwt/jwt/v5"
)

// Claims is what the text of a token says.
type Claims struct {
	ID        string // jti
	Kind      socketxp.TokenKind
	AccountID string                  // acc
	UserID    string                  // sub: who made it
	IssuedAt  time.Time               // iat and nbf, to the second
	ExpiresAt time.Time               // exp, to the second
	Gateway   socketxp.GatewayAddress // gw, pin and npin
	KeyID     string                  // kid; set by Verify, and by Sign if empty
}

// Authority signs tokens with one key and verifies those of that key and of
// older ones. It is safe for concurrent use.
type Authority struct {
	issuer  string
	signing ed25519.PrivateKey
	keyID   string
	// headers holds every header that a token of ours can start with, as it stands
	// in the text. What isn't in it is refused before anything is decoded, so that
	// no alg, typ, kid or other field that came from outside is ever acted on.
	headers map[string]header
}

type header struct {
	kind  socketxp.TokenKind
	keyID string
	key   ed25519.PublicKey // nil: withdrawn
}

// maxIssuer keeps the longest token, gateway address included, well below
// socketxp.MaxTokenBytes: the issuer stands in it twice.
const maxIssuer = 255

// NewAuthority returns the authority of the gateway named issuer. KeyID names a
// key by its SHA-256, so that a kid can't stand for two keys.
func NewAuthority(issuer string, signing ed25519.PrivateKey, older ...ed25519.PublicKey) (*Authority, error) {
	if issuer == "" || len(issuer) > maxIssuer {
		return nil, fmt.Errorf("the issuer of tokens has %d bytes, not 1 to %d", len(issuer), maxIssuer)
	}
	if err := socketxp.CheckDisplayText("issuer of tokens", issuer, maxIssuer); err != nil {
		return nil, err
	}
	if len(signing) != ed25519.PrivateKeySize {
		return nil, errors.New("the signing key is not an Ed25519 private key")
	}
	public := signing.Public().(ed25519.PublicKey)
	a := &Authority{issuer: issuer, signing: signing, keyID: KeyID(public), headers: make(map[string]header)}
	for _, key := range append([]ed25519.PublicKey{public}, older...) {
		if len(key) != ed25519.PublicKeySize {
			return nil, errors.New("an older key is not an Ed25519 public key")
		}
		for _, kind := range socketxp.TokenKinds {
			h := header{kind: kind, keyID: KeyID(key), key: key}
			text, err := h.text()
			if err != nil {
				return nil, err
			}
			a.headers[text] = h
		}
	}
	return a, nil
}

// Withdraw makes the authority refuse whatever says that it is signed with these
// keys, which must not be the signing key, with socketxp.ErrKeyWithdrawn. It must
// be called before the authority is shared.
func (a *Authority) Withdraw(keyIDs ...string) error {
	for _, id := range keyIDs {
		if id == a.keyID {
			return errors.New("the signing key can't be withdrawn")
		}
		for _, kind := range socketxp.TokenKinds {
			h := header{kind: kind, keyID: id}
			text, err := h.text()
			if err != nil {
				return err
			}
			a.headers[text] = h
		}
	}
	return nil
}

// SigningKeyID returns the kid of the key that tokens are signed with now.
func (a *Authority) SigningKeyID() string { return a.keyID }

// KeyID returns the kid of a key.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// fields are those of the JOSE header; a map is encoded with its keys sorted.
func (h header) fields() map[string]any {
	return map[string]any{
		"alg": jwt.SigningMethodEdDSA.Alg(),
		"kid": h.keyID,
		"typ": string(h.kind) + "+jwt",
	}
}

func (h header) text() (string, error) {
	b, err := json.Marshal(h.fields())
	if err != nil {
		return "", fmt.Errorf("encode token header: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// payload is the JWT claims set; nothing else may be in it.
type payload struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"` // issuer/kind: a token is for one kind of use at one gateway
	Subject   string `json:"sub"`
	Account   string `json:"acc"`
	ID        string `json:"jti"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	ExpiresAt int64  `json:"exp"`
	Gateway   string `json:"gw,omitempty"`
	Pin       string `json:"pin,omitempty"`
	NextPin   string `json:"npin,omitempty"` // of the key that the gateway will change to
}

// UnmarshalJSON refuses duplicate, unknown and misspelt keys, and numbers that
// aren't integers.
func (p *payload) UnmarshalJSON(data []byte) error {
	type plain payload
	return socketxp.StrictUnmarshal(data, (*plain)(p))
}

// The getters are jwt.Claims.

func (p *payload) GetExpirationTime() (*jwt.NumericDate, error) { return date(p.ExpiresAt), nil }
func (p *payload) GetIssuedAt() (*jwt.NumericDate, error)       { return date(p.IssuedAt), nil }
func (p *payload) GetNotBefore() (*jwt.NumericDate, error)      { return date(p.NotBefore), nil }
func (p *payload) GetIssuer() (string, error)                   { return p.Issuer, nil }
func (p *payload) GetSubject() (string, error)                  { return p.Subject, nil }
func (p *payload) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{p.Audience}, nil }

func date(seconds int64) *jwt.NumericDate {
	if seconds == 0 { // the claim is missing
		return nil
	}
	return jwt.NewNumericDate(time.Unix(seconds, 0))
}

// lastSecond is the end of the year 9999, the last that RFC 3339 can write.
const lastSecond = 253402300799

// check returns an error unless the payload is one that the gateway issuer signs
// for a token of this kind. It doesn't ask what time it is.
func (p *payload) check(issuer string, kind socketxp.TokenKind) error {
	switch {
	case p.Issuer != issuer || p.Audience != issuer+"/"+string(kind):
		return errors.New("it is not for this gateway or not of this kind")
	case !socketxp.ValidID(p.ID) || !socketxp.ValidID(p.Account) || !socketxp.ValidID(p.Subject):
		return errors.New("token, account or user is not an id")
	case p.IssuedAt <= 0 || p.NotBefore != p.IssuedAt || p.ExpiresAt <= p.IssuedAt || p.ExpiresAt > lastSecond:
		return errors.New("its life is not a span of time")
	}
	if p.Gateway == "" {
		if p.Pin != "" || p.NextPin != "" {
			return errors.New("it has a pin without a gateway")
		}
		return nil
	}
	if url, err := socketxp.CheckGatewayURL(p.Gateway); err != nil || url != p.Gateway {
		return errors.New("the gateway's address is not in its canonical form")
	}
	return socketxp.GatewayAddress{Pin: p.Pin, NextPin: p.NextPin}.CheckPins()
}

// Sign returns the text of a token. The same claims give the same text. An
// unknown kind, an empty ID, account or user, or an expiry that is not after
// IssuedAt is an error, and so is a KeyID that is not the signing key's.
func (a *Authority) Sign(c Claims) (string, error) {
	if c.KeyID != "" && c.KeyID != a.keyID {
		return "", errors.New("sign token: it belongs to another signing key")
	}
	h := header{kind: c.Kind, keyID: a.keyID}
	start, err := h.text()
	if err != nil {
		return "", err
	}
	if _, known := a.headers[start]; !known {
		return "", fmt.Errorf("sign token: unknown kind %q", c.Kind)
	}
	p := &payload{
		Issuer:    a.issuer,
		Audience:  a.issuer + "/" + string(c.Kind),
		Subject:   c.UserID,
		Account:   c.AccountID,
		ID:        c.ID,
		IssuedAt:  c.IssuedAt.Unix(),
		NotBefore: c.IssuedAt.Unix(),
		ExpiresAt: c.ExpiresAt.Unix(),
		Gateway:   c.Gateway.URL,
		Pin:       c.Gateway.Pin,
		NextPin:   c.Gateway.NextPin,
	}
	if err := p.check(a.issuer, c.Kind); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	t := jwt.Token{Method: jwt.SigningMethodEdDSA, Header: h.fields(), Claims: p}
	text, err := t.SignedString(a.signing)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text, nil
}

// errNotValid is all that a client learns about a token that isn't genuine.
var errNotValid = socketxp.Errorf(socketxp.CodeUnauthenticated, "the token is not valid")

// Verify returns the claims of a genuine token that is within its life at now.
// Otherwise the error is a *socketxp.Error of CodeTokenExpired (then the claims
// are returned too, for the audit), CodeTokenNotYet (likewise),
// socketxp.ErrKeyWithdrawn, or CodeUnauthenticated with a message that says
// nothing about why.
func (a *Authority) Verify(text string, now time.Time) (Claims, error) {
	// Go's base64 skips line breaks even when strict, which would give one
	// signature many spellings.
	if len(text) > socketxp.MaxTokenBytes || strings.ContainsAny(text, "\r\n") {
		return Claims{}, errNotValid
	}
	start, _, _ := strings.Cut(text, ".")
	h, known := a.headers[start]
	if !known {
		return Claims{}, errNotValid
	}
	if h.key == nil {
		return Claims{}, socketxp.ErrKeyWithdrawn
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithStrictDecoding(),
		jwt.WithIssuer(a.issuer),
		jwt.WithAudience(a.issuer+"/"+string(h.kind)),
		jwt.WithExpirationRequired(),
		jwt.WithNotBeforeRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(socketxp.ClockLeeway),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	var p payload
	_, err := parser.ParseWithClaims(text, &p, func(*jwt.Token) (any, error) { return h.key, nil })
	if err != nil && !errors.Is(err, jwt.ErrTokenInvalidClaims) {
		return Claims{}, errNotValid
	}
	// The signature is ours. The parser's leeway holds for exp too, and it can't
	// tell a token that is only out of its time from one that is wrong otherwise;
	// so the claims are judged here, and its own verdict must not be better.
	if p.check(a.issuer, h.kind) != nil {
		return Claims{}, errNotValid
	}
	c := Claims{
		ID:        p.ID,
		Kind:      h.kind,
		AccountID: p.Account,
		UserID:    p.Subject,
		IssuedAt:  time.Unix(p.IssuedAt, 0).UTC(),
		ExpiresAt: time.Unix(p.ExpiresAt, 0).UTC(),
		Gateway:   socketxp.GatewayAddress{URL: p.Gateway, Pin: p.Pin, NextPin: p.NextPin},
		KeyID:     h.keyID,
	}
	switch {
	case !now.Before(c.ExpiresAt):
		return c, socketxp.Errorf(socketxp.CodeTokenExpired, "the token has expired")
	case now.Add(socketxp.ClockLeeway).Before(c.IssuedAt):
		return c, socketxp.Errorf(socketxp.CodeTokenNotYet, "the token is not yet valid")
	case err != nil:
		return Claims{}, errNotValid
	}
	return c, nil
}
