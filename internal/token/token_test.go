package token_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/token"
)

const issuer = "01a20baf-0000-7000-8000-000000000001"

var (
	signingKey = ed25519.NewKeyFromSeed([]byte("the signing key of these tests!!"))
	otherKey   = ed25519.NewKeyFromSeed([]byte("the key of some other gateway!!!"))
	issued     = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	expires    = issued.Add(8 * time.Hour)
	now        = issued.Add(time.Hour)
)

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func newAuthority(tb testing.TB, name string, key ed25519.PrivateKey, older ...ed25519.PublicKey) *token.Authority {
	tb.Helper()
	a, err := token.NewAuthority(name, key, older...)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func claims(kind socketxp.TokenKind) token.Claims {
	return token.Claims{
		ID:        "01a20baf-20ae-7c3a-8d99-a0209dd9afca",
		Kind:      kind,
		AccountID: "01a20baf-20ae-7456-abf9-67d074fdbbf2",
		UserID:    "01a20baf-20ae-7cd7-bd94-a53a4dd76c2f",
		IssuedAt:  issued,
		ExpiresAt: expires,
		Gateway: socketxp.GatewayAddress{
			URL: "https://gateway.example.com:8443",
			Pin: base64.RawURLEncoding.EncodeToString(make([]byte, sha256.Size)),
		},
		KeyID: token.KeyID(public(signingKey)),
	}
}

func sign(tb testing.TB, a *token.Authority, c token.Claims) string {
	tb.Helper()
	text, err := a.Sign(c)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// The parts that a genuine access token is made of, for forging others.
func genuineHeader() string {
	return `{"alg":"EdDSA","kid":"` + token.KeyID(public(signingKey)) + `","typ":"access+jwt"}`
}

func genuinePayload() map[string]any {
	return map[string]any{
		"iss": issuer,
		"aud": issuer + "/access",
		"sub": claims("").UserID,
		"acc": claims("").AccountID,
		"jti": claims("").ID,
		"iat": issued.Unix(),
		"nbf": issued.Unix(),
		"exp": expires.Unix(),
	}
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// forge signs whatever it is given with key.
func forge(key ed25519.PrivateKey, header, payload string) string {
	text := b64(header) + "." + b64(payload)
	return text + "." + b64(string(ed25519.Sign(key, []byte(text))))
}

// wantRefused checks that a text is refused with the one answer that all texts
// get that aren't ours, and that nothing of it is returned.
func wantRefused(t *testing.T, a *token.Authority, text string, at time.Time) {
	t.Helper()
	c, err := a.Verify(text, at)
	var e *socketxp.Error
	if !errors.As(err, &e) || e.Code != socketxp.CodeUnauthenticated || e.Message != "the token is not valid" || e.Hint != "" || e.Err != nil {
		t.Errorf("Verify(%.60q) = %v, want the plain refusal", text, err)
	}
	if c != (token.Claims{}) {
		t.Errorf("Verify(%.60q) returned claims %+v", text, c)
	}
}

func TestSignVerify(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	for _, kind := range socketxp.TokenKinds {
		t.Run(string(kind), func(t *testing.T) {
			c := claims(kind)
			text := sign(t, a, c)
			got, err := a.Verify(text, now)
			if err != nil || got != c {
				t.Fatalf("Verify = %+v, %v, want %+v", got, err, c)
			}
			if again := sign(t, a, c); again != text {
				t.Error("the same claims were signed to another text")
			}
			c.KeyID = ""
			if again := sign(t, a, c); again != text {
				t.Error("leaving KeyID empty gave another text")
			}
			c.IssuedAt, c.ExpiresAt = c.IssuedAt.Add(999*time.Millisecond).Local(), c.ExpiresAt.Add(time.Millisecond)
			if again := sign(t, a, c); again != text {
				t.Error("parts of a second changed the text")
			}
			if addr, ok, err := socketxp.TokenAddress(text); addr != c.Gateway || !ok || err != nil {
				t.Errorf("TokenAddress = %v, %v, %v", addr, ok, err)
			}
		})
	}
	c := claims(socketxp.TokenAPI)
	c.Gateway = socketxp.GatewayAddress{}
	if got, err := a.Verify(sign(t, a, c), now); err != nil || got != c {
		t.Errorf("without a gateway: %+v, %v", got, err)
	}
	if text := sign(t, a, claims(socketxp.TokenRegistration)); len(text) > 1024 {
		t.Errorf("a token has %d bytes, too many to paste with ease", len(text))
	}
}

// The forged parts must pass when nothing is wrong with them, or the tests below
// show nothing.
func TestForge(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	if _, err := a.Verify(forge(signingKey, genuineHeader(), mustJSON(genuinePayload())), now); err != nil {
		t.Fatal(err)
	}
}

func TestSignRefuses(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	for name, change := range map[string]func(*token.Claims){
		"no kind":                     func(c *token.Claims) { c.Kind = "" },
		"unknown kind":                func(c *token.Claims) { c.Kind = "device_key" },
		"kind in another case":        func(c *token.Claims) { c.Kind = "API" },
		"no id":                       func(c *token.Claims) { c.ID = "" },
		"no account":                  func(c *token.Claims) { c.AccountID = "" },
		"no user":                     func(c *token.Claims) { c.UserID = "" },
		"T-26 an id with an override": func(c *token.Claims) { c.AccountID = "\u202e" + c.AccountID[3:] },
		"T-09 no expiry":              func(c *token.Claims) { c.ExpiresAt = time.Time{} },
		"T-09 expiry at issue":        func(c *token.Claims) { c.ExpiresAt = c.IssuedAt },
		"T-09 expiry before issue":    func(c *token.Claims) { c.ExpiresAt = c.IssuedAt.Add(-time.Hour) },
		"T-09 expiry in year 10000":   func(c *token.Claims) { c.ExpiresAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"no time of issue":            func(c *token.Claims) { c.IssuedAt = time.Time{} },
		"another key":                 func(c *token.Claims) { c.KeyID = token.KeyID(public(otherKey)) },
		"gateway with a path":         func(c *token.Claims) { c.Gateway.URL += "/x" },
		"gateway over plain HTTP":     func(c *token.Claims) { c.Gateway.URL = "http://gateway.example.com" },
		"gateway not canonical":       func(c *token.Claims) { c.Gateway.URL = "https://Gateway.example.com" },
		"pin of another size":         func(c *token.Claims) { c.Gateway.Pin = "AAAA" },
		"pin without a gateway":       func(c *token.Claims) { c.Gateway.URL = "" },
	} {
		t.Run(name, func(t *testing.T) {
			c := claims(socketxp.TokenAPI)
			change(&c)
			if text, err := a.Sign(c); err == nil || text != "" {
				t.Errorf("Sign = %q, %v", text, err)
			}
		})
	}
}

func TestNewAuthorityRefuses(t *testing.T) {
	for name, make := range map[string]func() (*token.Authority, error){
		"no issuer":       func() (*token.Authority, error) { return token.NewAuthority("", signingKey) },
		"a long issuer":   func() (*token.Authority, error) { return token.NewAuthority(strings.Repeat("x", 256), signingKey) },
		"a broken issuer": func() (*token.Authority, error) { return token.NewAuthority("\xff", signingKey) },
		"no key":          func() (*token.Authority, error) { return token.NewAuthority(issuer, nil) },
		"a short old key": func() (*token.Authority, error) {
			return token.NewAuthority(issuer, signingKey, public(otherKey)[:31])
		},
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := make(); err == nil || a != nil {
				t.Errorf("NewAuthority = %v, %v", a, err)
			}
		})
	}
}

func TestHeader(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	kid := token.KeyID(public(signingKey))
	payload := mustJSON(genuinePayload())
	text := func(header string) string { return forge(signingKey, header, payload) }

	t.Run("T-01 no algorithm", func(t *testing.T) {
		for _, alg := range []string{`"none"`, `"None"`, `"nOnE"`, `"NONE"`, `""`, `null`, `["EdDSA"]`, `"eddsa"`, `"EdDSA "`, `"Ed25519"`, `0`} {
			header := `{"alg":` + alg + `,"kid":"` + kid + `","typ":"access+jwt"}`
			wantRefused(t, a, text(header), now)
			wantRefused(t, a, b64(header)+"."+b64(payload)+".", now)
		}
		missing := `{"kid":"` + kid + `","typ":"access+jwt"}`
		wantRefused(t, a, text(missing), now)
		wantRefused(t, a, b64(missing)+"."+b64(payload)+".", now)
		wantRefused(t, a, b64(genuineHeader())+"."+b64(payload)+".", now)
		wantRefused(t, a, b64(genuineHeader())+"."+b64(payload), now)
	})

	t.Run("T-02 HS256 keyed with the public key", func(t *testing.T) {
		der, err := x509.MarshalPKIXPublicKey(public(signingKey))
		if err != nil {
			t.Fatal(err)
		}
		x := base64.RawURLEncoding.EncodeToString(public(signingKey))
		for _, secret := range []string{
			string(public(signingKey)), string(der), x,
			string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
			`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`,
		} {
			refuseHMAC(t, a, secret, payload)
		}
	})

	t.Run("T-03 HS256 with a weak secret", func(t *testing.T) {
		for _, secret := range []string{"secret", "", "socketxp", issuer, kid, "password", "changeme"} {
			refuseHMAC(t, a, secret, payload)
		}
	})

	t.Run("T-07 kid", func(t *testing.T) {
		for _, id := range []string{
			"../../../../dev/null", "/etc/passwd", "' OR 1=1--", strings.Repeat("k", 10<<10), kid + "\x00", "\x00", kid + "\n",
			"http://localhost/key", "", "unknown", strings.ToLower(kid), kid[:42], token.KeyID(public(otherKey)),
		} {
			wantRefused(t, a, text(mustJSON(map[string]any{"alg": "EdDSA", "kid": id, "typ": "access+jwt"})), now)
		}
		wantRefused(t, a, text(`{"alg":"EdDSA","kid":null,"typ":"access+jwt"}`), now)
		wantRefused(t, a, text(`{"alg":"EdDSA","typ":"access+jwt"}`), now)
	})

	t.Run("T-08 a key brought along", func(t *testing.T) {
		var fetched atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
		defer server.Close()
		x := base64.RawURLEncoding.EncodeToString(public(otherKey))
		for field, value := range map[string]any{
			"jku":  server.URL,
			"x5u":  server.URL,
			"jwk":  map[string]any{"kty": "OKP", "crv": "Ed25519", "x": x},
			"x5c":  []string{"MIIB"},
			"crit": []string{"exp"},
			"b64":  false,
			"cty":  "JWT",
		} {
			for _, key := range []ed25519.PrivateKey{signingKey, otherKey} {
				h := map[string]any{"alg": "EdDSA", "kid": kid, "typ": "access+jwt", field: value}
				wantRefused(t, a, forge(key, mustJSON(h), payload), now)
			}
		}
		if n := fetched.Load(); n != 0 {
			t.Errorf("%d connections were made", n)
		}
	})

	t.Run("a key twice or in another case", func(t *testing.T) {
		wantRefused(t, a, text(`{"alg":"none","alg":"EdDSA","kid":"`+kid+`","typ":"access+jwt"}`), now)
		wantRefused(t, a, text(`{"ALG":"EdDSA","kid":"`+kid+`","typ":"access+jwt"}`), now)
		wantRefused(t, a, text(`{"alg":"EdDSA","kid":"`+kid+`","typ":"access+jwt","TYP":"api+jwt"}`), now)
	})
}

func refuseHMAC(t *testing.T, a *token.Authority, secret, payload string) {
	t.Helper()
	for _, header := range []string{
		`{"alg":"HS256","kid":"` + token.KeyID(public(signingKey)) + `","typ":"access+jwt"}`,
		genuineHeader(),
	} {
		text := b64(header) + "." + b64(payload)
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(text))
		wantRefused(t, a, text+"."+b64(string(mac.Sum(nil))), now)
	}
}

func TestSignature(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	genuine := sign(t, a, claims(socketxp.TokenAccess))
	parts := strings.Split(genuine, ".")

	t.Run("T-04 signature of another token", func(t *testing.T) {
		c := claims(socketxp.TokenAccess)
		c.ID = "01a20baf-20ae-7c3a-8d99-a0209dd9afcb"
		other := strings.Split(sign(t, a, c), ".")
		wantRefused(t, a, parts[0]+"."+parts[1]+"."+other[2], now)
		wantRefused(t, a, parts[0]+"."+other[1]+"."+parts[2], now)
	})

	t.Run("T-05 one bit flipped", func(t *testing.T) {
		for i := range len(genuine) {
			for bit := range 8 {
				b := []byte(genuine)
				b[i] ^= 1 << bit
				wantRefused(t, a, string(b), now)
			}
		}
		for part := range parts {
			raw, err := base64.RawURLEncoding.DecodeString(parts[part])
			if err != nil {
				t.Fatal(err)
			}
			for i := range raw {
				for bit := range 8 {
					b := append([]byte(nil), raw...)
					b[i] ^= 1 << bit
					changed := append([]string(nil), parts...)
					changed[part] = b64(string(b))
					wantRefused(t, a, strings.Join(changed, "."), now)
				}
			}
		}
	})

	t.Run("T-05 other spellings of the same bytes", func(t *testing.T) {
		for i := range len(genuine) + 1 {
			for _, extra := range []string{"\n", "\r", "=", " ", ".", "\x00"} {
				wantRefused(t, a, genuine[:i]+extra+genuine[i:], now)
			}
		}
		// 64 bytes leave 4 unused bits in the last letter.
		const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for _, l := range letters {
			if text := genuine[:len(genuine)-1] + string(l); text != genuine {
				wantRefused(t, a, text, now)
			}
		}
		std := strings.NewReplacer("-", "+", "_", "/").Replace(genuine)
		if std != genuine {
			wantRefused(t, a, std, now)
		}
	})

	t.Run("T-06 malformed signatures", func(t *testing.T) {
		start := parts[0] + "." + parts[1]
		raw, _ := base64.RawURLEncoding.DecodeString(parts[2])
		for _, n := range []int{0, 1, 32, 63, 64, 65, 128, 1024} {
			wantRefused(t, a, start+"."+b64(strings.Repeat("\x00", n)), now)
		}
		wantRefused(t, a, start+"."+b64(string(raw[:63])), now)
		wantRefused(t, a, start+"."+b64(string(raw)+"\x00"), now)
		// The second half is a number below the group's order L; adding L gives
		// another number that checks against the same equation.
		wantRefused(t, a, start+"."+b64(string(raw[:32])+addOrder(raw[32:])), now)
		ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(start))
		der, err := ecdsa.SignASN1(rand.Reader, ec, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		wantRefused(t, a, start+"."+b64(string(der)), now)
	})
}

// addOrder adds the order of Ed25519's group (RFC 8032 section 5.1) to a
// little-endian number.
func addOrder(s []byte) string {
	order := [32]byte{
		0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
		31: 0x10,
	}
	out := make([]byte, 32)
	carry := 0
	for i := range out {
		carry += int(s[i]) + int(order[i])
		out[i] = byte(carry)
		carry >>= 8
	}
	return string(out)
}

func TestTimes(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)

	t.Run("T-09 expiry", func(t *testing.T) {
		text := sign(t, a, claims(socketxp.TokenAccess))
		for _, late := range []time.Duration{0, time.Second, socketxp.ClockLeeway, socketxp.ClockLeeway + time.Second, 1000 * time.Hour} {
			wantOutOfTime(t, a, text, expires.Add(late), socketxp.CodeTokenExpired)
		}
		for _, exp := range []string{
			"0", "-1", "-9223372036854775808", "1795000000.5", "1.8e9", "1e400", `"1795000000"`, "9223372036854775807", "9223372036854775808",
			"18446744073709551616", "253402300800", "null", "true", "[1795000000]", "{}",
		} {
			p := genuinePayload()
			p["exp"] = json.RawMessage(exp)
			wantRefused(t, a, forge(signingKey, genuineHeader(), rawJSON(p)), now)
		}
		p := genuinePayload()
		delete(p, "exp")
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
	})

	t.Run("T-11 not yet valid", func(t *testing.T) {
		text := sign(t, a, claims(socketxp.TokenAccess))
		wantOutOfTime(t, a, text, issued.Add(-socketxp.ClockLeeway-time.Second), socketxp.CodeTokenNotYet)
		wantOutOfTime(t, a, text, issued.Add(-time.Hour), socketxp.CodeTokenNotYet)
		if _, err := a.Verify(text, issued.Add(-socketxp.ClockLeeway)); err != nil {
			t.Errorf("within the leeway: %v", err)
		}
		for _, field := range []string{"iat", "nbf"} {
			p := genuinePayload()
			p[field] = now.Add(time.Hour).Unix()
			wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
			for _, v := range []string{"0", "-1", "1.5", "1e9", `"1795000000"`, "null"} {
				p[field] = json.RawMessage(v)
				wantRefused(t, a, forge(signingKey, genuineHeader(), rawJSON(p)), now)
			}
			delete(p, field)
			wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
		}
	})

	t.Run("T-12 at the boundary", func(t *testing.T) {
		text := sign(t, a, claims(socketxp.TokenAccess))
		if _, err := a.Verify(text, expires.Add(-time.Nanosecond)); err != nil {
			t.Errorf("a nanosecond before exp: %v", err)
		}
		if _, err := a.Verify(text, expires.Add(-socketxp.ClockLeeway)); err != nil {
			t.Errorf("leeway before exp: %v", err)
		}
		wantOutOfTime(t, a, text, expires, socketxp.CodeTokenExpired)
		wantOutOfTime(t, a, text, expires.Add(socketxp.ClockLeeway), socketxp.CodeTokenExpired)
	})

	t.Run("expired and wrong is wrong", func(t *testing.T) {
		p := genuinePayload()
		p["iss"] = "another"
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), expires)
		p = genuinePayload()
		p["aud"] = issuer + "/api"
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), expires)
		wantRefused(t, a, forge(otherKey, genuineHeader(), mustJSON(genuinePayload())), expires)
	})
}

