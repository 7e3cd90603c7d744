package store_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"socketxp"
)

// fleet makes seven devices whose orders all differ.
func fleet(ten *tenant) []socketxp.Device {
	var out []socketxp.Device
	for i, d := range []struct{ name, display, group, host, version string }{
		{"delta", "Kühlhaus Süd", "pumps", "pi-4", "1.0.0"},
		{"alpha", "100% sure", "pumps", "PI-1", "1.0.0"},
		{"echo", "", "cameras", "", "1.1.0"},
		{"bravo", "under_score", "cameras", "Хост", "1.1.0"},
		{"golf", `back\slash`, "pumps", "pi-7", "2.0.0"},
		{"charlie", "KÜHLHAUS NORD", "default", "pi-3", ""},
		{"foxtrot", "100 percent", "default", "pi-6", ""},
	} {
		device := ten.newDevice(d.name, func(n *socketxp.Device) {
			n.DisplayName, n.Group, n.Facts.Hostname, n.Facts.Version = d.display, d.group, d.host, d.version
			n.CreatedAt = t0.Add(time.Duration(i%3) * time.Minute) // ties are broken by id
			if i%2 == 1 {
				n.LastSeenAt = t0.Add(-time.Duration(i) * time.Minute)
			}
			if d.group == "cameras" {
				n.DisabledAt = t0
			}
		})
		out = append(out, device)
	}
	return out
}

func TestDevicesPaged(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		fleet(acme)
		other.newDevice("alpha")
		cursor := func(by socketxp.DeviceSort, d socketxp.Device) *socketxp.DeviceCursor {
			micros := func(at time.Time) string {
				if at.IsZero() {
					return "0"
				}
				return strconv.FormatInt(at.UnixMicro(), 10)
			}
			value := map[socketxp.DeviceSort]string{
				"": d.Name, socketxp.SortByName: d.Name, socketxp.SortByGroup: d.Group,
				socketxp.SortByCreated: micros(d.CreatedAt), socketxp.SortByLastSeen: micros(d.LastSeenAt),
			}[by]
			return &socketxp.DeviceCursor{Value: value, ID: d.ID}
		}
		for _, c := range []struct {
			by       socketxp.DeviceSort
			up, down string
		}{
			{"", "alpha bravo charlie delta echo foxtrot golf", "golf foxtrot echo delta charlie bravo alpha"},
			{socketxp.SortByName, "alpha bravo charlie delta echo foxtrot golf", "golf foxtrot echo delta charlie bravo alpha"},
			{socketxp.SortByGroup, "echo bravo charlie foxtrot delta alpha golf", "golf alpha delta foxtrot charlie bravo echo"},
			{socketxp.SortByCreated, "delta bravo foxtrot alpha golf echo charlie", "charlie echo golf alpha foxtrot bravo delta"},
			{socketxp.SortByLastSeen, "delta echo golf foxtrot charlie bravo alpha", "alpha bravo charlie foxtrot golf echo delta"},
		} {
			for _, desc := range []bool{false, true} {
				for _, size := range []int{1, 3, 7, 100} {
					q := socketxp.DeviceQuery{Sort: c.by, Desc: desc, Limit: size}
					var got []socketxp.Device
					for {
						page, total, err := s.Devices(t.Context(), acme.id, q)
						acme.must(err)
						if total != 7 {
							t.Fatalf("%d devices in all", total)
						}
						got = append(got, page...)
						if len(page) < size {
							break
						}
						q.After = cursor(c.by, page[len(page)-1])
					}
					want := c.up
					if desc {
						want = c.down
					}
					if names := deviceNames(got); names != want {
						t.Errorf("by %q, descending %v, in pages of %d:\n got %s\nwant %s", c.by, desc, size, names, want)
					}
				}
			}
		}
	})
}

