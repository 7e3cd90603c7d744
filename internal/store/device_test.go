package store_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"
)

func TestUpdateDevice(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		d := acme.newDevice("sensor")
		acme.newDevice("taken")
		update := func(u socketxp.DeviceUpdate) (socketxp.Device, error) {
			return s.UpdateDevice(t.Context(), acme.id, d.ID, u, acme.entry("device.update"))
		}
		for _, u := range []socketxp.DeviceUpdate{
			{Name: ptr("renamed")},
			{DisplayName: ptr("Ünïted")},
			{Group: ptr("new-group")},
			{DisabledAt: ptr(t0)},
			{},
			{DisabledAt: ptr(time.Time{}), DisplayName: ptr("")},
		} {
			want := acme.device(d.Name)
			if u.Name != nil {
				want.Name = *u.Name
			}
			if u.DisplayName != nil {
				want.DisplayName = *u.DisplayName
			}
			if u.Group != nil {
				want.Group = *u.Group
			}
			if u.DisabledAt != nil {
				want.DisabledAt = *u.DisabledAt
			}
			got, err := update(u)
			acme.must(err)
			wantEqual(t, got, want)
			d = acme.device(want.Name)
			wantEqual(t, d, want)
		}
		_, err := update(socketxp.DeviceUpdate{Name: ptr("taken"), Group: ptr("half-done")})
		wantCode(t, err, socketxp.CodeConflict)
		wantEqual(t, acme.device("renamed"), d)
		groups, err := s.Groups(t.Context(), acme.id)
		acme.must(err)
		wantEqual(t, groups, []socketxp.Group{
			{AccountID: acme.id, Name: "default", CreatedAt: t0, Devices: 1},
			{AccountID: acme.id, Name: "new-group", CreatedAt: t0, Devices: 1},
		})
	})
}

func TestDeviceConnected(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		d := acme.newDevice("sensor", func(d *socketxp.Device) { d.Facts.Hostname = "old" })
		ssh := tunnel(t, "tcp://localhost:22")
		ssh.SSH = true
		reports := []socketxp.DeviceReport{
			{At: t0, RemoteAddr: "198.51.100.1", Facts: socketxp.Facts{OS: "linux", Hostname: "Pi", LocalAddrs: []string{"10.0.0.1"}}, SSHHostKey: "ssh-ed25519 AAAA", GatewayKnownBy: "authorities", Tunnels: []socketxp.Tunnel{tunnel(t, "http://[::1]:8080"), ssh}},
			{At: t0.Add(time.Minute), Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://localhost:22"), tunnel(t, "tcp://localhost:80")}},
			{At: t0.Add(2 * time.Minute), Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://localhost:22"), tunnel(t, "tcp://localhost:80")}},
			{At: t0.Add(3 * time.Minute)},
		}
		for _, r := range reports {
			acme.must(s.DeviceConnected(t.Context(), acme.id, d.ID, r))
			want := d
			want.LastSeenAt, want.RemoteAddr, want.Facts, want.SSHHostKey, want.Tunnels, want.GatewayKnownBy = r.At, r.RemoteAddr, r.Facts, r.SSHHostKey, r.Tunnels, r.GatewayKnownBy
			wantEqual(t, acme.device("sensor"), want)
		}
		acme.must(s.DeviceConnected(t.Context(), acme.id, d.ID, socketxp.DeviceReport{At: t0}))
		if at := acme.device("sensor").LastSeenAt; !at.Equal(t0.Add(3 * time.Minute)) {
			t.Errorf("a late report set the time last seen back to %v", at)
		}
		wantCode(t, s.DeviceConnected(t.Context(), acme.id, acme.ids.next(), reports[0]), socketxp.CodeNotFound)
		many := socketxp.DeviceReport{Tunnels: make([]socketxp.Tunnel, socketxp.MaxTunnels+1)}
		wantCode(t, s.DeviceConnected(t.Context(), acme.id, d.ID, many), socketxp.CodeInvalid)
	})
}

