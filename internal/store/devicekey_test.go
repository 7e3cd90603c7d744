package store_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"socketxp"
)

func newKey(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// wantKey fails unless the key is the device's in this state; "" for a key that
// nobody has.
func (ten *tenant) wantKey(key ed25519.PublicKey, d socketxp.Device, want socketxp.DeviceKeyState) {
	ten.t.Helper()
	got, state, err := ten.store.DeviceByKey(ten.t.Context(), key)
	if want == "" {
		wantCode(ten.t, err, socketxp.CodeNotFound)
		return
	}
	ten.must(err)
	if got.ID != d.ID || state != want {
		ten.t.Errorf("the key is %q of %s, want %q of %s", state, got.Name, want, d.Name)
	}
}

func TestKeyChange(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		key1, private1 := newKey(t)
		key2, private2 := newKey(t)
		key3, _ := newKey(t)
		d := acme.newDevice("sensor", func(d *socketxp.Device) { d.PublicKey = key1 })
		neighbour := acme.newDevice("neighbour")
		at := func(h int) socketxp.AuditEntry {
			e := acme.entry("device.key")
			e.At = t0.Add(time.Duration(h) * time.Hour)
			return e
		}
		stage := func(current, next ed25519.PublicKey, signer ed25519.PrivateKey, h int) error {
			return s.StageKey(t.Context(), acme.id, d.ID, socketxp.KeySuccession{
				Current: current, Next: next, Vouch: ed25519.Sign(signer, socketxp.KeyVouch(d.ID, current, next)),
			}, at(h))
		}
		vouchers := func() []socketxp.KeyVoucher {
			v, err := s.KeyVouchers(t.Context(), acme.id, d.ID)
			acme.must(err)
			return v
		}

		acme.must(stage(key1, key2, private1, 1))
		records := len(acme.chain())
		acme.must(stage(key1, key2, private1, 2)) // again
		if n := len(acme.chain()); n != records {
			t.Errorf("staging again left %d records", n-records)
		}
		acme.wantKey(key1, d, socketxp.DeviceKeyCurrent)
		acme.wantKey(key2, d, socketxp.DeviceKeyNext)
		for name, err := range map[string]error{
			"another key so soon":            stage(key1, key3, private1, 3),
			"not the current one":            stage(key2, key3, private1, 3),
			"another device's key":           s.StageKey(t.Context(), acme.id, neighbour.ID, socketxp.KeySuccession{Current: neighbour.PublicKey, Next: key1, Vouch: value(1)}, at(3)),
			"another device's next key":      s.StageKey(t.Context(), acme.id, neighbour.ID, socketxp.KeySuccession{Current: neighbour.PublicKey, Next: key2, Vouch: value(1)}, at(3)),
			"its own key":                    stage(key1, key1, private1, 30),
			"promotion of a key of nobody's": second(s.PromoteKey(t.Context(), acme.id, d.ID, key3, at(3))),
			"promotion of the current key":   second(s.PromoteKey(t.Context(), acme.id, d.ID, key1, at(3))),
			"promotion of another's key":     second(s.PromoteKey(t.Context(), acme.id, neighbour.ID, key2, at(3))),
		} {
			t.Run(name, func(t *testing.T) { wantCode(t, err, socketxp.CodeConflict) })
		}
		wantCode(t, s.StageKey(t.Context(), other.id, d.ID, socketxp.KeySuccession{Current: key1, Next: key3}, other.entry("x")), socketxp.CodeNotFound)
		wantCode(t, second(s.PromoteKey(t.Context(), other.id, d.ID, key2, other.entry("x"))), socketxp.CodeConflict)
		if v := vouchers(); len(v) != 0 {
			t.Errorf("before the change: %v", v)
		}

		now, err := s.PromoteKey(t.Context(), acme.id, d.ID, key2, at(4))
		acme.must(err)
		if !now.PublicKey.Equal(key2) || !now.KeySince.Equal(t0.Add(4*time.Hour)) {
			t.Errorf("%+v", now)
		}
		wantEqual(t, acme.device("sensor"), now)
		acme.wantKey(key1, d, socketxp.DeviceKeyRetired)
		acme.wantKey(key2, d, socketxp.DeviceKeyCurrent)
		if v := vouchers(); !socketxp.FollowsKey(d.ID, socketxp.Fingerprint(key1), v, key2) {
			t.Errorf("the first key does not vouch: %v", v)
		}
		wantCode(t, stage(key2, key1, private2, 40), socketxp.CodeConflict) // no key comes back
		_, _, err = acme.register(socketxp.Registration{Device: socketxp.Device{
			ID: acme.ids.next(), AccountID: acme.id, Name: "again", PublicKey: key1, CreatedAt: t0,
		}})
		wantCode(t, err, socketxp.CodeConflict)

		t.Run("a staged key that was lost makes room a day later", func(t *testing.T) {
			lost, _ := newKey(t)
			acme.must(stage(key2, lost, private2, 5))
			wantCode(t, stage(key2, key3, private2, 28), socketxp.CodeConflict)
			acme.must(stage(key2, key3, private2, 29))
			acme.wantKey(lost, d, socketxp.DeviceKeyVoid)
			_, err := s.PromoteKey(t.Context(), acme.id, d.ID, key3, at(30))
			acme.must(err)
			v := vouchers()
			if len(v) != 2 || !socketxp.FollowsKey(d.ID, socketxp.Fingerprint(key1), v, key3) || !socketxp.FollowsKey(d.ID, socketxp.Fingerprint(key2), v, key3) ||
				socketxp.FollowsKey(d.ID, socketxp.Fingerprint(lost), v, key3) {
				t.Errorf("%v", v)
			}
		})
		t.Run("K-06 of many at once one is staged", func(t *testing.T) {
			var all sync.WaitGroup
			results := make(chan error, 6)
			for range cap(results) {
				next, _ := newKey(t)
				all.Go(func() { results <- stage(key3, next, private2, 31) })
			}
			all.Wait()
			done := 0
			for range cap(results) {
				if err := <-results; err == nil {
					done++
				} else {
					wantCode(t, err, socketxp.CodeConflict)
				}
			}
			if done != 1 {
				t.Errorf("%d were staged", done)
			}
		})
		acme.must(s.DeleteDevice(t.Context(), acme.id, d.ID, acme.entry("device.delete")))
		acme.wantKey(key1, d, "")
		acme.wantKey(key3, d, "")
	})
}

