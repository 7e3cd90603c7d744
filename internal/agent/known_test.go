package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"socketxp"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const knownGateway = "https://gateway.example.com"

func newPublicKey(t *testing.T) ed25519.PublicKey {
	t.Helper()
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKnow(t *testing.T) {
	dir := newDir(t)
	id, key := socketxp.NewID(time.Now()), newPublicKey(t)
	check := func(want string, gateway, id, name string, key ed25519.PublicKey, byName bool) {
		t.Helper()
		err := dir.know(t.Context(), gateway, id, name, key, nil, byName)
		var e *socketxp.Error
		if got := err != nil; got != (want != "") || got && (!errors.As(err, &e) || !strings.Contains(err.Error()+e.Hint, want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	check("", knownGateway, id, "sensor", key, true)
	check("", knownGateway, id, "sensor", key, true)
	check("", knownGateway, id, "sensor", key, false)
	check("line 1 of", knownGateway, id, "sensor", newPublicKey(t), false)
	check("line 1 of", knownGateway, socketxp.NewID(time.Now()), "sensor", newPublicKey(t), true)
	check("", "https://other.example.com", id, "sensor", newPublicKey(t), true) // another gateway's devices are others
	check("", knownGateway, id, "renamed", key, true)
	check("line 1 of", knownGateway, id, "renamed", newPublicKey(t), true)
	data, err := os.ReadFile(dir.file(knownFile))
	if err != nil || strings.Count(string(data), "\n") != 2 {
		t.Errorf("%q, %v", data, err)
	}

	t.Run("lines of people stay", func(t *testing.T) {
		with := "# ours\n\n" + string(data)
		if err := os.WriteFile(dir.file(knownFile), []byte(with), 0o600); err != nil {
			t.Fatal(err)
		}
		check("line 3 of", knownGateway, id, "renamed", newPublicKey(t), false)
		check("", knownGateway, socketxp.NewID(time.Now()), "third", key, true)
		if now, err := os.ReadFile(dir.file(knownFile)); err != nil || !strings.HasPrefix(string(now), with) {
			t.Errorf("%q, %v", now, err)
		}
	})
	t.Run("a damaged file guards still", func(t *testing.T) {
		for _, text := range []string{"x\n", "a b c d\n", knownGateway + " " + id + " sensor SHA256:short\n"} {
			if err := os.WriteFile(dir.file(knownFile), []byte("\n"+text), 0o600); err != nil {
				t.Fatal(err)
			}
			check("line 2", knownGateway, id, "sensor", key, true)
		}
	})
}

func TestKnowFollowsKeys(t *testing.T) {
	dir := newDir(t)
	id := socketxp.NewID(time.Now())
	var keys []ed25519.PublicKey
	var chain []socketxp.KeyVoucher
	var last ed25519.PrivateKey
	for i := range 4 {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			chain = append(chain, socketxp.KeyVoucher{Key: keys[i-1], Vouch: ed25519.Sign(last, socketxp.KeyVouch(id, keys[i-1], public))})
		}
		keys, last = append(keys, public), private
	}
	know := func(key ed25519.PublicKey, chain []socketxp.KeyVoucher) bool {
		return dir.know(t.Context(), knownGateway, id, "sensor", key, chain, true) == nil
	}
	stranger := newPublicKey(t)
	forged := []socketxp.KeyVoucher{{Key: keys[0], Vouch: chain[1].Vouch}}
	for _, step := range []struct {
		name  string
		key   ed25519.PublicKey
		chain []socketxp.KeyVoucher
		want  bool
	}{
		{"the first contact", keys[0], nil, true},
		{"another key by the gateway's word alone", keys[1], nil, false},
		{"another key with somebody else's voucher", keys[1], forged, false},
		{"another key at the end of a chain of others", stranger, chain, false},
		{"the key that the known one vouches for", keys[1], chain[:1], true},
		{"back to the one before", keys[0], nil, false},
		{"back, with all vouchers", keys[0], chain, false},
		{"two keys further on", keys[3], chain, true},
		{"that one again", keys[3], nil, true},
		{"the chain without its last link", stranger, chain[:2], false},
	} {
		t.Run(step.name, func(t *testing.T) {
			before, _ := os.ReadFile(dir.file(knownFile))
			if got := know(step.key, step.chain); got != step.want {
				t.Errorf("taken: %v", got)
			}
			after, err := os.ReadFile(dir.file(knownFile))
			if err != nil {
				t.Fatal(err)
			}
			if step.want && !strings.Contains(string(after), socketxp.Fingerprint(step.key)) || !step.want && string(after) != string(before) {
				t.Errorf("it remembers %q", after)
			}
		})
	}
}

func TestKnowAtOnce(t *testing.T) {
	dir := newDir(t)
	key := newPublicKey(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := dir.know(t.Context(), knownGateway, socketxp.NewID(time.Now()), fmt.Sprintf("d%d", i), key, nil, true); err != nil {
				t.Error(err)
			}
			if err := dir.knowSSHHost(t.Context(), sshHosts(3000+i), ""); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	data, err := dir.read(knownFile, maxKnown, true)
	if known, parseErr := parseKnown(data); err != nil || parseErr != nil || len(known) != 20 {
		t.Errorf("%d are known, %v, %v", len(known), err, parseErr)
	}
}

func TestKnowSSHHost(t *testing.T) {
	dir := newDir(t)
	one, err := ssh.NewPublicKey(newPublicKey(t))
	if err != nil {
		t.Fatal(err)
	}
	two, err := ssh.NewPublicKey(newPublicKey(t))
	if err != nil {
		t.Fatal(err)
	}
	accepts := func(address string, key ssh.PublicKey) bool {
		t.Helper()
		check, err := knownhosts.New(dir.file(sshKnownFile))
		if err != nil {
			t.Fatal(err)
		}
		return check(address, fakeAddr{}, key) == nil
	}
	know := func(port int, key string) {
		t.Helper()
		if err := dir.knowSSHHost(t.Context(), sshHosts(port), key); err != nil {
			t.Fatal(err)
		}
	}
	text := func(k ssh.PublicKey) string { return string(ssh.MarshalAuthorizedKey(k)) }
	know(3000, text(one))
	know(3001, text(two))
	know(22, text(one))
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
		if !accepts(host+":3000", one) || accepts(host+":3000", two) || !accepts(host+":3001", two) || !accepts(host+":22", one) {
			t.Errorf("%s: wrong", host)
		}
	}
	know(3000, text(two))
	if accepts("localhost:3000", one) || !accepts("localhost:3000", two) {
		t.Error("a port that leads to another device has the old key")
	}
	know(3000, "")
	if accepts("localhost:3000", two) || !accepts("localhost:3001", two) {
		t.Error("a port that leads to no built-in server has a key")
	}
	for _, bad := range []string{"x", "ssh-ed25519", text(one) + text(two)} {
		if err := dir.knowSSHHost(t.Context(), sshHosts(1), bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	t.Run("what a gateway adds to a key is dropped", func(t *testing.T) {
		know(4000, `command="x" `+strings.TrimSpace(text(one))+" comment * cert-authority")
		data, err := os.ReadFile(dir.file(sshKnownFile))
		if err != nil || strings.Contains(string(data), "comment") || strings.Contains(string(data), "command") {
			t.Errorf("%s, %v", data, err)
		}
	})
}

type fakeAddr struct{}

func (fakeAddr) Network() string { return "tcp" }
func (fakeAddr) String() string  { return "127.0.0.1:1" }

func FuzzParseKnown(f *testing.F) {
	f.Add([]byte("# a comment\n\n" + knownGateway + " 019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11 sensor SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"))
	f.Add([]byte("a b c d"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseKnown(data)
		if err != nil {
			return
		}
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		for i, k := range all {
			if k != (knownDevice{}) && k.String() != lines[i] {
				t.Errorf("line %d is %q, not %q", i+1, k, lines[i])
			}
		}
	})
}
