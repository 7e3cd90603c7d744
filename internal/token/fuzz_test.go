package token_test

import (
	"testing"

	"socketxp"
	"socketxp/internal/token"
)

// FuzzVerify feeds whole texts. Whatever is accepted must sign to the same text:
// no token has two spellings.
func FuzzVerify(f *testing.F) {
	a := newAuthority(f, issuer, signingKey)
	for _, kind := range socketxp.TokenKinds {
		f.Add(sign(f, a, claims(kind)))
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := a.Verify(text, now)
		if err != nil {
			return
		}
		if again, err := a.Sign(c); err != nil || again != text {
			t.Errorf("accepted %q, which signs as %q, %v", text, again, err)
		}
	})
}

// FuzzVerifySigned feeds payloads that carry a good signature, so that what
// judges the claims is reached. Whatever is accepted must be something that
// Sign would have signed, and mean the same.
func FuzzVerifySigned(f *testing.F) {
	a := newAuthority(f, issuer, signingKey)
	f.Add(mustJSON(genuinePayload()))
	f.Fuzz(func(t *testing.T, payload string) {
		c, err := a.Verify(forge(signingKey, genuineHeader(), payload), now)
		if err != nil {
			if socketxp.CodeOf(err) == socketxp.CodeUnauthenticated && c != (token.Claims{}) {
				t.Errorf("refused, but returned %+v", c)
			}
			return
		}
		text, err := a.Sign(c)
		if err != nil {
			t.Fatalf("accepted %+v, which can't be signed: %v", c, err)
		}
		if again, err := a.Verify(text, now); err != nil || again != c {
			t.Errorf("accepted %+v, which signs to %+v, %v", c, again, err)
		}
	})
}
