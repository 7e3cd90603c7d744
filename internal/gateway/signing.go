package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"socketxp"
	"socketxp/internal/token"
)

// The private half of the key that this folder's gateway signs with, the one that
// is about to take its place, and the file whose lock is held while either changes.
const (
	signingKeyFile     = "signing.key"
	nextSigningKeyFile = "signing.next.key"
	signingLockFile    = "signing.lock"
)

// signing signs and verifies tokens with the keys as the database has them: one of
// the active keys, whose private half is in the data folder, signs; all that have
// not been withdrawn verify. It is safe for concurrent use.
type signing struct {
	dir, issuer string
	store       socketxp.SigningKeyStore
	now         func() time.Time

	loading sync.Mutex            // held while keys are loaded
	keys    []socketxp.SigningKey // as the database had them then; guarded by loading
	current atomic.Pointer[token.Authority]
}

// refresh takes the keys as they are in the database now, and makes this gateway a
// new one if none of its own is active any more. It reports whether anything has
// changed. With an error all stays as it was.
func (s *signing) refresh(ctx context.Context) (changed bool, err error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	keys, err := s.store.SigningKeys(ctx)
	if err != nil {
		return false, err
	}
	if s.current.Load() != nil && slices.EqualFunc(keys, s.keys, sameKey) {
		return false, nil
	}
	unlock, err := lockSigningKey(s.dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	key, keys, err := ensureSigningKey(ctx, s.dir, s.store, s.now(), socketxp.Actor{Kind: socketxp.KindConsole, RemoteAddr: "gateway"})
	if err != nil {
		return false, err
	}
	authority, err := newAuthority(s.issuer, key, keys, s.now())
	if err != nil {
		return false, err
	}
	s.keys = keys
	s.current.Store(authority)
	return true, nil
}

func sameKey(a, b socketxp.SigningKey) bool {
	return a.ID == b.ID && a.RetiredAt.Equal(b.RetiredAt) && a.Until.Equal(b.Until) && a.CompromisedAt.Equal(b.CompromisedAt)
}

func newAuthority(issuer string, key ed25519.PrivateKey, keys []socketxp.SigningKey, now time.Time) (*token.Authority, error) {
	var others []ed25519.PublicKey
	var withdrawn []string
	own := token.KeyID(key.Public().(ed25519.PublicKey))
	for _, k := range keys {
		switch state := k.State(now); {
		case k.ID == own:
		case state != socketxp.KeyActive && state != socketxp.KeyRetired:
			withdrawn = append(withdrawn, k.ID)
		case len(k.PublicKey) != ed25519.PublicKeySize || token.KeyID(k.PublicKey) != k.ID:
			return nil, fmt.Errorf("the signing key %s in the database is not the key of that name", k.ID)
		default:
			others = append(others, k.PublicKey)
		}
	}
	a, err := token.NewAuthority(issuer, key, others...)
	if err != nil {
		return nil, err
	}
	return a, a.Withdraw(withdrawn...)
}

// Sign, Verify and SigningKeyID are those of token.Authority.

func (s *signing) Sign(c token.Claims) (string, error) { return s.current.Load().Sign(c) }

func (s *signing) Verify(text string, now time.Time) (token.Claims, error) {
	return s.current.Load().Verify(text, now)
}

func (s *signing) SigningKeyID() string { return s.current.Load().SigningKeyID() }

// refreshKeys finds changes of the keys that others made: another gateway, or an
// admin command. What is open is judged again, here and elsewhere.
func (g *Gateway) refreshKeys(ctx context.Context) {
	ctx, cancel := g.asked(ctx)
	defer cancel()
	switch changed, err := g.tokens.refresh(ctx); {
	case err != nil:
		g.storeFailed("the signing keys were not read again", err)
	case changed:
		g.log.Info("the signing keys have changed", "signing with", g.tokens.SigningKeyID())
		g.cluster.Publish(socketxp.Hint{}) // of no kind: everything may be concerned
	}
}

// rotatedSince reports whether another key than id signs now.
func (g *Gateway) rotatedSince(ctx context.Context, id string) bool {
	g.refreshKeys(ctx)
	return g.tokens.SigningKeyID() != id
}

// lockSigningKey holds the files of the signing key, against other processes too.
// It is held for moments only.
func lockSigningKey(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, signingLockFile), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator's own folder
	if err != nil {
		return nil, fmt.Errorf("lock the signing key: %w", err)
	}
	if err := errors.Join(giveAway(f, dir), syscall.Flock(int(f.Fd()), syscall.LOCK_EX)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the signing key: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// ensureSigningKey returns the private half of this folder's active key, and all
// keys. Without one it makes it: at the first start, and when the one it had was
// withdrawn by somebody who can't make it a new one. A key file that the database
// does not know is taken into use: the database is a new one. The caller holds the
// lock.
func ensureSigningKey(ctx context.Context, dir string, store socketxp.SigningKeyStore, now time.Time, actor socketxp.Actor) (ed25519.PrivateKey, []socketxp.SigningKey, error) {
	keys, err := store.SigningKeys(ctx)
	if err != nil {
		return nil, nil, err
	}
	key, err := ownSigningKey(dir, keys, now)
	if err != nil {
		return nil, nil, err
	}
	entry := socketxp.AuditEntry{At: now, Actor: actor, Action: "signing-key.create", ObjectKind: "signing_key"}
	adopted := key != nil && !knows(keys, keyIDOf(key))
	switch {
	case key != nil && !adopted:
		return key, keys, nil
	case adopted:
		entry.ObjectID = keyIDOf(key)
		err = store.RotateSigningKey(ctx, socketxp.KeyRotation{At: now, Add: publicSide(key)}, entry)
	default:
		key, err = replaceSigningKey(ctx, dir, store, socketxp.KeyRotation{At: now}, entry)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a signing key: %w", err)
	}
	keys, err = store.SigningKeys(ctx)
	return key, keys, err
}

func keyIDOf(key ed25519.PrivateKey) string { return token.KeyID(key.Public().(ed25519.PublicKey)) }

func publicSide(key ed25519.PrivateKey) *socketxp.SigningKey {
	return &socketxp.SigningKey{ID: keyIDOf(key), PublicKey: key.Public().(ed25519.PublicKey)}
}

func knows(keys []socketxp.SigningKey, id string) bool {
	return slices.ContainsFunc(keys, func(k socketxp.SigningKey) bool { return k.ID == id })
}

// ownSigningKey returns the key in dir that is active, or that the database does
// not know; nil if there is none. It also finishes a rotation that was interrupted
// after the database had taken it.
func ownSigningKey(dir string, keys []socketxp.SigningKey, now time.Time) (ed25519.PrivateKey, error) {
	active := func(key ed25519.PrivateKey) bool {
		return slices.ContainsFunc(keys, func(k socketxp.SigningKey) bool {
			return k.ID == keyIDOf(key) && k.State(now) == socketxp.KeyActive
		})
	}
	path, next := filepath.Join(dir, signingKeyFile), filepath.Join(dir, nextSigningKeyFile)
	key, err := readSigningKey(path)
	if err != nil {
		return nil, err
	}
	if key != nil && (active(key) || !knows(keys, keyIDOf(key))) {
		return key, nil
	}
	if key, err = readSigningKey(next); err != nil || key == nil || !active(key) {
		return nil, err
	}
	return key, rename(next, path)
}

// readSigningKey returns nil if there is no file.
func readSigningKey(path string) (ed25519.PrivateKey, error) {
	key, err := readPrivateKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, not an Ed25519 key", path, key)
	}
	return ed, nil
}

// replaceSigningKey makes a key, has the database take it in r, and puts it in the
// place of the old one, which is gone with that. At every moment in between, the
// files and the database together say which of the two signs. The caller holds the
// lock.
func replaceSigningKey(ctx context.Context, dir string, store socketxp.SigningKeyStore, r socketxp.KeyRotation, entry socketxp.AuditEntry) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := encodePrivateKey(key)
	if err != nil {
		return nil, err
	}
	next := filepath.Join(dir, nextSigningKeyFile)
	if err := writeFile(next, text); err != nil {
		return nil, err
	}
	r.Add = publicSide(key)
	entry.ObjectID = r.Add.ID
	if err := store.RotateSigningKey(ctx, r, entry); err != nil {
		return nil, err
	}
	return key, rename(next, filepath.Join(dir, signingKeyFile))
}

