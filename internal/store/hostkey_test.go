package store_test

import (
	"testing"
	"time"

	"socketxp"
)

func TestHostKey(t *testing.T) {
	forEachBackend(t, func(t *testing.T, s socketxp.Store) {
		acme, other := newTenant(t, s, "acme"), newTenant(t, s, "other")
		d := acme.newDevice("d")
		k := socketxp.HostKey{AccountID: acme.id, DeviceID: d.ID, Port: 22, Key: "ssh-ed25519 AAAA", TrustedAt: t0, TrustedBy: acme.owner.ID}
		trust := func(k socketxp.HostKey) {
			t.Helper()
			records := len(acme.chain())
			acme.must(s.TrustHostKey(t.Context(), k, acme.entry("device.trust-host-key")))
			if n := len(acme.chain()); n != records+1 {
				t.Errorf("%d audit records, not one", n-records)
			}
			got, err := s.HostKey(t.Context(), acme.id, k.DeviceID, k.Port)
			acme.must(err)
			wantEqual(t, got, k)
		}
		missing := func(accountID string, port int) {
			t.Helper()
			_, err := s.HostKey(t.Context(), accountID, d.ID, port)
			wantCode(t, err, socketxp.CodeNotFound)
		}
		missing(acme.id, 22)
		trust(k)
		missing(acme.id, 2222)
		missing(other.id, 22)
		k.Key, k.TrustedAt = "ssh-rsa BBBB", t0.Add(time.Hour)
		trust(k)
		at2222 := k
		at2222.Port = 2222
		trust(at2222)

		foreign := k
		foreign.AccountID, foreign.Key = other.id, "ssh-ed25519 EVIL"
		wantCode(t, s.TrustHostKey(t.Context(), foreign, other.entry("device.trust-host-key")), socketxp.CodeNotFound)
		got, err := s.HostKey(t.Context(), acme.id, d.ID, 22)
		acme.must(err)
		wantEqual(t, got, k)

		acme.must(s.DeleteDevice(t.Context(), acme.id, d.ID, acme.entry("device.delete")))
		missing(acme.id, 22)
	})
}
