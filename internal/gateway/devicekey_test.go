package gateway

import (
	"crypto/ed25519"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
)

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// keyChange is what a device says to have next for its key.
func keyChange(d socketxp.Device, key, next ed25519.PrivateKey, nonce []byte) control.KeyChange {
	return control.KeyChange{
		Next:  publicOf(next),
		Proof: ed25519.Sign(next, socketxp.KeyChangeProof(d.ID, publicOf(key), publicOf(next), nonce)),
		Vouch: ed25519.Sign(key, socketxp.KeyVouch(d.ID, publicOf(key), publicOf(next))),
	}
}

// moved has a device's sequence go on under its next key: it is the device's, not
// the key's.
func (w *world) moved(key, next ed25519.PrivateKey) { w.held.set(next, w.held.get(key)) }

func TestDeviceKeyChange(t *testing.T) {
	t.Parallel()
	w := start(t)
	d, key := w.register("cam", "default")
	_, text := w.access()
	next, third := newKey(t), newKey(t)

	_, welcome := w.online(d, key)
	if len(welcome.Nonce) != control.NonceSize {
		t.Fatalf("welcome %+v", welcome)
	}
	change := keyChange(d, key, next, welcome.Nonce)
	refused := func(t *testing.T, a *agent, m control.KeyChange, want socketxp.Code) {
		t.Helper()
		a.send(m)
		if no := expect[control.KeyRefused](a); no.Code != want {
			t.Errorf("%+v, want %s", no, want)
		}
	}
	t.Run("K-07 signed by another key", func(t *testing.T) {
		stranger := newKey(t)
		for name, bend := range map[string]func(m *control.KeyChange, nonce []byte){
			"the proof is another key's": func(m *control.KeyChange, nonce []byte) { m.Proof = keyChange(d, key, stranger, nonce).Proof },
			"the proof is the old key's": func(m *control.KeyChange, nonce []byte) {
				m.Proof = ed25519.Sign(key, socketxp.KeyChangeProof(d.ID, publicOf(key), publicOf(next), nonce))
			},
			"the proof is of another channel": func(m *control.KeyChange, _ []byte) { m.Proof = change.Proof },
			"another key vouches":             func(m *control.KeyChange, nonce []byte) { m.Vouch = keyChange(d, stranger, next, nonce).Vouch },
			"the next key vouches for itself": func(m *control.KeyChange, _ []byte) {
				m.Vouch = ed25519.Sign(next, socketxp.KeyVouch(d.ID, publicOf(key), publicOf(next)))
			},
		} {
			t.Run(name, func(t *testing.T) {
				a, welcome := w.online(d, key) // each on a channel of its own: none may ask too often
				m := keyChange(d, key, next, welcome.Nonce)
				bend(&m, welcome.Nonce)
				refused(t, a, m, socketxp.CodeForbidden)
			})
		}
		if n := w.audited(w.account.ID, "device.stage-key", socketxp.CodeForbidden); n == 0 {
			t.Error("no refusal is in the audit")
		}
	})
	a, welcome := w.online(d, key)
	t.Run("K-06 a message of another channel is worth nothing", func(t *testing.T) {
		refused(t, a, change, socketxp.CodeForbidden)
	})
	change = keyChange(d, key, next, welcome.Nonce)
	a.send(change)
	if m := expect[control.KeyStaged](a); !publicOf(next).Equal(ed25519.PublicKey(m.Next)) {
		t.Fatalf("%+v", m)
	}
	t.Run("K-06 the same again is answered alike", func(t *testing.T) {
		a.send(change)
		expect[control.KeyStaged](a)
		if n := w.audited(w.account.ID, "device.stage-key", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
	})
	t.Run("K-06 another key beside it is refused", func(t *testing.T) {
		refused(t, a, keyChange(d, key, third, welcome.Nonce), socketxp.CodeConflict)
	})
	t.Run("K-06 too many are refused", func(t *testing.T) {
		refused(t, a, keyChange(d, key, third, welcome.Nonce), socketxp.CodeRateLimited)
	})
	t.Run("K-06 until the new key is used the old one is good", func(t *testing.T) {
		_ = w.connect(d, key, echo).conn.Close()
	})

	td := w.connect(d, key, flood, "tcp://127.0.0.1:22")
	v := w.visitor()
	granted := v.grant(text, d, 22)
	if len(granted.Vouchers) != 0 {
		t.Errorf("vouchers of a key that never changed: %+v", granted.Vouchers)
	}
	open := v.read(v.open(granted))
	open.flows(t)
	w.moved(key, next)
	now := w.connect(d, next, flood, "tcp://127.0.0.1:22")
	t.Run("K-06 the first connection with the new key ends the old one", func(t *testing.T) {
		if m := <-td.refused; m.Code != socketxp.CodeKeyRetired && m.Code != socketxp.CodeReplaced {
			t.Errorf("%+v", m)
		}
		if got := w.deviceNow(d); !got.PublicKey.Equal(publicOf(next)) {
			t.Error("it has another key")
		}
		if n := w.audited(w.account.ID, "device.change-key", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
		if events := must[[]socketxp.Event](t)(w.store.Events(t.Context(), w.account.ID, socketxp.EventQuery{Type: socketxp.EventDeviceKeyChanged, Limit: 10})); len(events) != 1 {
			t.Errorf("events %+v", events)
		}
	})
	t.Run("a visitor asks anew, and what is open goes on", func(t *testing.T) {
		if m := expect[control.Ended](v.agent); m.Code != socketxp.CodeUnavailable {
			t.Errorf("%+v", m)
		}
		open.flows(t)
		g := v.grant(text, w.deviceNow(d), 22)
		vouchers := mapped(g.Vouchers, func(v control.Voucher) socketxp.KeyVoucher { return socketxp.KeyVoucher{Key: v.Key, Vouch: v.Vouch} })
		if !socketxp.FollowsKey(d.ID, socketxp.Fingerprint(publicOf(key)), vouchers, g.DeviceKey) {
			t.Errorf("the old key does not vouch for the new one: %+v", g)
		}
		if _, err := v.open(g).Open(); err != nil {
			t.Error(err)
		}
	})
	t.Run("K-06 the old key is refused from then on", func(t *testing.T) {
		for range 2 {
			a := w.dial(key, control.RoleDevice)
			a.send(report())
			m, err := a.receive()
			if err != nil {
				t.Fatal(err)
			}
			if no := a.isAlive(m); no.Code != socketxp.CodeKeyRetired || no.RetryAfter != 300 {
				t.Errorf("%+v", no)
			}
		}
		late := w.dial(key, control.RoleDevice) // nobody is there
		late.send(report())
		_ = late.conn.Close()
		if n := w.audited(w.account.ID, "device.connect", socketxp.CodeKeyRetired); n != 1 {
			t.Errorf("%d audit records", n)
		}
		if events := must[[]socketxp.Event](t)(w.store.Events(t.Context(), w.account.ID, socketxp.EventQuery{Type: socketxp.EventDeviceKeyRetired, Limit: 10})); len(events) != 1 {
			t.Errorf("events %+v", events)
		}
		select {
		case m := <-now.refused:
			t.Errorf("the device was told %+v", m)
		default:
		}
	})
	t.Run("K-02 a copy of the new key is found as well", func(t *testing.T) {
		a, m := w.shows(next, nil)
		if no := a.isAlive(m); no.Code != socketxp.CodeQuarantined {
			t.Errorf("%+v", no)
		}
	})
}

func TestK07NoTokenChangesAKey(t *testing.T) {
	w := start(t)
	d, _ := w.register("cam", "default")
	for _, kind := range socketxp.TokenKinds {
		_, text := w.newToken(kind, socketxp.TokenScope{Rights: socketxp.Rights})
		t.Run("K-07 "+string(kind), func(t *testing.T) {
			c := w.rest()
			body := fmt.Sprintf(`{"public_key":%q}`, "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=")
			for _, to := range []struct{ method, path string }{
				{patch, "/api/v1/devices/" + d.ID}, {put, "/api/v1/devices/" + d.ID}, {post, "/api/v1/devices/" + d.ID + "/key"}, {post, "/api/v1/devices/" + d.ID + "/rotate-key"},
			} {
				if got := c.do(to.method, to.path, body, bearer(text)...); got.status < 400 || got.status >= 500 {
					t.Errorf("%s %s: %d", to.method, to.path, got.status)
				}
			}
			if got := w.deviceNow(d); !got.PublicKey.Equal(d.PublicKey) {
				t.Error("it has another key")
			}
		})
	}
}

func TestKeysOfAge(t *testing.T) {
	var ahead atomic.Int64
	w := startIn(t, t.TempDir(), func(c *Config, deps *Deps) {
		c.DeviceKeyLife = 30 * 24 * time.Hour
		deps.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}, func(l *limits) { l.keyDueEvery, l.keyDueAtOnce = 10*time.Millisecond, 1 })
	d, key := w.register("cam", "default")
	a, welcome := w.online(d, key)
	a.send(report()) // nothing is due yet: the next word is what the clock brings
	ahead.Store(int64(31 * 24 * time.Hour))
	expect[control.KeyDue](a)
	next := newKey(t)
	a.send(keyChange(d, key, next, welcome.Nonce))
	expect[control.KeyStaged](a)
	w.moved(key, next)
	b, _ := w.online(d, next)
	if since := w.deviceNow(d).KeySince; w.g.now().Sub(since) > time.Hour {
		t.Errorf("its key is of %v", since)
	}
	ahead.Store(int64(62 * 24 * time.Hour))
	expect[control.KeyDue](b)
}

func TestRelogin(t *testing.T) {
	t.Parallel()
	w := start(t)
	d, key := w.register("cam", "sensors")
	first := w.connect(d, key, flood, "tcp://127.0.0.1:22")
	other, _ := w.newAccount("other", "other@example.com")
	next, thief := newKey(t), newKey(t)
	request := func(text string, old, next ed25519.PrivateKey) api.ReloginRequest {
		proof := socketxp.KeyReplaceProof(text, publicOf(old), publicOf(next))
		return api.ReloginRequest{OldKey: publicOf(old), OldProof: ed25519.Sign(old, proof), PublicKey: publicOf(next), Proof: ed25519.Sign(next, proof)}
	}
	row, text := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{Group: "sensors", NamePattern: "c*"})
	uses := func() int { return must[socketxp.Token](t)(w.store.Token(t.Context(), w.account.ID, row.ID)).Uses }
	for _, c := range []struct {
		name  string
		scope socketxp.TokenScope
		kind  socketxp.TokenKind
		req   func(text string) api.ReloginRequest
		want  socketxp.Code
	}{
		{"the old key's proof is missing", socketxp.TokenScope{}, socketxp.TokenRegistration, func(text string) api.ReloginRequest {
			r := request(text, key, next)
			r.OldProof = r.Proof
			return r
		}, socketxp.CodeForbidden},
		{"the new key's proof is missing", socketxp.TokenScope{}, socketxp.TokenRegistration, func(text string) api.ReloginRequest {
			r := request(text, key, next)
			r.Proof = r.OldProof
			return r
		}, socketxp.CodeForbidden},
		{"the proofs are of another token", socketxp.TokenScope{}, socketxp.TokenRegistration, func(string) api.ReloginRequest { return request("x", key, next) }, socketxp.CodeForbidden},
		{"a key that is none", socketxp.TokenScope{}, socketxp.TokenRegistration, func(text string) api.ReloginRequest {
			r := request(text, key, next)
			r.OldKey = r.OldKey[:31]
			return r
		}, socketxp.CodeInvalid},
		{"a device that is not there", socketxp.TokenScope{}, socketxp.TokenRegistration, func(text string) api.ReloginRequest { return request(text, thief, next) }, socketxp.CodeNotFound},
		{"a token of another group", socketxp.TokenScope{Group: "others"}, socketxp.TokenRegistration, func(text string) api.ReloginRequest { return request(text, key, next) }, socketxp.CodeForbidden},
		{"a token for other names", socketxp.TokenScope{NamePattern: "x*"}, socketxp.TokenRegistration, func(text string) api.ReloginRequest { return request(text, key, next) }, socketxp.CodeForbidden},
		{"an access token", socketxp.TokenScope{}, socketxp.TokenAccess, func(text string) api.ReloginRequest { return request(text, key, next) }, socketxp.CodeWrongPurpose},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, text := w.newToken(c.kind, c.scope)
			_, err := w.client(text).Relogin(t.Context(), c.req(text))
			wantCode(t, err, c.want)
			if got := w.deviceNow(d); !got.PublicKey.Equal(d.PublicKey) {
				t.Error("it has another key")
			}
		})
	}
	t.Run("another account's token knows no such device", func(t *testing.T) {
		mine := w.account
		w.account = other
		owner := w.owner
		defer func() { w.account, w.owner = mine, owner }()
		w.owner = must[[]socketxp.User](t)(w.store.Users(t.Context()))[1]
		_, text := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
		_, err := w.client(text).Relogin(t.Context(), request(text, key, next))
		wantCode(t, err, socketxp.CodeNotFound)
	})

	// A thief has the device, and visitors have met it.
	_, access := w.access()
	v := w.visitor()
	open := v.read(v.open(v.grant(access, d, 22)))
	open.flows(t)
	answer := must[api.RegisterResponse](t)(w.client(text).Relogin(t.Context(), request(text, key, next)))
	if answer.DeviceID != d.ID || answer.Name != "cam" || answer.Group != "sensors" || answer.Again || uses() != 1 {
		t.Errorf("%+v, %d uses", answer, uses())
	}
	t.Run("who has the old key is cut, with what is open", func(t *testing.T) {
		select {
		case m := <-first.refused:
			if m.Code != socketxp.CodeKeyRetired {
				t.Errorf("%+v", m)
			}
		case <-time.After(soon):
			t.Error("it is still connected")
		}
		open.isCut(t)
	})
	t.Run("the machine goes on with the new key and no sequence", func(t *testing.T) {
		w.connect(d, next, echo)
	})
	t.Run("after a lost answer it is the same again", func(t *testing.T) {
		answer := must[api.RegisterResponse](t)(w.client(text).Relogin(t.Context(), request(text, key, next)))
		if !answer.Again || uses() != 1 {
			t.Errorf("%+v, %d uses", answer, uses())
		}
	})
	t.Run("another key needs another use", func(t *testing.T) {
		_, err := w.client(text).Relogin(t.Context(), request(text, next, thief))
		wantCode(t, err, socketxp.CodeUsesExhausted)
	})
	t.Run("it is told", func(t *testing.T) {
		if n := w.audited(w.account.ID, "device.relogin", ""); n != 1 {
			t.Errorf("%d audit records", n)
		}
		if n := w.audited(w.account.ID, "device.relogin", socketxp.CodeForbidden); n == 0 {
			t.Error("no refusal is in the audit")
		}
	})
	t.Run("without a credential", func(t *testing.T) {
		w.rest().do(post, "/api/v1/relogin", "{}").want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
	})
}
