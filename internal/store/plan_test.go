package store_test

import (
	"errors"
	"strings"
	"testing"

	"socketxp"
)

// Nothing that is asked for in every request or on every page reads a whole table
// or sorts: each finds its rows in the order of an index.
func TestQueryPlans(t *testing.T) {
	url := sqliteURL(t)
	s, db := open(t, url), raw(t, url)
	acme := newWorld(t, s, url, "acme")
	explain := func(query string, args []any) string {
		t.Helper()
		rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := rows.Close(); err != nil {
				t.Error(err)
			}
		}()
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return strings.Join(plan, "\n")
	}
	check := func(name, query string, args []any) {
		t.Helper()
		plan := explain(query, args)
		for _, line := range strings.Split(plan, "\n") {
			if strings.HasPrefix(line, "SCAN ") && !strings.HasPrefix(line, "SCAN json_each ") && line != "SCAN c" && !strings.HasPrefix(line, "SCAN device_search VIRTUAL TABLE INDEX") && !strings.HasPrefix(line, "SCAN device_trigrams VIRTUAL TABLE INDEX") ||
				strings.Contains(line, "TEMP B-TREE") && !strings.Contains(plan, "(id=?)") { // a page's worth, or what was found, is sorted
				t.Errorf("%s: %s\nin the plan:\n%s\nof %s", name, line, plan, query)
			}
		}
	}

	// Devices: many in group g with version v, of which few are disabled, and few of
	// another group and version.
	ctx := t.Context()
	addDevices(t, db, acme.device, 2100, func(i int, d *socketxp.Device) {
		d.Group, d.Facts.Version = "g", "v"
		if i%100 == 0 {
			d.Group, d.Facts.Version, d.DisabledAt = "few", "w", t0
		}
	})
	var ids []string
	for i := range 2100 {
		ids = append(ids, addedID(i))
	}
	yes, no := true, false
	after := map[socketxp.DeviceSort]*socketxp.DeviceCursor{
		"": {Value: "a", ID: "x"}, socketxp.SortByGroup: {Value: "a", ID: "x"}, socketxp.SortByCreated: {Value: "1", ID: "x"}, socketxp.SortByLastSeen: {Value: "-1", ID: "x"},
	}
	orders := map[socketxp.DeviceSort]string{
		"": "devices_by_search", socketxp.SortByGroup: "devices_by_group", socketxp.SortByCreated: "devices_by_created", socketxp.SortByLastSeen: "devices_by_seen",
	}
	const byID, texts, groups, tunnels = "sqlite_autoindex_devices_1", "device_search VIRTUAL TABLE INDEX", "device_groups_1", "sqlite_autoindex_tunnels_1"
	for name, c := range map[string]struct {
		query socketxp.DeviceQuery
		plan  []string // what each statement uses; * for the order's index, + says that no row of devices is read
	}{
		"all":            {socketxp.DeviceQuery{}, []string{groups, "*", tunnels}},
		"group":          {socketxp.DeviceQuery{Group: "g"}, []string{groups, "devices_of_group", tunnels}},
		"version":        {socketxp.DeviceQuery{Version: "v"}, []string{"+devices_by_version", "devices_by_version", tunnels}},
		"disabled":       {socketxp.DeviceQuery{Disabled: &yes}, []string{"devices_disabled", "devices_disabled", tunnels}},
		"quarantined":    {socketxp.DeviceQuery{Disabled: &no, Quarantined: &yes}, []string{"devices_quarantined", "devices_quarantined"}},
		"nobody online":  {socketxp.DeviceQuery{Disabled: &no, Quarantined: &no}, []string{"+devices_enabled", "*", tunnels}},
		"few online":     {socketxp.DeviceQuery{Disabled: &no, Quarantined: &no, Online: setOf(ids[:900])}, []string{byID, byID, tunnels}},
		"many online":    {socketxp.DeviceQuery{Disabled: &no, Quarantined: &no, Online: setOf(ids)}, []string{"+devices_enabled", "+*", byID, tunnels}},
		"few offline":    {socketxp.DeviceQuery{Disabled: &no, Quarantined: &no, Online: setOf(ids[100:]), Offline: true}, []string{"+devices_enabled", "+devices_enabled", byID, byID, tunnels}},
		"many offline":   {socketxp.DeviceQuery{Disabled: &no, Quarantined: &no, Online: setOf(ids[:9]), Offline: true}, []string{"+devices_enabled", "+*", byID, tunnels}},
		"few found":      {socketxp.DeviceQuery{Search: "added-0007"}, []string{groups, texts, groups, byID, byID, tunnels}},
		"none found":     {socketxp.DeviceQuery{Search: "zzz"}, []string{groups, texts, groups, byID, byID}},
		"group found":    {socketxp.DeviceQuery{Search: "few"}, []string{groups, texts, groups, byID, byID, tunnels}},
		"many found":     {socketxp.DeviceQuery{Search: "added"}, []string{groups, texts, "*", byID, tunnels}},
		"many found off": {socketxp.DeviceQuery{Search: "added", Disabled: &no, Quarantined: &no, Online: setOf(ids[:9]), Offline: true}, []string{groups, texts, "+devices_enabled", "+devices_by_search", "*", byID, tunnels}},
		"few found off":  {socketxp.DeviceQuery{Search: "added", Disabled: &no, Quarantined: &no, Online: setOf(ids[100:]), Offline: true}, []string{groups, texts, "+devices_enabled", "+devices_enabled", byID, byID, tunnels}},
		"short":          {socketxp.DeviceQuery{Search: "zz"}, []string{groups, "device_trigrams VIRTUAL TABLE INDEX", texts, groups, byID, byID}},
		"both":           {socketxp.DeviceQuery{Group: "few", Version: "w"}, []string{"devices_by_version", byID, byID, tunnels}},
	} {
		for by, index := range orders {
			for _, desc := range []bool{false, true} {
				for _, from := range []*socketxp.DeviceCursor{nil, after[by]} {
					if desc && from != nil {
						continue // such a cursor is before all that there is
					}
					down := by == socketxp.SortByGroup || by == socketxp.SortByLastSeen
					if name != "all" && (desc != down || desc == (from != nil)) {
						continue // each order once will do
					}
					var plans, queries []string
					s.RecordReads(func(query string, args []any) {
						plans, queries = append(plans, explain(query, args)), append(queries, query)
						sorts := by != "" && strings.HasPrefix(query, "SELECT id, account_id") && (c.query.Group != "" || c.query.Version != "" || c.query.Disabled != nil)
						if !sorts { // few, by what they were found by
							check("devices, "+name+", by "+string(by), query, args)
						}
					})
					q := c.query
					q.Sort, q.Desc, q.After, q.Limit = by, desc, from, 50
					_, _, err := s.Devices(ctx, acme.id, q)
					acme.must(err)
					if len(plans) != len(c.plan) {
						t.Fatalf("devices, %s, by %q: %d statements, want %d:\n%s", name, by, len(plans), len(c.plan), strings.Join(queries, "\n"))
					}
					for i, plan := range plans {
						want, covered := strings.CutPrefix(c.plan[i], "+")
						want = strings.Replace(want, "*", index, 1)
						if !strings.Contains(plan, want) || covered && !strings.Contains(plan, "COVERING INDEX") {
							t.Errorf("devices, %s, by %q, descending %v: want %q in the plan:\n%s\nof %s", name, by, desc, c.plan[i], plan, queries[i])
						}
					}
				}
			}
		}
	}
	for name, c := range map[string]struct {
		query socketxp.SessionQuery
		index string
	}{
		"all":              {socketxp.SessionQuery{}, "sessions_by_account (account_id=? AND id<?)"},
		"ended":            {socketxp.SessionQuery{Live: &no}, "sessions_by_account (account_id=? AND id<?)"},
		"device":           {socketxp.SessionQuery{DeviceID: "d"}, "sessions_by_device (account_id=? AND device_id=? AND id<?)"},
		"user":             {socketxp.SessionQuery{UserID: "u"}, "sessions_by_user (account_id=? AND user_id=? AND id<?)"},
		"token":            {socketxp.SessionQuery{TokenID: "t"}, "sessions_by_token (account_id=? AND token_id=? AND id<?)"},
		"ended of a token": {socketxp.SessionQuery{TokenID: "t", Live: &no}, "sessions_by_token (account_id=? AND token_id=? AND id<?)"},
		"live":             {socketxp.SessionQuery{Live: &yes}, "sessions_live (account_id=? AND id<?)"},
		"live of a device": {socketxp.SessionQuery{Live: &yes, DeviceID: "d"}, "sessions_live (account_id=? AND id<?)"},
	} {
		c.query.Limit = 50
		query, args, err := s.SessionSQL(acme.id, c.query)
		acme.must(err)
		check("Sessions: "+name, query, args)
		if plan := explain(query, args); !strings.Contains(plan, c.index) {
			t.Errorf("sessions by %s: want %q in the plan:\n%s", name, c.index, plan)
		}
	}
	if plan := explain(`SELECT id FROM devices ORDER BY version`, nil); !strings.Contains(plan, "SCAN") || !strings.Contains(plan, "TEMP B-TREE") {
		t.Fatalf("this test can't tell: %s", plan)
	}

	// What a list is asked for by has an index: without it, one that is rare or not there
	// costs a read of all rows of the account.
	byIndex := map[string]string{
		"Tokens": "tokens_by_account", "Tokens of a kind": "tokens_by_kind",
		"Events": "events_by_account", "Events of a device": "events_by_device", "Events of a type": "events_by_type",
		"Audit of an action": "audit_by_action", "Audit of an actor": "audit_by_user audit_by_device",
	}
	var name string
	seen := 0
	s.RecordReads(func(query string, args []any) {
		seen++
		check(name, query, args)
		plan, found := explain(query, args), byIndex[name] == ""
		for _, index := range strings.Fields(byIndex[name]) {
			found = found || strings.Contains(plan, "INDEX "+index+" (")
		}
		if !found {
			t.Errorf("%s: want %s in the plan:\n%s\nof %s", name, byIndex[name], plan, query)
		}
	})
	for n, read := range map[string]func() error{
		"Tokens": func() error { _, err := s.Tokens(ctx, acme.id, socketxp.TokenQuery{Limit: 50}); return err },
		"Tokens of a kind": func() error {
			_, err := s.Tokens(ctx, acme.id, socketxp.TokenQuery{Kind: socketxp.TokenAPI, Live: t0, Limit: 50})
			return err
		},
		"Events of a type": func() error {
			_, err := s.Events(ctx, acme.id, socketxp.EventQuery{Type: socketxp.EventDeviceOnline, Limit: 50})
			return err
		},
		"Audit of an action": func() error {
			_, err := s.Audit(ctx, acme.id, socketxp.AuditQuery{Newest: true, Action: "a", Limit: 50})
			return err
		},
		"Audit of an actor": func() error {
			_, err := s.Audit(ctx, acme.id, socketxp.AuditQuery{Newest: true, ActorID: "u", Action: "a", Limit: 50})
			return err
		},
		"Events":       func() error { _, err := s.Events(ctx, acme.id, socketxp.EventQuery{Limit: 50}); return err },
		"Events after": func() error { _, err := s.Events(ctx, acme.id, socketxp.EventQuery{After: "x", Limit: 50}); return err },
		"Events of a device": func() error {
			_, err := s.Events(ctx, acme.id, socketxp.EventQuery{DeviceID: "d", Limit: 50})
			return err
		},
		"Audit": func() error { _, err := s.Audit(ctx, acme.id, socketxp.AuditQuery{Limit: 50}); return err },
		"Audit from the end": func() error {
			_, err := s.Audit(ctx, acme.id, socketxp.AuditQuery{Newest: true, Limit: 50})
			return err
		},
		"Tunnels":      func() error { _, err := s.Tunnels(ctx, acme.id, "", "a", "b", 50); return err },
		"Groups":       func() error { _, err := s.Groups(ctx, acme.id); return err },
		"Device":       func() error { _, err := s.Device(ctx, acme.id, acme.device.ID); return err },
		"DeviceByName": func() error { _, err := s.DeviceByName(ctx, acme.id, acme.device.Name); return err },
		"DeviceByKey":  func() error { _, _, err := s.DeviceByKey(ctx, acme.device.PublicKey); return err },
		"KeyVouchers":  func() error { _, err := s.KeyVouchers(ctx, acme.id, acme.device.ID); return err },
		"HostKey": func() error {
			_, err := s.HostKey(ctx, acme.id, acme.device.ID, 22)
			if errors.Is(err, socketxp.ErrNotFound) {
				err = nil
			}
			return err
		},
		"Token":               func() error { _, err := s.Token(ctx, acme.id, acme.token.ID); return err },
		"Membership":          func() error { _, err := s.Membership(ctx, acme.id, acme.owner.ID); return err },
		"SignInBySecret":      func() error { _, err := s.SignInBySecret(ctx, acme.signIn.SecretHash, t0); return err },
		"AuthorizationByCode": func() error { _, err := s.AuthorizationByCode(ctx, acme.asks.UserCode, t0); return err },
		"AuthorizationByDevice": func() error {
			_, err := s.AuthorizationByDevice(ctx, acme.asks.DeviceHash, t0)
			return err
		},
		"TakeTry": func() error { _, err := s.TakeTry(ctx, acme.owner.ID, [32]byte{}, t0); return err },
		"SignIns": func() error { _, err := s.SignIns(ctx, acme.id, acme.owner.ID, t0); return err },
	} {
		name = n
		if err := read(); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	if seen < 22 {
		t.Errorf("only %d queries were looked at", seen)
	}
}