func TestKeyKnowledge(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		now, next, other := strings.Repeat("A", 43), "E"+strings.Repeat("A", 42), strings.Repeat("a", 42)+"c"
		acme, beta := newTenant(t, s, "acme"), newTenant(t, s, "beta")
		newTenant(t, s, "no devices")
		seen := func(ten *tenant, name string, at time.Time, knownBy string) socketxp.Device {
			d := ten.newDevice(name)
			ten.must(s.DeviceConnected(t.Context(), ten.id, d.ID, socketxp.DeviceReport{At: at, GatewayKnownBy: knownBy}))
			return d
		}
		seen(acme, "both", t0, now+" "+next)
		seen(acme, "next", t0, next)
		seen(acme, "now", t0, now)
		seen(acme, "long-ago", t0.Add(-time.Minute), now)
		seen(acme, "authorities", t0, "authorities")
		seen(acme, "silent", t0, "")
		seen(acme, "case", t0, other+" "+strings.ToLower(next))
		acme.newDevice("never")
		seen(beta, "both", t0, now+" "+next)
		off := seen(beta, "off", t0, now)
		_, err := s.UpdateDevice(t.Context(), beta.id, off.ID, socketxp.DeviceUpdate{DisabledAt: &t0}, beta.entry("device.disable"))
		beta.must(err)

		for pin, want := range map[string][]socketxp.KeyKnowledge{
			next:  {{AccountID: acme.id, AccountName: "acme", Devices: 8, Know: 3, RecentDont: 3}, {AccountID: beta.id, AccountName: "beta", Devices: 2, Know: 1}},
			now:   {{AccountID: acme.id, AccountName: "acme", Devices: 8, Know: 4, RecentDont: 3}, {AccountID: beta.id, AccountName: "beta", Devices: 2, Know: 2}},
			other: {{AccountID: acme.id, AccountName: "acme", Devices: 8, Know: 2, RecentDont: 4}, {AccountID: beta.id, AccountName: "beta", Devices: 2, RecentDont: 1}},
		} {
			got, err := s.KeyKnowledge(t.Context(), pin, t0)
			acme.must(err)
			wantEqual(t, got, want)
		}
		_, err = s.KeyKnowledge(t.Context(), "", t0)
		wantCode(t, err, socketxp.CodeInvalid)
	})
}

// Reports of one device at once leave the tunnels of one of them, not a mixture.
func TestReportsAtOnce(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		d := acme.newDevice("sensor")
		reports := []socketxp.DeviceReport{
			{At: t0, Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://a:1"), tunnel(t, "tcp://a:2"), tunnel(t, "tcp://same:3")}},
			{At: t0, Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://b:1"), tunnel(t, "tcp://b:2"), tunnel(t, "tcp://same:3")}},
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := s.DeviceConnected(t.Context(), acme.id, d.ID, reports[i%2]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := acme.device("sensor").Tunnels
		if len(got) != 3 || got[0].Destination.Host != got[1].Destination.Host {
			t.Errorf("a mixture: %v", got)
		}
	})
}

func TestTouchDevices(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		a, b, theirs := acme.newDevice("a"), acme.newDevice("b"), other.newDevice("a")
		seen := []socketxp.DeviceSeen{
			{AccountID: acme.id, DeviceID: b.ID, At: t0.Add(time.Minute)},
			{AccountID: acme.id, DeviceID: a.ID, At: t0},
			{AccountID: acme.id, DeviceID: theirs.ID, At: t0},
			{AccountID: acme.id, DeviceID: acme.ids.next(), At: t0}, // deleted meanwhile
		}
		for range 600 { // more than one portion
			seen = append(seen, socketxp.DeviceSeen{AccountID: acme.id, DeviceID: b.ID, At: t0})
		}
		acme.must(s.TouchDevices(t.Context(), seen))
		acme.must(s.TouchDevices(t.Context(), nil))
		for ten, want := range map[*tenant][]time.Time{acme: {t0, t0.Add(time.Minute)}, other: {{}}} {
			devices, _, err := s.Devices(t.Context(), ten.id, socketxp.DeviceQuery{Limit: 10})
			ten.must(err)
			for i, d := range devices {
				if !d.LastSeenAt.Equal(want[i]) {
					t.Errorf("%s was last seen at %v, want %v", d.Name, d.LastSeenAt, want[i])
				}
			}
		}
	})
}

