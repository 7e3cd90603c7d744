package store_test

import (
	"slices"
	"testing"

	"socketxp"
)

func (ten *tenant) newEvent(kind socketxp.EventType, deviceID string) socketxp.Event {
	ten.t.Helper()
	e := socketxp.Event{ID: ten.ids.next(), AccountID: ten.id, At: t0, Type: kind, DeviceID: deviceID, DeviceName: "n", ObjectID: "o", Message: "what happened"}
	ten.must(ten.store.AddEvent(ten.t.Context(), e))
	return e
}

func TestEvents(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		other.newEvent(socketxp.EventDeviceOnline, "d0")
		var all []socketxp.Event // oldest first
		for i := range 8 {
			kind := socketxp.EventDeviceOnline
			if i >= 4 {
				kind = socketxp.EventDeviceOffline
			}
			all = append(all, acme.newEvent(kind, []string{"d0", "d1"}[i%2]))
		}
		pick := func(indices ...int) (out []socketxp.Event) {
			for _, i := range indices {
				out = append(out, all[i])
			}
			return out
		}
		for _, c := range []struct {
			name string
			q    socketxp.EventQuery
			want []socketxp.Event
		}{
			{"newest first", socketxp.EventQuery{Limit: 3}, pick(7, 6, 5)},
			{"before", socketxp.EventQuery{Before: all[5].ID, Limit: 3}, pick(4, 3, 2)},
			{"after", socketxp.EventQuery{After: all[5].ID, Limit: 3}, pick(6, 7)},
			{"device", socketxp.EventQuery{DeviceID: "d1", Limit: 2}, pick(7, 5)},
			{"device before", socketxp.EventQuery{DeviceID: "d1", Before: all[5].ID, Limit: 200}, pick(3, 1)},
			{"device after", socketxp.EventQuery{DeviceID: "d1", After: all[3].ID, Limit: 200}, pick(5, 7)},
			{"type", socketxp.EventQuery{Type: socketxp.EventDeviceOnline, Limit: 200}, pick(3, 2, 1, 0)},
			{"type after", socketxp.EventQuery{Type: socketxp.EventDeviceOnline, After: all[1].ID, Limit: 200}, pick(2, 3)},
			{"type of device", socketxp.EventQuery{Type: socketxp.EventDeviceOnline, DeviceID: "d0", Limit: 200}, pick(2, 0)},
		} {
			t.Run(c.name, func(t *testing.T) {
				got, err := s.Events(t.Context(), acme.id, c.q)
				acme.must(err)
				if !slices.Equal(got, c.want) {
					wantEqual(t, got, c.want)
				}
			})
		}
		wantCode(t, s.AddEvent(t.Context(), all[0]), socketxp.CodeConflict)
		stray := all[0]
		stray.ID, stray.AccountID = acme.ids.next(), acme.ids.next()
		wantCode(t, s.AddEvent(t.Context(), stray), socketxp.CodeNotFound)
	})
}
