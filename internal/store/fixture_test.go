package store_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"socketxp"
)

// t0 is now in these tests: to the microsecond, so that a loss of precision shows.
var t0 = time.Date(2026, 11, 24, 12, 0, 0, 123456000, time.UTC)

// ids come in ascending order within a test: each is a millisecond younger.
type idSource struct{ at time.Time }

func (s *idSource) next() string {
	s.at = s.at.Add(time.Millisecond)
	return socketxp.NewID(s.at)
}

// tenant is an account with its owner.
type tenant struct {
	t     testing.TB
	store socketxp.Store
	ids   *idSource
	id    string
	owner socketxp.User
}

func newTenant(t testing.TB, s socketxp.Store, name string) *tenant {
	t.Helper()
	ids := &idSource{at: t0}
	ten := &tenant{t: t, store: s, ids: ids, id: ids.next(), owner: socketxp.User{
		ID: ids.next(), Email: name + "@example.com", Name: name, PasswordHash: "$argon2id$" + name, CreatedAt: t0,
	}}
	ten.must(s.CreateAccount(t.Context(), socketxp.Account{
		ID: ten.id, Name: name, CreatedAt: t0, BasicTokens: true, BasicLife: socketxp.DefaultBasicLife, DeviceQuota: 100,
	}, ten.owner, false, ten.entry("account.create")))
	err := s.RotateSigningKey(t.Context(), socketxp.KeyRotation{At: t0, Add: &socketxp.SigningKey{ID: "k1", PublicKey: make(ed25519.PublicKey, ed25519.PublicKeySize)}}, socketxp.AuditEntry{At: t0, Action: "key.create"})
	if err != nil && socketxp.CodeOf(err) != socketxp.CodeConflict { // the second tenant finds it there
		t.Fatal(err)
	}
	return ten
}

func (ten *tenant) must(err error) {
	ten.t.Helper()
	if err != nil {
		ten.t.Fatal(err)
	}
}

func (ten *tenant) entry(action string) socketxp.AuditEntry {
	return socketxp.AuditEntry{AccountID: ten.id, At: t0, Action: action, Actor: socketxp.Actor{Kind: socketxp.KindConsole, UserID: ten.owner.ID, RemoteAddr: "192.0.2.1"}}
}

func (ten *tenant) newToken(kind socketxp.TokenKind, change ...func(*socketxp.Token)) socketxp.Token {
	ten.t.Helper()
	tok := socketxp.Token{
		ID: ten.ids.next(), AccountID: ten.id, Kind: kind, Name: "a token", CreatedBy: ten.owner.ID, KeyID: "k1",
		CreatedAt: t0.Truncate(time.Second), ExpiresAt: t0.Truncate(time.Second).Add(time.Hour), KeyUntil: socketxp.EndOfTime,
	}
	if kind == socketxp.TokenRegistration {
		tok.MaxUses = 1
	}
	for _, c := range change {
		c(&tok)
	}
	ten.must(ten.store.CreateToken(ten.t.Context(), tok, ten.entry("token.create")))
	return tok
}

// registration returns one of a new key.
func (ten *tenant) registration(name, tokenID string) socketxp.Registration {
	ten.t.Helper()
	key, _, err := ed25519.GenerateKey(rand.Reader)
	ten.must(err)
	return socketxp.Registration{TokenID: tokenID, Device: socketxp.Device{
		ID: ten.ids.next(), AccountID: ten.id, Name: name, PublicKey: key, KeySince: t0, CreatedAt: t0, CreatedBy: ten.owner.ID,
	}}
}

func (ten *tenant) register(r socketxp.Registration) (socketxp.Device, bool, error) {
	return ten.store.RegisterDevice(ten.t.Context(), r, t0, ten.entry("device.register"))
}

// newDevice registers one ahead of time, without a token.
func (ten *tenant) newDevice(name string, change ...func(*socketxp.Device)) socketxp.Device {
	ten.t.Helper()
	r := ten.registration(name, "")
	for _, c := range change {
		c(&r.Device)
	}
	d, again, err := ten.register(r)
	ten.must(err)
	if again {
		ten.t.Fatal("a new device was there before")
	}
	return d
}

// chain returns the account's audit records and checks that they verify.
func (ten *tenant) chain() []socketxp.AuditRecord {
	ten.t.Helper()
	records, err := ten.store.Audit(ten.t.Context(), ten.id, socketxp.AuditQuery{Limit: 1000})
	ten.must(err)
	var prev socketxp.AuditRecord
	for _, r := range records {
		ten.must(socketxp.VerifyChain(prev, r))
		prev = r
	}
	return records
}

// wantCode fails unless err has the code.
func wantCode(t testing.TB, err error, want socketxp.Code) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", want)
	} else if got := socketxp.CodeOf(err); got != want {
		t.Errorf("%s (%v), want %s", got, err, want)
	}
}

func wantEqual[T any](t testing.TB, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func deviceNames(devices []socketxp.Device) string {
	var out []string
	for _, d := range devices {
		out = append(out, d.Name)
	}
	return strings.Join(out, " ")
}

func ptr[T any](v T) *T { return &v }

func tunnel(t testing.TB, destination string) socketxp.Tunnel {
	t.Helper()
	d, err := socketxp.ParseDestination(destination)
	if err != nil {
		t.Fatal(err)
	}
	return socketxp.Tunnel{Destination: d}
}

// errNotFoundIsFine lets token return the zero Token for one that is not there.
const errNotFoundIsFine = true

func (ten *tenant) token(id string, missingIsFine ...bool) socketxp.Token {
	ten.t.Helper()
	tok, err := ten.store.Token(ten.t.Context(), ten.id, id)
	if len(missingIsFine) > 0 && socketxp.CodeOf(err) == socketxp.CodeNotFound {
		return socketxp.Token{}
	}
	ten.must(err)
	return tok
}

func (ten *tenant) device(name string) socketxp.Device {
	ten.t.Helper()
	d, err := ten.store.DeviceByName(ten.t.Context(), ten.id, name)
	ten.must(err)
	return d
}

func (ten *tenant) lastRecord() socketxp.AuditRecord {
	ten.t.Helper()
	records := ten.chain()
	return records[len(records)-1]
}
