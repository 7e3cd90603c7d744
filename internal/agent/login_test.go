package agent

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"socketxp"
	"socketxp/internal/api"
)

func TestLogin(t *testing.T) {
	b := newBed(t)
	dir := newDir(t)
	token := b.token()
	k, err := Login(t.Context(), LoginOptions{Target: Target{Token: token}, Dir: dir, Name: "sensor12345", Group: "temp-sensor"})
	if err != nil {
		t.Fatal(err)
	}
	if k.Name != "sensor12345" || k.Group != "temp-sensor" || !socketxp.ValidID(k.ID) || k.Gateway != b.addr {
		t.Errorf("%+v", k)
	}
	kept, err := dir.Key()
	if err != nil || !kept.Key.Equal(k.Key) || kept.ID != k.ID || kept.Name != k.Name || kept.Group != k.Group || kept.Gateway != k.Gateway {
		t.Errorf("kept %+v, %v", kept, err)
	}
	t.Run("R-04 the token is on no disk", func(t *testing.T) { nowhere(t, dir, token) })
	t.Run("modes", func(t *testing.T) {
		for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, keyFile: 0o600} {
			info, err := os.Stat(dir.file(name))
			if err != nil || info.Mode() != want {
				t.Errorf("%q: %v, %v", name, info.Mode(), err)
			}
		}
	})
	t.Run("R-09 again is the same device with the same key", func(t *testing.T) {
		again, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir})
		if err != nil || again.ID != k.ID || !again.Key.Equal(k.Key) {
			t.Errorf("%+v, %v", again, err)
		}
	})
	t.Run("R-07 another name is refused, and what is kept stays", func(t *testing.T) {
		b.with(func() { b.registerProblem = problem(409, socketxp.CodeAlreadyRegister) })
		defer b.with(func() { b.registerProblem = nil })
		_, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir, Name: "other"})
		var no *RefusedError
		var e *socketxp.Error
		if !errors.As(err, &no) || no.Passing() || !errors.As(err, &e) || !strings.Contains(e.Hint, "portal") {
			t.Errorf("%v", err)
		}
		if kept, err := dir.Key(); err != nil || kept.Name != "sensor12345" {
			t.Errorf("%+v, %v", kept, err)
		}
	})
	t.Run("another gateway is refused before it is asked", func(t *testing.T) {
		other := newBed(t)
		_, err := Login(t.Context(), LoginOptions{Target: Target{Token: other.token()}, Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "another gateway") || other.registrations != 0 {
			t.Errorf("%v, %d requests", err, other.registrations)
		}
	})
	t.Run("while an agent runs", func(t *testing.T) {
		run := connect(t, dir)
		await(t, run.connected)
		if _, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir}); err != nil {
			t.Error(err)
		}
		run.stop()
	})
}

func problem(status int, code socketxp.Code) *api.Problem {
	return &api.Problem{Status: status, Code: code, Detail: "no, says the gateway"}
}

// nowhere fails if a file of the folder holds the text.
func nowhere(t *testing.T, dir *Dir, text string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir.Path(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			t.Errorf("%s holds it", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestLoginRefused(t *testing.T) {
	b := newBed(t)
	for _, code := range []socketxp.Code{socketxp.CodeTokenRevoked, socketxp.CodeTokenExpired, socketxp.CodeUsesExhausted, socketxp.CodeWrongPurpose, socketxp.CodeConflict} {
		t.Run("R-01 "+string(code), func(t *testing.T) {
			b.with(func() { b.registerProblem = problem(401, code) })
			dir := newDir(t)
			_, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir})
			var no *RefusedError
			if !errors.As(err, &no) || no.Passing() || socketxp.CodeOf(err) != code {
				t.Fatalf("%v", err)
			}
			if _, err := os.Stat(dir.file(keyFile)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a key that nobody has registered is left: %v", err)
			}
		})
	}
	t.Run("a gateway that is busy keeps the key", func(t *testing.T) {
		b.with(func() { b.registerProblem = problem(503, socketxp.CodeUnavailable) })
		dir := newDir(t)
		_, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir})
		var no *RefusedError
		if !errors.As(err, &no) || !no.Passing() {
			t.Fatalf("%v", err)
		}
		if k, err := dir.anyKey(); err != nil || k.ID != "" {
			t.Errorf("%+v, %v", k, err)
		}
	})
}

