package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/relay"
)

// keyFrom bends a text into an Ed25519 key.
func keyFrom(s string) ed25519.PrivateKey { return ed25519.NewKeyFromSeed([]byte(s)[:32]) }

func TestDeviceConnects(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "sensors")
	a := w.dial(key, control.RoleDevice)
	r := report("tcp://127.0.0.1:22")
	r.Tunnels[0].SSH = true
	r.SSHHostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl root@cam"
	if m := a.welcome(r); m.DeviceID != d.ID || m.DeviceName != "cam" || m.DeviceGroup != "sensors" || m.Version != control.Version || m.Gateway != "test" {
		t.Errorf("welcome %+v", m)
	}
	if online := must[bool](t)(w.cluster.Online(t.Context(), d.ID)); !online {
		t.Error("it was welcomed but is not online")
	}
	got := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
	if got.RemoteAddr != "127.0.0.1" || got.Facts.OS != "linux" || got.LastSeenAt.IsZero() ||
		len(got.Tunnels) != 1 || got.Tunnels[0].Destination.String() != "tcp://127.0.0.1:22" || !got.Tunnels[0].SSH {
		t.Errorf("stored %+v", got)
	}
	if want, _, _ := strings.Cut(r.SSHHostKey, " root@cam"); got.SSHHostKey != want {
		t.Errorf("host key %q, want it without the comment", got.SSHHostKey)
	}
	t.Run("it reports again", func(t *testing.T) {
		a.send(report("tcp://127.0.0.1:80"))
		eventually(t, patience, "the new tunnels", func() bool {
			d := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
			return len(d.Tunnels) == 1 && d.Tunnels[0].Destination.Port == 80 && d.SSHHostKey == ""
		})
	})
	t.Run("its coming and going are told", func(t *testing.T) {
		told := func(want socketxp.EventType) bool {
			return slices.ContainsFunc(must[[]socketxp.Event](t)(w.store.Events(t.Context(), w.account.ID, socketxp.EventQuery{Limit: 100})), func(e socketxp.Event) bool {
				return e.DeviceID == d.ID && e.Type == want
			})
		}
		eventually(t, patience, "it is online", func() bool { return told(socketxp.EventDeviceOnline) })
		_ = a.conn.Close()
		eventually(t, patience, "it is offline", func() bool { return told(socketxp.EventDeviceOffline) })
		if online := must[bool](t)(w.cluster.Online(t.Context(), d.ID)); online {
			t.Error("it is gone but online")
		}
	})
}

func TestSameReportIsNotWritten(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	r := "tcp://127.0.0.1:22"
	_ = w.connect(d, key, echo, r).conn.Close()
	before := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
	w.store.asked.Store(0)
	_ = w.connect(d, key, echo, r).conn.Close()
	if n := w.store.asked.Load(); n != 2 {
		t.Errorf("a device that came back asked the database %d times, want once for its key and once for its sequence", n)
	}
	w.connect(d, key, echo, r, "tcp://127.0.0.1:80")
	after := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
	if len(after.Tunnels) != 2 || len(before.Tunnels) != 1 {
		t.Errorf("tunnels %v, then %v", before.Tunnels, after.Tunnels)
	}
}

func TestK01TrustIsTheKey(t *testing.T) {
	w := start(t)
	token, _ := w.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
	maker := w.owner
	key := newKey(t)
	now := w.g.now()
	d, _, err := w.store.RegisterDevice(t.Context(), socketxp.Registration{TokenID: token.ID, Device: socketxp.Device{
		ID: socketxp.NewID(now), AccountID: w.account.ID, Name: "cam", PublicKey: key.Public().(ed25519.PublicKey), CreatedAt: now, CreatedBy: maker.ID,
	}}, now, w.entry("device.register"))
	if err != nil {
		t.Fatal(err)
	}
	td := w.connect(d, key, echo)
	if _, err := w.store.RevokeToken(t.Context(), w.account.ID, token.ID, now, w.entry("token.revoke")); err != nil {
		t.Fatal(err)
	}
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: w.account.ID, ID: token.ID})
	if err := w.store.SetUserDisabled(t.Context(), maker.ID, now, w.entry("user.disable")); err != nil {
		t.Fatal(err)
	}
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintUserDisabled, ID: maker.ID})
	w.flush()
	t.Run("K-01 the channel lives on without the token and its maker", func(t *testing.T) {
		select {
		case m := <-td.refused:
			t.Fatalf("refused: %+v", m)
		default:
		}
		if !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) {
			t.Error("offline")
		}
	})
	t.Run("K-01 the device comes again without the token and its maker", func(t *testing.T) {
		w.connect(d, key, echo)
	})
}

