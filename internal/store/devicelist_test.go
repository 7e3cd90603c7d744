package store_test

import (
	"cmp"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/store"
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

func deviceCursor(by socketxp.DeviceSort, d socketxp.Device) *socketxp.DeviceCursor {
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

func TestDevicesPaged(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		fleet(acme)
		other.newDevice("alpha")
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
						if total != (socketxp.Total{Devices: 7}) {
							t.Fatalf("%d devices in all", total.Devices)
						}
						got = append(got, page...)
						if len(page) < size {
							break
						}
						q.After = deviceCursor(c.by, page[len(page)-1])
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
			{"all but ids", socketxp.DeviceQuery{Online: setOf([]string{f[2].ID, f[0].ID}), Offline: true}, "alpha bravo charlie foxtrot golf"},
			{"all but none", socketxp.DeviceQuery{Online: setOf([]string{}), Offline: true}, "alpha bravo charlie delta echo foxtrot golf"},
			{"online", socketxp.DeviceQuery{Online: setOf([]string{f[2].ID, f[0].ID, "x"})}, "delta echo"},
			{"online, if nobody is", socketxp.DeviceQuery{Online: setOf(nil)}, ""},
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
			{"all at once", socketxp.DeviceQuery{Group: "pumps", Version: "1.0.0", Disabled: ptr(false), Search: "a", IDs: []string{f[0].ID, f[1].ID, f[4].ID}, Online: setOf([]string{f[0].ID}), Offline: true, Sort: socketxp.SortByCreated, Desc: true}, "alpha"},
		} {
			t.Run(c.name, func(t *testing.T) {
				c.q.Limit = 200
				page, total, err := s.Devices(t.Context(), acme.id, c.q)
				acme.must(err)
				if got := deviceNames(page); got != c.want || total != (socketxp.Total{Devices: len(page)}) {
					t.Errorf("got %d: %s\nwant %s", total.Devices, got, c.want)
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
		if deviceNames(page) != "delta" || total != (socketxp.Total{Devices: 1}) {
			t.Errorf("of 40,000 ids: %s", deviceNames(page))
		}
	})
}

// idSet is a socketxp.DeviceSet.
type idSet map[string]bool

func setOf(ids []string) idSet {
	set := make(idSet)
	for _, id := range ids {
		set[id] = true
	}
	return set
}

func (s idSet) Len() int           { return len(s) }
func (s idSet) Has(id string) bool { return s[id] }
func (s idSet) IDs() []string      { return slices.Collect(maps.Keys(s)) }

func addedID(i int) string { return fmt.Sprintf("0fade000-0000-7000-8000-%012d", i) }

// addDevices puts n devices like one into its account, past the store.
func addDevices(t *testing.T, db *sql.DB, like socketxp.Device, n int, change func(i int, d *socketxp.Device)) (added []socketxp.Device) {
	t.Helper()
	for i := range n {
		d := like
		d.ID, d.Name, d.DisplayName, d.CreatedAt, d.Tunnels = addedID(i), fmt.Sprintf("added-%04d", i), "", t0, nil
		change(i, &d)
		added = append(added, d)
	}
	insertDevices(t, db, added)
	mustExec(t, db, `UPDATE device_groups SET devices = (SELECT COUNT(*) FROM devices d WHERE d.account_id = device_groups.account_id AND d.group_name = device_groups.name)`)
	return added
}

// insertDevices writes nothing but the rows of devices and of their groups.
func insertDevices(t *testing.T, db *sql.DB, devices []socketxp.Device) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := tx.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	micros := func(at time.Time) int64 {
		if at.IsZero() {
			return 0
		}
		return at.UnixMicro()
	}
	groups := make(map[string]bool)
	for _, d := range devices {
		if !groups[d.Group] {
			exec(`INSERT INTO device_groups (account_id, name, created_at) VALUES ($1, $2, 0) ON CONFLICT (account_id, name) DO NOTHING`, d.AccountID, d.Group)
			groups[d.Group] = true
		}
		exec(`INSERT INTO devices (id, account_id, name, display_name, display_name_folded, group_name, public_key, created_at, created_by, token_id,
			disabled_at, last_seen_at, remote_addr, os, arch, kernel, hostname, hostname_folded, version, local_addrs, ssh_host_key)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', $9, $10, '', '', '', '', $11, $12, $13, '[]', '')`,
			d.ID, d.AccountID, d.Name, d.DisplayName, strings.ToLower(d.DisplayName), d.Group, []byte(d.ID), micros(d.CreatedAt),
			micros(d.DisabledAt), micros(d.LastSeenAt), d.Facts.Hostname, strings.ToLower(d.Facts.Hostname), d.Facts.Version)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// Of more devices than are counted one by one, every way to ask for them gives the
// same as a look at all of them.
func TestDevicesOfMany(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		fleet(other)
		first := acme.newDevice("first")
		addDevices(t, db, other.newDevice("added-0000"), 1, func(_ int, d *socketxp.Device) { d.ID, d.Name = addedID(9999), "added-0001" })
		all := append(addDevices(t, db, first, 1500, func(i int, d *socketxp.Device) {
			d.Group = []string{"pumps", "pumps", "cameras"}[i%3]
			d.Facts.Version = []string{"1.0", "1.0", "1.0", "1.1"}[i%4]
			d.CreatedAt = t0.Add(time.Duration(i*7%1501/10) * time.Second) // some tie
			d.LastSeenAt = time.Time{}
			if i%2 == 0 {
				d.LastSeenAt = t0.Add(-time.Duration(i*11%1501) * time.Second)
			}
			d.DisabledAt = time.Time{}
			if i%50 == 7 {
				d.DisabledAt = t0
			}
			if i%100 == 3 {
				d.DisplayName = fmt.Sprintf("Kühlhaus \"%d\"", i)
			}
		}), acme.device("first"))
		ids := func(from, to int) (out []string) {
			for i := from; i < to; i++ {
				out = append(out, addedID(i))
			}
			return out
		}
		no := false
		for name, q := range map[string]socketxp.DeviceQuery{
			"all":                       {},
			"group":                     {Group: "cameras"},
			"group and version":         {Group: "pumps", Version: "1.1"},
			"version, many":             {Version: "1.0"},
			"many online":               {Disabled: &no, Online: setOf(ids(0, 1400))},
			"many online of few":        {Group: "cameras", Version: "1.1", Disabled: &no, Online: setOf(ids(0, 1400))},
			"few offline":               {Disabled: &no, Online: setOf(ids(0, 1400)), Offline: true},
			"many offline":              {Disabled: &no, Online: setOf(ids(0, 20)), Offline: true},
			"many known, few are there": {IDs: append(ids(1490, 1500), ids(5000, 6500)...)},
			"found many":                {Search: "ADDED-"},
			"found many by a group":     {Search: "pump", Group: "pumps", Version: "1.0"},
			"found few":                 {Search: "added-014"},
			"found few by ids":          {Search: "00001"},
			"found few by display name": {Search: "KÜHLHAUS \"1"},
			"found few that are online": {Search: "added-0", Online: setOf(ids(990, 1400)), Disabled: &no},
			"found many but offline":    {Search: "added", Online: setOf(ids(0, 1400)), Offline: true, Disabled: &no},
			"found many that are on":    {Search: "added", Online: setOf(ids(0, 1400)), Disabled: &no},
			"found none":                {Search: "xyz"},
			"found by two characters":   {Search: "-1"},
			"found by the last two":     {Search: "77"},
			"found by a few of two":     {Search: "ü"},
			"found by one of many":      {Search: "a"},
			"found by one":              {Search: "é"},
		} {
			t.Run(name, func(t *testing.T) {
				var matching []socketxp.Device
				for _, d := range all {
					text := strings.ToLower(strings.Join([]string{d.Name, d.DisplayName, d.Group, d.Facts.Hostname, d.ID}, "\n"))
					if strings.Contains(text, strings.ToLower(q.Search)) && (q.Group == "" || d.Group == q.Group) && (q.Version == "" || d.Facts.Version == q.Version) &&
						(q.Disabled == nil || d.DisabledAt.IsZero()) && (q.IDs == nil || slices.Contains(q.IDs, d.ID)) && (q.Online == nil || q.Online.Has(d.ID) != q.Offline) {
						matching = append(matching, d)
					}
				}
				if total := len(matching); total == 0 != (strings.HasPrefix(name, "found none") || name == "found by one") {
					t.Fatalf("%d match: the test is not what it says", total)
				}
				for by, less := range map[socketxp.DeviceSort]func(a, b socketxp.Device) int{
					socketxp.SortByName:     func(a, b socketxp.Device) int { return cmp.Compare(a.Name, b.Name) },
					socketxp.SortByGroup:    func(a, b socketxp.Device) int { return cmp.Compare(a.Group, b.Group) },
					socketxp.SortByCreated:  func(a, b socketxp.Device) int { return a.CreatedAt.Compare(b.CreatedAt) },
					socketxp.SortByLastSeen: func(a, b socketxp.Device) int { return a.LastSeenAt.Compare(b.LastSeenAt) },
				} {
					desc := by == socketxp.SortByGroup || by == socketxp.SortByLastSeen
					if desc == (len(name)%2 == 0) {
						continue // half of the orders for each query: with the race detector all take half a minute
					}
					want := slices.SortedFunc(slices.Values(matching), func(a, b socketxp.Device) int {
						order := cmp.Or(less(a, b), cmp.Compare(a.ID, b.ID))
						if desc {
							return -order
						}
						return order
					})
					q := q
					q.Sort, q.Desc, q.Limit, q.After = by, desc, 550, nil
					var got []socketxp.Device
					for {
						page, total, err := s.Devices(t.Context(), acme.id, q)
						acme.must(err)
						if total.Devices != len(want) && (total != socketxp.Total{Devices: socketxp.MaxCounted, OrMore: true} || len(want) <= socketxp.MaxCounted) ||
							total.OrMore && len(want) <= socketxp.MaxCounted {
							t.Fatalf("by %s: %+v in all, want %d", by, total, len(want))
						}
						got = append(got, page...)
						if len(page) < q.Limit {
							break
						}
						q.After = deviceCursor(by, page[len(page)-1])
					}
					if deviceNames(got) != deviceNames(want) {
						t.Errorf("by %s, descending %v:\n got %s\nwant %s", by, desc, deviceNames(got), deviceNames(want))
					}
				}
			})
		}
	})
}

// What a device is searched by is what it is called now.
func TestSearchFollowsChanges(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s := open(t, url)
		acme := newTenant(t, s, "acme")
		db := raw(t, url)
		mustExec(t, db, `UPDATE accounts SET device_quota = 10000`)
		addDevices(t, db, acme.newDevice("else"), socketxp.MaxCounted, func(_ int, d *socketxp.Device) { d.Name = "x" + d.Name }) // fewer have no index
		d := acme.newDevice("before", func(n *socketxp.Device) {
			n.DisplayName, n.Group, n.Facts.Hostname = "Old display", "oldgroup", "old-host"
		})
		check := func(want bool, texts ...string) {
			t.Helper()
			for _, text := range texts {
				page, _, err := s.Devices(t.Context(), acme.id, socketxp.DeviceQuery{Search: text, Limit: 10})
				acme.must(err)
				if len(page) == 1 != want {
					t.Errorf("%q finds %d", text, len(page))
				}
			}
		}
		check(true, "before", "old display", "oldgroup", "old-host")
		_, err := s.UpdateDevice(t.Context(), acme.id, d.ID, socketxp.DeviceUpdate{Name: ptr("after"), DisplayName: ptr("New display")}, acme.entry("device.update"))
		acme.must(err)
		check(false, "before", "old display")
		check(true, "after", "new display", "oldgroup", "old-host", d.ID)
		acme.must(s.DeviceConnected(t.Context(), acme.id, d.ID, socketxp.DeviceReport{At: t0, Facts: socketxp.Facts{Hostname: "NEW-host"}}))
		check(false, "old-host")
		acme.must(s.RenameGroup(t.Context(), acme.id, "oldgroup", "newgroup", acme.entry("group.rename")))
		check(false, "oldgroup")
		check(true, "after", "new display", "newgroup", "new-HOST", d.ID)
		acme.must(s.DeleteDevice(t.Context(), acme.id, d.ID, acme.entry("device.delete")))
		check(false, "after", "new display", "newgroup", "new-host", d.ID)
		acme.newDevice("again")
		check(true, "again")
	})
}

