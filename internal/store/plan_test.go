package store_test

import (
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
			if strings.HasPrefix(line, "SCAN ") || strings.Contains(line, "TEMP B-TREE") {
				t.Errorf("%s: %s\nin the plan:\n%s\nof %s", name, line, plan, query)
			}
		}
	}
	for _, by := range []socketxp.DeviceSort{socketxp.SortByName, socketxp.SortByGroup, socketxp.SortByCreated, socketxp.SortByLastSeen} {
		for _, desc := range []bool{false, true} {
			for _, after := range []*socketxp.DeviceCursor{nil, {Value: "1", ID: "x"}} {
				query, _, _, args, err := s.DeviceSQL(acme.id, socketxp.DeviceQuery{Sort: by, Desc: desc, After: after, Limit: 50})
				acme.must(err)
				check("Devices by "+string(by), query, args[0])
			}
		}
	}
	// What is looked for is found by an index of its own; what can only be looked
	// through is so in an index, and rows are read of what was found.
	yes, no := true, false
	for name, c := range map[string]struct {
		query               socketxp.DeviceQuery
		list, search, count string // indexes; * says that no row is read
	}{
		"all":         {socketxp.DeviceQuery{}, "by_name", "", "*"},
		"version":     {socketxp.DeviceQuery{Version: "1"}, "devices_by_version", "", "*devices_by_version"},
		"disabled":    {socketxp.DeviceQuery{Disabled: &yes}, "devices_disabled", "", "devices_disabled"},
		"quarantined": {socketxp.DeviceQuery{Disabled: &no, Quarantined: &yes}, "devices_quarantined", "", "devices_quarantined"},
		"offline":     {socketxp.DeviceQuery{Disabled: &no, Quarantined: &no, NotIDs: []string{"x"}}, "devices_by_search", "", "*devices_by_search"},
		"search":      {socketxp.DeviceQuery{Search: "x"}, "devices_by_search", "*devices_by_search", "*devices_by_search"},
		"search offline": {
			socketxp.DeviceQuery{Search: "x", Disabled: &no, Quarantined: &no, NotIDs: []string{"x"}}, "devices_by_search", "*devices_by_search", "*devices_by_search",
		},
		"found": {socketxp.DeviceQuery{IDs: []string{"x"}}, "(id=?)", "", ""},
		"group": {socketxp.DeviceQuery{Group: "g"}, "devices", "", "*devices_by_group"},
	} {
		c.query.Limit = 50
		list, search, count, args, err := s.DeviceSQL(acme.id, c.query)
		acme.must(err)
		for i, one := range []struct{ query, want string }{{list, c.list}, {search, c.search}, {count, c.count}} {
			plan := explain(one.query, args[i])
			index, only := strings.CutPrefix(one.want, "*")
			if strings.Contains(plan, "SCAN devices") || !strings.Contains(plan, index) || only && !strings.Contains(plan, "COVERING INDEX") {
				t.Errorf("devices by %s: want %q in the plan:\n%s\nof %s", name, one.want, plan, one.query)
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
	ctx := t.Context()
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
		"Tunnels":             func() error { _, err := s.Tunnels(ctx, acme.id, "", "a", "b", 50); return err },
		"Groups":              func() error { _, err := s.Groups(ctx, acme.id); return err },
		"Device":              func() error { _, err := s.Device(ctx, acme.id, acme.device.ID); return err },
		"DeviceByName":        func() error { _, err := s.DeviceByName(ctx, acme.id, acme.device.Name); return err },
		"DeviceByKey":         func() error { _, _, err := s.DeviceByKey(ctx, acme.device.PublicKey); return err },
		"KeyVouchers":         func() error { _, err := s.KeyVouchers(ctx, acme.id, acme.device.ID); return err },
		"Token":               func() error { _, err := s.Token(ctx, acme.id, acme.token.ID); return err },
		"Membership":          func() error { _, err := s.Membership(ctx, acme.id, acme.owner.ID); return err },
		"SignInBySecret":      func() error { _, err := s.SignInBySecret(ctx, acme.signIn.SecretHash, t0); return err },
		"AuthorizationByCode": func() error { _, err := s.AuthorizationByCode(ctx, acme.asks.UserCode, t0); return err },
		"AuthorizationByDevice": func() error {
			_, err := s.AuthorizationByDevice(ctx, acme.asks.DeviceHash, t0)
			return err
		},
		"SignIns": func() error { _, err := s.SignIns(ctx, acme.id, acme.owner.ID, t0); return err },
	} {
		name = n
		if err := read(); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	if seen < 21 {
		t.Errorf("only %d queries were looked at", seen)
	}
}
