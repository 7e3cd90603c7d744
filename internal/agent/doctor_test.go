package agent

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
)

// diagnose returns the findings by their check.
func diagnose(t *testing.T, o DoctorOptions) map[string]Finding {
	t.Helper()
	o.Version = "test"
	found := make(map[string]Finding)
	for _, f := range Diagnose(t.Context(), o) {
		if _, again := found[f.Check]; again {
			t.Errorf("%s is there twice", f.Check)
		}
		if f.Verdict == Failure && (f.Advice == "" || f.Err == nil) {
			t.Errorf("nothing is said of what to do: %+v", f)
		}
		found[f.Check] = f
	}
	return found
}

// expect fails unless the checks came to these verdicts, and no others did.
func expect(t *testing.T, found map[string]Finding, want map[string]Verdict) {
	t.Helper()
	for check, v := range want {
		if found[check].Verdict != v {
			t.Errorf("%s: %+v, want %s", check, found[check], v)
		}
	}
	for check, f := range found {
		if _, ok := want[check]; !ok {
			t.Errorf("nobody asked for %+v", f)
		}
	}
}

func TestDoctor(t *testing.T) {
	b := newBed(t)
	dir, key := b.login("sensor")
	echoes := service(t, echo)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := tunnel(t, "tcp://"+l.Addr().String())
	_ = l.Close()
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, []byte(`{"tunnels": [{"destination": "`+gone.Destination.String()+`"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	network := map[string]Verdict{"proxy": Good, "name": Good, "connection": Good, "encryption": Good, "links": Good, "clock": Good, "gateway": Good}
	with := func(more map[string]Verdict) map[string]Verdict {
		all := map[string]Verdict{}
		for _, m := range []map[string]Verdict{network, more} {
			for k, v := range m {
				all[k] = v
			}
		}
		return all
	}

	t.Run("no agent, and nothing listens", func(t *testing.T) {
		found := diagnose(t, DoctorOptions{WorkDir: dir.Path(), ConfigFile: config})
		expect(t, found, with(map[string]Verdict{
			"configuration": Good, "work folder": Good, "device key": Good, "agent": Failure, "tunnel " + gone.Destination.String(): Failure,
		}))
		if pin := b.addr.Pin; !strings.Contains(found["encryption"].Detail, pin) || !strings.Contains(found["encryption"].Detail, "TLS 1.3") {
			t.Errorf("%+v", found["encryption"])
		}
		if !strings.Contains(found["device key"].Detail, key.Fingerprint()) {
			t.Errorf("%+v", found["device key"])
		}
	})
	device := connect(t, dir, echoes)
	await(t, device.connected)
	channel := b.online()
	t.Run("all well", func(t *testing.T) {
		found := diagnose(t, DoctorOptions{WorkDir: dir.Path()})
		expect(t, found, with(map[string]Verdict{"work folder": Good, "device key": Good, "agent": Good, "tunnel " + echoes.Destination.String(): Good}))
		if err := Diagnosed(Diagnose(t.Context(), DoctorOptions{WorkDir: dir.Path(), Version: "test"})); err != nil {
			t.Error(err)
		}
		if b.online() != channel || len(device.problems) != 0 {
			t.Error("it ended the agent's channel")
		}
	})
	t.Run("the clock", func(t *testing.T) {
		for ahead, want := range map[time.Duration]Verdict{2 * time.Second: Good, -2 * time.Minute: Warning, time.Hour: Failure, -24 * time.Hour: Failure} {
			b.with(func() { b.clockAhead = ahead })
			f := diagnose(t, DoctorOptions{WorkDir: dir.Path()})["clock"]
			if f.Verdict != want || want != Good && !strings.Contains(f.Detail, map[bool]string{true: "behind", false: "before"}[ahead > 0]) {
				t.Errorf("%v: %+v", ahead, f)
			}
		}
		b.with(func() { b.clockAhead = 0 })
	})
	for name, say := range map[string]string{
		"101":                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\nDate: today\r\n\r\n",
		"a redirect":                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		"content that never comes":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
		"headers with no end":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: 0123456789abcdef\r\n", 10_000),
		"interim answers, and none": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 10_000),
	} {
		t.Run("N-17 "+name, func(t *testing.T) {
			b.with(func() { b.say = say })
			defer b.with(func() { b.say = "" })
			// It comes to its end, and the clock is what it can't say anything of.
			if f := diagnose(t, DoctorOptions{WorkDir: dir.Path()}); f["clock"].Verdict != Warning || f["gateway"].Verdict != Good {
				t.Errorf("%+v", f)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		cert, pin := bedCert(t)
		old := b.cert
		b.with(func() { b.cert = cert })
		found := diagnose(t, DoctorOptions{WorkDir: dir.Path()})
		b.with(func() { b.cert = old })
		f := found["encryption"]
		if f.Verdict != Failure || !strings.Contains(f.Detail, "the key is "+pin+", expected "+b.addr.Pin) || !errors.Is(f.Err, socketxp.ErrWrongGateway) {
			t.Errorf("%+v", f)
		}
		if _, more := found["gateway"]; more {
			t.Error("it went on talking to a gateway that is not the right one")
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		b.stop()
		_ = await(t, device.problems)
		found := diagnose(t, DoctorOptions{WorkDir: dir.Path()})
		if f := found["agent"]; f.Verdict != Failure || !strings.Contains(f.Detail, "not connected since") {
			t.Errorf("%+v", f)
		}
		if f := found["connection"]; f.Verdict != Failure || !errors.As(f.Err, new(*UnreachableError)) {
			t.Errorf("%+v", f)
		}
		err := Diagnosed(slices.Collect(func(yield func(Finding) bool) {
			_ = yield(found["agent"]) && yield(found["connection"])
		}))
		if !errors.As(err, new(*UnreachableError)) {
			t.Errorf("the exit status would tell of %v", err)
		}
		b.start()
	})
	device.stop()
}

func TestDoctorOfAFolder(t *testing.T) {
	none := newDir(t)
	found := diagnose(t, DoctorOptions{WorkDir: none.Path(), ConfigFile: none.file("none.json"), Named: true})
	expect(t, found, map[string]Verdict{"configuration": Failure, "work folder": Failure})
	if _, err := os.Stat(none.Path()); !os.IsNotExist(err) {
		t.Error("it made the folder")
	}
	if !errors.As(found["work folder"].Err, new(*NotRegisteredError)) {
		t.Errorf("%+v", found["work folder"])
	}
	b := newBed(t)
	dir, _ := b.login("sensor")
	if err := os.Chmod(dir.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	found = diagnose(t, DoctorOptions{WorkDir: dir.Path()})
	if f := found["work folder"]; f.Verdict != Failure || !strings.Contains(f.Advice, "chmod 700") {
		t.Errorf("%+v", f)
	}
	if err := os.Chmod(dir.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir.file(keyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if f := diagnose(t, DoctorOptions{WorkDir: dir.Path()})["device key"]; f.Verdict != Failure || !strings.Contains(f.Advice, "chmod 600") {
		t.Errorf("%+v", f)
	}
}

// TestDoctorAndProxies: what the environment names is looked at before it is used.
func TestDoctorAndProxies(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	configHome(t)
	p := someProfile("home")
	p.Gateway, p.ExpiresAt = socketxp.GatewayAddress{URL: "https://gateway.example.com"}, time.Now().Add(time.Hour)
	put(t, p, nil)
	environment(t, "ALL_PROXY=socks5://user:hush@proxy.example.com:1080")
	laptop := DoctorOptions{WorkDir: newDir(t).Path(), Profile: &p, Profiles: read(t)}
	found := diagnose(t, laptop)
	expect(t, found, map[string]Verdict{"sign-in": Good, "proxy": Failure})
	if f := found["proxy"]; !strings.Contains(f.Detail, "in ALL_PROXY is one for SOCKS") || !strings.Contains(f.Advice, "HTTPS_PROXY") || strings.Contains(f.Detail+f.Advice, "hush") {
		t.Errorf("%+v", f)
	}
	// This device's gateway is on this machine.
	if f := diagnose(t, DoctorOptions{WorkDir: dir.Path()})["proxy"]; f.Verdict != Good {
		t.Errorf("%+v", f)
	}
	// One that speaks no TLS where it should: it is not the gateway's certificate that
	// people are told to look at.
	proxy := fakeProxy(t, func(net.Conn, *http.Request) {})
	environment(t, "all_proxy=https://user:hush@"+proxy.host)
	found = diagnose(t, laptop)
	expect(t, found, map[string]Verdict{"sign-in": Good, "proxy": Good, "name": Good, "connection": Good, "encryption": Failure})
	if f := found["proxy"]; !strings.Contains(f.Detail, "all_proxy names https://"+proxy.host) {
		t.Errorf("%+v", f)
	}
	if f := found["encryption"]; !strings.Contains(f.Detail, "the proxy https://"+proxy.host) || !strings.Contains(f.Advice, "all_proxy=http://"+proxy.host) || strings.Contains(f.Detail+f.Advice, "hush") {
		t.Errorf("%+v", f)
	}
}

// TestDoctorOfALaptop is one where a person is signed in and no device is.
func TestDoctorOfALaptop(t *testing.T) {
	b := newBed(t)
	configHome(t)
	p := someProfile("home")
	p.Gateway, p.ExpiresAt = b.addr, time.Now().Add(time.Hour)
	put(t, p, nil)
	found := diagnose(t, DoctorOptions{WorkDir: newDir(t).Path(), Profile: &p, Profiles: read(t)})
	expect(t, found, map[string]Verdict{
		"sign-in": Good, "proxy": Good, "name": Good, "connection": Good, "encryption": Good, "links": Good, "clock": Good, "gateway": Good,
	})
	p.ExpiresAt = time.Now().Add(-time.Hour)
	if f := diagnose(t, DoctorOptions{WorkDir: newDir(t).Path(), Profile: &p, Profiles: read(t)})["sign-in"]; f.Verdict != Warning {
		t.Errorf("%+v", f)
	}
}

// TestWipe is C-13: nothing is left, but what is not ours.
func TestWipe(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	for _, name := range append(slices.Clone(secretFiles), otherFiles...) {
		if _, err := os.Stat(dir.file(name)); err == nil {
			continue
		}
		if err := os.WriteFile(dir.file(name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := dir.file("notes.txt")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone, err := dir.Wipe()
	if err != nil || len(gone) != len(secretFiles)+len(otherFiles) {
		t.Errorf("%v, %v", gone, err)
	}
	entries, err := os.ReadDir(dir.Path())
	if err != nil || len(entries) != 1 || entries[0].Name() != "notes.txt" {
		t.Errorf("C-13 left: %v, %v", entries, err)
	}
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	if gone, err := dir.Wipe(); err != nil || !slices.Equal(gone, []string{dir.Path()}) {
		t.Errorf("%v, %v", gone, err)
	}
	if gone, err := dir.Wipe(); err != nil || len(gone) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
}
