package gateway

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// shown returns the pin of the key that the gateway proves to a new connection.
func (w *world) shown() string {
	w.Helper()
	c := tls.Client(w.dialRaw(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := c.HandshakeContext(w.Context()); err != nil {
		w.Fatal(err)
	}
	return socketxp.PinOf(c.ConnectionState().PeerCertificates[0])
}

func (w *world) stage(overlap time.Duration) KeyChange {
	w.Helper()
	c := must[KeyChange](w.T)(StageKey(w.g.cfg.DataDir, "localhost", overlap, w.g.now()))
	eventually(w.T, patience, "the next key is announced", func() bool { return w.g.Address().NextPin == c.Pin })
	return c
}

// knows has the device say by what it knows the gateway, and waits until that is
// stored.
func (w *world) knows(a *agent, d socketxp.Device, pins ...string) {
	w.Helper()
	r := report("tcp://127.0.0.1:22")
	r.GatewayKnownBy = strings.Join(pins, " ")
	a.send(r)
	eventually(w.T, patience, "the report is stored", func() bool {
		return must[socketxp.Device](w.T)(w.store.Device(w.Context(), w.account.ID, d.ID)).GatewayKnownBy == r.GatewayKnownBy
	})
}

// online brings a device online whose messages the test receives itself.
func (w *world) online(d socketxp.Device, key ed25519.PrivateKey) (*agent, control.Welcome) {
	w.Helper()
	a := w.dial(key, control.RoleDevice)
	return a, a.welcome(report("tcp://127.0.0.1:22"))
}

// keepAlive returns a function that does a request on one HTTPS connection, and says
// whether that was the one of before.
func (w *world) keepAlive() func() (reused bool) {
	w.Helper()
	c := w.httpClient()
	return func() (reused bool) {
		w.Helper()
		ctx := httptrace.WithClientTrace(w.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		resp, err := c.Do(must[*http.Request](w.T)(http.NewRequestWithContext(ctx, http.MethodGet, w.url("/api/v1/gateway"), nil)))
		if err != nil {
			w.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return reused
	}
}

func quick(l *limits) { l.certEvery = 5 * time.Millisecond }

func TestKeyChange(t *testing.T) {
	dir := t.TempDir()
	w := startIn(t, dir, nil, quick)
	old := w.g.Address().Pin
	if w.shown() != old {
		t.Fatal("it is pinned by another key than it has")
	}
	s := w.play(socketxp.TokenScope{})
	d, key := w.register("meter", "meters")
	a, welcome := w.online(d, key)
	if !slices.Equal(welcome.GatewayPins, []string{old}) {
		t.Errorf("welcomed with %v", welcome.GatewayPins)
	}
	w.knows(a, d, old)
	w.knows(s.td.agent, s.device, "authorities")
	reused := w.keepAlive()
	reused()

	c := w.stage(0) // due at once
	if got := expect[control.GatewayKeys](a); !slices.Equal(got.Pins, []string{old, c.Pin}) {
		t.Errorf("told %v", got.Pins)
	}
	t.Run("tokens and factory keys carry both", func(t *testing.T) {
		_, text := w.access()
		addr, ok, err := socketxp.TokenAddress(text)
		if want := (socketxp.GatewayAddress{URL: w.g.url, Pin: old, NextPin: c.Pin}); addr != want || !ok || err != nil {
			t.Errorf("%+v, %v, %v", addr, ok, err)
		}
		claims, err := w.g.tokens.Verify(text, w.g.now())
		if err != nil || claims.Gateway != addr {
			t.Errorf("%+v, %v", claims, err)
		}
	})
	t.Run("who connects is told, too", func(t *testing.T) {
		d, key := w.register("late", "meters")
		b, welcome := w.online(d, key)
		if !slices.Equal(welcome.GatewayPins, []string{old, c.Pin}) {
			t.Errorf("welcomed with %v", welcome.GatewayPins)
		}
		w.knows(b, d, old, c.Pin)
	})
	t.Run("it waits for the device that has not confirmed", func(t *testing.T) {
		if got := must[[]socketxp.KeyKnowledge](t)(w.store.KeyKnowledge(t.Context(), c.Pin, w.g.now().Add(-KeySeenWithin))); len(got) != 1 || got[0].RecentDont != 1 || got[0].Know != 2 {
			t.Errorf("%+v", got)
		}
		eventually(t, patience, "it has asked", func() bool { return !w.g.asksKnowledge.allow(c.Pin + c.ChangeAt.String()) })
		if w.shown() != old || must[KeyChange](t)(ReadKeyChange(w.g.cfg.DataDir)).Changing {
			t.Error("it did not")
		}
	})
	w.knows(a, d, old, c.Pin)
	must[KeyChange](t)(ChangeKeyNow(w.g.cfg.DataDir, false, w.g.now()))
	if got := expect[control.GatewayKeys](a); !slices.Equal(got.Pins, []string{c.Pin}) {
		t.Errorf("told %v", got.Pins)
	}
	t.Run("new connections see the new key", func(t *testing.T) {
		if w.shown() != c.Pin || w.g.Address() != (socketxp.GatewayAddress{URL: w.g.url, Pin: c.Pin}) {
			t.Errorf("it shows %s and says %+v", w.shown(), w.g.Address())
		}
		if _, err := ReadKeyChange(w.g.cfg.DataDir); !errors.Is(err, ErrNoKeyChange) {
			t.Errorf("the change is not over: %v", err)
		}
		for name, want := range map[string]bool{certKeyFile: true, nextKeyFile: false, nextCertFile: false} {
			if _, err := os.Stat(filepath.Join(w.g.cfg.DataDir, name)); (err == nil) != want {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("what was open lives on", func(t *testing.T) {
		s.stream.flows(t)
		if !reused() {
			t.Error("the HTTPS connection was dropped")
		}
		w.knows(a, d, old, c.Pin)
		for _, want := range [][]string{{old, c.Pin}, {c.Pin}} {
			if got := expect[control.GatewayKeys](s.visitor.agent); !slices.Equal(got.Pins, want) {
				t.Errorf("the visitor was told %v", got.Pins)
			}
		}
		s.visitor.grant(s.text, d, 22)
	})
	t.Run("a second change asks old channels to come anew, and no visitor", func(t *testing.T) {
		again := w.stage(time.Hour)
		_ = expect[control.GoAway](a)
		_, welcome := w.online(d, key)
		if !slices.Equal(welcome.GatewayPins, []string{c.Pin, again.Pin}) {
			t.Errorf("welcomed with %v", welcome.GatewayPins)
		}
		s.stream.flows(t)
		if err := AbortKeyChange(w.g.cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "it is called off", func() bool { return w.g.Address().NextPin == "" })
		if _, err := os.Stat(filepath.Join(w.g.cfg.DataDir, nextKeyFile)); err == nil {
			t.Error("the next key is still there")
		}
	})
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w = startIn(t, dir, nil, quick)
	if w.shown() != c.Pin {
		t.Error("the next start has another key")
	}
	if got, err := w.store.Setting(t.Context(), keysSetting); err != nil || got != c.Pin {
		t.Errorf("it remembers %q, %v", got, err)
	}
}

func TestKeyChangeByForce(t *testing.T) {
	w := startIn(t, t.TempDir(), nil, quick)
	d, key := w.register("meter", "meters")
	a, _ := w.online(d, key)
	c := w.stage(time.Hour)
	_ = expect[control.GatewayKeys](a)
	must[KeyChange](t)(ChangeKeyNow(w.g.cfg.DataDir, true, w.g.now()))
	eventually(t, patience, "the key is changed", func() bool { return w.shown() == c.Pin })
}

// An agent of version 1 does not know GatewayKeys: it would end the channel.
func TestKeysAreNotToldToOldAgents(t *testing.T) {
	w := startIn(t, t.TempDir(), nil, quick)
	d, key := w.register("meter", "meters")
	c := tls.Client(w.dialRaw(), w.clientTLS(key))
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := &agent{w: w, key: key, conn: control.NewAgent(c, control.RoleDevice, control.Options{})}
	t.Cleanup(func() { _ = a.conn.Close() })
	a.send(control.Hello{Version: 1, Role: control.RoleDevice, Agent: "old"})
	a.send(report())
	if m := expect[control.Welcome](a); m.Version != 1 {
		t.Errorf("welcomed in version %d", m.Version)
	}
	w.stage(time.Hour)
	_, _ = w.online(d, key) // the older channel's end is the next that it hears
	if m := expect[control.Refused](a); m.Code != socketxp.CodeReplaced {
		t.Errorf("%+v", m)
	}
}

// A change that is broken off anywhere is either not begun or done by the next start.
func TestKeyChangeAfterACrash(t *testing.T) {
	setUp := func(t *testing.T) (cfg Config, old, next string, c KeyChange) {
		t.Helper()
		cfg = DefaultConfig()
		cfg.DataDir = newDataDir(t)
		old = must[*certificate](t)(loadCertificate(cfg, "localhost")).keyPin()
		c = must[KeyChange](t)(StageKey(cfg.DataDir, "localhost", time.Hour, time.Now()))
		return cfg, old, c.Pin, c
	}
	starts := func(t *testing.T, cfg Config, want string) {
		t.Helper()
		for range 2 { // a second start finds all as the first
			c := must[*certificate](t)(loadCertificate(cfg, "localhost"))
			if c.keyPin() != want {
				t.Error("it has the other key")
			}
			hello := &tls.Config{Certificates: []tls.Certificate{*c.now.Load()}}
			if hello.Certificates[0].PrivateKey == nil {
				t.Error("it has no key")
			}
		}
	}
	move := func(t *testing.T, dir, from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	for steps, name := range []string{"before the first file", "between the files", "after both files"} {
		t.Run("P-01 "+name, func(t *testing.T) {
			cfg, _, next, c := setUp(t)
			c.Changing = true
			if err := c.write(cfg.DataDir); err != nil {
				t.Fatal(err)
			}
			if steps > 0 {
				move(t, cfg.DataDir, nextKeyFile, certKeyFile)
			}
			if steps > 1 {
				move(t, cfg.DataDir, nextCertFile, certFile)
			}
			if err := AbortKeyChange(cfg.DataDir); socketxp.CodeOf(err) != socketxp.CodeConflict {
				t.Errorf("it was called off half-way: %v", err)
			}
			starts(t, cfg, next)
			if _, err := ReadKeyChange(cfg.DataDir); !errors.Is(err, ErrNoKeyChange) {
				t.Errorf("it is not over: %v", err)
			}
		})
	}
	t.Run("P-01 before it is announced", func(t *testing.T) {
		cfg, old, next, _ := setUp(t)
		if err := os.Remove(filepath.Join(cfg.DataDir, changeFile)); err != nil {
			t.Fatal(err)
		}
		starts(t, cfg, old)
		c := must[KeyChange](t)(StageKey(cfg.DataDir, "localhost", time.Hour, time.Now()))
		if c.Pin == next {
			t.Error("a key that was left behind is used: an abort may have left it, and others may have seen it")
		}
		starts(t, cfg, old)
	})
	t.Run("P-01 while it is called off", func(t *testing.T) {
		cfg, old, _, _ := setUp(t)
		if err := os.Remove(filepath.Join(cfg.DataDir, changeFile)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(cfg.DataDir, nextKeyFile)); err != nil {
			t.Fatal(err)
		}
		starts(t, cfg, old)
		must[KeyChange](t)(StageKey(cfg.DataDir, "localhost", time.Hour, time.Now()))
	})
	t.Run("one at a time", func(t *testing.T) {
		cfg, _, _, _ := setUp(t)
		if _, err := StageKey(cfg.DataDir, "localhost", time.Hour, time.Now()); socketxp.CodeOf(err) != socketxp.CodeConflict {
			t.Errorf("a second one was begun: %v", err)
		}
	})
	t.Run("a damaged file of the change", func(t *testing.T) {
		for _, text := range []string{"", "{}", `{"pin":"x"}`, `{"pin":"` + strings.Repeat("A", 43) + `","changing":true,"more":1}`, strings.Repeat(" ", maxChangeFile+1)} {
			cfg, _, _, _ := setUp(t)
			if err := os.WriteFile(filepath.Join(cfg.DataDir, changeFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := loadCertificate(cfg, "localhost"); err == nil {
				t.Errorf("it starts with %.20q", text)
			}
			if err := AbortKeyChange(cfg.DataDir); err != nil {
				t.Errorf("it can't be called off: %v", err)
			}
		}
	})
	t.Run("K-16 nobody else can read the next key", func(t *testing.T) {
		cfg, _, _, _ := setUp(t)
		if m := mode(t, filepath.Join(cfg.DataDir, nextKeyFile)); m != 0o600 {
			t.Errorf("mode %#o", m)
		}
	})
}

// The operator's own certificate is exchanged for one of another key.
func TestOperatorsNextCertificate(t *testing.T) {
	files := newDataDir(t)
	path := func(name string) string { return filepath.Join(files, name) }
	for _, n := range []string{"now", "next"} {
		if err := makeCertificate(path(n+".crt"), path(n+".key"), "localhost"); err != nil {
			t.Fatal(err)
		}
	}
	next := must[string](t)(PinOfFile(path("next.crt")))
	exchange := func() {
		t.Helper()
		for _, ext := range []string{".crt", ".key"} {
			if err := os.WriteFile(path("now"+ext), must[[]byte](t)(os.ReadFile(path("next"+ext))), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	own := func(c *Config, _ *Deps) { c.TLSCert, c.TLSKey = path("now.crt"), path("now.key") }
	t.Run("R-15 not announced", func(t *testing.T) {
		w := startIn(t, t.TempDir(), own)
		old, text := w.shown(), must[[]byte](t)(os.ReadFile(path("now.crt")))
		key := must[[]byte](t)(os.ReadFile(path("now.key")))
		exchange()
		if err := w.g.Reload(); err == nil || !strings.Contains(err.Error(), "tls_next_cert") || w.shown() != old {
			t.Errorf("it was taken: %v", err)
		}
		if err := errors.Join(os.WriteFile(path("now.crt"), text, 0o600), os.WriteFile(path("now.key"), key, 0o600)); err != nil {
			t.Fatal(err)
		}
	})
	w := startIn(t, t.TempDir(), func(c *Config, d *Deps) { own(c, d); c.TLSNextCert = path("next.crt") }, quick)
	old := w.shown()
	d, key := w.register("meter", "meters")
	a, welcome := w.online(d, key)
	if !slices.Equal(welcome.GatewayPins, []string{old, next}) || w.g.Address().NextPin != next {
		t.Errorf("welcomed with %v", welcome.GatewayPins)
	}
	exchange()
	if err := w.g.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := expect[control.GatewayKeys](a); !slices.Equal(got.Pins, []string{next}) || w.shown() != next {
		t.Errorf("told %v", got.Pins)
	}
	if err := makeCertificate(path("after.crt"), path("after.key"), "localhost"); err != nil {
		t.Fatal(err)
	}
	after := must[[]byte](t)(os.ReadFile(path("after.crt")))
	if err := os.WriteFile(path("next.crt"), after, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.g.Reload(); err != nil {
		t.Fatal(err)
	}
	if want := must[string](t)(PinOfFile(path("after.crt"))); w.g.Address().NextPin != want {
		t.Error("a next certificate that is put there later is not announced")
	}
	if err := os.WriteFile(path("next.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.g.Reload(); err == nil {
		t.Error("nonsense was taken for a certificate")
	}
}

func TestRunning(t *testing.T) {
	w := start(t)
	ask := func() bool { return must[bool](t)(Running(w.g.cfg.DataDir)) }
	if !ask() {
		t.Error("a gateway that runs was not seen")
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if ask() {
		t.Error("it was seen after its end")
	}
	if must[bool](t)(Running(t.TempDir())) {
		t.Error("it was seen in an empty folder")
	}
}
