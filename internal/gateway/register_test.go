package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// client returns a client of the gateway with a credential.
func (w *world) client(credential string) *api.Client {
	w.Helper()
	c := api.NewClient(w.g.Address(), must[*tls.Config](w.T)(w.g.Address().TLSConfig(nil)), credential)
	w.Cleanup(c.Close)
	return c
}

// request is what a device with this key sends.
func request(text string, key ed25519.PrivateKey, name, group string) api.RegisterRequest {
	public := key.Public().(ed25519.PublicKey)
	return api.RegisterRequest{
		PublicKey: public, Proof: ed25519.Sign(key, socketxp.RegistrationProof(text, public)), Name: name, Group: group,
	}
}

// tryRegister registers a device with a fresh key.
func (w *world) tryRegister(text, name, group string) (api.RegisterResponse, error) {
	return w.client(text).Register(w.Context(), request(text, newKey(w.T), name, group))
}

func wantCode(t *testing.T, err error, code socketxp.Code) {
	t.Helper()
	if socketxp.CodeOf(err) != code {
		t.Fatalf("got %v, want %s", err, code)
	}
}

func (w *world) deviceCount() int {
	w.Helper()
	_, n, err := w.store.Devices(w.Context(), w.account.ID, socketxp.DeviceQuery{Limit: 1})
	if err != nil {
		w.Fatal(err)
	}
	return n.Devices
}

func (w *world) uses(id string) int {
	w.Helper()
	return must[socketxp.Token](w.T)(w.store.Token(w.Context(), w.account.ID, id)).Uses
}