func TestDeleteDevice(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		r := acme.registration("sensor", "")
		d, _, err := acme.register(r)
		acme.must(err)
		acme.must(s.DeviceConnected(t.Context(), acme.id, d.ID, socketxp.DeviceReport{At: t0, Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://localhost:22")}}))
		session := acme.newSession(d)
		records := len(acme.chain())
		acme.must(s.DeleteDevice(t.Context(), acme.id, d.ID, acme.entry("device.delete")))
		_, _, err = s.DeviceByKey(t.Context(), d.PublicKey)
		wantCode(t, err, socketxp.CodeNotFound)
		tunnels, err := s.Tunnels(t.Context(), acme.id, "", "", "", 10)
		acme.must(err)
		if len(tunnels) != 0 {
			t.Errorf("its tunnels are left: %v", tunnels)
		}
		if _, err := s.Session(t.Context(), acme.id, session.ID); err != nil {
			t.Errorf("its sessions are gone: %v", err)
		}
		if n := len(acme.chain()); n != records+1 {
			t.Errorf("%d audit records, want %d", n, records+1)
		}
		wantCode(t, s.DeleteDevice(t.Context(), acme.id, d.ID, acme.entry("device.delete")), socketxp.CodeNotFound)
		r.Device.ID = acme.ids.next()
		if _, again, err := acme.register(r); again || err != nil {
			t.Errorf("the key registers anew: %v, %v", again, err)
		}
	})
}

func TestGroups(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		inGroup := func(g string) func(*socketxp.Device) { return func(d *socketxp.Device) { d.Group = g } }
		acme.newDevice("a", inGroup("pumps"))
		acme.newDevice("b", inGroup("pumps"))
		other.newDevice("a", inGroup("pumps"))
		g := socketxp.Group{AccountID: acme.id, Name: "cameras", CreatedAt: t0}
		acme.must(s.CreateGroup(t.Context(), g, acme.entry("group.create")))
		wantCode(t, s.CreateGroup(t.Context(), g, acme.entry("group.create")), socketxp.CodeConflict)

		rename := func(from, to string) error {
			return s.RenameGroup(t.Context(), acme.id, from, to, acme.entry("group.rename"))
		}
		wantCode(t, rename("pumps", "cameras"), socketxp.CodeConflict)
		wantCode(t, rename("nowhere", "x"), socketxp.CodeNotFound)
		acme.must(rename("pumps", "motors"))
		if g := acme.device("b").Group; g != "motors" {
			t.Errorf("the device stayed in %s", g)
		}
		if g := other.device("a").Group; g != "pumps" {
			t.Errorf("A-15 another account's device moved to %s", g)
		}
		remove := func(name string) error {
			return s.DeleteGroup(t.Context(), acme.id, name, acme.entry("group.delete"))
		}
		wantCode(t, remove("motors"), socketxp.CodeConflict)
		wantCode(t, remove("nowhere"), socketxp.CodeNotFound)
		acme.must(remove("cameras"))
		groups, err := s.Groups(t.Context(), acme.id)
		acme.must(err)
		wantEqual(t, groups, []socketxp.Group{{AccountID: acme.id, Name: "motors", CreatedAt: t0, Devices: 2}})
	})
}

func TestListTunnels(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		publish := func(ten *tenant, d socketxp.Device, destinations ...string) {
			r := socketxp.DeviceReport{At: t0}
			for _, text := range destinations {
				r.Tunnels = append(r.Tunnels, tunnel(t, text))
			}
			ten.must(s.DeviceConnected(t.Context(), ten.id, d.ID, r))
		}
		b, a := acme.newDevice("b"), acme.newDevice("a")
		acme.newDevice("none")
		publish(acme, b, "tcp://localhost:80", "tcp://localhost:22")
		publish(acme, a, "tcp://localhost:22", "http://localhost:8080", "tcp://localhost:5432")
		publish(other, other.newDevice("a"), "tcp://localhost:1")

		list := func(device, afterDevice, after string, limit int) (out []string) {
			t.Helper()
			tunnels, err := s.Tunnels(t.Context(), acme.id, device, afterDevice, after, limit)
			acme.must(err)
			for _, tun := range tunnels {
				out = append(out, tun.DeviceName+" "+tun.Destination.String())
			}
			return out
		}
		all := []string{"a http://localhost:8080", "a tcp://localhost:22", "a tcp://localhost:5432", "b tcp://localhost:22", "b tcp://localhost:80"}
		wantEqual(t, list("", "", "", 100), all)
		wantEqual(t, list("", "", "", 2), all[:2])
		wantEqual(t, list("", "a", "tcp://localhost:22", 2), all[2:4])
		wantEqual(t, list("", "a", "tcp://localhost:5432", 2), all[3:])
		wantEqual(t, list("", "b", "tcp://localhost:80", 2), nil)
		wantEqual(t, list(b.ID, "", "", 100), all[3:])
		wantEqual(t, list(b.ID, "b", "tcp://localhost:22", 100), all[4:])
	})
}
