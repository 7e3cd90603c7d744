package gateway

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"socketxp"
)

// once serves a write that has an Idempotency-Key: the answer to the first one
// that succeeds is kept, sealed, for those that come again with the same key. A
// write that failed did nothing, and is tried anew.
func (r *router) once(keys []string, h func(http.ResponseWriter, *http.Request) error, w http.ResponseWriter, req *http.Request) error {
	if len(keys) > 1 || !validIdempotencyKey(keys[0]) {
		return socketxp.Errorf(socketxp.CodeInvalid, "the Idempotency-Key is not 16 to 128 printable characters").WithHint("use a random one, for example a UUID")
	}
	g, ctx := r.g, req.Context()
	body, err := io.ReadAll(req.Body) // which is in memory already
	if err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	secret, err := newSealKeys(keys[0], callOf(ctx).who.credentialID, req.Method+" "+req.URL.Path)
	if err != nil {
		return err
	}
	claim := socketxp.IdempotentRequest{KeyHash: secret.name, RequestHash: secret.hashOf(body), At: g.now()}
	stored, fresh, err := g.store.BeginIdempotent(ctx, claim)
	switch {
	case err != nil:
		return err
	case fresh:
		return r.serveOnce(claim, secret, h, w, req)
	case stored.RequestHash != claim.RequestHash:
		return socketxp.Errorf(socketxp.CodeConflict, "the Idempotency-Key was used for another request").WithHint("use a new key for each write")
	case stored.Status == 0:
		return later(socketxp.CodeConflict, time.Second, "the request with this Idempotency-Key is still being served")
	}
	answer, err := secret.open(stored.Body)
	if err != nil {
		return err
	}
	if len(answer) > 0 {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Idempotent-Replayed", "true")
	w.WriteHeader(stored.Status)
	_, _ = w.Write(answer) //nolint:gosec // JSON that was answered before, and marked as such
	return nil
}

// serveOnce serves a request that holds the claim.
func (r *router) serveOnce(claim socketxp.IdempotentRequest, secret sealKeys, h func(http.ResponseWriter, *http.Request) error, w http.ResponseWriter, req *http.Request) (err error) {
	held := &heldAnswer{header: w.Header()}
	done := false
	ctx, cancel := r.g.asked(req.Context())
	defer cancel()
	defer func() { // also after a panic
		if done {
			return
		}
		abandon, cancel := r.g.asked(context.WithoutCancel(ctx))
		defer cancel()
		if err := r.g.store.AbandonIdempotent(abandon, claim.KeyHash); err != nil {
			r.g.stats.storeError()
			r.g.log.Warn("an Idempotency-Key was not given free", "error", err)
		}
	}()
	if err := h(held, req); err != nil {
		return err
	}
	if held.status >= 200 && held.status < 300 {
		claim.Status = held.status
		if claim.Body, err = secret.seal(held.body.Bytes()); err != nil {
			return err
		}
		finish, cancel := r.g.asked(context.WithoutCancel(ctx))
		defer cancel()
		if err := r.g.store.FinishIdempotent(finish, claim); err != nil {
			// The write is done and must be answered. Sent again within a minute it is
			// refused, and after that it is done again.
			r.g.stats.storeError()
			r.g.log.Error("the answer to a write was not kept", "error", err)
		}
		done = true
	}
	w.WriteHeader(held.status)
	_, _ = w.Write(held.body.Bytes())
	return nil
}

// The lengths of an Idempotency-Key: too long to be guessed, and bounded.
const (
	minIdempotencyKey = 16
	maxIdempotencyKey = 128
)

func validIdempotencyKey(s string) bool {
	if len(s) < minIdempotencyKey || len(s) > maxIdempotencyKey {
		return false
	}
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}

// sealKeys are derived from the text of an Idempotency-Key, the credential and the
// route. The database has their name only, so that it alone can neither read an
// answer (which may hold a token) nor try out bodies (which may hold a password).
type sealKeys struct {
	name [32]byte
	mac  []byte
	aead cipher.AEAD
}

func newSealKeys(key, credentialID, route string) (sealKeys, error) {
	info := "socketxp-idempotency/1\x00" + credentialID + "\x00" + route
	derived, err := hkdf.Key(sha256.New, []byte(key), nil, info, 96)
	if err != nil {
		return sealKeys{}, fmt.Errorf("derive idempotency keys: %w", err)
	}
	k := sealKeys{mac: derived[32:64]}
	copy(k.name[:], derived[:32])
	block, err := aes.NewCipher(derived[64:])
	if err != nil {
		return sealKeys{}, fmt.Errorf("derive idempotency keys: %w", err)
	}
	k.aead, err = cipher.NewGCM(block)
	return k, err
}

func (k sealKeys) hashOf(body []byte) (sum [32]byte) {
	m := hmac.New(sha256.New, k.mac)
	m.Write(body)
	copy(sum[:], m.Sum(nil))
	return sum
}

func (k sealKeys) seal(answer []byte) ([]byte, error) {
	nonce := make([]byte, k.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return k.aead.Seal(nonce, nonce, answer, k.name[:]), nil
}

func (k sealKeys) open(sealed []byte) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("a kept answer is too short")
	}
	answer, err := k.aead.Open(nil, sealed[:n], sealed[n:], k.name[:])
	if err != nil {
		return nil, errors.New("a kept answer of " + strconv.Itoa(len(sealed)) + " bytes was changed")
	}
	return answer, nil
}

// heldAnswer holds an answer back until it is kept.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *heldAnswer) Header() http.Header { return a.header }

func (a *heldAnswer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *heldAnswer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}
