package store_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"socketxp"
)

func value(n byte) []byte { return bytes.Repeat([]byte{n}, socketxp.SequenceSize) }

func TestMoveSequences(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		a, b := acme.newDevice("a"), acme.newDevice("b")
		none := socketxp.Sequence{}
		one, two := socketxp.Sequence{Next: value(1)}, socketxp.Sequence{Current: value(1), Next: value(2)}
		move := func(ten *tenant, d socketxp.Device, from, to socketxp.Sequence) socketxp.SequenceMove {
			return socketxp.SequenceMove{AccountID: ten.id, DeviceID: d.ID, From: from, To: to}
		}
		for _, step := range []struct {
			name  string
			moves []socketxp.SequenceMove
			want  string
		}{
			{"none at all", nil, "[]"},
			{"the first values, of two devices", []socketxp.SequenceMove{move(acme, b, none, one), move(acme, a, none, one)}, "[true true]"},
			{"it has moved already", []socketxp.SequenceMove{move(acme, a, none, two), move(acme, b, one, two)}, "[false true]"},
			{"half of it is another", []socketxp.SequenceMove{
				move(acme, a, socketxp.Sequence{Current: value(1), Next: value(1)}, two), move(acme, a, socketxp.Sequence{Next: value(2)}, two),
			}, "[false false]"},
			{"another account's", []socketxp.SequenceMove{move(other, a, one, two)}, "[false]"},
			{"one device twice", []socketxp.SequenceMove{move(acme, a, one, two), move(acme, a, one, two)}, "[true false]"},
			{"a device that is not there", []socketxp.SequenceMove{{AccountID: acme.id, DeviceID: acme.ids.next(), To: one}}, "[false]"},
		} {
			moved, err := s.MoveSequences(t.Context(), step.moves)
			acme.must(err)
			if got := fmt.Sprint(moved); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
		wantEqual(t, acme.device("a").Sequence, two)
		wantEqual(t, acme.device("b").Sequence, two)

		t.Run("of many at once one moves", func(t *testing.T) {
			var all sync.WaitGroup
			results := make(chan bool, 8)
			for i := range cap(results) {
				all.Go(func() {
					moved, err := s.MoveSequences(t.Context(), []socketxp.SequenceMove{move(acme, a, two, socketxp.Sequence{Current: value(2), Next: value(byte(10 + i))})})
					if err != nil {
						t.Error(err)
					}
					results <- err == nil && moved[0]
				})
			}
			all.Wait()
			n := 0
			for range cap(results) {
				if <-results {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d moves were made from one value", n)
			}
		})
	})
}

func TestQuarantine(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		d := acme.newDevice("sensor")
		seq := socketxp.Sequence{Current: value(1), Next: value(2)}
		if moved, err := s.MoveSequences(t.Context(), []socketxp.SequenceMove{{AccountID: acme.id, DeviceID: d.ID, To: seq}}); err != nil || !moved[0] {
			t.Fatal(moved, err)
		}
		quarantine := func(ten *tenant, seen socketxp.Sequence) error {
			return s.QuarantineDevice(t.Context(), ten.id, d.ID, seen, "two of them", ten.entry("device.quarantine"))
		}
		records := len(acme.chain())
		wantCode(t, quarantine(acme, socketxp.Sequence{Current: value(1), Next: value(3)}), socketxp.CodeConflict)
		wantCode(t, quarantine(acme, socketxp.Sequence{}), socketxp.CodeConflict)
		wantCode(t, quarantine(other, seq), socketxp.CodeNotFound)
		if got := acme.device("sensor"); !got.QuarantinedAt.IsZero() || len(acme.chain()) != records {
			t.Fatalf("what was refused has left something: %+v", got)
		}
		acme.must(quarantine(acme, seq))
		got := acme.device("sensor")
		if !got.QuarantinedAt.Equal(t0) || got.QuarantineReason != "two of them" {
			t.Errorf("%+v", got)
		}
		if r := acme.lastRecord(); r.Action != "device.quarantine" {
			t.Errorf("audited as %+v", r)
		}
		wantCode(t, quarantine(acme, seq), socketxp.CodeConflict)
		if moved, err := s.MoveSequences(t.Context(), []socketxp.SequenceMove{{AccountID: acme.id, DeviceID: d.ID, From: seq, To: socketxp.Sequence{Current: value(2), Next: value(3)}}}); err != nil || moved[0] {
			t.Errorf("in quarantine its sequence moved: %v, %v", moved, err)
		}
		for _, yes := range []bool{true, false} {
			page, total, err := s.Devices(t.Context(), acme.id, socketxp.DeviceQuery{Quarantined: &yes, Limit: 10})
			acme.must(err)
			if want := map[bool]int{true: 1}[yes]; len(page) != want || total.Devices != want {
				t.Errorf("quarantined %v: %d of %d", yes, len(page), total.Devices)
			}
		}

		_, err := s.ReleaseDevice(t.Context(), other.id, d.ID, other.entry("device.release"))
		wantCode(t, err, socketxp.CodeNotFound)
		released, err := s.ReleaseDevice(t.Context(), acme.id, d.ID, acme.entry("device.release"))
		acme.must(err)
		wantEqual(t, released, d)
		wantEqual(t, acme.device("sensor"), d)
		if r := acme.lastRecord(); r.Action != "device.release" {
			t.Errorf("audited as %+v", r)
		}
	})
}
