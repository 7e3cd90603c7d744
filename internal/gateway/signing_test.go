package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/store"
	"socketxp/internal/token"
)

// keyFolder is a data folder with its database, and no gateway.
type keyFolder struct {
	*testing.T
	dir string
	db  *faultyKeys
}

// faultyKeys fails a rotation before or after the database has taken it.
type faultyKeys struct {
	*store.DB
	before, after error
}

func (f *faultyKeys) RotateSigningKey(ctx context.Context, r socketxp.KeyRotation, entry socketxp.AuditEntry) error {
	if f.before != nil {
		return f.before
	}
	return errors.Join(f.DB.RotateSigningKey(ctx, r, entry), f.after)
}

func newKeyFolder(t *testing.T) *keyFolder {
	t.Helper()
	dir := newDataDir(t)
	db := must[*store.DB](t)(store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "gateway.db"), store.Options{}))
	t.Cleanup(func() { _ = db.Close() })
	return &keyFolder{T: t, dir: dir, db: &faultyKeys{DB: db}}
}

func (f *keyFolder) load() (*signing, error) {
	s := &signing{dir: f.dir, issuer: "test", store: f.db, now: time.Now}
	_, err := s.refresh(f.Context())
	return s, err
}

func (f *keyFolder) rotate(r SigningKeyRotation) (string, error) {
	r.At = time.Now()
	return RotateSigningKey(f.Context(), f.dir, f.db, r)
}

// states returns the states of all keys.
func (f *keyFolder) states() map[string]socketxp.SigningKeyState {
	f.Helper()
	out := map[string]socketxp.SigningKeyState{}
	for _, k := range must[[]socketxp.SigningKey](f.T)(f.db.SigningKeys(f.Context())) {
		out[k.ID] = k.State(time.Now())
	}
	return out
}

// signsWith checks that what a start finds is one active key of this folder's, in
// its one file, and returns its kid.
func (f *keyFolder) signsWith() string {
	f.Helper()
	s := must[*signing](f.T)(f.load())
	own := must[string](f.T)(OwnSigningKeyID(f.dir))
	if id := s.SigningKeyID(); id != own || f.states()[id] != socketxp.KeyActive {
		f.Errorf("it signs with %s, the file is of %s, the states are %v", id, own, f.states())
	}
	if _, err := os.Stat(filepath.Join(f.dir, nextSigningKeyFile)); err == nil && len(f.states()) > 1 {
		if next := must[ed25519.PrivateKey](f.T)(readSigningKey(filepath.Join(f.dir, nextSigningKeyFile))); f.states()[keyIDOf(next)] != "" {
			f.Error("a key that the database has was left in the file of the next one")
		}
	}
	return own
}

func TestSigningKeyFile(t *testing.T) {
	f := newKeyFolder(t)
	path := filepath.Join(f.dir, signingKeyFile)
	first := f.signsWith()
	if m := mode(t, path); m != 0o600 {
		t.Errorf("mode %#o", m)
	}
	if f.signsWith() != first {
		t.Error("another start has another key")
	}
	if newKeyFolder(t).signsWith() == first {
		t.Error("X-19 two gateways have the same key")
	}
	t.Run("what root leaves is the folder's owner's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			if os.Getenv("CI") != "" {
				t.Fatal("not root: CI must run everything")
			}
			t.Skip("not root: there is nobody else's folder to write to")
		}
		g := newKeyFolder(t)
		if err := os.Chown(g.dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		g.signsWith()
		must[string](t)(g.rotate(SigningKeyRotation{Overlap: time.Hour}))
		for _, name := range []string{signingKeyFile, signingLockFile} {
			st := must[os.FileInfo](t)(os.Stat(filepath.Join(g.dir, name)))
			if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 12345 || owner.Gid != 12345 {
				t.Errorf("%s is user %d's", name, owner.Uid)
			}
		}
	})
	t.Run("a new database takes the key that is there", func(t *testing.T) {
		g := newKeyFolder(t)
		if err := os.WriteFile(filepath.Join(g.dir, signingKeyFile), must[[]byte](t)(os.ReadFile(path)), 0o600); err != nil {
			t.Fatal(err)
		}
		if g.signsWith() != first {
			t.Error("it has another key")
		}
	})
	t.Run("a lost file is replaced, and the key in the database is not forgotten", func(t *testing.T) {
		g := newKeyFolder(t)
		lost := g.signsWith()
		if err := os.Remove(filepath.Join(g.dir, signingKeyFile)); err != nil {
			t.Fatal(err)
		}
		if g.signsWith() == lost || g.states()[lost] != socketxp.KeyActive {
			t.Errorf("states %v", g.states())
		}
	})
	for name, spoil := range map[string]func() error{
		"open to others": func() error { return os.Chmod(path, 0o640) },
		"not PEM":        func() error { return os.WriteFile(path, []byte("key"), 0o600) },
		"another kind of key": func() error {
			if err := makeCertificate(filepath.Join(f.dir, certFile), filepath.Join(f.dir, certKeyFile), "localhost"); err != nil {
				return err
			}
			return os.Rename(filepath.Join(f.dir, certKeyFile), path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			keep := must[[]byte](t)(os.ReadFile(path))
			defer func() {
				if err := errors.Join(os.WriteFile(path, keep, 0o600), os.Chmod(path, 0o600)); err != nil {
					t.Fatal(err)
				}
			}()
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			if _, err := f.load(); err == nil {
				t.Error("taken")
			}
			if _, err := f.rotate(SigningKeyRotation{Overlap: time.Hour}); err == nil {
				t.Error("rotated away")
			}
		})
	}
}

