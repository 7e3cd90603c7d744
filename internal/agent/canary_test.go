//go:build unix

package agent

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"socketxp"
)

// what an agent logs at its most talkative, what it tells of itself, and what it
// keeps besides its key have no secret in them.
func TestX17Canaries(t *testing.T) {
	b := newBed(t)
	var log lockedBuffer
	talkative := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	secrets := make(map[string][]string)
	token := func(what string) string {
		text := b.token()
		secrets[what] = append(secrets[what], text[strings.LastIndex(text, ".")+1:])
		return text
	}
	seed := func(what string, k DeviceKey) {
		s := k.Key.Seed()
		secrets[what] = append(secrets[what], string(s), hex.EncodeToString(s), base64.RawStdEncoding.EncodeToString(s), base64.RawURLEncoding.EncodeToString(s))
	}
	findIn := func(text string) (found []string) {
		for what, forms := range secrets {
			for _, form := range forms {
				if strings.Contains(text, form) {
					found = append(found, what)
				}
			}
		}
		return found
	}

	dir, said := newDir(t), map[string]string{}
	for _, code := range []socketxp.Code{socketxp.CodeTokenRevoked, socketxp.CodeTokenExpired, socketxp.CodeUnavailable} {
		b.with(func() { b.registerProblem = problem(401, code) })
		_, err := Login(t.Context(), LoginOptions{Target: Target{Token: token("refused token")}, Dir: dir, Log: talkative})
		if err == nil {
			t.Fatal("it was not refused")
		}
		said["errors"] += err.Error() + "\n"
	}
	b.with(func() { b.registerProblem = nil })
	k, err := Login(t.Context(), LoginOptions{Target: Target{Token: token("registration token")}, Dir: dir, Log: talkative, Name: "sensor"})
	if err != nil {
		t.Fatal(err)
	}
	seed("device's key", k)
	echoes := service(t, echo)
	device := connectWith(t, ConnectOptions{Dir: dir, Tunnels: []Tunnel{echoes}, Log: talkative})
	await(t, device.connected)
	laptopDir := newDir(t)
	laptop := b.visit(laptopDir, "sensor", echoes.Destination.Port, func(o *VisitOptions) {
		o.Token, o.Log = token("access token"), talkative
	})
	url := await(t, laptop.listening)
	if back, err := say(url, "hello"); err != nil || back != "hello" {
		t.Fatal(back, err)
	}
	status, err := GetStatus(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(status)
	said["status"] = string(text)
	findings := Diagnose(t.Context(), DoctorOptions{WorkDir: dir.Path(), Version: "test"})
	text, _ = json.Marshal(findings)
	said["doctor"] = string(text)
	laptop.stop()
	device.stop()
	if now, err := dir.Key(); err == nil {
		seed("device's key", now)
	}
	said["log"] = log.String()
	for where, text := range said {
		if len(text) < 50 {
			t.Errorf("the %s is %q: this test means nothing", where, text)
		}
		if found := findIn(text); len(found) > 0 {
			t.Errorf("X-17 the %s has the %s", where, strings.Join(found, ", the "))
		}
	}
	for _, d := range []*Dir{dir, laptopDir} {
		err := filepath.WalkDir(d.Path(), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || entry.Name() == keyFile {
				return err
			}
			data, err := os.ReadFile(path)
			if found := findIn(string(data)); len(found) > 0 {
				t.Errorf("X-17 %s has the %s", path, strings.Join(found, ", the "))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if data, err := os.ReadFile(dir.file(keyFile)); err != nil || len(findIn(string(data))) == 0 {
		t.Errorf("the key is not even in its own file (%v): this test means nothing", err)
	}
}