func TestDevicesSelected(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		f := fleet(acme)
		acme.must(s.DeviceConnected(t.Context(), acme.id, f[1].ID, socketxp.DeviceReport{At: t0, Facts: f[1].Facts, Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://localhost:22"), tunnel(t, "tcp://localhost:80")}}))
		for _, c := range []struct {
			name string
			q    socketxp.DeviceQuery
			want string
		}{
			{"group", socketxp.DeviceQuery{Group: "pumps"}, "alpha delta golf"},
			{"no such group", socketxp.DeviceQuery{Group: "pump"}, ""},
			{"disabled", socketxp.DeviceQuery{Disabled: ptr(true)}, "bravo echo"},
			{"enabled", socketxp.DeviceQuery{Disabled: ptr(false)}, "alpha charlie delta foxtrot golf"},
			{"version", socketxp.DeviceQuery{Version: "1.0.0"}, "alpha delta"},
			{"ids", socketxp.DeviceQuery{IDs: []string{f[2].ID, f[0].ID, "x"}}, "delta echo"},
			{"no ids", socketxp.DeviceQuery{IDs: []string{}}, ""},
			{"all but ids", socketxp.DeviceQuery{NotIDs: []string{f[2].ID, f[0].ID}}, "alpha bravo charlie foxtrot golf"},
			{"all but none", socketxp.DeviceQuery{NotIDs: []string{}}, "alpha bravo charlie delta echo foxtrot golf"},
			{"search name", socketxp.DeviceQuery{Search: "LPH"}, "alpha"},
			{"search group", socketxp.DeviceQuery{Search: "cam"}, "bravo echo"},
			{"search hostname", socketxp.DeviceQuery{Search: "pi-"}, "alpha charlie delta foxtrot golf"},
			{"search hostname beyond ASCII", socketxp.DeviceQuery{Search: "хОС"}, "bravo"},
			{"search display name beyond ASCII", socketxp.DeviceQuery{Search: "kühl"}, "charlie delta"},
			{"search id", socketxp.DeviceQuery{Search: f[3].ID[9:]}, "bravo"},
			{"search %", socketxp.DeviceQuery{Search: "0%"}, "alpha"},
			{"search _", socketxp.DeviceQuery{Search: "r_s"}, "bravo"},
			{`search \`, socketxp.DeviceQuery{Search: `k\s`}, "golf"},
			{"search '", socketxp.DeviceQuery{Search: `' OR 1=1 --`}, ""},
			{"search $1", socketxp.DeviceQuery{Search: `$1`}, ""},
			{"all at once", socketxp.DeviceQuery{Group: "pumps", Version: "1.0.0", Disabled: ptr(false), Search: "a", IDs: []string{f[0].ID, f[1].ID, f[4].ID}, NotIDs: []string{f[0].ID}, Sort: socketxp.SortByCreated, Desc: true}, "alpha"},
		} {
			t.Run(c.name, func(t *testing.T) {
				c.q.Limit = 200
				page, total, err := s.Devices(t.Context(), acme.id, c.q)
				acme.must(err)
				if got := deviceNames(page); got != c.want || total != len(page) {
					t.Errorf("got %d: %s\nwant %s", total, got, c.want)
				}
				for _, d := range page {
					wantEqual(t, d, acme.device(d.Name))
				}
			})
		}

		many := make([]string, 40_000) // more than either engine takes parameters
		for i := range many {
			many[i] = fmt.Sprintf("00000000-0000-7000-8000-%012d", i)
		}
		many[39_999] = f[0].ID
		page, total, err := s.Devices(t.Context(), acme.id, socketxp.DeviceQuery{IDs: many, Limit: 10})
		acme.must(err)
		if deviceNames(page) != "delta" || total != 1 {
			t.Errorf("of 40,000 ids: %s", deviceNames(page))
		}
	})
}

func TestDevicesRefused(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		for name, q := range map[string]socketxp.DeviceQuery{
			"no limit":       {},
			"limit too high": {Limit: 1001},
			"sort":           {Limit: 1, Sort: "name; DROP TABLE devices"},
			"cursor":         {Limit: 1, Sort: socketxp.SortByCreated, After: &socketxp.DeviceCursor{Value: "yesterday"}},
		} {
			t.Run(name, func(t *testing.T) {
				_, _, err := s.Devices(t.Context(), acme.id, q)
				wantCode(t, err, socketxp.CodeInvalid)
			})
		}
	})
}
