package gateway

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// lossy is a store that fails the next write, before it is done or once it is.
type lossy struct {
	socketxp.Store
	next atomic.Int32 // one of the following
}

const (
	failNothing int32 = iota
	failBefore
	failAfter
)

func (l *lossy) fail(do func() error) error {
	switch l.next.Swap(failNothing) {
	case failBefore:
		return errDown
	case failAfter:
		if err := do(); err != nil {
			return err
		}
		return errDown
	}
	return do()
}

func (l *lossy) RegisterDevice(ctx context.Context, r socketxp.Registration, now time.Time, e socketxp.AuditEntry) (d socketxp.Device, again bool, err error) {
	err = l.fail(func() error { d, again, err = l.Store.RegisterDevice(ctx, r, now, e); return err })
	return d, again, err
}

func (l *lossy) CreateToken(ctx context.Context, t socketxp.Token, e socketxp.AuditEntry) error {
	return l.fail(func() error { return l.Store.CreateToken(ctx, t, e) })
}

func (l *lossy) RevokeToken(ctx context.Context, accountID, id string, at time.Time, e socketxp.AuditEntry) (ids []string, err error) {
	err = l.fail(func() error { ids, err = l.Store.RevokeToken(ctx, accountID, id, at, e); return err })
	return ids, err
}

func (l *lossy) ConfirmToken(ctx context.Context, accountID, id string, e socketxp.AuditEntry) error {
	return l.fail(func() error { return l.Store.ConfirmToken(ctx, accountID, id, e) })
}

// Whoever asks again after a write has failed, or its answer was lost, has it done
// once.
func TestAskedAgain(t *testing.T) {
	l := &lossy{}
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		l.Store = d.Store
		d.Store = l
	})
	c := w.rest()
	_, admin := w.newSignIn(0)
	list := func() []socketxp.Token {
		return must[[]socketxp.Token](t)(w.store.Tokens(t.Context(), w.account.ID, socketxp.TokenQuery{Limit: 200}))
	}
	for when, name := range map[int32]string{failBefore: "before", failAfter: "after"} {
		t.Run("P-05 registration fails "+name, func(t *testing.T) {
			tok, text := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
			key, before := newKey(t), w.deviceCount()
			l.next.Store(when)
			_, err := w.client(text).Register(t.Context(), request(text, key, "cam-"+name, ""))
			wantCode(t, err, socketxp.CodeUnavailable)
			if n, done := w.deviceCount()-before, when == failAfter; (n == 1) != done || (w.uses(tok.ID) == 1) != done {
				t.Errorf("%d devices, %d uses", n, w.uses(tok.ID))
			}
			again, err := w.client(text).Register(t.Context(), request(text, key, "cam-"+name, ""))
			if err != nil || w.deviceCount() != before+1 || w.uses(tok.ID) != 1 {
				t.Fatalf("%v; %d devices, %d uses", err, w.deviceCount()-before, w.uses(tok.ID))
			}
			if d := must[socketxp.Device](t)(w.store.DeviceByName(t.Context(), w.account.ID, "cam-"+name)); d.ID != again.DeviceID {
				t.Error("it was told of another device")
			}
		})
		t.Run("P-05 token issue fails "+name, func(t *testing.T) {
			before := len(list())
			ask := func() restAnswer {
				return c.do(post, "/api/v1/tokens", `{"kind":"api","name":"again"}`, append(cookie(admin), "Idempotency-Key", "a-key-that-nobody-guesses-"+name)...)
			}
			l.next.Store(when)
			a := ask()
			if when == failBefore {
				a.want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
				a = ask()
			}
			created := into[api.CreatedToken](t, a)
			c.do(get, "/api/v1/me", "", bearer(created.Text)...).want(t, http.StatusOK, "")
			if n := len(list()) - before; n != 1 {
				t.Errorf("%d tokens were made", n)
			}
			if again := into[api.CreatedToken](t, ask()); again.Text != created.Text || len(list()) != before+1 {
				t.Error("asked again it is another token")
			}
		})
		t.Run("P-05 revocation fails "+name, func(t *testing.T) {
			tok, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
			ask := func() restAnswer { return c.do(post, "/api/v1/tokens/"+tok.ID+"/revoke", "", cookie(admin)...) }
			l.next.Store(when)
			ask().want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
			if when == failBefore {
				c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusOK, "")
			}
			ask().want(t, http.StatusNoContent, "")
			c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
			n := 0
			for _, r := range must[[]socketxp.AuditRecord](t)(w.store.Audit(t.Context(), w.account.ID, socketxp.AuditQuery{Action: "token.revoke", Limit: 100})) {
				if r.ObjectID == tok.ID {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d audit records", n)
			}
		})
		t.Run("P-05 confirmation fails "+name, func(t *testing.T) {
			tok, _ := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{})
			if _, err := w.store.BeginEpoch(t.Context(), w.g.now(), socketxp.AuditEntry{At: w.g.now()}); err != nil {
				t.Fatal(err)
			}
			_, admin = w.newSignIn(0)
			ask := func() restAnswer { return c.do(post, "/api/v1/tokens/"+tok.ID+"/confirm", "", cookie(admin)...) }
			l.next.Store(when)
			ask().want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
			if when == failBefore {
				ask().want(t, http.StatusOK, "")
			} else {
				ask().want(t, http.StatusConflict, socketxp.CodeConflict) // it is done
			}
			if got := into[api.Token](t, c.do(get, "/api/v1/tokens/"+tok.ID, "", cookie(admin)...)); got.State != api.TokenLive {
				t.Errorf("it is %s", got.State)
			}
		})
	}
}
