package socketxp_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"socketxp"
)

func TestTokenLife(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		kind            socketxp.TokenKind
		normal, longest time.Duration
	}{
		{socketxp.TokenBasic, day, 7 * day},
		{socketxp.TokenAPI, 30 * day, 365 * day},
		{socketxp.TokenRegistration, time.Hour, 30 * day},
		{socketxp.TokenAccess, 8 * time.Hour, 30 * day},
		{"", 0, 0},
		{"signin", 0, 0},
	} {
		if normal, longest := c.kind.TokenLife(); normal != c.normal || longest != c.longest {
			t.Errorf("a token of kind %q lives %v, %v", c.kind, normal, longest)
		}
	}
}

func TestTokenUsable(t *testing.T) {
	created := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	expires := created.Add(time.Hour)
	good := socketxp.Token{CreatedAt: created, ExpiresAt: expires, KeyUntil: socketxp.EndOfTime}
	overlap := good
	overlap.KeyUntil = created.Add(30 * time.Minute)
	unknownKey := good
	unknownKey.KeyUntil = time.Time{}
	unconfirmed := good
	unconfirmed.Unconfirmed = true
	revoked := good
	revoked.RevokedAt = created.Add(time.Minute)
	for _, c := range []struct {
		name  string
		token socketxp.Token
		at    time.Time
		want  socketxp.Code
	}{
		{"T-12 when it was made", good, created, ""},
		{"T-12 a nanosecond before exp", good, expires.Add(-1), ""},
		{"T-12 at exp", good, expires, socketxp.CodeTokenExpired},
		{"T-12 leeway before exp", good, expires.Add(-socketxp.ClockLeeway), ""},
		{"T-12 leeway after exp", good, expires.Add(socketxp.ClockLeeway), socketxp.CodeTokenExpired},
		{"T-12 the clock 10 minutes back", good, created.Add(-10 * time.Minute), socketxp.CodeTokenNotYet},
		{"T-11 leeway before nbf", good, created.Add(-socketxp.ClockLeeway), ""},
		{"T-11 leeway and a bit before nbf", good, created.Add(-socketxp.ClockLeeway - 1), socketxp.CodeTokenNotYet},
		{"T-19 revoked", revoked, created, socketxp.CodeTokenRevoked},
		{"T-19 revoked and expired", revoked, expires, socketxp.CodeTokenRevoked},
		{"T-09 no expiry", socketxp.Token{CreatedAt: created}, created, socketxp.CodeTokenExpired},
		{"T-17 in the overlap of its key", overlap, overlap.KeyUntil.Add(-1), ""},
		{"T-17 after the overlap of its key", overlap, overlap.KeyUntil, socketxp.CodeTokenRevoked},
		{"T-18 of a key that nobody knows", unknownKey, created, socketxp.CodeTokenRevoked},
		{"L-10 unconfirmed after a restore", unconfirmed, created, socketxp.CodeTokenRevoked},
		{"the zero Token", socketxp.Token{}, created, socketxp.CodeTokenExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.token.Usable(c.at)
			if socketxp.CodeOf(err) != c.want {
				t.Errorf("Usable = %v, want %q", err, c.want)
			}
			var e *socketxp.Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("%T is not an error for clients", err)
			}
		})
	}
}

func TestAllowsFrom(t *testing.T) {
	for _, c := range []struct {
		networks []string
		addr     string
		want     bool
	}{
		{nil, "203.0.113.7", true},
		{nil, "", true}, // an empty list does not narrow
		{[]string{"10.0.0.0/8"}, "10.1.2.3", true},
		{[]string{"10.0.0.0/8"}, "::ffff:10.1.2.3", true},
		{[]string{"10.0.0.0/8"}, "11.0.0.1", false},
		{[]string{"10.0.0.0/8", "2001:db8::/32"}, "2001:db8::1", true},
		{[]string{"2001:db8::/32"}, "2001:db9::1", false},
		{[]string{"2001:db8::/32"}, "10.0.0.1", false},
		{[]string{"203.0.113.7/32"}, "203.0.113.7", true},
		{[]string{"203.0.113.7/32"}, "203.0.113.8", false},
		{[]string{"0.0.0.0/0"}, "203.0.113.7", true},
		{[]string{"0.0.0.0/0"}, "2001:db8::1", false},
		{[]string{"10.0.0.0/8"}, "", false},
		{[]string{""}, "10.0.0.1", false},
		{[]string{"10.0.0.1"}, "10.0.0.1", false},
		{[]string{"10.0.0.0/33"}, "10.0.0.1", false},
		{[]string{"everything"}, "10.0.0.1", false},
		{[]string{"everything", "10.0.0.0/8"}, "10.0.0.1", true},
		{[]string{"fe80::/10"}, "fe80::1%eth0", false},
	} {
		var addr netip.Addr
		if c.addr != "" {
			addr = netip.MustParseAddr(c.addr)
		}
		if got := (socketxp.TokenScope{Networks: c.networks}).AllowsFrom(addr); got != c.want {
			t.Errorf("%v admits %q: %v", c.networks, c.addr, got)
		}
	}
}

func TestAllowsDevice(t *testing.T) {
	camera := socketxp.Device{ID: "camera", Group: "yard"}
	for _, c := range []struct {
		name            string
		devices, groups []string
		device          socketxp.Device
		want            bool
	}{
		{"no list", nil, nil, camera, true},
		{"by id", []string{"x", "camera"}, nil, camera, true},
		{"another id", []string{"x"}, nil, camera, false},
		{"by group", nil, []string{"yard"}, camera, true},
		{"another group", nil, []string{"hall"}, camera, false},
		{"group suffices", []string{"x"}, []string{"yard"}, camera, true},
		{"id suffices", []string{"camera"}, []string{"hall"}, camera, true},
		{"moved away", nil, []string{"yard"}, socketxp.Device{ID: "camera", Group: "hall"}, false},
		{"no group is no match", nil, []string{""}, socketxp.Device{ID: "camera"}, false},
		{"the group's name as an id", []string{"yard"}, nil, camera, false},
		{"the id as a group", nil, []string{"camera"}, camera, false},
	} {
		if got := (socketxp.TokenScope{Devices: c.devices, Groups: c.groups}).AllowsDevice(c.device); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestAllowsPort(t *testing.T) {
	for _, c := range []struct {
		ports []int
		port  int
		want  bool
	}{
		{nil, 22, true}, {[]int{22}, 22, true}, {[]int{22}, 23, false}, {[]int{80, 22}, 22, true}, {[]int{0}, 22, false},
	} {
		if got := (socketxp.TokenScope{Ports: c.ports}).AllowsPort(c.port); got != c.want {
			t.Errorf("%v admits %d: %v", c.ports, c.port, got)
		}
	}
}