func TestRotateSigningKey(t *testing.T) {
	f := newKeyFolder(t)
	first := f.signsWith()
	second := must[string](t)(f.rotate(SigningKeyRotation{Overlap: time.Hour}))
	if f.signsWith() != second || second == first || f.states()[first] != socketxp.KeyRetired {
		t.Errorf("states %v", f.states())
	}
	third := must[string](t)(f.rotate(SigningKeyRotation{Compromised: second}))
	if f.signsWith() != third || f.states()[second] != socketxp.KeyCompromised {
		t.Errorf("states %v", f.states())
	}
	t.Run("a key that does not sign any more", func(t *testing.T) {
		if got := must[string](t)(f.rotate(SigningKeyRotation{Compromised: first})); got != third || f.states()[first] != socketxp.KeyCompromised {
			t.Errorf("signs with %s, states %v", got, f.states())
		}
	})
	t.Run("a key that is not there", func(t *testing.T) {
		if _, err := f.rotate(SigningKeyRotation{Compromised: "x"}); socketxp.CodeOf(err) != socketxp.CodeNotFound {
			t.Errorf("%v", err)
		}
	})
	t.Run("a compromised key does not come back with its file", func(t *testing.T) {
		stolen := newKeyFolder(t)
		id := stolen.signsWith()
		if err := stolen.db.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: time.Now(), Compromise: id}, socketxp.AuditEntry{}); err != nil {
			t.Fatal(err)
		}
		if stolen.signsWith() == id {
			t.Error("it signs again")
		}
	})
	t.Run("another key under a known kid is refused", func(t *testing.T) {
		g := newKeyFolder(t)
		g.signsWith()
		err := g.db.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: time.Now(), Add: &socketxp.SigningKey{ID: "x", PublicKey: newKey(t).Public().(ed25519.PublicKey)}}, socketxp.AuditEntry{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.load(); err == nil {
			t.Error("T-07 a kid that is not of its key was taken")
		}
	})
}

// Whatever step of a rotation fails or is the last before a crash, the next start
// has exactly one key of this folder's that signs, and what it signs is good.
func TestRotateSigningKeyFailing(t *testing.T) {
	failed := errors.New("failed")
	for name, fail := range map[string]struct {
		arrange func(*keyFolder) (undo func())
		rotated bool // the database has taken it
	}{
		"P-05 before the new key is written": {arrange: func(f *keyFolder) func() {
			blocked := filepath.Join(f.dir, nextSigningKeyFile)
			if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
				f.Fatal(err)
			}
			return func() { _ = os.RemoveAll(blocked) }
		}},
		"P-05 before the database has it": {arrange: func(f *keyFolder) func() {
			f.db.before = failed
			return func() { f.db.before = nil }
		}},
		"P-05 after the database has it": {rotated: true, arrange: func(f *keyFolder) func() {
			f.db.after = failed
			return func() { f.db.after = nil }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newKeyFolder(t)
			first := f.signsWith()
			undo := fail.arrange(f)
			_, err := f.rotate(SigningKeyRotation{Overlap: time.Hour})
			undo()
			if err == nil {
				t.Fatal("nothing failed")
			}
			if after := f.signsWith(); (after != first) != fail.rotated {
				t.Errorf("it signs with the first key: %v", after == first)
			}
			again := must[string](t)(f.rotate(SigningKeyRotation{Overlap: time.Hour}))
			if f.signsWith() != again {
				t.Error("the second try does not sign")
			}
			active := 0
			for _, s := range f.states() {
				if s == socketxp.KeyActive {
					active++
				}
			}
			if active != 1 {
				t.Errorf("states %v", f.states())
			}
		})
	}
}

