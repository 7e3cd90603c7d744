package gateway

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
)

func TestVisit(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "sensors")
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22")
	token, text := w.access()
	v := w.visitor()

	answer := v.visit(control.Visit{Token: text, DeviceName: "cam", Port: 22})
	g, ok := answer.(control.Granted)
	if !ok {
		t.Fatalf("not granted: %+v", answer)
	}
	if g.DeviceID != d.ID || g.DeviceName != "cam" || string(g.DeviceKey) != string(d.PublicKey) || g.Destination != "tcp://127.0.0.1:22" || !g.ExpiresAt.Equal(token.ExpiresAt) {
		t.Errorf("granted %+v", g)
	}
	s := w.session(g.SessionID, func(s socketxp.Session) bool { return true })
	if s.DeviceID != d.ID || s.DeviceName != "cam" || s.TokenID != token.ID || s.UserID != w.owner.ID || s.RemoteAddr != "127.0.0.1" || s.Destination != g.Destination || !s.EndedAt.IsZero() {
		t.Errorf("stored %+v", s)
	}
	if w.audited(w.account.ID, "session.start", "") != 1 {
		t.Error("its begin is not in the audit")
	}

	l := v.open(g)
	offer := <-td.offers
	if offer.SessionID != g.SessionID || offer.Destination != g.Destination {
		t.Errorf("offered %+v", offer)
	}
	for range 3 { // one link carries one connection after another
		c := must[*link.Conn](t)(l.Open())
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		if b := must[[]byte](t)(io.ReadAll(c)); string(b) != "hello" {
			t.Fatalf("echo %q", b)
		}
		_ = c.Close()
	}

	t.Run("links live on without either control channel", func(t *testing.T) {
		_ = v.conn.Close()
		_ = td.conn.Close()
		eventually(t, patience, "the device is offline", func() bool { return !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) })
		c := must[*link.Conn](t)(l.Open())
		if _, err := io.WriteString(c, "still"); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		if b := must[[]byte](t)(io.ReadAll(c)); string(b) != "still" {
			t.Fatalf("echo %q", b)
		}
		if s := must[socketxp.Session](t)(w.store.Session(t.Context(), w.account.ID, g.SessionID)); !s.EndedAt.IsZero() {
			t.Error("the session ended before its link")
		}
	})
	t.Run("the session ends with the last link, and its bytes are exact", func(t *testing.T) {
		_ = l.Close()
		s := w.session(g.SessionID, func(s socketxp.Session) bool { return !s.EndedAt.IsZero() })
		if s.EndReason != "" || s.Links != 1 || s.BytesUp < 20 || s.BytesDown < 20 {
			t.Errorf("ended %+v", s)
		}
		eventually(t, patience, "its end is in the audit", func() bool { return w.audited(w.account.ID, "session.end", "") == 1 })
	})
}