func TestRefusedDevices(t *testing.T) {
	w := start(t)
	refusal := func(t *testing.T, key ed25519.PrivateKey) control.Refused {
		t.Helper()
		a := w.dial(key, control.RoleDevice)
		m := expect[control.Refused](a)
		_ = a.conn.Close()
		return m
	}
	t.Run("K-08 a key that nobody knows", func(t *testing.T) {
		key := newKey(t)
		for range 20 {
			if m := refusal(t, key); m.Code != socketxp.CodeDeviceUnknown || m.RetryAfter != 300 || m.Hint == "" {
				t.Fatalf("refused with %+v", m)
			}
		}
		if n := w.audited("", "device.connect", socketxp.CodeDeviceUnknown); n != 1 {
			t.Errorf("audited %d times, want once in 10 minutes", n)
		}
	})
	t.Run("K-08 a disabled device", func(t *testing.T) {
		d, key := w.register("cam", "default")
		at := w.g.now()
		if _, err := w.store.UpdateDevice(t.Context(), w.account.ID, d.ID, socketxp.DeviceUpdate{DisabledAt: &at}, w.entry("device.disable")); err != nil {
			t.Fatal(err)
		}
		w.store.asked.Store(0)
		for range 20 {
			if m := refusal(t, key); m.Code != socketxp.CodeDeviceDisabled || m.RetryAfter != 300 {
				t.Fatalf("refused with %+v", m)
			}
		}
		if n := w.store.asked.Load(); n != 20 {
			t.Errorf("20 tries asked the database %d times", n)
		}
		if n := w.audited(w.account.ID, "device.connect", socketxp.CodeDeviceDisabled); n != 1 {
			t.Errorf("audited %d times, want once in 10 minutes", n)
		}
	})
	t.Run("J12 a database that does not answer lets nobody in, and cuts nobody off", func(t *testing.T) {
		d, key := w.register("old", "default")
		td := w.connect(d, key, echo)
		w.store.down.Store(true)
		defer w.store.down.Store(false)
		_, other := w.register("new", "default")
		if m := refusal(t, other); m.Code != socketxp.CodeUnavailable || m.RetryAfter == 0 || m.RetryAfter >= 300 {
			t.Errorf("refused with %+v", m)
		}
		select {
		case m := <-td.refused:
			t.Errorf("the old one was refused: %+v", m)
		default:
		}
	})
}

func TestReports(t *testing.T) {
	const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	many := make([]string, 65)
	for i := range many {
		many[i] = "tcp://127.0.0.1:" + string(rune('1'+i/10)) + string(rune('0'+i%10))
	}
	tests := []struct {
		name string
		in   control.Report
		ok   bool
	}{
		{"nothing", report(), true},
		{"64 tunnels", report(many[:64]...), true},
		{"N-16 65 tunnels", report(many...), false},
		{"twice the same", report("tcp://a:1", "tcp://a:1"), false},
		{"not canonical", report("TCP://a:1"), false},
		{"not a destination", report("unix:///run/docker.sock"), false},
		{"N-13 a metadata service", report("http://169.254.169.254:80"), false},
		{"a fact of 257 characters", control.Report{Facts: socketxp.Facts{Hostname: strings.Repeat("x", 257)}}, false},
		{"W-08 a fact with an escape", control.Report{Facts: socketxp.Facts{Kernel: "\x1b[2J"}}, false},
		{"a host key", control.Report{SSHHostKey: hostKey}, true},
		{"a host key with options", control.Report{SSHHostKey: `command="x" ` + hostKey}, true},
		{"two host keys", control.Report{SSHHostKey: hostKey + "\n" + hostKey}, false},
		{"not a host key", control.Report{SSHHostKey: "ssh-ed25519 AAAA"}, false},
		{"a host key of 2 KiB", control.Report{SSHHostKey: hostKey + " " + strings.Repeat("x", 2048)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := checkReport(tt.in)
			if (err == nil) != tt.ok {
				t.Fatalf("err = %v, want ok %v", err, tt.ok)
			}
			if tt.ok && r.SSHHostKey != "" && r.SSHHostKey != hostKey {
				t.Errorf("host key %q", r.SSHHostKey)
			}
		})
	}
}

func TestNewestChannelWins(t *testing.T) {
	t.Parallel()
	w := start(t)
	d, key := w.register("cam", "default")
	first := w.connect(d, key, echo)
	second := w.connect(d, key, echo)
	m := <-first.refused
	if m.Code != socketxp.CodeReplaced {
		t.Errorf("the first was refused with %+v", m)
	}
	first.running.Wait()
	if !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) {
		t.Error("the end of the first took the second offline")
	}
	select {
	case m := <-second.refused:
		t.Errorf("the second was refused: %+v", m)
	default:
	}
}

