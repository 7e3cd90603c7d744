package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
)

func TestShutdown(t *testing.T) {
	t.Parallel()
	t.Run("P-15 agents are told, links may end by themselves", func(t *testing.T) {
		w := startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.DrainTimeout = patience })
		d, key := w.register("cam", "default")
		td := w.connect(d, key, echo, "tcp://127.0.0.1:22")
		_, text := w.access()
		v := w.visitor()
		g := v.grant(text, d, 22)
		l := v.open(g)
		c := must[*link.Conn](t)(l.Open())
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- w.stop() }()
		if m := expect[control.GoAway](v.agent); m.RetryAfter == 0 {
			t.Errorf("told %+v", m)
		}
		if _, err := io.WriteString(c, "still open"); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
			t.Error(err)
		}
		_ = l.Close() // the last link: the gateway need not wait longer
		for {         // the visit's end and the channel's cross
			m, err := v.receive()
			if err != nil {
				break
			}
			switch m := m.(type) {
			case control.Ended:
				if m.Code != socketxp.CodeGoingAway {
					t.Errorf("told %+v", m)
				}
			case control.Refused:
				if m.Code != socketxp.CodeGoingAway || m.RetryAfter == 0 {
					t.Errorf("told %+v", m)
				}
			}
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		td.running.Wait()
	})
	t.Run("P-15 what is open after the drain is cut and written", func(t *testing.T) {
		dir := t.TempDir()
		w := startIn(t, dir, func(c *Config, _ *Deps) { c.DrainTimeout = 50 * time.Millisecond })
		s := w.play(socketxp.TokenScope{})
		begin := time.Now()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		<-s.stream.ended
		next := startIn(t, dir, nil)
		got := must[socketxp.Session](t)(next.store.Session(t.Context(), next.account.ID, s.grant.SessionID))
		if got.EndReason != socketxp.CodeGoingAway || got.BytesDown < s.stream.bytes.Load() {
			t.Errorf("the session ended as %+v, after %d bytes", got, s.stream.bytes.Load())
		}
		t.Run("another start has the same identity", func(t *testing.T) {
			if next.g.id != w.g.id || next.g.Address().Pin != w.g.Address().Pin {
				t.Error("it is another gateway")
			}
			if _, err := next.g.tokens.Verify(s.text, next.g.now()); err != nil {
				t.Errorf("a token of before: %v", err)
			}
			if m, ok := next.visitor().visit(control.Visit{Token: s.text, DeviceID: s.device.ID, Port: 22}).(control.Ended); !ok || m.Code != socketxp.CodeDeviceOffline {
				t.Errorf("a visit got %+v", m)
			}
		})
	})
}

func TestP01SessionsOfAGatewayThatDied(t *testing.T) {
	dir := t.TempDir()
	w := startIn(t, dir, nil)
	now := w.g.now()
	s := socketxp.Session{ID: socketxp.NewID(now), AccountID: w.account.ID, DeviceID: socketxp.NewID(now), DeviceName: "cam", Destination: "tcp://127.0.0.1:22", StartedAt: now}
	if err := w.store.CreateSession(t.Context(), s, w.entry("session.start")); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w = startIn(t, dir, nil)
	got := w.session(s.ID, func(s socketxp.Session) bool { return !s.EndedAt.IsZero() })
	if got.EndReason != socketxp.CodeGoingAway {
		t.Errorf("ended with %q", got.EndReason)
	}
}

func TestSecondGatewayInOneFolder(t *testing.T) {
	w := start(t)
	if _, err := New(t.Context(), w.g.cfg, Deps{Store: w.store, Cluster: w.cluster, Log: w.g.log}); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("err = %v", err)
	}
}

// TestClockSetBack is T-12 and P-14 at the gateway: a token that has expired stays
// so when the machine's clock is set back, also while the gateway is down.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	wall := time.Now()
	var back time.Duration
	configure := func(_ *Config, d *Deps) { d.Now = func() time.Time { return time.Now().Add(-back) } }
	w := startIn(t, dir, configure)
	token, text := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{}, time.Second)
	eventually(t, patience, "the token expires", func() bool { return !w.g.now().Before(token.ExpiresAt) })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	back = 10 * time.Minute
	w = startIn(t, dir, configure)
	if w.g.now().Before(token.ExpiresAt) || w.g.now().Before(wall) {
		t.Errorf("T-12 it is %v again", w.g.now())
	}
	if _, err := w.g.tokens.Verify(text, w.g.now()); socketxp.CodeOf(err) != socketxp.CodeTokenExpired {
		t.Errorf("T-12 the token is good again: %v", err)
	}
	if behind := w.g.clock.behind(); behind < 9*time.Minute {
		t.Errorf("P-14 the clock is said to be %v behind", behind)
	}
}