// What the lists keep beside the devices is made of those that were there before it.
func TestListsAfterMigration(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		if err := store.MigrateTo(t.Context(), url, 9); err != nil {
			t.Fatal(err)
		}
		db := raw(t, url)
		mustExec(t, db, `INSERT INTO accounts (id, name, created_at, basic_tokens, basic_life, device_quota) VALUES ('a', 'acme', 1, $1, 1, 100)`, true)
		devices := []socketxp.Device{
			{ID: addedID(0), Name: "pump", Group: "full", DisplayName: "Süd", Facts: socketxp.Facts{Hostname: "Host"}},
			{ID: addedID(1), Name: "valve", Group: "full", DisplayName: "Süd", Facts: socketxp.Facts{Hostname: "Host"}},
		}
		for i := range socketxp.MaxCounted { // fewer are not found by an index
			devices = append(devices, socketxp.Device{ID: addedID(i + 1000), Name: fmt.Sprintf("x-%d", i), Group: "rest"})
		}
		for i := range devices {
			devices[i].AccountID = "a"
		}
		insertDevices(t, db, devices)
		s := open(t, url)
		for search, want := range map[string]string{"pum": "pump", "VALVE": "valve", "süd": "pump valve", "host": "pump valve", "ful": "pump valve", addedID(1): "valve", "x-999": "x-999"} {
			page, total, err := s.Devices(t.Context(), "a", socketxp.DeviceQuery{Search: search, Limit: 10})
			if err != nil || deviceNames(page) != want || total.Devices != len(page) {
				t.Errorf("%q finds %s (%d), %v", search, deviceNames(page), total.Devices, err)
			}
		}
		groups, err := s.Groups(t.Context(), "a")
		if err != nil || len(groups) != 2 || groups[0].Devices != 2 || groups[1].Devices != socketxp.MaxCounted {
			t.Errorf("groups: %+v, %v", groups, err)
		}
	})
}

