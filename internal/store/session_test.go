package store_test

import (
	"slices"
	"testing"
	"time"

	"socketxp"
)

func (ten *tenant) newSession(d socketxp.Device, change ...func(*socketxp.Session)) socketxp.Session {
	ten.t.Helper()
	s := socketxp.Session{
		ID: ten.ids.next(), AccountID: ten.id, DeviceID: d.ID, DeviceName: d.Name, UserID: ten.owner.ID, TokenID: "token",
		Destination: "tcp://localhost:22", RemoteAddr: "192.0.2.9", StartedAt: t0,
	}
	for _, c := range change {
		c(&s)
	}
	ten.must(ten.store.CreateSession(ten.t.Context(), s, ten.entry("session.start")))
	return s
}

func TestSession(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme := newTenant(t, s, "acme")
		want := acme.newSession(acme.newDevice("d"))
		check := func() {
			t.Helper()
			got, err := s.Session(t.Context(), acme.id, want.ID)
			acme.must(err)
			wantEqual(t, got, want)
		}
		check()
		acme.must(s.CountSession(t.Context(), acme.id, want.ID, 2, 1<<40, 3))
		want.Links, want.BytesUp, want.BytesDown = 2, 1<<40, 3
		check()
		noTime := want
		if err := s.EndSession(t.Context(), noTime, acme.entry("session.end")); err == nil {
			t.Error("ended at no time")
		}
		want.EndedAt, want.EndReason, want.Links, want.BytesUp, want.BytesDown = t0.Add(time.Minute), socketxp.CodeTokenRevoked, 3, 1<<41, 4
		acme.must(s.EndSession(t.Context(), want, acme.entry("session.end")))
		check()

		records := len(acme.chain())
		again := want
		again.EndedAt, again.EndReason = t0.Add(time.Hour), ""
		acme.must(s.EndSession(t.Context(), again, acme.entry("session.end")))
		acme.must(s.CountSession(t.Context(), acme.id, want.ID, 9, 9, 9))
		check()
		if n := len(acme.chain()); n != records {
			t.Error("ending an ended session was audited")
		}
		again.ID = acme.ids.next()
		wantCode(t, s.EndSession(t.Context(), again, acme.entry("session.end")), socketxp.CodeNotFound)
		wantCode(t, s.CountSession(t.Context(), acme.id, again.ID, 1, 1, 1), socketxp.CodeNotFound)
	})
}

func TestListSessions(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		a, b := acme.newDevice("a"), acme.newDevice("b")
		other.newSession(a)
		var all []string
		for i := range 8 {
			device := a
			if i >= 4 {
				device = b
			}
			session := acme.newSession(device, func(s *socketxp.Session) {
				s.UserID, s.TokenID = []string{"u0", "u1"}[i%2], []string{"t0", "t1"}[i/2%2]
			})
			all = append(all, session.ID)
			if i%4 == 0 {
				session.EndedAt = t0
				acme.must(s.EndSession(t.Context(), session, acme.entry("session.end")))
			}
		}
		slices.Reverse(all) // all[i] is number 7-i
		for _, c := range []struct {
			name string
			q    socketxp.SessionQuery
			want []string
		}{
			{"all", socketxp.SessionQuery{Limit: 200}, all},
			{"page", socketxp.SessionQuery{Limit: 3}, all[:3]},
			{"next page", socketxp.SessionQuery{Limit: 3, After: all[2]}, all[3:6]},
			{"device", socketxp.SessionQuery{DeviceID: a.ID, Limit: 200}, all[4:]},
			{"device, next page", socketxp.SessionQuery{DeviceID: a.ID, After: all[5], Limit: 200}, all[6:]},
			{"user", socketxp.SessionQuery{UserID: "u1", Limit: 200}, []string{all[0], all[2], all[4], all[6]}},
			{"token", socketxp.SessionQuery{TokenID: "t1", Limit: 200}, []string{all[0], all[1], all[4], all[5]}},
			{"live", socketxp.SessionQuery{Live: ptr(true), Limit: 200}, []string{all[0], all[1], all[2], all[4], all[5], all[6]}},
			{"over", socketxp.SessionQuery{Live: ptr(false), Limit: 200}, []string{all[3], all[7]}},
			{"all at once", socketxp.SessionQuery{DeviceID: b.ID, UserID: "u0", TokenID: "t0", Live: ptr(false), Limit: 200}, []string{all[3]}},
		} {
			t.Run(c.name, func(t *testing.T) {
				sessions, err := s.Sessions(t.Context(), acme.id, c.q)
				acme.must(err)
				var got []string
				for _, session := range sessions {
					got = append(got, session.ID)
				}
				wantEqual(t, got, c.want)
			})
		}
		n, err := s.EndAllSessions(t.Context(), t0.Add(time.Hour), socketxp.CodeGoingAway)
		acme.must(err)
		if n != 7 {
			t.Errorf("%d sessions were open, want 6 and 1 of the other account", n)
		}
		ended, err := s.Session(t.Context(), acme.id, all[0])
		acme.must(err)
		if !ended.EndedAt.Equal(t0.Add(time.Hour)) || ended.EndReason != socketxp.CodeGoingAway {
			t.Errorf("ended at %v, %q", ended.EndedAt, ended.EndReason)
		}
		if _, err := s.EndAllSessions(t.Context(), time.Time{}, ""); err == nil {
			t.Error("ended at no time")
		}
	})
}