func TestVisitRefused(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "sensors")
	w.connect(d, key, echo, "tcp://127.0.0.1:22", "tcp://10.0.0.1:80", "tcp://127.0.0.1:80")
	off, _ := w.register("off", "sensors")
	disabled, _ := w.register("disabled", "sensors")
	at := w.g.now()
	if _, err := w.store.UpdateDevice(t.Context(), w.account.ID, disabled.ID, socketxp.DeviceUpdate{DisabledAt: &at}, w.entry("device.disable")); err != nil {
		t.Fatal(err)
	}
	mine, owner := w.account, w.owner
	w.account, w.owner = w.newAccount("other", "other@example.com")
	foreign, foreignKey := w.register("foreign", "sensors")
	w.connect(foreign, foreignKey, echo, "tcp://127.0.0.1:22")
	w.account, w.owner = mine, owner

	_, all := w.access()
	_, otherDevice := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{Devices: []string{off.ID}})
	_, otherGroup := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{Groups: []string{"cameras"}})
	_, otherPort := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{Ports: []int{443}})
	_, otherNet := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{Networks: []string{"192.0.2.0/24"}})
	expired, expiredText := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{}, time.Second)
	revoked, revokedText := w.access()
	if _, err := w.store.RevokeToken(t.Context(), w.account.ID, revoked.ID, w.g.now(), w.entry("token.revoke")); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the token expires", func() bool { return !w.g.now().Before(expired.ExpiresAt) })

	tests := []struct {
		name string
		in   control.Visit
		want socketxp.Code
	}{
		{"another token's device", control.Visit{Token: otherDevice, DeviceID: d.ID, Port: 22}, socketxp.CodeForbidden},
		{"A-17 another group", control.Visit{Token: otherGroup, DeviceID: d.ID, Port: 22}, socketxp.CodeForbidden},
		{"another port", control.Visit{Token: otherPort, DeviceID: d.ID, Port: 22}, socketxp.CodeForbidden},
		{"another network", control.Visit{Token: otherNet, DeviceID: d.ID, Port: 22}, socketxp.CodeForbidden},
		{"an expired token", control.Visit{Token: expiredText, DeviceID: d.ID, Port: 22}, socketxp.CodeTokenExpired},
		{"a revoked token", control.Visit{Token: revokedText, DeviceID: d.ID, Port: 22}, socketxp.CodeTokenRevoked},
		{"not a token", control.Visit{Token: "x.y.z", DeviceID: d.ID, Port: 22}, socketxp.CodeUnauthenticated},
		{"offline", control.Visit{Token: all, DeviceName: "off", Port: 22}, socketxp.CodeDeviceOffline},
		{"disabled", control.Visit{Token: all, DeviceName: "disabled", Port: 22}, socketxp.CodeDeviceDisabled},
		{"no such name", control.Visit{Token: all, DeviceName: "nobody", Port: 22}, socketxp.CodeNotFound},
		{"no such id", control.Visit{Token: all, DeviceID: socketxp.NewID(time.Now()), Port: 22}, socketxp.CodeNotFound},
		{"A-03 another account's device by id", control.Visit{Token: all, DeviceID: foreign.ID, Port: 22}, socketxp.CodeNotFound},
		{"A-03 another account's device by name", control.Visit{Token: all, DeviceName: "foreign", Port: 22}, socketxp.CodeNotFound},
		{"N-11 a port that isn't published", control.Visit{Token: all, DeviceID: d.ID, Port: 5432}, socketxp.CodeNotPublished},
		{"N-11 a host that isn't published", control.Visit{Token: all, DeviceID: d.ID, Host: "10.0.0.2", Port: 22}, socketxp.CodeNotPublished},
		{"a port of several hosts", control.Visit{Token: all, DeviceID: d.ID, Port: 80}, socketxp.CodeInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, ok := w.visitor().visit(tt.in).(control.Ended)
			if !ok || m.Code != tt.want {
				t.Fatalf("got %+v, want %q", m, tt.want)
			}
			if strings.Contains(m.Message+m.Hint, tt.in.Token) {
				t.Error("the token is in the answer")
			}
		})
	}
	t.Run("a host out of several", func(t *testing.T) {
		m, ok := w.visitor().visit(control.Visit{Token: all, DeviceID: d.ID, Host: "10.0.0.1", Port: 80}).(control.Granted)
		if !ok || m.Destination != "tcp://10.0.0.1:80" {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("J12 a database that does not answer", func(t *testing.T) {
		v := w.visitor()
		w.store.down.Store(true)
		defer w.store.down.Store(false)
		if m, ok := v.visit(control.Visit{Token: all, DeviceID: d.ID, Port: 22}).(control.Ended); !ok || m.Code != socketxp.CodeUnavailable {
			t.Errorf("got %+v", m)
		}
	})
	if live := true; len(must[[]socketxp.Session](t)(w.store.Sessions(t.Context(), mine.ID, socketxp.SessionQuery{Live: &live, Limit: 100}))) > 1 {
		t.Error("a refused visit left a session")
	}
}

func TestVisitLimits(t *testing.T) {
	t.Parallel()
	w := start(t, func(l *limits) { l.visits, l.links, l.linkRate, l.linkBurst, l.linkWait = 2, 3, 0.001, 6, time.Second })
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22")
	_, text := w.access()
	v := w.visitor()
	g := v.grant(text, d, 22)
	second := v.grant(text, d, 22)
	t.Run("visits of a channel", func(t *testing.T) {
		if m, ok := v.visit(control.Visit{Token: text, DeviceID: d.ID, Port: 22}).(control.Ended); !ok || m.Code != socketxp.CodeTooManyLinks {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("a number in use", func(t *testing.T) {
		v.send(control.Visit{Visit: g.Visit, Token: text, DeviceID: d.ID, Port: 22})
		if m := expect[control.Ended](v.agent); m.Code != socketxp.CodeInvalid {
			t.Errorf("got %+v", m)
		}
	})
	request := func(visit uint32) control.Message {
		v.next++
		v.send(control.LinkRequest{Visit: visit, Link: v.next})
		m, err := v.receive()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Run("a visit that there isn't", func(t *testing.T) {
		if m, ok := request(99).(control.LinkRefused); !ok || m.Code != socketxp.CodeSessionEnded || m.Visit != 99 {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("links of a visit", func(t *testing.T) {
		for range 3 {
			v.open(g)
			<-td.offers
		}
		if m, ok := request(g.Visit).(control.LinkRefused); !ok || m.Code != socketxp.CodeTooManyLinks {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("links by time", func(t *testing.T) {
		if _, ok := request(second.Visit).(control.LinkTicket); !ok {
			t.Error("the fifth request was refused")
		}
		_ = request(second.Visit)
		if m, ok := request(second.Visit).(control.LinkRefused); !ok || m.Code != socketxp.CodeRateLimited {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("a visit that was left makes room", func(t *testing.T) {
		v.send(control.Leave{Visit: g.Visit})
		v.grant(text, d, 22)
	})
}

func TestTokensCantBeTriedWithoutEnd(t *testing.T) {
	w := start(t, func(l *limits) { l.visits = 3 })
	d, _ := w.register("cam", "default")
	v := w.visitor()
	for range 3 {
		if m, ok := v.visit(control.Visit{Token: "x.y.z", DeviceID: d.ID, Port: 22}).(control.Ended); !ok || m.Code != socketxp.CodeUnauthenticated {
			t.Errorf("got %+v", m)
		}
	}
	if m := expect[control.Refused](v.agent); m.Code != socketxp.CodeRateLimited {
		t.Errorf("refused with %+v", m)
	}
}

func TestLinkRefused(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22")
	_, text := w.access()
	v := w.visitor()
	g := v.grant(text, d, 22)

	t.Run("by the device", func(t *testing.T) {
		td.refuse.Store(&control.OfferRefused{Code: socketxp.CodeTooManyLinks, Message: "it is busy"})
		defer td.refuse.Store(nil)
		v.next++
		v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
		ticket := expect[control.LinkTicket](v.agent)
		m := expect[control.LinkRefused](v.agent)
		if m.Visit != g.Visit || m.Link != ticket.Link || m.Code != socketxp.CodeTooManyLinks || !strings.Contains(m.Message, "it is busy") {
			t.Errorf("got %+v", m)
		}
		if joins(t, w, ticket.Ticket) {
			t.Error("the ticket still joins")
		}
	})
	t.Run("by a device that claims what only the gateway knows", func(t *testing.T) {
		td.refuse.Store(&control.OfferRefused{Code: socketxp.CodeTokenRevoked, Message: "go away"})
		defer td.refuse.Store(nil)
		v.next++
		v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
		expect[control.LinkTicket](v.agent)
		if m := expect[control.LinkRefused](v.agent); m.Code != socketxp.CodeUnavailable {
			t.Errorf("got %+v", m)
		}
	})
	refusedWith := func(t *testing.T, want socketxp.Code) {
		t.Helper()
		v.next++
		v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
		if m := expect[control.LinkRefused](v.agent); m.Code != want {
			t.Errorf("got %+v, want %q", m, want)
		}
	}
	t.Run("J12 by a database that does not answer", func(t *testing.T) {
		w.store.down.Store(true)
		defer w.store.down.Store(false)
		refusedWith(t, socketxp.CodeUnavailable)
	})
	t.Run("N-11 because the tunnel is not published any more", func(t *testing.T) {
		td.send(report("tcp://127.0.0.1:80"))
		eventually(t, patience, "the report is stored", func() bool {
			d := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
			return d.Tunnels[0].Destination.Port == 80
		})
		refusedWith(t, socketxp.CodeNotPublished)
		td.send(report("tcp://127.0.0.1:22"))
		eventually(t, patience, "the report is stored", func() bool {
			d := must[socketxp.Device](t)(w.store.Device(t.Context(), w.account.ID, d.ID))
			return d.Tunnels[0].Destination.Port == 22
		})
		_ = v.open(g).Close()
	})
	t.Run("because the device is offline, and the visit goes on when it is back", func(t *testing.T) {
		_ = td.conn.Close()
		eventually(t, patience, "the device is offline", func() bool { return !must[bool](t)(w.cluster.Online(t.Context(), d.ID)) })
		refusedWith(t, socketxp.CodeDeviceOffline)
		w.connect(d, key, echo, "tcp://127.0.0.1:22")
		_ = v.open(g).Close()
	})
	t.Run("because the token was revoked, without any hint", func(t *testing.T) {
		s := must[socketxp.Session](t)(w.store.Session(t.Context(), w.account.ID, g.SessionID))
		if _, err := w.store.RevokeToken(t.Context(), w.account.ID, s.TokenID, w.g.now(), w.entry("token.revoke")); err != nil {
			t.Fatal(err)
		}
		v.next++
		v.send(control.LinkRequest{Visit: g.Visit, Link: v.next})
		var ended, refused bool
		for !ended || !refused {
			m, err := v.receive()
			if err != nil {
				t.Fatal(err)
			}
			switch m := m.(type) {
			case control.Ended:
				ended = m.Code == socketxp.CodeTokenRevoked
			case control.LinkRefused:
				refused = m.Code == socketxp.CodeTokenRevoked
			default:
				t.Fatalf("got %+v", m)
			}
		}
	})
}

func TestManyLinksAtOnce(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	w.connect(d, key, echo, "tcp://127.0.0.1:22")
	_, text := w.access()
	v := w.visitor()
	g := v.grant(text, d, 22)
	const n = 50
	for i := range n {
		v.send(control.LinkRequest{Visit: g.Visit, Link: uint32(i)})
	}
	done := make(chan error, n)
	for range n {
		ticket := expect[control.LinkTicket](v.agent).Ticket
		l := v.join(g, ticket)
		go func() {
			c, err := l.Open()
			if err == nil {
				_, err = io.WriteString(c, "hello")
			}
			if err == nil {
				b := make([]byte, 5)
				if _, err = io.ReadFull(c, b); err == nil && string(b) != "hello" {
					err = fmt.Errorf("echo %q", b)
				}
			}
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, patience, "50 links are open", func() bool {
		_, joined := w.g.relay.Counts()
		return joined == n
	})
	_ = v.conn.Close()
}