func second[T any](_ T, err error) error { return err }

func TestManyKeyChanges(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		key, private := newKey(t)
		d := acme.newDevice("sensor", func(d *socketxp.Device) { d.PublicKey = key })
		keys := []ed25519.PublicKey{key}
		for i := range socketxp.MaxVouchers + 8 {
			next, nextPrivate := newKey(t)
			e := acme.entry("device.key")
			e.At = t0.Add(time.Duration(i+1) * time.Hour)
			acme.must(s.StageKey(t.Context(), acme.id, d.ID, socketxp.KeySuccession{
				Current: key, Next: next, Vouch: ed25519.Sign(private, socketxp.KeyVouch(d.ID, key, next)),
			}, e))
			_, err := s.PromoteKey(t.Context(), acme.id, d.ID, next, e)
			acme.must(err)
			key, private = next, nextPrivate
			keys = append(keys, key)
		}
		v, err := s.KeyVouchers(t.Context(), acme.id, d.ID)
		acme.must(err)
		oldest := len(keys) - 1 - socketxp.MaxVouchers
		if len(v) != socketxp.MaxVouchers || !socketxp.FollowsKey(d.ID, socketxp.Fingerprint(keys[oldest]), v, key) {
			t.Errorf("%d vouchers, or they don't lead on", len(v))
		}
		acme.wantKey(keys[oldest], d, socketxp.DeviceKeyRetired)
		acme.wantKey(keys[0], d, "")
	})
}