// TestLoginLostAnswer is a crash of either side between the gateway's commit and the
// agent's knowledge of it.
func TestLoginLostAnswer(t *testing.T) {
	b := newBed(t)
	dir := newDir(t)
	b.with(func() { b.loseAnswer = true })
	_, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir, Name: "sensor"})
	if !errors.As(err, new(*UnreachableError)) {
		t.Fatalf("%v", err)
	}
	if _, err := dir.Key(); !errors.As(err, new(*NotRegisteredError)) {
		t.Errorf("%v", err)
	}
	pending, err := dir.anyKey()
	if err != nil {
		t.Fatal(err)
	}
	b.with(func() { b.loseAnswer = false })
	// Whatever is refused now, the key may be registered: it is not wiped.
	b.with(func() { b.registerProblem = problem(401, socketxp.CodeTokenExpired) })
	if _, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir}); err == nil {
		t.Fatal("it was not refused")
	}
	b.with(func() { b.registerProblem = nil })
	k, err := Login(t.Context(), LoginOptions{Target: Target{Token: b.token()}, Dir: dir})
	if err != nil || !k.Key.Equal(pending.Key) {
		t.Fatalf("%+v, %v", k, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.devices[string(k.Key.Public().(ed25519.PublicKey))]; len(b.devices) != 1 || d.name != "sensor" { //nolint:forcetypeassert // it is what crypto/ed25519 says
		t.Errorf("R-09 there are %d devices", len(b.devices))
	}
}

// TestGatewayIsVerified: no token goes to a gateway that can't be verified.
func TestGatewayIsVerified(t *testing.T) {
	b := newBed(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, b.caFile, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(other, newBed(t).caFile, 0o600); err != nil {
		t.Fatal(err)
	}
	unpinned := socketxp.GatewayAddress{URL: b.addr.URL}
	wrongPin := socketxp.GatewayAddress{URL: b.addr.URL, Pin: newBed(t).addr.Pin}
	wrongName := socketxp.GatewayAddress{URL: strings.Replace(b.addr.URL, "localhost", "127.0.0.1", 1)}
	for _, c := range []struct {
		name   string
		target Target
		ok     bool
	}{
		{"R-15 self-signed without a pin", Target{Token: tokenFor(unpinned)}, false},
		{"R-15 another key than the pinned one", Target{Token: tokenFor(wrongPin)}, false},
		{"R-15 wrong name", Target{Token: tokenFor(wrongName), CAFile: file}, false},
		{"R-15 another authority", Target{Token: tokenFor(unpinned), CAFile: other}, false},
		{"R-15 another authority beside the right pin", Target{Token: b.token(), CAFile: other}, false},
		{"its authority", Target{Token: tokenFor(unpinned), CAFile: file}, true},
		{"its authority in place of a pin", Target{Token: tokenFor(wrongPin), CAFile: file}, true},
		{"a gateway by hand", Target{Token: tokenFor(socketxp.GatewayAddress{}), Gateway: b.addr.URL, CAFile: file}, true},
		{"its pin", Target{Token: b.token()}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.with(func() { b.registrations = 0 })
			dir := newDir(t)
			_, err := Login(t.Context(), LoginOptions{Target: c.target, Dir: dir})
			if !c.ok {
				if !errors.As(err, new(*UnreachableError)) || b.registrations != 0 {
					t.Fatalf("%v, %d requests", err, b.registrations)
				}
				if v := visitOnce(t, c.target); !errors.As(v, new(*UnreachableError)) {
					t.Errorf("slave mode: %v", v)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// What verified the gateway at login does so ever after.
			run := connect(t, dir)
			await(t, run.connected)
			run.stop()
		})
	}
}

// TestFailedLoginBreaksNothing: what a registered device verifies its gateway by is
// replaced only by what has worked.
func TestFailedLoginBreaksNothing(t *testing.T) {
	b := newBed(t)
	folder := t.TempDir()
	good, bad := filepath.Join(folder, "good.pem"), filepath.Join(folder, "bad.pem")
	if err := errors.Join(os.WriteFile(good, b.caFile, 0o600), os.WriteFile(bad, newBed(t).caFile, 0o600)); err != nil {
		t.Fatal(err)
	}
	dir := newDir(t)
	login := func(target Target) error {
		_, err := Login(t.Context(), LoginOptions{Target: target, Dir: dir})
		return err
	}
	token := tokenFor(socketxp.GatewayAddress{URL: b.addr.URL})
	if err := login(Target{Token: token, CAFile: good}); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []Target{{Token: token, CAFile: bad}, {Token: token}} {
		if err := login(wrong); !errors.As(err, new(*UnreachableError)) {
			t.Errorf("%v", err)
		}
	}
	run := connect(t, dir)
	await(t, run.connected)
	run.stop()
	if err := login(Target{Token: b.token()}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir.file(authoritiesFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("authorities that count no more are left: %v", err)
	}
}

// visitOnce tries slave mode.
func visitOnce(t *testing.T, target Target) error {
	local, err := ParseLocalPort("tcp://localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	return Visit(t.Context(), VisitOptions{Peer: Peer{Target: target, Dir: newDir(t), DeviceName: "d", DevicePort: 22, Version: "test"}, Local: local})
}
