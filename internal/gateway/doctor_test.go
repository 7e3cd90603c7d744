package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/store"
)

// doctorOf is a doctor for a data folder with a SQLite database.
func doctorOf(cfg Config) *Doctor {
	return &Doctor{Config: cfg, Now: time.Now, Database: func(ctx context.Context) (DatabaseHealth, error) {
		i, err := store.Inspect(ctx, "sqlite:"+filepath.Join(cfg.DataDir, databaseFile), false)
		return DatabaseHealth{Engine: i.Engine, Version: i.Version, Newest: i.Newest, Size: i.Size, WALSize: i.WALSize, HighAt: i.HighAt, Keys: i.Keys}, err
	}}
}

// of returns what a check found.
func of(found []Finding, check string) Finding {
	for _, f := range found {
		if f.Check == check {
			return f
		}
	}
	return Finding{}
}

func failures(found []Finding) (out []Finding) {
	for _, f := range found {
		if f.Verdict == Failure {
			out = append(out, f)
		}
	}
	return out
}

func TestDoctorBesideAGateway(t *testing.T) {
	w := start(t)
	cfg := w.g.cfg
	cfg.Listen, cfg.MetricsListen, cfg.PublicURL = w.g.Addr().String(), w.g.MetricsAddr().String(), w.g.Address().URL
	diagnose := func(change ...func(*Doctor)) []Finding {
		d := doctorOf(cfg)
		for _, f := range change {
			f(d)
		}
		return d.Diagnose(t.Context())
	}
	found := diagnose()
	if bad := failures(found); len(bad) > 0 {
		t.Errorf("it fails %+v", bad)
	}
	for check, words := range map[string]string{
		"data folder": "a gateway runs in it", "database": "whole", "signing key": w.g.tokens.SigningKeyID(), "certificate": "pin " + w.g.cert.keyPin(),
		"port": "is ready", "public URL": "answers at " + cfg.PublicURL, "metrics": "served at", "open files": " of ",
	} {
		if f := of(found, check); f.Verdict == Failure || !strings.Contains(f.Detail, words) {
			t.Errorf("%+v, want %q", f, words)
		}
	}
	t.Run("the clock was set back", func(t *testing.T) {
		f := of(diagnose(func(d *Doctor) { d.Now = func() time.Time { return time.Now().Add(-time.Minute) } }), "clock")
		if f.Verdict != Failure || !strings.Contains(f.Detail, "the gateway has seen") {
			t.Errorf("%+v", f)
		}
	})
	t.Run("the gateway is not on the port", func(t *testing.T) {
		f := of(diagnose(func(d *Doctor) { d.Config.Listen = "127.0.0.1:0" }), "port")
		if f.Verdict != Failure || !strings.Contains(f.Detail, "but not on") {
			t.Errorf("%+v", f)
		}
	})
	t.Run("somebody else answers on the port and at the address", func(t *testing.T) {
		other := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		other.StartTLS()
		defer other.Close()
		found := diagnose(func(d *Doctor) { d.Config.Listen, d.Config.PublicURL = other.Listener.Addr().String(), other.URL })
		if f := of(found, "port"); f.Verdict != Failure || !strings.Contains(f.Detail, "another key") {
			t.Errorf("%+v", f)
		}
		if f := of(found, "public URL"); f.Verdict != Warning || !strings.Contains(f.Detail, "another key") {
			t.Errorf("%+v", f)
		}
	})
	t.Run("another certificate of the same key is shown, and ends soon", func(t *testing.T) {
		own := must[tls.Certificate](t)(tls.LoadX509KeyPair(filepath.Join(cfg.DataDir, certFile), filepath.Join(cfg.DataDir, certKeyFile)))
		template := *own.Leaf
		template.NotAfter = time.Now().Add(24 * time.Hour)
		key := own.PrivateKey.(*ecdsa.PrivateKey)
		der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key))
		shown := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		shown.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		shown.StartTLS()
		defer shown.Close()
		f := of(diagnose(func(d *Doctor) { d.Config.PublicURL = shown.URL }), "certificate shown")
		if f.Verdict != Warning || !strings.Contains(f.Detail, "ends") {
			t.Errorf("%+v", f)
		}
		if f := of(found, "certificate shown"); f.Check != "" {
			t.Errorf("the one of the files is judged twice: %+v", f)
		}
	})
	t.Run("its metrics are elsewhere", func(t *testing.T) {
		if f := of(diagnose(func(d *Doctor) { d.Config.MetricsListen = "127.0.0.1:1" }), "metrics"); f.Verdict != Warning {
			t.Errorf("%+v", f)
		}
	})
	t.Run("the clock is compared with another", func(t *testing.T) {
		var off time.Duration
		other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(-off).UTC().Format(http.TimeFormat))
		}))
		defer other.Close()
		old := http.DefaultTransport
		http.DefaultTransport = other.Client().Transport
		defer func() { http.DefaultTransport = old }()
		for d, want := range map[time.Duration]Verdict{0: Good, 10 * time.Second: Warning, time.Hour: Failure, -time.Hour: Failure} {
			off = d
			if f := of(diagnose(func(d *Doctor) { d.ClockURL = other.URL }), "clock"); f.Verdict != want {
				t.Errorf("%v off: %+v", d, f)
			}
		}
		if f := of(diagnose(func(d *Doctor) { d.ClockURL = "http://localhost" }), "clock"); f.Verdict != Warning {
			t.Errorf("%+v", f)
		}
	})
}

