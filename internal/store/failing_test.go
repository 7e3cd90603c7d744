package store_test

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"testing"

	"socketxp"
	"socketxp/internal/store"
)

// Each act is done wholly or not at all, whichever of its steps fails; and when it
// is asked for again after that, it is as if it had been asked for once.
func TestFailingSteps(t *testing.T) {
	dir := t.TempDir()
	base := "sqlite:" + filepath.Join(dir, "base.db")
	acme := newTenant(t, open(t, base), "acme")
	registration := acme.newToken(socketxp.TokenRegistration, func(tok *socketxp.Token) { tok.MaxUses = 2 })
	parent := acme.newToken(socketxp.TokenAPI)
	acme.newToken(socketxp.TokenAccess, func(tok *socketxp.Token) { tok.ParentID = parent.ID })
	device := acme.newDevice("there")
	reg := acme.registration("sensor", registration.ID)
	issued := socketxp.Token{
		ID: acme.ids.next(), AccountID: acme.id, Kind: socketxp.TokenAccess, Name: "new", CreatedBy: acme.owner.ID, KeyID: "k1", ParentID: parent.ID,
		CreatedAt: parent.CreatedAt, ExpiresAt: parent.ExpiresAt,
	}
	rotation := socketxp.KeyRotation{
		At: t0, Add: &socketxp.SigningKey{ID: "k2", PublicKey: make(ed25519.PublicKey, ed25519.PublicKeySize)}, Retire: []string{"k1"}, Until: t0.Add(socketxp.DefaultKeyOverlap),
	}
	for name, c := range map[string]struct {
		act func(ctx context.Context, s socketxp.Store) error
		// again is what the second time says when the first was done and its answer lost;
		// "differs" for an act that leaves a record each time it is asked for.
		again socketxp.Code
	}{
		"registration": {act: func(ctx context.Context, s socketxp.Store) error {
			_, _, err := s.RegisterDevice(ctx, reg, t0, acme.entry("device.register"))
			return err
		}},
		"revocation": {act: func(ctx context.Context, s socketxp.Store) error {
			_, err := s.RevokeToken(ctx, acme.id, parent.ID, t0, acme.entry("token.revoke"))
			return err
		}},
		"token issue": {again: socketxp.CodeConflict, act: func(ctx context.Context, s socketxp.Store) error {
			return s.CreateToken(ctx, issued, acme.entry("token.create"))
		}},
		"rotation": {again: socketxp.CodeConflict, act: func(ctx context.Context, s socketxp.Store) error {
			return s.RotateSigningKey(ctx, rotation, socketxp.AuditEntry{At: t0, Action: "signing-key.rotate"})
		}},
		"emergency rotation": {again: socketxp.CodeConflict, act: func(ctx context.Context, s socketxp.Store) error {
			r := rotation
			r.Retire, r.Compromise = nil, "k1"
			return s.RotateSigningKey(ctx, r, socketxp.AuditEntry{At: t0, Action: "signing-key.compromised"})
		}},
		"disabling a device": {again: "differs", act: func(ctx context.Context, s socketxp.Store) error {
			at := t0
			_, err := s.UpdateDevice(ctx, acme.id, device.ID, socketxp.DeviceUpdate{DisabledAt: &at}, acme.entry("device.disable"))
			return err
		}},
		"a new epoch": {again: "differs", act: func(ctx context.Context, s socketxp.Store) error {
			_, err := s.BeginEpoch(ctx, t0, socketxp.AuditEntry{At: t0, Action: "gateway.restore"})
			return err
		}},
	} {
		t.Run("P-05 "+name, func(t *testing.T) {
			n := 0
			fresh := func(t *testing.T) (*store.DB, func() string) {
				t.Helper()
				n++
				path := filepath.Join(t.TempDir(), "copy.db")
				if err := store.Snapshot(t.Context(), base, path); err != nil {
					t.Fatal(err)
				}
				s := open(t, "sqlite:"+path)
				db := raw(t, "sqlite:"+path)
				return s, func() string { return dump(t, db, "") }
			}
			clean, look := fresh(t)
			before := look()
			steps := clean.FailAt(0, false)
			if err := c.act(t.Context(), clean); err != nil {
				t.Fatal(err)
			}
			whole, count := look(), *steps
			if whole == before || count < 3 {
				t.Fatalf("it has %d steps, and changes nothing: %v", count, whole == before)
			}
			for step := 1; step <= count; step++ {
				for _, after := range []bool{false, true} {
					s, look := fresh(t)
					s.FailAt(step, after)
					err := c.act(t.Context(), s)
					if err == nil {
						t.Fatalf("step %d of %d failed, and it was acknowledged", step, count)
					}
					lost := after && step == count // it was done, and the answer to the commit lost
					want := before
					if lost {
						want = whole
					}
					if got := look(); got != want {
						t.Fatalf("step %d of %d, after: %v: it was done by half:\n%s", step, count, after, got)
					}
					s.Heal()
					err = c.act(t.Context(), s)
					switch code := socketxp.CodeOf(err); {
					case lost && c.again == "differs":
						continue
					case lost && code != c.again, !lost && code != "":
						t.Fatalf("step %d of %d, after: %v: again it says %v", step, count, after, err)
					}
					if got := look(); got != whole {
						t.Fatalf("step %d of %d, after: %v: done again it is not as if done once:\n%s\nwant\n%s", step, count, after, got, whole)
					}
				}
			}
			t.Logf("%d steps, %d databases", count, n)
		})
	}
}