func TestSigningKeyRotationInUse(t *testing.T) {
	var ahead atomic.Int64 // of the gateway's clock
	w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) {
		d.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}, func(l *limits) { l.keysEvery = 10 * time.Millisecond })
	c := w.rest()
	rotate := func(t *testing.T, r SigningKeyRotation) {
		t.Helper()
		r.At = w.g.now()
		id := must[string](t)(RotateSigningKey(t.Context(), w.g.cfg.DataDir, w.store.Store, r))
		eventually(t, patience, "the gateway signs with it", func() bool { return w.g.tokens.SigningKeyID() == id })
	}
	me := func(text string) restAnswer { return c.do(get, "/api/v1/me", "", bearer(text)...) }
	rights := socketxp.TokenScope{Rights: socketxp.Rights}

	t.Run("T-17 in the overlap", func(t *testing.T) {
		s := w.play(socketxp.TokenScope{})
		_, old := w.newToken(socketxp.TokenAPI, rights)
		rotate(t, SigningKeyRotation{Overlap: 10 * time.Minute})
		me(old).want(t, http.StatusOK, "")
		_, young := w.newToken(socketxp.TokenAPI, rights)
		me(young).want(t, http.StatusOK, "")
		s.stream.flows(t)

		t.Run("the text of before is not shown again", func(t *testing.T) {
			_, admin := w.newSignIn(0)
			a := c.do(post, "/api/v1/tokens/"+s.token.ID+"/reveal", "", cookie(admin)...)
			a.want(t, http.StatusConflict, socketxp.CodeConflict)
		})
		t.Run("after it", func(t *testing.T) {
			ahead.Add(int64(10 * time.Minute))
			me(old).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
			me(young).want(t, http.StatusOK, "")
			w.cluster.Publish(socketxp.Hint{}) // as the sweep after 30 s
			s.isCut(t, socketxp.CodeTokenRevoked)
		})
	})
	t.Run("T-18 compromised", func(t *testing.T) {
		s := w.play(socketxp.TokenScope{})
		tok, text := w.newToken(socketxp.TokenAPI, rights)
		claims := w.claimsOf(tok)
		begin := time.Now()
		id := w.g.tokens.SigningKeyID()
		stolen := w.g.tokens.current.Load()
		_ = must[string](t)(RotateSigningKey(t.Context(), w.g.cfg.DataDir, w.store.Store, SigningKeyRotation{At: w.g.now(), Compromised: id}))
		me(text).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked) // whether or not the gateway knows yet
		s.isCut(t, socketxp.CodeTokenRevoked)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("T-18 it took %v", took)
		}
		me(text).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
		forged := must[string](t)(stolen.Sign(claims))
		me(forged).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
		_, admin := w.newSignIn(0)
		if got := into[api.Token](t, c.do(get, "/api/v1/tokens/"+tok.ID, "", cookie(admin)...)); got.State != api.TokenWithdrawn {
			t.Errorf("it is listed as %s", got.State)
		}
	})
	t.Run("T-18 another gateway's key", func(t *testing.T) {
		other := newKey(t)
		authority := must[*token.Authority](t)(token.NewAuthority(w.g.id, other))
		if err := w.store.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: w.g.now(), Add: publicSide(other)}, socketxp.AuditEntry{}); err != nil {
			t.Fatal(err)
		}
		now := w.g.now().Truncate(time.Second)
		tok := socketxp.Token{
			ID: socketxp.NewID(now), AccountID: w.account.ID, Kind: socketxp.TokenAPI, Name: "t", CreatedBy: w.owner.ID,
			CreatedAt: now, ExpiresAt: now.Add(time.Hour), Scope: rights, KeyID: authority.SigningKeyID(),
		}
		if err := w.store.CreateToken(t.Context(), tok, w.entry("token.create")); err != nil {
			t.Fatal(err)
		}
		text := must[string](t)(authority.Sign(w.claimsOf(tok)))
		eventually(t, patience, "this gateway knows the key", func() bool { return me(text).status == http.StatusOK })
		own := w.g.tokens.SigningKeyID()
		if id := must[string](t)(RotateSigningKey(t.Context(), w.g.cfg.DataDir, w.store.Store, SigningKeyRotation{At: w.g.now(), Compromised: tok.KeyID})); id != own {
			t.Errorf("this gateway's key was replaced as well")
		}
		me(text).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
	})
	t.Run("a gateway whose key others withdrew makes itself a new one", func(t *testing.T) {
		before := w.g.tokens.SigningKeyID()
		if err := w.store.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: w.g.now(), Compromise: before}, socketxp.AuditEntry{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "it signs with another key", func() bool { return w.g.tokens.SigningKeyID() != before })
		_, text := w.newToken(socketxp.TokenAPI, rights)
		me(text).want(t, http.StatusOK, "")
	})
}

// A gateway that has not heard of a rotation yet makes no token that is dead.
func TestTokenMadeDuringRotation(t *testing.T) {
	w := start(t, func(l *limits) { l.keysEvery = time.Hour })
	_, admin := w.newSignIn(0)
	for name, compromised := range map[string]bool{"T-17 retired": false, "T-18 compromised": true} {
		t.Run(name, func(t *testing.T) {
			r := SigningKeyRotation{At: w.g.now(), Overlap: time.Hour}
			if compromised {
				r.Compromised = w.g.tokens.SigningKeyID()
			}
			id := must[string](t)(RotateSigningKey(t.Context(), w.g.cfg.DataDir, w.store.Store, r))
			if w.g.tokens.SigningKeyID() == id {
				t.Fatal("the gateway knows it already")
			}
			created := into[api.CreatedToken](t, w.rest().do(post, "/api/v1/tokens", `{"kind":"access","name":"a"}`, cookie(admin)...))
			row := must[socketxp.Token](t)(w.store.Token(t.Context(), w.account.ID, created.ID))
			if err := row.Usable(w.g.now()); row.KeyID != id || err != nil || created.State != api.TokenLive {
				t.Errorf("signed with the new key: %v; usable: %v; shown as %s", row.KeyID == id, err, created.State)
			}
		})
	}
}
