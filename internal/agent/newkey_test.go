package agent

import (
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"testing"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
)

// keyOf returns the key of the bed's one device.
func (b *bed) keyOf() ed25519.PublicKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.only().key
}

// wants returns the keys that devices have asked for.
func (b *bed) wants() []ed25519.PublicKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// isKey fails unless the folder and the gateway have the same key for the device, and
// no other waits.
func (b *bed) isKey(dir *Dir) DeviceKey {
	b.t.Helper()
	k, err := dir.Key()
	if err != nil {
		b.t.Fatal(err)
	}
	if !k.public().Equal(b.keyOf()) {
		b.t.Error("the gateway has another key than the device")
	}
	if _, err := os.Stat(dir.file(nextKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		b.t.Errorf("%s: %v", nextKeyFile, err)
	}
	return k
}

func rotate(t *testing.T, dir *Dir) (string, error) {
	return RotateKey(t.Context(), dir, "test", slog.New(slog.DiscardHandler))
}

func TestRotateKey(t *testing.T) {
	b := newBed(t)
	dir, first := b.login("sensor")
	fingerprint, err := rotate(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	alone := b.isKey(dir)
	if alone.Fingerprint() != fingerprint || alone.public().Equal(first.public()) || alone.ID != first.ID || alone.Name != first.Name || alone.Gateway != first.Gateway {
		t.Errorf("%+v, %s", alone, fingerprint)
	}
	device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
	await(t, device.connected)
	t.Run("by the agent that runs", func(t *testing.T) {
		fingerprint, err := rotate(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		if k := b.isKey(dir); k.Fingerprint() != fingerprint || k.public().Equal(alone.public()) {
			t.Errorf("%s", fingerprint)
		}
		await(t, device.connected)
		if len(device.problems) != 0 {
			t.Errorf("it was told of %v", <-device.problems)
		}
	})
	t.Run("K-06 two at once are two, one after the other", func(t *testing.T) {
		results := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := rotate(t, dir)
				results <- err
			}()
		}
		for range 2 {
			if err := await(t, results); err != nil {
				t.Error(err)
			}
		}
		b.isKey(dir)
	})
	t.Run("because the gateway asks, and not again and again", func(t *testing.T) {
		before := b.keyOf()
		asked := len(b.wants())
		if err := b.online().Send(t.Context(), control.KeyDue{}); err != nil {
			t.Fatal(err)
		}
		until(t, func() error { return yes(!b.keyOf().Equal(before)) })
		until(t, func() error {
			k, err := dir.Key()
			return errors.Join(err, yes(k.public().Equal(b.keyOf())))
		})
		if err := b.online().Send(t.Context(), control.KeyDue{}); err != nil {
			t.Fatal(err)
		}
		if _, err := rotate(t, dir); err != nil { // comes after what the second word would have done
			t.Fatal(err)
		}
		if n := len(b.wants()) - asked; n != 2 {
			t.Errorf("%d keys were asked for, want one for the gateway and one for the command", n)
		}
	})
	device.stop()
}

func TestRotateKeyIsRefused(t *testing.T) {
	b := newBed(t)
	dir, first := b.login("sensor")
	b.with(func() { b.refuseKey = control.KeyRefused{Code: socketxp.CodeConflict, Message: "another key waits"} })
	_, err := rotate(t, dir)
	if !errors.As(err, new(*RefusedError)) {
		t.Errorf("%v", err)
	}
	if k, err := dir.Key(); err != nil || !k.public().Equal(first.public()) {
		t.Errorf("it has another key: %v", err)
	}
	device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
	await(t, device.connected)
	_, err = rotate(t, dir)
	if !errors.As(err, new(*RefusedError)) {
		t.Errorf("by the agent that runs: %v", err)
	}
	b.with(func() { b.refuseKey = control.KeyRefused{} })
	if _, err := rotate(t, dir); err != nil {
		t.Error(err)
	}
	b.isKey(dir)
	asked := b.wants()
	if len(asked) != 3 || !asked[0].Equal(asked[1]) || !asked[1].Equal(asked[2]) {
		t.Errorf("it made more than one key: %x", asked)
	}
	device.stop()
	t.Run("of no device", func(t *testing.T) {
		if _, err := rotate(t, newDir(t)); !errors.As(err, new(*NotRegisteredError)) {
			t.Errorf("%v", err)
		}
	})
}

// A machine that stops anywhere in a change of its key has one that the gateway knows.
func TestRotateKeyInPieces(t *testing.T) {
	t.Run("K-06 the key is on disk, and nobody was told", func(t *testing.T) {
		b := newBed(t)
		dir, first := b.login("sensor")
		next, err := dir.makeNextKey(first, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rotate(t, dir); err != nil {
			t.Fatal(err)
		}
		if k := b.isKey(dir); !k.Key.Equal(next) {
			t.Error("it made another one")
		}
	})
	t.Run("K-06 the gateway has taken it, and the answer is lost", func(t *testing.T) {
		b := newBed(t)
		dir, first := b.login("sensor")
		b.with(func() { b.loseAnswer = true })
		if _, err := rotate(t, dir); !errors.As(err, new(*UnreachableError)) {
			t.Errorf("%v", err)
		}
		b.with(func() { b.loseAnswer = false })
		device := connect(t, dir, tunnel(t, "tcp://localhost:22")) // with the old key, which is good
		await(t, device.connected)
		if k, err := dir.Key(); err != nil || !k.public().Equal(first.public()) {
			t.Errorf("it has another key: %v", err)
		}
		if _, err := rotate(t, dir); err != nil {
			t.Fatal(err)
		}
		b.isKey(dir)
		if asked := b.wants(); len(asked) != 2 || !asked[0].Equal(asked[1]) {
			t.Errorf("it asked for %x", asked)
		}
		device.stop()
	})
	t.Run("K-06 the key is in its place, and the gateway has not seen it", func(t *testing.T) {
		b := newBed(t)
		dir, first := b.login("sensor")
		next, err := dir.makeNextKey(first, false)
		if err != nil {
			t.Fatal(err)
		}
		b.with(func() { b.only().next = next.Public().(ed25519.PublicKey) }) //nolint:forcetypeassert // it is Ed25519
		k := first
		k.Key = next
		if err := dir.writeKey(k); err != nil { // and device.key.next is still there
			t.Fatal(err)
		}
		device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
		await(t, device.connected)
		if !b.keyOf().Equal(k.public()) {
			t.Error("the gateway has the old key")
		}
		if _, err := rotate(t, dir); err != nil {
			t.Fatal(err)
		}
		if again := b.isKey(dir); again.Key.Equal(next) {
			t.Error("it has not changed its key")
		}
		device.stop()
	})
}

func relog(t *testing.T, b *bed, dir *Dir, name string) (DeviceKey, error) {
	return Relogin(t.Context(), ReloginOptions{Dir: dir, Token: b.token(), Name: name})
}

func TestReloginAgent(t *testing.T) {
	b := newBed(t)
	dir, first := b.login("sensor")
	k, err := relog(t, b, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if now := b.isKey(dir); k.ID != first.ID || k.Name != "sensor" || now.public().Equal(first.public()) || !now.Key.Equal(k.Key) {
		t.Errorf("%+v", k)
	}
	t.Run("an agent that waits goes on at once", func(t *testing.T) {
		b.with(func() {
			b.refuseDevice = control.Refused{Code: socketxp.CodeQuarantined, Message: "quarantine", RetryAfter: 300}
		})
		device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
		if err := await(t, device.problems); socketxp.CodeOf(err) != socketxp.CodeQuarantined {
			t.Errorf("%v", err)
		}
		b.with(func() { b.refuseDevice = control.Refused{} })
		if k, err := relog(t, b, dir, ""); err != nil || k.ID != first.ID {
			t.Fatal(k, err)
		}
		await(t, device.connected)
		b.isKey(dir)
		device.stop()
	})
	t.Run("K-05 with a name it is a device of its own", func(t *testing.T) {
		device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
		await(t, device.connected)
		old := b.keyOf()
		k, err := relog(t, b, dir, "clone-2")
		if err != nil || k.ID == first.ID || k.Name != "clone-2" {
			t.Fatal(k, err)
		}
		await(t, device.connected)
		b.mu.Lock()
		if d := b.devices[string(old)]; d == nil || d.id != first.ID {
			t.Error("the other device has lost its key")
		}
		b.mu.Unlock()
		if now, err := dir.Key(); err != nil || now.ID != k.ID || now.Name != "clone-2" {
			t.Errorf("%+v, %v", now, err)
		}
		device.stop()
	})
	t.Run("of no device", func(t *testing.T) {
		if _, err := relog(t, b, newDir(t), ""); !errors.As(err, new(*NotRegisteredError)) {
			t.Errorf("%v", err)
		}
	})
	t.Run("at another gateway", func(t *testing.T) {
		_, err := Relogin(t.Context(), ReloginOptions{Dir: dir, Token: tokenFor(socketxp.GatewayAddress{URL: "https://other.example.com"})})
		if socketxp.CodeOf(err) != socketxp.CodeInvalid {
			t.Errorf("%v", err)
		}
	})
}

func TestReloginInPieces(t *testing.T) {
	b := newBed(t)
	dir, first := b.login("sensor")
	b.with(func() { b.loseAnswer = true })
	if _, err := relog(t, b, dir, ""); !errors.As(err, new(*UnreachableError)) {
		t.Errorf("%v", err)
	}
	b.with(func() { b.loseAnswer = false })
	if k, err := dir.Key(); err != nil || !k.public().Equal(first.public()) {
		t.Fatalf("it has another key: %v", err)
	}
	t.Run("the agent finds the key that the gateway knows", func(t *testing.T) {
		copied := newDir(t)
		if err := os.CopyFS(copied.path, os.DirFS(dir.path)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{keyFile, nextKeyFile, lockFile} {
			_ = os.Chmod(copied.file(name), 0o600)
		}
		if err := os.Chmod(copied.path, 0o700); err != nil {
			t.Fatal(err)
		}
		device := connect(t, copied, tunnel(t, "tcp://localhost:22"))
		await(t, device.connected)
		device.stop()
		b.isKey(copied)
	})
	t.Run("and so does the command that is given again", func(t *testing.T) {
		k, err := relog(t, b, dir, "")
		if err != nil || k.ID != first.ID {
			t.Fatal(k, err)
		}
		b.isKey(dir)
		if asked := b.wants(); len(asked) != 2 || !asked[0].Equal(asked[1]) {
			t.Errorf("it asked for %x", asked)
		}
	})
	t.Run("a key that has become another's is left", func(t *testing.T) {
		b.with(func() { b.problemOnce = &api.Problem{Status: 409, Code: socketxp.CodeConflict, Detail: "in use"} })
		before := len(b.wants())
		if _, err := relog(t, b, dir, ""); err != nil {
			t.Fatal(err)
		}
		if asked := b.wants()[before:]; len(asked) != 2 || asked[0].Equal(asked[1]) {
			t.Errorf("it asked for %x", asked)
		}
		b.isKey(dir)
	})
	t.Run("refused, it is what it was", func(t *testing.T) {
		now := b.isKey(dir)
		b.with(func() {
			b.registerProblem = &api.Problem{Status: 401, Code: socketxp.CodeTokenExpired, Detail: "expired"}
		})
		if _, err := relog(t, b, dir, ""); !errors.As(err, new(*RefusedError)) {
			t.Errorf("%v", err)
		}
		if k, err := dir.Key(); err != nil || !k.Key.Equal(now.Key) {
			t.Errorf("it has another key: %v", err)
		}
	})
}