// rawJSON is mustJSON for payloads with values that encoding/json would not
// write.
func rawJSON(p map[string]any) string {
	var fields []string
	for k, v := range p {
		if raw, ok := v.(json.RawMessage); ok {
			fields = append(fields, fmt.Sprintf("%q:%s", k, raw))
		} else {
			fields = append(fields, fmt.Sprintf("%q:%s", k, mustJSON(v)))
		}
	}
	return "{" + strings.Join(fields, ",") + "}"
}

func wantOutOfTime(t *testing.T, a *token.Authority, text string, at time.Time, code socketxp.Code) {
	t.Helper()
	c, err := a.Verify(text, at)
	if socketxp.CodeOf(err) != code {
		t.Errorf("Verify at %v = %v, want %s", at, err, code)
	}
	if c.ID != claims("").ID || c.AccountID != claims("").AccountID {
		t.Errorf("Verify at %v returned %+v, the audit needs the claims", at, c)
	}
}

func TestPayload(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	with := func(field string, value any) string {
		p := genuinePayload()
		p[field] = value
		return forge(signingKey, genuineHeader(), rawJSON(p))
	}

	t.Run("T-14 typ and aud disagree", func(t *testing.T) {
		for _, typ := range append([]socketxp.TokenKind{"", "JWT", "device_key"}, socketxp.TokenKinds...) {
			for _, aud := range append([]socketxp.TokenKind{"", "device_key"}, socketxp.TokenKinds...) {
				p := genuinePayload()
				p["aud"] = issuer + "/" + string(aud)
				header := mustJSON(map[string]any{"alg": "EdDSA", "kid": token.KeyID(public(signingKey)), "typ": string(typ) + "+jwt"})
				text := forge(signingKey, header, mustJSON(p))
				if typ == aud && slices.Contains(socketxp.TokenKinds, typ) {
					if c, err := a.Verify(text, now); err != nil || c.Kind != typ {
						t.Errorf("typ and aud %s: %+v, %v", typ, c, err)
					}
					continue
				}
				wantRefused(t, a, text, now)
			}
		}
		for _, typ := range []any{"access", "JWT", "jwt", "", "ACCESS+JWT", "application/access+jwt", nil, 1} {
			header := mustJSON(map[string]any{"alg": "EdDSA", "kid": token.KeyID(public(signingKey)), "typ": typ})
			wantRefused(t, a, forge(signingKey, header, mustJSON(genuinePayload())), now)
		}
	})

	t.Run("T-15 aud", func(t *testing.T) {
		ours := issuer + "/access"
		for _, aud := range []any{
			"", nil,
			[]string{},
			[]string{ours},
			[]string{ours, "other"},
			[]string{"other", ours},
			"other/access", issuer, issuer + "/", ours + "/", " " + ours,
			1,
			map[string]any{},
			true, issuer + "/api",
		} {
			wantRefused(t, a, with("aud", aud), now)
		}
		p := genuinePayload()
		delete(p, "aud")
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
	})

	t.Run("T-16 another gateway", func(t *testing.T) {
		foreign := newAuthority(t, "01a20baf-0000-7000-8000-000000000002", otherKey)
		wantRefused(t, a, sign(t, foreign, withKey(claims(socketxp.TokenAccess), "")), now)
		// The same name with another key, and the same key under another name.
		wantRefused(t, a, sign(t, newAuthority(t, issuer, otherKey), withKey(claims(socketxp.TokenAccess), "")), now)
		wantRefused(t, a, sign(t, newAuthority(t, "staging", signingKey), claims(socketxp.TokenAccess)), now)
		// Our kid over a signature of theirs.
		wantRefused(t, a, forge(otherKey, genuineHeader(), mustJSON(genuinePayload())), now)
		for _, iss := range []any{"", nil, "staging", []string{issuer}, 1, issuer + "\x00"} {
			wantRefused(t, a, with("iss", iss), now)
		}
	})

	t.Run("T-17 T-18 a key that was replaced", func(t *testing.T) {
		old := sign(t, newAuthority(t, issuer, otherKey), withKey(claims(socketxp.TokenAccess), ""))
		rotated := newAuthority(t, issuer, signingKey, public(otherKey))
		c, err := rotated.Verify(old, now)
		if err != nil || c.KeyID != token.KeyID(public(otherKey)) {
			t.Errorf("within the overlap: %+v, %v", c, err)
		}
		wantOutOfTime(t, rotated, old, expires, socketxp.CodeTokenExpired)
		if _, err := rotated.Sign(c); err == nil {
			t.Error("a token of the older key was signed again")
		}
		wantRefused(t, a, old, now)
	})

	t.Run("T-26 text that looks like other text", func(t *testing.T) {
		id := claims("").AccountID
		for _, field := range []string{"sub", "acc", "jti"} {
			for _, v := range []any{
				"", id[:35], id + "0", strings.ToUpper(id), id + "\u200b", "\u202e" + id, strings.Replace(id, "a", "\u0430", 1), "{" + id + "}",
				nil, 1,
				[]string{id},
				map[string]any{"id": id},
			} {
				wantRefused(t, a, with(field, v), now)
			}
			wantRefused(t, a, with(field, json.RawMessage(`"\ud800`+id[1:]+`"`)), now)
			wantRefused(t, a, with(field, json.RawMessage("\"\xc0\xb0"+id[1:]+"\"")), now)
			wantRefused(t, a, with(field, json.RawMessage("\""+id+"\xff\"")), now)
		}
	})

	t.Run("a key unknown, twice or misspelt", func(t *testing.T) {
		for _, extra := range []string{
			`"kind":"api"`, `"admin":true`, `"aud":"other"`, `"AUD":"` + issuer + `/api"`, `"Exp":9999999999`, `"ſub":"x"`, `"":1`,
			`"cnf":{"x5t#S256":"x"}`,
		} {
			p := mustJSON(genuinePayload())
			wantRefused(t, a, forge(signingKey, genuineHeader(), p[:len(p)-1]+","+extra+"}"), now)
			wantRefused(t, a, forge(signingKey, genuineHeader(), "{"+extra+","+p[1:]), now)
		}
		p := strings.Replace(mustJSON(genuinePayload()), `"exp"`, `"EXP"`, 1)
		wantRefused(t, a, forge(signingKey, genuineHeader(), p), now)
	})

	t.Run("not an object", func(t *testing.T) {
		for _, p := range []string{"", "null", "[]", "1", `"x"`, "{", "{}", mustJSON(genuinePayload()) + "{}", mustJSON(genuinePayload()) + "x", "\ufeff" + mustJSON(genuinePayload())} {
			wantRefused(t, a, forge(signingKey, genuineHeader(), p), now)
		}
	})

	t.Run("gateway address", func(t *testing.T) {
		pin := claims("").Gateway.Pin
		for _, gw := range []any{"http://x", "https://x/y", "https://u@x", "https://X", "https://x:0", "javascript:alert(1)", 1, []string{"https://x"}} {
			wantRefused(t, a, with("gw", gw), now)
		}
		p := genuinePayload()
		p["pin"] = pin
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
		p["gw"] = "https://x"
		if _, err := a.Verify(forge(signingKey, genuineHeader(), mustJSON(p)), now); err != nil {
			t.Error(err)
		}
		p["npin"] = "B" + pin[1:]
		if c, err := a.Verify(forge(signingKey, genuineHeader(), mustJSON(p)), now); err != nil || c.Gateway.NextPin != "B"+pin[1:] {
			t.Errorf("%+v, %v", c, err)
		}
		for _, next := range []any{pin, pin[1:], pin + "=", pin + "\n", 1, []string{"B" + pin[1:]}} {
			p["npin"] = next
			wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
		}
		p["npin"] = "B" + pin[1:]
		delete(p, "pin")
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
		delete(p, "npin")
		p["pin"] = pin[1:]
		wantRefused(t, a, forge(signingKey, genuineHeader(), mustJSON(p)), now)
	})
}

