package gateway

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
)

func newDataDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state", "gateway")
	if err := PrepareDataDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	return must[os.FileInfo](t)(os.Stat(path)).Mode().Perm()
}

func TestDataDir(t *testing.T) {
	dir := newDataDir(t)
	if m := mode(t, dir); m != 0o700 {
		t.Errorf("mode %#o", m)
	}
	t.Run("one that others can look into is refused", func(t *testing.T) {
		open := t.TempDir()
		if err := os.Chmod(open, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := PrepareDataDir(open); err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a file is refused", func(t *testing.T) {
		f := filepath.Join(dir, "file")
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if PrepareDataDir(f) == nil || PrepareDataDir("") == nil {
			t.Error("taken")
		}
	})
	t.Run("a second process is refused", func(t *testing.T) {
		first := must[*os.File](t)(LockDataDir(dir))
		if _, err := LockDataDir(dir); err == nil || !strings.Contains(err.Error(), "another gateway") {
			t.Errorf("err = %v", err)
		}
		_ = first.Close()
		_ = must[*os.File](t)(LockDataDir(dir)).Close()
	})
}

func TestCertificate(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir = newDataDir(t)
	c := must[*certificate](t)(loadCertificate(cfg, "gateway.example.com"))
	leaf := c.now.Load().Leaf
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	for _, name := range []string{"gateway.example.com", "localhost", "127.0.0.1", "::1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if leaf.PublicKeyAlgorithm != x509.ECDSA || time.Until(leaf.NotAfter) < 9*365*24*time.Hour {
		t.Errorf("%v until %v", leaf.PublicKeyAlgorithm, leaf.NotAfter)
	}
	if m := mode(t, filepath.Join(cfg.DataDir, certKeyFile)); m != 0o600 {
		t.Errorf("the key's mode is %#o", m)
	}
	if c.pin() != socketxp.PinOf(leaf) {
		t.Error("it is not pinned")
	}
	t.Run("another start has the same", func(t *testing.T) {
		again := must[*certificate](t)(loadCertificate(cfg, "gateway.example.com"))
		if !bytes.Equal(again.now.Load().Leaf.Raw, leaf.Raw) {
			t.Error("it is another one")
		}
	})
	t.Run("a lost certificate is made again for the same key", func(t *testing.T) {
		if err := os.Remove(filepath.Join(cfg.DataDir, certFile)); err != nil {
			t.Fatal(err)
		}
		again := must[*certificate](t)(loadCertificate(cfg, "gateway.example.com"))
		if again.pin() != c.pin() {
			t.Error("it has another key")
		}
	})
	t.Run("an address as the public host", func(t *testing.T) {
		cfg := cfg
		cfg.DataDir = newDataDir(t)
		leaf := must[*certificate](t)(loadCertificate(cfg, "192.0.2.7")).now.Load().Leaf
		if err := leaf.VerifyHostname("192.0.2.7"); err != nil {
			t.Error(err)
		}
		if !slices.Equal(leaf.DNSNames, []string{"localhost"}) {
			t.Errorf("names %v", leaf.DNSNames)
		}
	})
	t.Run("the operator's files, read again", func(t *testing.T) {
		own := cfg
		own.TLSCert, own.TLSKey = filepath.Join(cfg.DataDir, "own.crt"), filepath.Join(cfg.DataDir, "own.key")
		if err := makeCertificate(own.TLSCert, own.TLSKey, "gateway.example.com"); err != nil {
			t.Fatal(err)
		}
		c := must[*certificate](t)(loadCertificate(own, "gateway.example.com"))
		before := c.now.Load()
		if err := os.Remove(own.TLSCert); err != nil {
			t.Fatal(err)
		}
		if c.reload() == nil || c.now.Load() != before {
			t.Error("a missing file was taken")
		}
		if err := makeCertificate(own.TLSCert, own.TLSKey, "gateway.example.com"); err != nil {
			t.Fatal(err)
		}
		if err := c.reload(); err != nil || bytes.Equal(c.now.Load().Leaf.Raw, before.Leaf.Raw) {
			t.Errorf("renewed with the same key: %v", err)
		}
		renewed := c.now.Load()
		for _, f := range []string{own.TLSCert, own.TLSKey} {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := makeCertificate(own.TLSCert, own.TLSKey, "gateway.example.com"); err != nil {
			t.Fatal(err)
		}
		if c.reload() == nil || c.now.Load() != renewed {
			t.Error("R-15 a key that agents have not pinned was taken")
		}
	})
}

func TestPinIsLeftOutOnlyForTheSystemsAuthorities(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir = newDataDir(t)
	c := must[*certificate](t)(loadCertificate(cfg, "gateway.example.com"))
	roots := x509.NewCertPool()
	roots.AddCert(c.now.Load().Leaf)
	for host, want := range map[string]string{"gateway.example.com": "", "other.example.com": socketxp.PinOf(c.now.Load().Leaf)} {
		if got := pinFor(c.now.Load(), host, roots); got != want {
			t.Errorf("%s: pin %q, want %q", host, got, want)
		}
	}
	if pinFor(c.now.Load(), "gateway.example.com", x509.NewCertPool()) == "" {
		t.Error("not pinned under authorities that don't know it")
	}
}