// Groups count right whatever happens to their devices at once.
func TestGroupsCount(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		groups := []string{"red", "green", "blue"}
		var devices []socketxp.Device
		for i := range 12 {
			devices = append(devices, acme.newDevice(fmt.Sprintf("d-%d", i), func(d *socketxp.Device) { d.Group = groups[i%3] }))
		}
		var wg sync.WaitGroup
		for i, d := range devices {
			wg.Go(func() {
				for _, u := range []socketxp.DeviceUpdate{{Group: ptr(groups[(i+1)%3])}, {Group: ptr(groups[(i+1)%3])}, {Name: ptr(d.Name + "-x")}, {Group: ptr(groups[i%2])}} {
					if _, err := s.UpdateDevice(t.Context(), acme.id, d.ID, u, acme.entry("device.update")); err != nil {
						t.Error(err)
					}
				}
				if i%4 == 0 {
					if err := s.DeleteDevice(t.Context(), acme.id, d.ID, acme.entry("device.delete")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		acme.must(s.RenameGroup(t.Context(), acme.id, "red", "pink", acme.entry("group.rename")))
		wantCode(t, s.DeleteGroup(t.Context(), acme.id, "pink", acme.entry("group.delete")), socketxp.CodeConflict)
		got := make(map[string]int)
		list, err := s.Groups(t.Context(), acme.id)
		acme.must(err)
		for _, g := range list {
			page, total, err := s.Devices(t.Context(), acme.id, socketxp.DeviceQuery{Group: g.Name, Limit: 200})
			acme.must(err)
			if len(page) != g.Devices || total.Devices != g.Devices {
				t.Errorf("group %s says %d, the list %d, and there are %d", g.Name, g.Devices, total.Devices, len(page))
			}
			got[g.Name] = g.Devices
		}
		want := map[string]int{"pink": 3, "green": 6, "blue": 0}
		if got["default"] == 0 {
			delete(got, "default")
		}
		wantEqual(t, got, want)
		if _, total, err := s.Devices(t.Context(), acme.id, socketxp.DeviceQuery{Limit: 200}); err != nil || total.Devices != 9 {
			t.Errorf("%d devices in all, %v", total.Devices, err)
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