func TestReplaceKey(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		old, private := newKey(t)
		d := acme.newDevice("sensor", func(d *socketxp.Device) { d.PublicKey = old })
		seq := socketxp.Sequence{Current: value(1), Next: value(2)}
		if _, err := s.MoveSequences(t.Context(), []socketxp.SequenceMove{{AccountID: acme.id, DeviceID: d.ID, To: seq}}); err != nil {
			t.Fatal(err)
		}
		acme.must(s.QuarantineDevice(t.Context(), acme.id, d.ID, seq, "two", acme.entry("device.quarantine")))
		staged, _ := newKey(t)
		acme.must(s.StageKey(t.Context(), acme.id, d.ID, socketxp.KeySuccession{Current: old, Next: staged, Vouch: ed25519.Sign(private, socketxp.KeyVouch(d.ID, old, staged))}, acme.entry("x")))
		token := acme.newToken(socketxp.TokenRegistration)
		key, _ := newKey(t)
		allow := func(socketxp.Device) error { return nil }
		replace := func(ten *tenant, tokenID string, old, next ed25519.PublicKey, allow func(socketxp.Device) error) (socketxp.Device, bool, error) {
			return s.ReplaceKey(t.Context(), socketxp.KeyReplacement{AccountID: ten.id, TokenID: tokenID, Old: old, New: next, Allow: allow}, t0, ten.entry("device.relogin"))
		}
		uses := func() int { return acme.token(token.ID).Uses }

		for _, c := range []struct {
			name string
			err  error
			want socketxp.Code
		}{
			{"another account's token", third(replace(other, other.newToken(socketxp.TokenRegistration).ID, old, key, allow)), socketxp.CodeNotFound},
			{"a token for reaching devices", third(replace(acme, acme.newToken(socketxp.TokenAccess).ID, old, key, allow)), socketxp.CodeWrongPurpose},
			{"a key of nobody's", third(replace(acme, token.ID, key, key, allow)), socketxp.CodeNotFound},
			{"a new key that was another's", third(replace(acme, token.ID, old, acme.newDevice("neighbour").PublicKey, allow)), socketxp.CodeConflict},
			{"the same key", third(replace(acme, token.ID, old, old, allow)), socketxp.CodeConflict},
			{"a token that is not for it", third(replace(acme, token.ID, old, key, func(socketxp.Device) error { return socketxp.Errorf(socketxp.CodeForbidden, "no") })), socketxp.CodeForbidden},
		} {
			t.Run(c.name, func(t *testing.T) {
				wantCode(t, c.err, c.want)
				if uses() != 0 {
					t.Error("it has taken a use")
				}
			})
		}
		acme.wantKey(old, d, socketxp.DeviceKeyCurrent)

		got, again, err := replace(acme, token.ID, old, key, allow)
		acme.must(err)
		want := d
		want.PublicKey, want.KeySince = key, t0
		wantEqual(t, got, want)
		wantEqual(t, acme.device("sensor"), want)
		if again || uses() != 1 {
			t.Errorf("again %v, %d uses", again, uses())
		}
		acme.wantKey(old, d, socketxp.DeviceKeyRetired)
		acme.wantKey(staged, d, socketxp.DeviceKeyVoid)
		if v, err := s.KeyVouchers(t.Context(), acme.id, d.ID); err != nil || len(v) != 0 {
			t.Errorf("the key of before vouches for it: %v, %v", v, err)
		}
		if r := acme.lastRecord(); r.Action != "device.relogin" || r.ObjectID != d.ID || r.ObjectName != "sensor" {
			t.Errorf("audited as %+v", r)
		}

		t.Run("again after a lost answer", func(t *testing.T) {
			got, again, err := replace(acme, token.ID, old, key, allow)
			acme.must(err)
			if !again || uses() != 1 {
				t.Errorf("again %v, %d uses", again, uses())
			}
			wantEqual(t, got, want)
		})
		t.Run("a token that is used up", func(t *testing.T) {
			more, _ := newKey(t)
			wantCode(t, third(replace(acme, token.ID, key, more, allow)), socketxp.CodeUsesExhausted)
			acme.wantKey(more, d, "")
		})
		t.Run("by a key that it had, and with one that was staged", func(t *testing.T) {
			third, _ := newKey(t)
			acme.must(s.StageKey(t.Context(), acme.id, d.ID, socketxp.KeySuccession{Current: key, Next: third, Vouch: value(9)}, acme.entry("x")))
			got, _, err := replace(acme, acme.newToken(socketxp.TokenBasic).ID, old, third, allow)
			acme.must(err)
			if !got.PublicKey.Equal(third) {
				t.Error("it has another key")
			}
			if v, err := s.KeyVouchers(t.Context(), acme.id, d.ID); err != nil || len(v) != 0 {
				t.Errorf("somebody vouches for it: %v, %v", v, err)
			}
		})
	})
}

func third[A, B any](_ A, _ B, err error) error { return err }

func TestFollowsKey(t *testing.T) {
	const id = "01a20baf-20ae-7456-abf9-67d074fdbbf2"
	var keys []ed25519.PublicKey
	var privates []ed25519.PrivateKey
	for range 4 {
		k, p := newKey(t)
		keys, privates = append(keys, k), append(privates, p)
	}
	var chain []socketxp.KeyVoucher
	for i := range 3 {
		chain = append(chain, socketxp.KeyVoucher{Key: keys[i], Vouch: ed25519.Sign(privates[i], socketxp.KeyVouch(id, keys[i], keys[i+1]))})
	}
	forged := func(i int, by ed25519.PrivateKey, deviceID string) []socketxp.KeyVoucher {
		c := append([]socketxp.KeyVoucher(nil), chain...)
		c[i].Vouch = ed25519.Sign(by, socketxp.KeyVouch(deviceID, keys[i], keys[i+1]))
		return c
	}
	for i, c := range []struct {
		name  string
		from  ed25519.PublicKey
		chain []socketxp.KeyVoucher
		to    ed25519.PublicKey
		want  bool
	}{
		{"from the first", keys[0], chain, keys[3], true},
		{"from the last but one", keys[2], chain, keys[3], true},
		{"to another key", keys[0], chain, keys[2], false},
		{"from the key itself", keys[3], chain, keys[3], false},
		{"from a stranger", newPublic(t), chain, keys[3], false},
		{"without a chain", keys[0], nil, keys[3], false},
		{"a link is missing", keys[0], append(chain[:1:1], chain[2]), keys[3], false},
		{"a link is signed by another key", keys[0], forged(1, privates[0], id), keys[3], false},
		{"a link before the known one does not matter", keys[1], forged(0, privates[3], id), keys[3], true},
		{"a link of another device", keys[0], forged(0, privates[0], "01a20baf-20ae-7cd7-bd94-a53a4dd76c2f"), keys[3], false},
		{"a key that is none", keys[0], append(chain[:2:2], socketxp.KeyVoucher{Key: keys[2][:31], Vouch: chain[2].Vouch}), keys[3], false},
		{"too long a chain", keys[0], append(make([]socketxp.KeyVoucher, socketxp.MaxVouchers), chain...), keys[3], false},
	} {
		t.Run(fmt.Sprint(i, " ", c.name), func(t *testing.T) {
			if got := socketxp.FollowsKey(id, socketxp.Fingerprint(c.from), c.chain, c.to); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func newPublic(t *testing.T) ed25519.PublicKey {
	k, _ := newKey(t)
	return k
}