func TestLogout(t *testing.T) {
	t.Parallel()
	w := start(t)
	d, key := w.register("cam", "default")
	a := w.dial(key, control.RoleDevice)
	a.welcome(report("tcp://127.0.0.1:22"))
	_, text := w.access()
	v := w.visitor()
	v.grant(text, d, 22)
	a.send(control.Logout{})
	expect[control.LoggedOut](a)
	if _, err := w.store.Device(t.Context(), w.account.ID, d.ID); socketxp.CodeOf(err) != socketxp.CodeNotFound {
		t.Errorf("the device is still there: %v", err)
	}
	if w.audited(w.account.ID, "device.logout", "") != 1 {
		t.Error("it is not in the audit")
	}
	if m := expect[control.Ended](v.agent); m.Code != socketxp.CodeNotFound {
		t.Errorf("its visitor was told %+v", m)
	}
	if _, err := a.receive(); err == nil {
		t.Error("the channel is still open")
	}
}

func TestK17DeviceClock(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	for _, when := range []time.Time{time.Unix(0, 0), time.Date(2038, 2, 1, 0, 0, 0, 0, time.UTC), time.Now().Add(24 * time.Hour)} {
		t.Run("K-17 in "+when.Format("2006-01-02"), func(t *testing.T) {
			cfg := w.clientTLS(key)
			old := cfg.Time
			cfg.Time = func() time.Time {
				if f := old(); when.Before(f) && when.Year() < 2000 {
					return f // the floor of socketxp.GatewayAddress
				}
				return when
			}
			c := tls.Client(w.dialRaw(), cfg)
			conn := control.NewAgent(c, control.RoleDevice, control.Options{})
			defer func() { _ = conn.Close() }()
			a := &agent{w: w, conn: conn, key: key}
			a.send(control.Hello{Version: control.Version, Role: control.RoleDevice})
			if m := a.welcome(report()); m.DeviceID != d.ID {
				t.Errorf("welcome %+v", m)
			}
		})
	}
}

func TestN16OnlyTheKeySaysWho(t *testing.T) {
	w := start(t)
	mine, key := w.register("mine", "default")
	theirs, _ := w.register("theirs", "default")
	td := w.connect(mine, key, echo, "tcp://127.0.0.1:22")
	_, text := w.access()
	v := w.visitor()
	v.grant(text, mine, 22)

	t.Run("N-16 a device can't refuse another's offers", func(t *testing.T) {
		pair := must[*relay.Pair](t)(w.g.relay.Expect())
		defer pair.Cut()
		o := w.g.offers.add(theirs.ID, pair, nil, 1, 1)
		defer w.g.offers.remove(pair)
		td.send(control.OfferRefused{Ticket: pair.DeviceTicket(), Code: socketxp.CodeDialFailed, Message: "no"})
		td.send(report("tcp://127.0.0.1:22", "tcp://127.0.0.1:23"))
		eventually(t, patience, "the messages were taken", func() bool {
			return len(must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, mine.ID)).Tunnels) == 2
		})
		w.g.offers.mu.Lock()
		defer w.g.offers.mu.Unlock()
		if w.g.offers.byTicket[[socketxp.LinkTicketSize]byte(pair.DeviceTicket())] != o {
			t.Error("the other's offer is gone")
		}
	})
	t.Run("N-16 a report is about the device that makes it", func(t *testing.T) {
		if d := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, theirs.ID)); len(d.Tunnels) != 0 || !d.LastSeenAt.IsZero() {
			t.Errorf("another device was changed: %+v", d)
		}
	})
}

func TestDeviceReportsTooOften(t *testing.T) {
	w := start(t, func(l *limits) { l.presenceRate = time.Hour })
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range reportBurst + 1 {
		if td.conn.Send(ctx, report("tcp://127.0.0.1:"+string(rune('1'+i/10))+string(rune('0'+i%10)))) != nil {
			break
		}
	}
	if m := <-td.refused; m.Code != socketxp.CodeRateLimited {
		t.Errorf("refused with %+v", m)
	}
}

func TestN10SilentDevice(t *testing.T) {
	w := start(t, func(l *limits) { l.silence = 300 * time.Millisecond })
	d, key := w.register("cam", "default")
	w.connect(d, key, echo) // its first ping is due after 10 s
	eventually(t, patience, "the gateway lets go of it", func() bool { return !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) })
}

func TestDeviceCodes(t *testing.T) {
	for in, want := range map[socketxp.Code]socketxp.Code{
		socketxp.CodeNotPublished: socketxp.CodeNotPublished,
		socketxp.CodeDialFailed:   socketxp.CodeDialFailed,
		socketxp.CodeTokenRevoked: socketxp.CodeUnavailable,
		"made_up":                 socketxp.CodeUnavailable,
		"":                        socketxp.CodeUnavailable,
	} {
		if got := deviceCode(in); got != want {
			t.Errorf("deviceCode(%q) = %q, want %q", in, got, want)
		}
	}
}
