package store_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
)

func TestRegisterDevice(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		tok := acme.newToken(socketxp.TokenRegistration)
		r := acme.registration("sensor12345", tok.ID)
		r.Device.Group = "temp-sensor"
		r.Device.DisplayName = "Sensor, 2nd floor"
		r.Device.RemoteAddr = "198.51.100.7"
		r.Device.Facts = socketxp.Facts{OS: "linux", Arch: "arm64", Kernel: "6.1", Hostname: "pi", Version: "1.0.0", LocalAddrs: []string{"10.0.0.2", "fe80::1"}}

		got, again, err := acme.register(r)
		if err != nil || again {
			t.Fatal(again, err)
		}
		want := r.Device
		want.TokenID = tok.ID
		wantEqual(t, got, want)
		for how, get := range map[string]func() (socketxp.Device, error){
			"id":   func() (socketxp.Device, error) { return s.Device(t.Context(), acme.id, want.ID) },
			"name": func() (socketxp.Device, error) { return s.DeviceByName(t.Context(), acme.id, "sensor12345") },
			"key": func() (socketxp.Device, error) {
				d, state, err := s.DeviceByKey(t.Context(), want.PublicKey)
				if state != socketxp.DeviceKeyCurrent {
					t.Errorf("its key is %q", state)
				}
				return d, err
			},
		} {
			stored, err := get()
			if err != nil {
				t.Fatalf("by %s: %v", how, err)
			}
			wantEqual(t, stored, want)
		}
		if used := acme.token(tok.ID); used.Uses != 1 || !used.LastUsedAt.Equal(t0) {
			t.Errorf("the token has %d uses, the last at %v", used.Uses, used.LastUsedAt)
		}
		last := acme.lastRecord()
		if last.Action != "device.register" || last.ObjectKind != "device" || last.ObjectID != want.ID || last.ObjectName != "sensor12345" {
			t.Errorf("the audit says %s of %s %s %s", last.Action, last.ObjectKind, last.ObjectID, last.ObjectName)
		}

		plain := acme.newDevice("plain")
		if plain.Group != socketxp.DefaultGroup || plain.TokenID != "" || plain.Facts.LocalAddrs != nil || plain.Tunnels != nil {
			t.Errorf("a device that asked for nothing: %+v", plain)
		}
	})
}

func TestRegisterRefused(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		acme.newDevice("taken")
		revoked := acme.newToken(socketxp.TokenRegistration)
		if _, err := s.RevokeToken(t.Context(), acme.id, revoked.ID, t0, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		lasting := func(from, life time.Duration) func(*socketxp.Token) {
			return func(tok *socketxp.Token) {
				tok.CreatedAt = tok.CreatedAt.Add(from)
				tok.ExpiresAt = tok.CreatedAt.Add(life)
			}
		}
		usedUp := acme.newToken(socketxp.TokenRegistration)
		if _, _, err := acme.register(acme.registration("first", usedUp.ID)); err != nil {
			t.Fatal(err)
		}
		fresh := acme.newToken(socketxp.TokenRegistration)
		foreignKey := acme.registration("foreign-key", fresh.ID)
		foreignKey.Device.PublicKey = other.newDevice("theirs").PublicKey

		for _, c := range []struct {
			name string
			r    socketxp.Registration
			want socketxp.Code
		}{
			{"R-01 revoked", acme.registration("r01a", revoked.ID), socketxp.CodeTokenRevoked},
			{"R-01 expired", acme.registration("r01b", acme.newToken(socketxp.TokenRegistration, lasting(-2*time.Hour, time.Hour)).ID), socketxp.CodeTokenExpired},
			{"R-01 not yet valid", acme.registration("r01c", acme.newToken(socketxp.TokenRegistration, lasting(time.Hour, time.Hour)).ID), socketxp.CodeTokenNotYet},
			{"R-01 used up", acme.registration("r01d", usedUp.ID), socketxp.CodeUsesExhausted},
			{"R-02 used again by another key", acme.registration("r02", usedUp.ID), socketxp.CodeUsesExhausted},
			{"R-06 name taken", acme.registration("taken", fresh.ID), socketxp.CodeConflict},
			{"T-13 access token", acme.registration("t13", acme.newToken(socketxp.TokenAccess).ID), socketxp.CodeWrongPurpose},
			{"T-13 api token", acme.registration("t13", acme.newToken(socketxp.TokenAPI).ID), socketxp.CodeWrongPurpose},
			{"token of another account", acme.registration("foreign", other.newToken(socketxp.TokenRegistration).ID), socketxp.CodeNotFound},
			{"token that is not there", acme.registration("missing", acme.ids.next()), socketxp.CodeNotFound},
			{"key of another account", foreignKey, socketxp.CodeConflict},
			{"no name", acme.registration("", fresh.ID), socketxp.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				before, records := acme.token(c.r.TokenID, errNotFoundIsFine), len(acme.chain())
				_, _, err := acme.register(c.r)
				wantCode(t, err, c.want)
				if _, err := s.Device(t.Context(), acme.id, c.r.Device.ID); socketxp.CodeOf(err) != socketxp.CodeNotFound {
					t.Errorf("there is a device all the same: %v", err)
				}
				wantEqual(t, acme.token(c.r.TokenID, errNotFoundIsFine), before)
				if n := len(acme.chain()); n != records {
					t.Errorf("the audit grew from %d to %d records", records, n)
				}
			})
		}
		if _, _, err := acme.register(acme.registration("last", fresh.ID)); err != nil {
			t.Errorf("R-10 the use that failed registrations did not take is gone: %v", err)
		}
	})
}

