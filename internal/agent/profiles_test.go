package agent

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"
)

const (
	somePin   = "JPnVJKr0bXbsvK5Ou8Qz8K2xV1yQ0pWdZ1uV7n5m3Zg"
	someToken = "e30.e30.AAAA"
)

func configHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	return filepath.Join(home, "socketxp")
}

func someProfile(name string) Profile {
	return Profile{
		Name: name, Gateway: socketxp.GatewayAddress{URL: "https://" + name + ".example.com", Pin: somePin},
		Token: someToken, TokenID: "019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11", ExpiresAt: time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC),
		Email: "owner@example.com", Account: "acme", Known: somePin,
	}
}

func put(t *testing.T, p Profile, authorities []byte) {
	t.Helper()
	if err := ChangeProfiles(t.Context(), func(all *Profiles) error { return all.Put(p, authorities) }); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T) *Profiles {
	t.Helper()
	all, err := ReadProfiles()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestProfiles(t *testing.T) {
	dir := configHome(t)
	if all := read(t); len(all.List) != 0 || all.Current != "" {
		t.Fatalf("%+v", all)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("reading made the folder")
	}
	one, two := someProfile("one"), someProfile("two")
	two.Gateway.Pin, two.OwnCA = "", true
	one.Gateway.NextPin = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	put(t, one, nil)
	put(t, two, []byte("certificates"))
	all := read(t)
	if all.Current != "one" || !reflect.DeepEqual(all.List, []Profile{one, two}) {
		t.Fatalf("%+v", all)
	}
	t.Run("for its user alone", func(t *testing.T) {
		for name, mode := range map[string]os.FileMode{"": 0o700, profilesFile: 0o600, "ca-two.pem": 0o600} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%q: %v, %v", name, info, err)
			}
		}
		if err := os.Chmod(filepath.Join(dir, profilesFile), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadProfiles(); err == nil || !strings.Contains(err.Error(), "open to other users") {
			t.Fatalf("K: a file that others can read: %v", err)
		}
		_ = os.Chmod(filepath.Join(dir, profilesFile), 0o600)
	})
	t.Run("found by gateway, the current one first", func(t *testing.T) {
		twin := someProfile("twin")
		twin.Gateway = one.Gateway
		put(t, twin, nil)
		if p, ok := read(t).At(one.Gateway.URL); !ok || p.Name != "one" {
			t.Fatalf("%+v", p)
		}
		if err := ChangeProfiles(t.Context(), func(all *Profiles) error { all.Current = "twin"; return nil }); err != nil {
			t.Fatal(err)
		}
		if p, ok := read(t).At(one.Gateway.URL); !ok || p.Name != "twin" {
			t.Fatalf("%+v", p)
		}
		if _, ok := read(t).At("https://elsewhere.example.com"); ok {
			t.Fatal("found a gateway that nobody knows")
		}
	})
	t.Run("a name that is not there hints at the nearest", func(t *testing.T) {
		_, err := read(t).Find("onee")
		var e *socketxp.Error
		if !asError(err, &e) || e.Hint != "did you mean one?" {
			t.Fatalf("%v", err)
		}
	})
	t.Run("a change that fails changes nothing", func(t *testing.T) {
		before, _ := os.ReadFile(filepath.Join(dir, profilesFile))
		err := ChangeProfiles(t.Context(), func(all *Profiles) error {
			all.List = nil
			return context.DeadlineExceeded
		})
		if err == nil {
			t.Fatal("no error")
		}
		bad := someProfile("UPPER")
		if err := ChangeProfiles(t.Context(), func(all *Profiles) error { return all.Put(bad, nil) }); err == nil {
			t.Fatal("a bad profile was kept")
		}
		if after, _ := os.ReadFile(filepath.Join(dir, profilesFile)); string(after) != string(before) {
			t.Fatal("the file changed")
		}
	})
	t.Run("removed with its certificates", func(t *testing.T) {
		if err := ChangeProfiles(t.Context(), func(all *Profiles) error { all.Current = "two"; return all.Remove("two") }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "ca-two.pem")); err == nil {
			t.Error("its certificates are still there")
		}
		if all := read(t); all.Current != "" || len(all.List) != 2 {
			t.Fatalf("%+v", all)
		}
	})
	t.Run("written by many at once, none is lost", func(t *testing.T) {
		var writers sync.WaitGroup
		for i := range 8 {
			writers.Go(func() {
				p := someProfile("p" + string(rune('a'+i)))
				if err := ChangeProfiles(context.Background(), func(all *Profiles) error { return all.Put(p, nil) }); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		if n := len(read(t).List); n != 10 {
			t.Fatalf("%d profiles", n)
		}
	})
}

func asError(err error, target **socketxp.Error) bool {
	e, ok := err.(*socketxp.Error) //nolint:errorlint // as hinted returns it
	*target = e
	return ok
}

func TestParseProfilesRefuses(t *testing.T) {
	good := `{"name":"a","gateway":"https://a.example.com"}`
	for name, text := range map[string]string{
		"not JSON":             `x`,
		"an unknown key":       `{"profiles":[],"currant":""}`,
		"a key twice":          `{"profiles":[],"profiles":[]}`,
		"a name twice":         `{"profiles":[` + good + `,` + good + `]}`,
		"a name that is none":  `{"profiles":[{"name":"../a","gateway":"https://a.example.com"}]}`,
		"no gateway":           `{"profiles":[{"name":"a","gateway":""}]}`,
		"not https":            `{"profiles":[{"name":"a","gateway":"http://a.example.com"}]}`,
		"a bad known":          `{"profiles":[{"name":"a","gateway":"https://a.example.com","known":"a b"}]}`,
		"a long known":         `{"profiles":[{"name":"a","gateway":"https://a.example.com","known":"` + strings.Repeat("A", 88) + `"}]}`,
		"a bad pin":            `{"profiles":[{"name":"a","gateway":"https://a.example.com","pin":"x"}]}`,
		"a pin and a CA":       `{"profiles":[{"name":"a","gateway":"https://a.example.com","pin":"` + somePin + `","own_ca":true}]}`,
		"a token that is none": `{"profiles":[{"name":"a","gateway":"https://a.example.com","token":"secret"}]}`,
		"terminal codes":       `{"profiles":[{"name":"a","gateway":"https://a.example.com","email":"\u001b[2J"}]}`,
		"current is not there": `{"current":"b","profiles":[` + good + `]}`,
	} {
		if _, err := parseProfiles([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the token: %v", name, err)
		}
	}
	if _, err := parseProfiles([]byte(`{"current":"a","profiles":[` + good + `]}`)); err != nil {
		t.Error(err)
	}
}

func TestProfileNames(t *testing.T) {
	for url, want := range map[string]string{
		"https://gateway.example.com":                         "gateway.example.com",
		"https://gateway.example.com:8443":                    "gateway.example.com-8443",
		"https://10.0.0.5:443":                                "10.0.0.5",
		"https://[2001:db8::1]:8443":                          "2001-db8--1-8443",
		"https://" + strings.Repeat("a", 60) + ".example.com": "default",
	} {
		if got := ProfileNameFor(url); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}

func TestParsePin(t *testing.T) {
	raw := "JPnVJKr0bXbsvK5Ou8Qz-K2xV1yQ0pWdZ1uV7n5m3_g"
	for _, s := range []string{raw, raw + "=", "sha256/" + raw, "SHA256:" + strings.NewReplacer("-", "+", "_", "/").Replace(raw), " " + raw + "\n"} {
		if got, err := ParsePin(s); err != nil || got != raw {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", raw[1:], raw + "AA", raw[:20] + "\n" + raw[20:]} {
		if _, err := ParsePin(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestProfileLearns(t *testing.T) {
	const other, third = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	token := func(pin, next string) string {
		claims := `{"gw":"https://one.example.com","pin":"` + pin + `","npin":"` + next + `"}`
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AAAA"
	}
	p := someProfile("one")
	for _, step := range []struct {
		token     string
		learns    bool
		pin, next string
	}{
		{token(somePin, ""), false, somePin, ""},
		{token(somePin, other), true, somePin, other},
		{token(third, ""), false, somePin, other}, // not the key that was shown
		{token("", ""), false, somePin, other},
		{"x", false, somePin, other},
		{token(other, ""), true, other, ""},
		{token(somePin, ""), false, other, ""},
	} {
		if got := p.Learn(step.token); got != step.learns || p.Gateway.Pin != step.pin || p.Gateway.NextPin != step.next {
			t.Fatalf("after %s: %v, %+v", step.token, got, p.Gateway)
		}
	}
}

// A first contact sends nothing to a gateway that nobody vouches for but the
// question for a WebSocket, in which it would be verified.
func TestContact(t *testing.T) {
	asked := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != doorPath {
			asked++
		}
	}))
	defer s.Close()
	pin, err := Contact(t.Context(), s.URL)
	if err != nil || pin != socketxp.PinOf(s.Certificate()) {
		t.Fatalf("%q, %v", pin, err)
	}
	if asked != 0 {
		t.Error("it was sent a request")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if pin, err := Contact(t.Context(), "https://"+l.Addr().String()); pin != "" || !isUnreachable(err) {
		t.Fatalf("%q, %v", pin, err)
	}
}

func isUnreachable(err error) bool {
	_, ok := err.(*UnreachableError) //nolint:errorlint // as APIError returns it
	return ok
}

func FuzzParseProfiles(f *testing.F) {
	f.Add([]byte(`{"current":"a","profiles":[{"name":"a","gateway":"https://a.example.com","pin":"` + somePin + `","token":"` + someToken + `","expires_at":"2026-12-24T18:00:00+01:00"}]}`))
	f.Add([]byte(`{"current":"","profiles":[{"name":"b","gateway":"https://b.example.com:8443","own_ca":true,"email":"a@b","account":"ä"}]}`))
	f.Add([]byte(`{"profiles":null}`))
	f.Add([]byte(`{"profiles":[{"name":"a","gateway":"https://a.example.com","expires_at":"9999-12-31T23:59:59-23:59"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseProfiles(data)
		if err != nil {
			return
		}
		text, err := all.text()
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		again, err := parseProfiles(text)
		if err != nil {
			t.Fatalf("what was written can't be read: %v\n%s", err, text)
		}
		if len(again.List) != len(all.List) || again.Current != all.Current {
			t.Fatalf("%+v became %+v", all, again)
		}
		for i := range all.List {
			if !reflect.DeepEqual(all.List[i], again.List[i]) {
				t.Fatalf("%+v became %+v", all.List[i], again.List[i])
			}
		}
	})
}