func TestDoctorOnABrokenFolder(t *testing.T) {
	taken := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer func() { _ = taken.Close() }()
	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	for name, c := range map[string]struct {
		spoil   func(dir string) error
		config  func(*Config)
		check   string
		verdict Verdict
		words   string
	}{
		"nothing is wrong":          {check: "database", verdict: Good, words: "whole"},
		"missing":                   {spoil: os.RemoveAll, check: "data folder", verdict: Failure, words: "is not there"},
		"open to others":            {spoil: func(dir string) error { return os.Chmod(dir, 0o755) }, check: "data folder", verdict: Failure, words: "open to others"},
		"a key open to others":      {spoil: func(dir string) error { return os.Chmod(filepath.Join(dir, signingKeyFile), 0o644) }, check: "data folder", verdict: Failure, words: "signing.key is open to others"},
		"an interrupted restore":    {spoil: func(dir string) error { return os.Mkdir(filepath.Join(dir, restoringDir), 0o700) }, check: "data folder", verdict: Failure, words: "interrupted"},
		"P-21 no database":          {spoil: write(databaseFile, strings.Repeat("junk", 3000)), check: "database", verdict: Failure, words: "can't be read as a SQLite database"},
		"P-21 the database is gone": {spoil: func(dir string) error { return os.Remove(filepath.Join(dir, databaseFile)) }, check: "database", verdict: Failure, words: "it is gone"},
		"the signing key is broken": {spoil: write(signingKeyFile, "junk"), check: "signing key", verdict: Failure, words: "not a PEM file"},
		"the signing key is gone":   {spoil: func(dir string) error { return os.Remove(filepath.Join(dir, signingKeyFile)) }, check: "signing key", verdict: Warning, words: "missing"},
		"another certificate's key": {spoil: func(dir string) error { return os.Remove(filepath.Join(dir, certKeyFile)) }, check: "certificate", verdict: Failure, words: "gateway.key"},
		"a certificate for others":  {config: func(c *Config) { c.PublicURL = "https://gateway.invalid" }, check: "certificate", verdict: Warning, words: "not for gateway.invalid"},
		"a name that no DNS has":    {config: func(c *Config) { c.PublicURL = "https://gateway.invalid" }, check: "public URL", verdict: Failure, words: "gateway.invalid"},
		"the port is another's":     {config: func(c *Config) { c.Listen = taken.Addr().String() }, check: "port", verdict: Failure, words: "another program holds"},
		"an address of another's":   {config: func(c *Config) { c.Listen = "192.0.2.1:8443" }, check: "port", verdict: Failure, words: "192.0.2.1"},
		"a port that is free":       {check: "port", verdict: Good, words: "is free"},
		"a folder that is not a folder": {
			spoil: func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
			check: "data folder", verdict: Failure, words: "is not a folder",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := PrepareDataDir(dir); err != nil {
				t.Fatal(err)
			}
			db := must[*store.DB](t)(store.Open(t.Context(), "sqlite:"+filepath.Join(dir, databaseFile), store.Options{}))
			s := &signing{dir: dir, issuer: "test", store: db, now: time.Now}
			if _, err := s.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Close(), makeCertificate(filepath.Join(dir, certFile), filepath.Join(dir, certKeyFile), "localhost")); err != nil {
				t.Fatal(err)
			}
			cfg := DefaultConfig()
			cfg.DataDir, cfg.Listen = dir, "127.0.0.1:0"
			if c.config != nil {
				c.config(&cfg)
			}
			if c.spoil != nil {
				if err := c.spoil(dir); err != nil {
					t.Fatal(err)
				}
			}
			before := tree(t, filepath.Dir(dir))
			found := doctorOf(cfg).Diagnose(t.Context())
			f := of(found, c.check)
			if f.Verdict != c.verdict || !strings.Contains(f.Detail, c.words) {
				t.Errorf("it found %+v, want %s with %q", f, c.verdict, c.words)
			}
			if c.verdict == Failure && f.Advice == "" {
				t.Errorf("%+v is without advice", f)
			}
			if c.verdict == Good && len(failures(found)) > 0 {
				t.Errorf("it fails %+v", failures(found))
			}
			if after := tree(t, filepath.Dir(dir)); !maps.Equal(after, before) {
				t.Error("something was made, migrated or repaired")
			}
		})
	}
	t.Run("the disk does not take anything", func(t *testing.T) {
		d := doctorOf(Config{DataDir: "/proc/self", Listen: "127.0.0.1:0"})
		if f := of(d.Diagnose(t.Context()), "writing"); f.Verdict != Failure {
			t.Errorf("%+v", f)
		}
	})
	t.Run("a database of an older program", func(t *testing.T) {
		d := doctorOf(Config{DataDir: newDataDir(t), Listen: "127.0.0.1:0"})
		d.Database = func(context.Context) (DatabaseHealth, error) {
			return DatabaseHealth{Engine: "sqlite", Version: 1, Newest: 2, HighAt: time.Now()}, nil
		}
		if f := of(d.Diagnose(t.Context()), "database"); f.Verdict != Warning || !strings.Contains(f.Advice, "migrates") {
			t.Errorf("%+v", f)
		}
		d.Database = func(context.Context) (DatabaseHealth, error) {
			return DatabaseHealth{Engine: "sqlite", Version: 2, Newest: 2, WALSize: 2 * largeWAL}, nil
		}
		if f := of(d.Diagnose(t.Context()), "database"); f.Verdict != Warning || !strings.Contains(f.Detail, "log") {
			t.Errorf("%+v", f)
		}
	})
	t.Run("a key that was withdrawn", func(t *testing.T) {
		f := newKeyFolder(t)
		id := f.signsWith()
		d := doctorOf(Config{DataDir: f.dir, Listen: "127.0.0.1:0"})
		d.Database = func(context.Context) (DatabaseHealth, error) {
			return DatabaseHealth{Keys: []socketxp.SigningKey{{ID: id, CompromisedAt: time.Now()}}}, nil
		}
		if f := of(d.Diagnose(t.Context()), "signing key"); f.Verdict != Warning || !strings.Contains(f.Detail, "compromised") {
			t.Errorf("%+v", f)
		}
	})
}