func TestMetrics(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	w.connect(d, key, echo)
	text := w.get(w.httpClient("http/1.1"), "http://"+w.g.MetricsAddr().String()+"/metrics").body
	for _, want := range []string{"socketxp_devices_connected 1", `socketxp_connections_total{door="control"} 1`, `socketxp_build_info{version="test"} 1`, "go_goroutines"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if r := w.get(w.httpClient("http/1.1"), w.url("/metrics")); r.status == http.StatusOK {
		t.Error("they are on the public port")
	}
}

func TestConfigValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		ok     bool
	}{
		{"the defaults", func(*Config) {}, true},
		{"no port", func(c *Config) { c.Listen = "localhost" }, false},
		{"http", func(c *Config) { c.PublicURL = "http://example.com" }, false},
		{"a path", func(c *Config) { c.PublicURL = "https://example.com/x" }, false},
		{"a certificate without its key", func(c *Config) { c.TLSCert = "x" }, false},
		{"metrics on localhost", func(c *Config) { c.MetricsListen = "localhost:1" }, true},
		{"metrics on ::1", func(c *Config) { c.MetricsListen = "[::1]:1" }, true},
		{"metrics for all", func(c *Config) { c.MetricsListen = ":9464" }, false},
		{"metrics on 0.0.0.0", func(c *Config) { c.MetricsListen = "0.0.0.0:9464" }, false},
		{"metrics on a name", func(c *Config) { c.MetricsListen = "gateway.example.com:9464" }, false},
		{"no metrics", func(c *Config) { c.MetricsListen = "" }, true},
		{"a log level", func(c *Config) { c.LogLevel = "trace" }, false},
		{"a log format", func(c *Config) { c.LogFormat = "xml" }, false},
		{"a negative drain", func(c *Config) { c.DrainTimeout = -1 }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			if err := c.Validate(); (err == nil) != tt.ok {
				t.Errorf("err = %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func TestPublicURLFollowsTheListener(t *testing.T) {
	w := start(t)
	if _, port, _ := strings.Cut(w.g.Addr().String(), ":"); w.g.Address().URL != "https://localhost:"+port {
		t.Errorf("URL %s at %s", w.g.Address().URL, w.g.Addr())
	}
	w = startIn(t, t.TempDir(), func(c *Config, _ *Deps) { c.PublicURL = "https://Gateway.example.com" })
	if w.g.Address().URL != "https://gateway.example.com" {
		t.Errorf("URL %s", w.g.Address().URL)
	}
	if err := w.g.cert.now.Load().Leaf.VerifyHostname("gateway.example.com"); err != nil {
		t.Error(err)
	}
}

func TestPresenceIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := defaultLimits()
		p := newPresence(&Gateway{limits: l})
		d := socketxp.Device{ID: "d", AccountID: "a", Name: "cam"}
		events := 0
		told := map[socketxp.EventType]int{}
		flap := func(every time.Duration, times int) {
			for range times {
				p.up(d)
				time.Sleep(every) //nolint:forbidigo // in a synctest bubble it takes no time
				for _, e := range p.news() {
					told[e.Type]++
					events++
				}
				p.down(d.ID)
				time.Sleep(every) //nolint:forbidigo // in a synctest bubble it takes no time
				for _, e := range p.news() {
					told[e.Type]++
					events++
				}
			}
		}
		flap(100*time.Millisecond, 100)
		if told[socketxp.EventDeviceOnline] != 1 || events != 1 {
			t.Errorf("X-15 20 s of flapping told %v", told)
		}
		flap(10*time.Second, 100)
		if limit := eventBurst + int(2000*time.Second/l.presenceRate) + 2; events > limit {
			t.Errorf("X-15 2,000 s of flapping told %d events, want at most %d", events, limit)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a synctest bubble it takes no time
		for _, e := range p.news() {
			told[e.Type]++
		}
		if told[socketxp.EventDeviceOnline] != told[socketxp.EventDeviceOffline] {
			t.Errorf("the last word is wrong: %v", told)
		}
		time.Sleep(time.Hour) //nolint:forbidigo // in a synctest bubble it takes no time
		p.news()
		if len(p.devices) != 0 {
			t.Error("a device that is long gone is still remembered")
		}
	})
}

func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSampler(10 * time.Minute)
		if !s.allow("a") || s.allow("a") || !s.allow("b") {
			t.Error("not once each")
		}
		time.Sleep(10 * time.Minute) //nolint:forbidigo // in a synctest bubble it takes no time
		if !s.allow("a") {
			t.Error("not again after its time")
		}
		for i := range 2 * maxSamples {
			s.allow(string(rune(i + 1000)))
		}
		if len(s.last) > maxSamples {
			t.Errorf("J11 it holds %d", len(s.last))
		}
		time.Sleep(10 * time.Minute) //nolint:forbidigo // in a synctest bubble it takes no time
		if !s.allow("new") {
			t.Error("no room after old ones have gone")
		}
	})
}