func TestRegister(t *testing.T) {
	w := start(t)
	reg := func(scope socketxp.TokenScope) (socketxp.Token, string) {
		return w.newToken(socketxp.TokenRegistration, scope)
	}
	t.Run("R-01 expired", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{}, time.Second)
		before := w.deviceCount()
		eventually(t, patience, "it expires", func() bool {
			_, err := w.g.tokens.Verify(text, w.g.now())
			return err != nil
		})
		_, err := w.tryRegister(text, "late", "")
		wantCode(t, err, socketxp.CodeTokenExpired)
		if w.deviceCount() != before {
			t.Fatal("there is a device")
		}
	})
	t.Run("R-01 revoked", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{})
		must[[]string](t)(w.store.RevokeToken(t.Context(), w.account.ID, tok.ID, w.g.now(), w.entry("token.revoke")))
		before := w.deviceCount()
		_, err := w.tryRegister(text, "late", "")
		wantCode(t, err, socketxp.CodeTokenRevoked)
		if w.deviceCount() != before {
			t.Fatal("there is a device")
		}
	})
	t.Run("R-01 R-02 used again by another key", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{})
		d := must[api.RegisterResponse](t)(w.tryRegister(text, "one", ""))
		if d.Name != "one" || d.Group != socketxp.DefaultGroup || d.Again {
			t.Fatalf("got %+v", d)
		}
		_, err := w.tryRegister(text, "two", "")
		wantCode(t, err, socketxp.CodeUsesExhausted)
		if n := w.audited(w.account.ID, "device.register", socketxp.CodeUsesExhausted); n != 1 || w.uses(tok.ID) != 1 {
			t.Fatalf("%d audit records, %d uses", n, w.uses(tok.ID))
		}
	})
	t.Run("R-03 the token stolen after the device registered", func(t *testing.T) {
		_, text := reg(socketxp.TokenScope{})
		must[api.RegisterResponse](t)(w.tryRegister(text, "victim", ""))
		c := w.rest()
		for _, rt := range routes() {
			if rt.policy == public || rt.policy.purpose == socketxp.PurposeRegister {
				continue
			}
			path, body := example(rt, unknownID)
			c.do(rt.method, path, body, bearer(text)...).want(t, http.StatusForbidden, socketxp.CodeWrongPurpose)
		}
		_, err := w.g.authenticateToken(t.Context(), text, socketxp.PurposeVisit, callerAddr)
		wantCode(t, err, socketxp.CodeWrongPurpose)
		_, err = w.tryRegister(text, "thief", "")
		wantCode(t, err, socketxp.CodeUsesExhausted)
	})
	t.Run("R-05 tied to a group", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{Group: "meters"})
		_, err := w.tryRegister(text, "m-1", "pumps")
		wantCode(t, err, socketxp.CodeForbidden)
		if w.uses(tok.ID) != 0 {
			t.Fatal("a use was taken")
		}
		if d := must[api.RegisterResponse](t)(w.tryRegister(text, "m-1", "")); d.Group != "meters" {
			t.Fatalf("got %+v", d)
		}
	})
	t.Run("R-05 tied to a name pattern", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{NamePattern: "meter-*"})
		_, err := w.tryRegister(text, "pump-1", "")
		wantCode(t, err, socketxp.CodeForbidden)
		r := request(text, newKey(t), "", "")
		r.NameHint = "raspberrypi"
		_, err = w.client(text).Register(t.Context(), r)
		wantCode(t, err, socketxp.CodeForbidden)
		if w.uses(tok.ID) != 0 {
			t.Fatal("a use was taken")
		}
		if d := must[api.RegisterResponse](t)(w.tryRegister(text, "meter-7", "")); d.Name != "meter-7" {
			t.Fatalf("got %+v", d)
		}
	})
	t.Run("R-05 tied to a network", func(t *testing.T) {
		_, text := reg(socketxp.TokenScope{Networks: []string{"192.0.2.0/24"}})
		_, err := w.tryRegister(text, "far", "")
		wantCode(t, err, socketxp.CodeForbidden)
	})
	t.Run("R-06 names", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{})
		for _, name := range []string{
			strings.Repeat("a", 64), strings.Repeat("a", 10<<10), "Upper", "m\u0435ter", "../x", "<img src=x>", "$(id)", "a\nb", "a b", "-a", "admin", "api", "_", "\x00", "a\u200b",
		} {
			_, err := w.tryRegister(text, name, "")
			wantCode(t, err, socketxp.CodeInvalid)
		}
		for _, group := range []string{"Upper", "../x", "a b", strings.Repeat("a", 64)} {
			_, err := w.tryRegister(text, "good", group)
			wantCode(t, err, socketxp.CodeInvalid)
		}
		var e *socketxp.Error
		if _, err := w.tryRegister(text, "Kitchen Sensor", ""); !errors.As(err, &e) || e.Hint != "for example: kitchen-sensor" {
			t.Fatalf("got %v", err)
		}
		w.register("taken", "")
		_, err := w.tryRegister(text, "taken", "")
		wantCode(t, err, socketxp.CodeConflict)
		if w.uses(tok.ID) != 0 {
			t.Fatal("R-10 a use was taken")
		}
	})
	t.Run("R-06 R-13 the same name in another account", func(t *testing.T) {
		w.register("squatted", "")
		other := w.as(w.otherTenant("umbrella"))
		_, text := other.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
		if d := must[api.RegisterResponse](t)(w.tryRegister(text, "squatted", "")); d.Name != "squatted" {
			t.Fatalf("got %+v", d)
		}
	})
	t.Run("a hint is bent, numbered, and never refused", func(t *testing.T) {
		_, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{})
		for _, tc := range []struct{ hint, want string }{{"RaspberryPi.local", "raspberrypi-local"}, {"RaspberryPi.local", "raspberrypi-local-2"}, {"", "device"}, {"\u65e5\u672c", "device-2"}, {"admin", "admin-1"}} {
			r := request(text, newKey(t), "", "")
			r.NameHint = tc.hint
			if d := must[api.RegisterResponse](t)(w.client(text).Register(t.Context(), r)); d.Name != tc.want {
				t.Errorf("%q became %q, want %q", tc.hint, d.Name, tc.want)
			}
		}
	})
	t.Run("R-07 R-09 the same key again", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{Group: "sensors"})
		key := newKey(t)
		first := must[api.RegisterResponse](t)(w.client(text).Register(t.Context(), request(text, key, "sensor-1", "sensors")))
		for _, r := range []api.RegisterRequest{request(text, key, "sensor-1", "sensors"), request(text, key, "", "")} {
			again := must[api.RegisterResponse](t)(w.client(text).Register(t.Context(), r))
			if again.DeviceID != first.DeviceID || !again.Again || again.Name != "sensor-1" || again.Group != "sensors" {
				t.Fatalf("got %+v, first %+v", again, first)
			}
		}
		if w.uses(tok.ID) != 1 {
			t.Fatalf("%d uses", w.uses(tok.ID))
		}
		_, other := reg(socketxp.TokenScope{})
		for _, r := range []api.RegisterRequest{request(other, key, "renamed", ""), request(other, key, "", "elsewhere")} {
			_, err := w.client(other).Register(t.Context(), r)
			wantCode(t, err, socketxp.CodeAlreadyRegister)
		}
		// Moved by a person meanwhile: a login that asks for nothing gets what is so now.
		group := "moved"
		must[socketxp.Device](t)(w.store.UpdateDevice(t.Context(), w.account.ID, first.DeviceID, socketxp.DeviceUpdate{Group: &group}, w.entry("device.update")))
		if again := must[api.RegisterResponse](t)(w.client(text).Register(t.Context(), request(text, key, "", ""))); again.Group != "moved" {
			t.Fatalf("got %+v", again)
		}
	})
	t.Run("a proof of another key, of another token, or none", func(t *testing.T) {
		tok, text := reg(socketxp.TokenScope{})
		_, other := reg(socketxp.TokenScope{})
		key := newKey(t)
		good := request(text, key, "x", "")
		for name, r := range map[string]api.RegisterRequest{
			"another key":   {PublicKey: newKey(t).Public().(ed25519.PublicKey), Proof: good.Proof, Name: "x"},
			"another token": {PublicKey: good.PublicKey, Proof: request(other, key, "x", "").Proof, Name: "x"},
			"zeros":         {PublicKey: good.PublicKey, Proof: make([]byte, ed25519.SignatureSize), Name: "x"},
		} {
			if _, err := w.client(text).Register(t.Context(), r); socketxp.CodeOf(err) != socketxp.CodeForbidden {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, r := range map[string]api.RegisterRequest{
			"no key":    {Proof: good.Proof, Name: "x"},
			"short key": {PublicKey: good.PublicKey[:31], Proof: good.Proof, Name: "x"},
		} {
			if _, err := w.client(text).Register(t.Context(), r); socketxp.CodeOf(err) != socketxp.CodeInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		if w.uses(tok.ID) != 0 {
			t.Fatal("a use was taken")
		}
	})
	t.Run("R-14 addresses and certificates to fetch are no part of a request", func(t *testing.T) {
		_, text := reg(socketxp.TokenScope{})
		b := base64.StdEncoding.EncodeToString(make([]byte, 32))
		for _, field := range []string{"url", "certificate", "gateway", "x5u"} {
			body := fmt.Sprintf(`{"public_key":%q,"proof":%q,%q:"http://192.0.2.1/"}`, b, b, field)
			w.rest().do(post, "/api/v1/register", body, bearer(text)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
	})
}

func TestRegisterAtOnce(t *testing.T) {
	for _, uses := range []int{1, 5} {
		t.Run(fmt.Sprintf("R-08 J2 64 at once with %d uses", uses), func(t *testing.T) {
			w := start(t)
			now := w.g.now().Truncate(time.Second)
			tok := socketxp.Token{
				ID: socketxp.NewID(now), AccountID: w.account.ID, Kind: socketxp.TokenRegistration, Name: "t", CreatedBy: w.owner.ID,
				KeyID: w.g.tokens.SigningKeyID(), CreatedAt: now, ExpiresAt: now.Add(time.Hour), MaxUses: uses,
			}
			text := must[string](t)(w.g.sign(tok))
			if err := w.store.CreateToken(t.Context(), tok, w.entry("token.create")); err != nil {
				t.Fatal(err)
			}
			client := w.client(text)
			var good, exhausted atomic.Int32
			var all sync.WaitGroup
			for i := range 64 {
				r := request(text, newKey(t), fmt.Sprintf("d-%d", i), "")
				all.Go(func() {
					switch _, err := client.Register(t.Context(), r); socketxp.CodeOf(err) {
					case "":
						good.Add(1)
					case socketxp.CodeUsesExhausted:
						exhausted.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			all.Wait()
			if int(good.Load()) != uses || int(good.Load()+exhausted.Load()) != 64 || w.deviceCount() != uses {
				t.Fatalf("%d succeeded, %d were refused, %d devices", good.Load(), exhausted.Load(), w.deviceCount())
			}
		})
	}
}

// failingRegistration is a store that can't register devices.
type failingRegistration struct {
	socketxp.Store
	err atomic.Pointer[error]
}

func (s *failingRegistration) RegisterDevice(ctx context.Context, r socketxp.Registration, now time.Time, e socketxp.AuditEntry) (socketxp.Device, bool, error) {
	if err := s.err.Load(); err != nil {
		return socketxp.Device{}, false, *err
	}
	return s.Store.RegisterDevice(ctx, r, now, e)
}

func TestRegisterFails(t *testing.T) {
	var s failingRegistration
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		s.Store = d.Store
		d.Store = &s
	})
	tok, text := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
	for _, err := range []error{errDown, errors.New("disk I/O error at /var/lib/secret")} {
		t.Run("R-10 "+err.Error(), func(t *testing.T) {
			s.err.Store(&err)
			defer s.err.Store(nil)
			_, got := w.tryRegister(text, "x", "")
			wantCode(t, got, socketxp.CodeOf(err))
			if strings.Contains(got.Error(), "/var/lib") {
				t.Fatalf("the client was told: %v", got)
			}
			if w.uses(tok.ID) != 0 || w.deviceCount() != 0 {
				t.Fatal("a use was taken, or there is a device")
			}
		})
	}
	must[api.RegisterResponse](t)(w.tryRegister(text, "x", ""))
}

func TestRegisterFlood(t *testing.T) {
	w := start(t, func(l *limits) { l.http.registerToken = quota{perSecond: 1e-9, burst: 3} })
	_, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{})
	for i := range 3 {
		must[api.RegisterResponse](t)(w.tryRegister(text, fmt.Sprintf("d-%d", i), ""))
	}
	_, err := w.tryRegister(text, "d-3", "")
	wantCode(t, err, socketxp.CodeRateLimited)
	t.Run("R-11 others are not affected", func(t *testing.T) {
		_, other := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{})
		must[api.RegisterResponse](t)(w.tryRegister(other, "d-3", ""))
	})
}