func TestRegisterAgain(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		tok := acme.newToken(socketxp.TokenRegistration)
		first := acme.registration("sensor", tok.ID)
		first.Device.Group = "temp"
		want, _, err := acme.register(first)
		acme.must(err)
		acme.must(s.DeviceConnected(t.Context(), acme.id, want.ID, socketxp.DeviceReport{At: t0, Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://localhost:22")}}))
		want, err = s.Device(t.Context(), acme.id, want.ID)
		acme.must(err)
		more := acme.newToken(socketxp.TokenRegistration)
		records := len(acme.chain())

		for _, c := range []struct {
			name   string
			change func(*socketxp.Registration)
			want   socketxp.Code // "" for the same device
		}{
			{"R-09 the same request", func(*socketxp.Registration) {}, ""},
			{"R-09 without a group", func(r *socketxp.Registration) { r.Device.Group = "" }, ""},
			{"any name", func(r *socketxp.Registration) { r.Device.Name, r.AnyName = "raspberrypi", true }, ""},
			{"R-07 another name", func(r *socketxp.Registration) { r.Device.Name, r.TokenID = "other", more.ID }, socketxp.CodeAlreadyRegister},
			{"R-07 another group", func(r *socketxp.Registration) { r.Device.Group, r.TokenID = "other", more.ID }, socketxp.CodeAlreadyRegister},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := first
				r.Device.ID = acme.ids.next() // the caller makes a new one for each try
				c.change(&r)
				got, again, err := acme.register(r)
				if c.want != "" {
					wantCode(t, err, c.want)
				} else {
					acme.must(err)
					wantEqual(t, got, want)
					if !again {
						t.Error("the device counts as new")
					}
				}
				if n := acme.token(tok.ID).Uses + acme.token(more.ID).Uses; n != 1 {
					t.Errorf("%d uses were taken, want 1", n)
				}
				if n := len(acme.chain()); n != records {
					t.Errorf("the audit grew from %d to %d records", records, n)
				}
			})
		}
		if _, err := s.RevokeToken(t.Context(), acme.id, tok.ID, t0, acme.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		_, _, err = acme.register(first)
		wantCode(t, err, socketxp.CodeTokenRevoked)
	})
}

func TestParallelRegistrations(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		for _, c := range []struct {
			name string
			uses int
		}{{"R-08 single use", 1}, {"R-08 seven uses", 7}} {
			t.Run(c.name, func(t *testing.T) {
				acme := newTenant(t, s, strings.ReplaceAll(c.name, " ", "-"))
				tok := acme.newToken(socketxp.TokenRegistration, func(tok *socketxp.Token) { tok.MaxUses = c.uses })
				const tries = 64
				registrations := make([]socketxp.Registration, tries)
				for i := range registrations {
					registrations[i] = acme.registration("sensor", tok.ID)
					registrations[i].AnyName = true
				}
				var done, refused atomic.Int64
				var wg sync.WaitGroup
				for _, r := range registrations {
					wg.Go(func() {
						switch _, _, err := acme.register(r); socketxp.CodeOf(err) {
						case "":
							done.Add(1)
						case socketxp.CodeUsesExhausted:
							refused.Add(1)
						default:
							t.Error(err)
						}
					})
				}
				wg.Wait()
				_, total, err := s.Devices(t.Context(), acme.id, socketxp.DeviceQuery{Limit: 200})
				acme.must(err)
				if done.Load() != int64(c.uses) || refused.Load() != int64(tries-c.uses) || total.Devices != c.uses || acme.token(tok.ID).Uses != c.uses {
					t.Errorf("%d registered, %d refused, %d devices, %d uses", done.Load(), refused.Load(), total.Devices, acme.token(tok.ID).Uses)
				}
			})
		}
	})
}

