package gateway

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

func (w *world) owns() *api.Client {
	w.Helper()
	_, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})
	return w.client(text)
}

func names(devices []api.Device) []string {
	return mapped(devices, func(d api.Device) string { return d.Name })
}

func TestDeviceList(t *testing.T) {
	w := start(t)
	client := w.owns()
	online, key := w.register("alpha", "pumps")
	w.connect(online, key, echo, "tcp://localhost:22")
	w.register("bravo", "pumps")
	off, _ := w.register("charlie", "meters")
	disabled, _ := w.register("delta", "meters")
	text := "Cellar, left"
	must[api.Device](t)(client.UpdateDevice(t.Context(), off.ID, api.UpdateDeviceRequest{DisplayName: &text}))
	must[api.Device](t)(client.DisableDevice(t.Context(), disabled.ID))
	for name, tc := range map[string]struct {
		list api.DeviceList
		want string
	}{
		"all":            {api.DeviceList{}, "alpha bravo charlie delta"},
		"turned round":   {api.DeviceList{Sort: "-name"}, "delta charlie bravo alpha"},
		"by group":       {api.DeviceList{Sort: "group", Group: "pumps"}, "alpha bravo"},
		"by age":         {api.DeviceList{Sort: "-created_at"}, "delta charlie bravo alpha"},
		"search":         {api.DeviceList{Search: "CELLAR"}, "charlie"},
		"search by id":   {api.DeviceList{Search: off.ID[24:]}, "charlie"},
		"no wildcard":    {api.DeviceList{Search: "%"}, ""},
		"online":         {api.DeviceList{Status: api.DeviceOnline}, "alpha"},
		"offline":        {api.DeviceList{Status: api.DeviceOffline}, "bravo charlie"},
		"disabled":       {api.DeviceList{Status: api.DeviceDisabled}, "delta"},
		"another group":  {api.DeviceList{Group: "none"}, ""},
		"version":        {api.DeviceList{Version: "9.9"}, ""},
		"X-12 SQL":       {api.DeviceList{Search: "' OR 1=1 --"}, ""},
		"X-12 SQL group": {api.DeviceList{Group: "x' OR '1'='1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			page := must[api.DevicePage](t)(client.Devices(t.Context(), tc.list))
			if got := strings.Join(names(page.Items), " "); got != tc.want || page.Total != len(page.Items) {
				t.Fatalf("got %q of %d, want %q", got, page.Total, tc.want)
			}
		})
	}
	t.Run("pages in every order have each device once", func(t *testing.T) {
		for _, sort := range []string{"name", "-name", "group", "-group", "created_at", "-created_at", "last_seen_at", "-last_seen_at"} {
			var got []string
			list := api.DeviceList{Sort: sort, Limit: 1}
			for {
				page := must[api.DevicePage](t)(client.Devices(t.Context(), list))
				got = append(got, names(page.Items)...)
				if page.Total != 4 {
					t.Fatalf("total %d", page.Total)
				}
				if list.Cursor = page.NextCursor; list.Cursor == "" {
					break
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, []string{"alpha", "bravo", "charlie", "delta"}) {
				t.Errorf("%s: %v", sort, got)
			}
		}
	})
	t.Run("what is shown of a device", func(t *testing.T) {
		d := must[api.Device](t)(client.Device(t.Context(), online.ID))
		if !d.Online || d.Status != api.DeviceOnline || d.OS != "linux" || len(d.Tunnels) != 1 || d.Tunnels[0].Destination != "tcp://localhost:22" || d.Fingerprint != socketxp.Fingerprint(online.PublicKey) {
			t.Fatalf("got %+v", d)
		}
		tunnels := must[api.Page[api.DeviceTunnel]](t)(client.Tunnels(t.Context(), api.TunnelList{}))
		if len(tunnels.Items) != 1 || tunnels.Items[0].DeviceName != "alpha" {
			t.Fatalf("got %+v", tunnels)
		}
	})
	c := w.rest()
	_, session := w.newSignIn(0)
	cursor := must[api.DevicePage](t)(client.Devices(t.Context(), api.DeviceList{Limit: 1})).NextCursor
	for _, query := range []string{
		"filter=x", "sort=public_key", "sort=name%3B+DROP+TABLE+devices", "sort=", "limit=0", "limit=201", "limit=-1", "limit=1e3", "limit=x", "limit=99999999999999999999",
		"status=away", "cursor=x", "cursor=%00", "cursor=AAAA", "cursor=" + strings.Repeat("A", 3000), "sort=-name&cursor=" + cursor, "search=%00", "search=" + strings.Repeat("a", 200),
		"search=%ff", "search=a&search=b", "limit=1;limit=2", "group[]=x", "$where=1", strings.Repeat("a=1&", 10_000)[:10_000],
		"cursor=" + encodeCursor("devices", "name", "x"), "cursor=" + encodeCursor("tokens", "name", "x", unknownID), "cursor=" + encodeCursor("devices", "name", "x", "1 OR 1=1"),
		"sort=created_at&cursor=" + encodeCursor("devices", "created_at", "x", unknownID),
	} {
		t.Run("X-12 "+query[:min(len(query), 60)], func(t *testing.T) {
			a := c.do(get, "/api/v1/devices?"+query, "", cookie(session)...)
			if query == "sort=" { // as if it were not there
				a.want(t, http.StatusOK, "")
				return
			}
			a.want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		})
	}
	t.Run("X-12 every list refuses cursors and parameters that are none", func(t *testing.T) {
		for _, path := range []string{"/devices", "/tokens", "/tunnels", "/sessions", "/events", "/audit"} {
			for _, query := range []string{"cursor=AAAA", "cursor=" + encodeCursor("x", "y"), "nothing=1", "limit=1000", "cursor=" + url.QueryEscape(encodeCursor(path[1:], "9223372036854775808"))} {
				c.do(get, "/api/v1"+path+"?"+query, "", cookie(session)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
			}
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add(encodeCursor("devices", "name", "alpha", unknownID), "name")
	f.Add(encodeCursor("devices", "-created_at", "1700000000000000", unknownID), "-created_at")
	f.Add(encodeCursor("tokens", unknownID), "name")
	f.Add("", "name")
	f.Add("W10", "")
	f.Fuzz(func(t *testing.T, cursor, sort string) {
		d, err := decodeDeviceCursor(cursor, sort)
		if err != nil && socketxp.CodeOf(err) != socketxp.CodeInvalid {
			t.Fatalf("got %v", err)
		}
		if d != nil {
			again, err := decodeDeviceCursor(encodeCursor("devices", sort, d.Value, d.ID), sort)
			if err != nil || *again != *d {
				t.Fatalf("%+v became %+v, %v", d, again, err)
			}
		}
		if id, err := decodeIDCursor(cursor, "tokens"); err == nil && id != "" && !socketxp.ValidID(id) {
			t.Fatalf("got %q", id)
		}
	})
}

func TestDeviceChanges(t *testing.T) {
	w := start(t)
	client := w.owns()
	d, key := w.register("sensor", "lab")
	w.register("taken", "lab")
	hints := make(chan socketxp.Hint, 1000)
	defer w.cluster.Subscribe(func(h socketxp.Hint) { hints <- h })()
	hinted := func(t *testing.T, kind socketxp.HintKind, id string) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case h := <-hints:
				if h.Kind == kind && h.ID == id {
					return
				}
			case <-deadline:
				t.Fatalf("no hint %s of %s", kind, id)
			}
		}
	}
	name, group, display := "sensor-2", "field", "By the door"
	t.Run("renamed and moved", func(t *testing.T) {
		got := must[api.Device](t)(client.UpdateDevice(t.Context(), d.ID, api.UpdateDeviceRequest{Name: &name, Group: &group, DisplayName: &display}))
		if got.Name != name || got.Group != group || got.DisplayName != display {
			t.Fatalf("got %+v", got)
		}
		hinted(t, socketxp.HintDeviceChanged, d.ID)
	})
	t.Run("refused", func(t *testing.T) {
		for what, r := range map[string]api.UpdateDeviceRequest{
			"nothing": {}, "a name that is none": {Name: ptr("A B")}, "a group that is none": {Group: ptr("")}, "W-08 text with a trick": {DisplayName: ptr("a\u202eb")},
			"long text": {DisplayName: ptr(strings.Repeat("x", 129))},
		} {
			if _, err := client.UpdateDevice(t.Context(), d.ID, r); socketxp.CodeOf(err) != socketxp.CodeInvalid {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, err := client.UpdateDevice(t.Context(), d.ID, api.UpdateDeviceRequest{Name: ptr("taken")})
		wantCode(t, err, socketxp.CodeConflict)
		if n := w.audited(w.account.ID, "device.update", socketxp.CodeConflict); n != 1 {
			t.Fatalf("%d audit records", n)
		}
	})
	t.Run("disabled, with what is open, and enabled", func(t *testing.T) {
		td := w.connect(must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID)), key, echo, "tcp://localhost:22")
		got := must[api.Device](t)(client.DisableDevice(t.Context(), d.ID))
		if got.Status != api.DeviceDisabled || got.DisabledAt == nil {
			t.Fatalf("got %+v", got)
		}
		hinted(t, socketxp.HintDeviceChanged, d.ID)
		select {
		case r := <-td.refused:
			if r.Code != socketxp.CodeDeviceDisabled {
				t.Fatalf("got %+v", r)
			}
		case <-time.After(patience):
			t.Fatal("it is still connected")
		}
		again := must[api.Device](t)(client.DisableDevice(t.Context(), d.ID))
		if !again.DisabledAt.Equal(*got.DisabledAt) {
			t.Fatal("the time changed")
		}
		if got := must[api.Device](t)(client.EnableDevice(t.Context(), d.ID)); got.DisabledAt != nil {
			t.Fatalf("got %+v", got)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		if err := client.DeleteDevice(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
		hinted(t, socketxp.HintDeviceDeleted, d.ID)
		_, err := client.Device(t.Context(), d.ID)
		wantCode(t, err, socketxp.CodeNotFound)
		wantCode(t, client.DeleteDevice(t.Context(), d.ID), socketxp.CodeNotFound)
	})
	t.Run("groups", func(t *testing.T) {
		must[api.Group](t)(client.CreateGroup(t.Context(), "empty"))
		_, err := client.CreateGroup(t.Context(), "empty")
		wantCode(t, err, socketxp.CodeConflict)
		_, err = client.CreateGroup(t.Context(), "No Group")
		wantCode(t, err, socketxp.CodeInvalid)
		wantCode(t, client.DeleteGroup(t.Context(), "lab"), socketxp.CodeConflict)
		_, err = client.RenameGroup(t.Context(), "lab", "empty")
		wantCode(t, err, socketxp.CodeConflict)
		taken := must[api.DevicePage](t)(client.Devices(t.Context(), api.DeviceList{Search: "taken"})).Items[0]
		if g := must[api.Group](t)(client.RenameGroup(t.Context(), "lab", "lab-2")); g.Devices != 1 {
			t.Fatalf("got %+v", g)
		}
		hinted(t, socketxp.HintDeviceChanged, taken.ID) // what was open by the old name is judged again
		if err := client.DeleteGroup(t.Context(), "empty"); err != nil {
			t.Fatal(err)
		}
		wantCode(t, client.DeleteGroup(t.Context(), "empty"), socketxp.CodeNotFound)
		groups := must[[]api.Group](t)(client.Groups(t.Context()))
		if got := strings.Join(mapped(groups, func(g api.Group) string { return fmt.Sprint(g.Name, g.Devices) }), " "); got != "field0 lab-21" {
			t.Fatalf("got %s", got)
		}
	})
}

func ptr[T any](v T) *T { return &v }

func TestPreRegister(t *testing.T) {
	w := start(t)
	client := w.owns()
	got := must[api.PreRegistered](t)(client.PreRegister(t.Context(), api.PreRegisterRequest{Name: "meter-0001", Group: "meters"}))
	seed := must[[]byte](t)(base64.RawURLEncoding.DecodeString(got.DeviceKey.DeviceKey))
	key := ed25519.NewKeyFromSeed(seed)
	if got.DeviceKey.DeviceID != got.ID || got.DeviceKey.Gateway != w.g.url || got.DeviceKey.GatewayPin != w.g.Address().Pin || got.Group != "meters" {
		t.Fatalf("got %+v", got.DeviceKey)
	}
	t.Run("it connects with that key", func(t *testing.T) {
		w.connect(must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, got.ID)), key, echo)
	})
	t.Run("K-16 only the public half is kept", func(t *testing.T) {
		c := w.rest()
		_, session := w.newSignIn(0)
		for _, path := range []string{"/devices/" + got.ID, "/audit", "/events"} {
			if a := c.do(get, "/api/v1"+path, "", cookie(session)...); strings.Contains(a.body, got.DeviceKey.DeviceKey) {
				t.Errorf("%s has the key", path)
			}
		}
		var fields map[string]any
		b := must[[]byte](t)(json.Marshal(got.DeviceKey))
		if err := json.Unmarshal(b, &fields); err != nil || len(fields) != 6 {
			t.Fatalf("device.key has %s", b)
		}
	})
	t.Run("the name is taken", func(t *testing.T) {
		_, err := client.PreRegister(t.Context(), api.PreRegisterRequest{Name: "meter-0001"})
		wantCode(t, err, socketxp.CodeConflict)
	})
}