// rename moves a file within its folder, for good when it returns.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// SigningKeyRotation is what an operator asks for.
type SigningKeyRotation struct {
	At      time.Time
	Overlap time.Duration // how long what the old key signed goes on
	// Compromised is the kid of a key whose tokens end now, this folder's or another
	// gateway's; "" for an ordinary rotation. Only a key of this folder's is replaced:
	// another gateway makes itself a new one when it finds its own withdrawn.
	Compromised string
	Entry       socketxp.AuditEntry // who and why
}

// RotateSigningKey does r in the data folder dir, beside a gateway that may be
// running, and returns the kid that signs in this folder from now on. The gateways
// on the database refuse what was withdrawn at once, and sign with new keys within
// 2 s.
func RotateSigningKey(ctx context.Context, dir string, store socketxp.SigningKeyStore, r SigningKeyRotation) (signsNow string, err error) {
	unlock, err := lockSigningKey(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	own, keys, err := ensureSigningKey(ctx, dir, store, r.At, r.Entry.Actor)
	if err != nil {
		return "", err
	}
	ownID := keyIDOf(own)
	change := socketxp.KeyRotation{At: r.At, Compromise: r.Compromised}
	entry := r.Entry
	entry.At, entry.ObjectKind = r.At, "signing_key"
	switch {
	case r.Compromised == "":
		change.Retire, change.Until = []string{ownID}, r.At.Add(r.Overlap)
		entry.Action, entry.Detail = "signing-key.rotate", fmt.Sprintf("%s retired, its tokens end %s", ownID, change.Until.Format(time.RFC3339))
	case !knows(keys, r.Compromised):
		return "", socketxp.Errorf(socketxp.CodeNotFound, "there is no signing key %s", r.Compromised).WithHint("socketxp-gateway admin rotate-signing-key --list")
	default:
		entry.Action, entry.Detail = "signing-key.compromised", r.Compromised+" withdrawn"
	}
	if r.Compromised != "" && r.Compromised != ownID {
		entry.ObjectID = r.Compromised
		return ownID, store.RotateSigningKey(ctx, change, entry)
	}
	key, err := replaceSigningKey(ctx, dir, store, change, entry)
	if err != nil {
		return "", err
	}
	return keyIDOf(key), nil
}

// OwnSigningKeyID returns the kid of the key file in dir, or "" if there is none.
func OwnSigningKeyID(dir string) (string, error) {
	key, err := readSigningKey(filepath.Join(dir, signingKeyFile))
	if err != nil || key == nil {
		return "", err
	}
	return keyIDOf(key), nil
}