// The same key at once from many tries, as after lost answers: one device, one use.
func TestParallelSameKey(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		tok := acme.newToken(socketxp.TokenRegistration, func(tok *socketxp.Token) { tok.MaxUses = 100 })
		r := acme.registration("sensor", tok.ID)
		got := make([]string, 16)
		var wg sync.WaitGroup
		for i := range got {
			r := r
			r.Device.ID = acme.ids.next()
			wg.Go(func() {
				d, _, err := acme.register(r)
				if err != nil {
					t.Error(err)
				}
				got[i] = d.ID
			})
		}
		wg.Wait()
		if len(slices.Compact(got)) != 1 || acme.token(tok.ID).Uses != 1 {
			t.Errorf("devices %v, %d uses", got, acme.token(tok.ID).Uses)
		}
	})
}

func TestQuota(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme") // 100 devices
		tok := acme.newToken(socketxp.TokenRegistration, func(tok *socketxp.Token) { tok.MaxUses = 1000 })
		for i := range 95 {
			acme.newDevice("d" + strconv.Itoa(i))
		}
		registrations := make([]socketxp.Registration, 20)
		for i := range registrations {
			registrations[i] = acme.registration("sensor", tok.ID)
			registrations[i].AnyName = true
		}
		var done atomic.Int64
		var wg sync.WaitGroup
		for _, r := range registrations {
			wg.Go(func() {
				switch _, _, err := acme.register(r); socketxp.CodeOf(err) {
				case "":
					done.Add(1)
				case socketxp.CodeQuota:
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if uses := acme.token(tok.ID).Uses; done.Load() != 5 || uses != 5 {
			t.Errorf("R-10 %d devices were added to 95 of 100, and took %d uses", done.Load(), uses)
		}
	})
}

func TestAnyName(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		long := strings.Repeat("a", 63)
		for _, c := range []struct{ ask, want string }{
			{"pi", "pi"},
			{"pi", "pi-2"},
			{"pi", "pi-3"},
			{"pi-2", "pi-2-2"},
			{"pie", "pie"},
			{"p", "p"},
			{long, long},
			{long, long[:55] + "-2"},
			{long, long[:55] + "-3"},
			{long[:60], long[:60]},
			{long[:55], long[:55]},
		} {
			r := acme.registration(c.ask, "")
			r.AnyName = true
			d, _, err := acme.register(r)
			acme.must(err)
			if d.Name != c.want {
				t.Errorf("asked for %s: got %s, want %s", c.ask, d.Name, c.want)
			}
			if err := socketxp.CheckDeviceName(d.Name); err != nil {
				t.Error(err)
			}
		}
		acme.must(s.DeleteDevice(t.Context(), acme.id, acme.device("pi-2").ID, acme.entry("device.delete")))
		r := acme.registration("pi", "")
		r.AnyName = true
		if d, _, err := acme.register(r); err != nil || d.Name != "pi-2" {
			t.Errorf("a name that got free: %s, %v", d.Name, err)
		}
		if d := other.newDevice("pi"); d.Name != "pi" {
			t.Errorf("A-15 the names of another account are in the way: %s", d.Name)
		}
	})
}

func TestBasicTokenRegisters(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		tok := acme.newToken(socketxp.TokenBasic)
		for _, name := range []string{"one", "two"} {
			if _, _, err := acme.register(acme.registration(name, tok.ID)); err != nil {
				t.Error(err)
			}
		}
		if n := acme.token(tok.ID).Uses; n != 0 {
			t.Errorf("a basic token counts %d uses", n)
		}
	})
}