func withKey(c token.Claims, id string) token.Claims {
	c.KeyID = id
	return c
}

func TestSize(t *testing.T) {
	a := newAuthority(t, issuer, signingKey)
	genuine := sign(t, a, claims(socketxp.TokenAccess))
	start := strings.SplitN(genuine, ".", 2)[0]
	fill := func(n int) string { return start + "." + b64(strings.Repeat("x", n)) + "." }
	for name, text := range map[string]string{
		"T-27 empty":             "",
		"T-27 4097 bytes":        genuine + strings.Repeat("A", socketxp.MaxTokenBytes+1-len(genuine)),
		"T-27 4096 bytes":        genuine + strings.Repeat("A", socketxp.MaxTokenBytes-len(genuine)),
		"T-27 5 KiB":             fill(5 << 10),
		"T-27 64 KiB":            fill(64 << 10),
		"T-27 10 MiB":            fill(10 << 20),
		"T-27 100k dots":         strings.Repeat(".", 100_000),
		"T-27 4096 dots":         strings.Repeat(".", socketxp.MaxTokenBytes),
		"T-27 deep JSON":         forge(signingKey, genuineHeader(), strings.Repeat("[", 1_000_000)),
		"T-27 deep JSON, short":  forge(signingKey, genuineHeader(), strings.Repeat("[", 2500)),
		"T-27 deep field, short": forge(signingKey, genuineHeader(), strings.Repeat(`{"a":`, 500)),
		"T-27 a million claims":  forge(signingKey, genuineHeader(), "{"+strings.Repeat(`"a":1,`, 1_000_000)+`"b":1}`),
		"T-27 many claims":       forge(signingKey, genuineHeader(), manyClaims()),
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, a, text, now) // also warms up what is allocated once
			const runs, limit = 20, 64 << 10
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				_, _ = a.Verify(text, now)
			}
			runtime.ReadMemStats(&after)
			if each := (after.TotalAlloc - before.TotalAlloc) / runs; each > limit {
				t.Errorf("a refusal allocates %d bytes, more than %d", each, limit)
			}
		})
	}
}

func manyClaims() string {
	var b strings.Builder
	b.WriteString("{")
	for i := range 300 {
		fmt.Fprintf(&b, `"%x":1,`, i)
	}
	b.WriteString(`"z":1}`)
	return b.String()
}

func TestKeyID(t *testing.T) {
	seen := map[string]bool{}
	for _, key := range []ed25519.PrivateKey{signingKey, otherKey} {
		id := token.KeyID(public(key))
		if len(id) != 43 || seen[id] {
			t.Errorf("KeyID = %q", id)
		}
		seen[id] = true
	}
}

func BenchmarkVerify(b *testing.B) {
	a := newAuthority(b, issuer, signingKey)
	text := sign(b, a, claims(socketxp.TokenAccess))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Verify(text, now); err != nil {
			b.Fatal(err)
		}
	}
}
