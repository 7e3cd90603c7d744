package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"socketxp"
)

// world is an account with one of everything in it.
type world struct {
	*tenant
	second  string // a user who is an owner too
	device  socketxp.Device
	parent  socketxp.Token // api
	token   socketxp.Token // registration, with uses left
	session socketxp.Session
	signIn  socketxp.SignIn
	asks    socketxp.DeviceAuthorization // nobody has decided
	may     socketxp.DeviceAuthorization // approved
	group   string                       // with the device in it
	empty   string                       // a group
}

func newWorld(t testing.TB, s socketxp.Store, url, name string) *world {
	t.Helper()
	w := &world{tenant: newTenant(t, s, name), group: "pumps", empty: "empty"}
	helper := newTenant(t, s, name+"-helper")
	w.second = helper.owner.ID
	w.addOwner(url, w.second)
	w.device = w.newDevice("sensor", func(d *socketxp.Device) { d.Group = w.group })
	w.must(s.DeviceConnected(t.Context(), w.id, w.device.ID, socketxp.DeviceReport{At: t0, Tunnels: []socketxp.Tunnel{tunnel(t, "tcp://localhost:22")}}))
	w.must(s.CreateGroup(t.Context(), socketxp.Group{AccountID: w.id, Name: w.empty, CreatedAt: t0}, w.entry("group.create")))
	w.parent = w.newToken(socketxp.TokenAPI)
	w.token = w.newToken(socketxp.TokenRegistration, func(tok *socketxp.Token) { tok.MaxUses, tok.ParentID = 1000, w.parent.ID })
	w.session = w.newSession(w.device)
	w.signIn = w.newSignIn(w.owner, w.id)
	w.newEvent(socketxp.EventDeviceOnline, w.device.ID)
	w.asks, w.may = w.newAuthorization(), w.newAuthorization()
	w.may = w.decide(w.may, socketxp.AuthorizationApproved)
	return w
}

// act is one thing that can be done to a world, by whoever says to be account as.
type act struct {
	name string
	// foreign is what it must fail with when as is another account; "" if it names
	// no object of an account that it could miss.
	foreign socketxp.Code
	audited bool
	run     func(ctx context.Context, w *world, as string, entry socketxp.AuditEntry) error
}

// acts are all methods of the store that change or read an object.
var acts = []act{
	{"CreateAccount", "", true, func(ctx context.Context, w *world, _ string, e socketxp.AuditEntry) error {
		id := socketxp.NewID(t0)
		e.AccountID = id
		return w.store.CreateAccount(ctx, socketxp.Account{ID: id, CreatedAt: t0}, socketxp.User{ID: id, Email: id + "@example.com", CreatedAt: t0}, false, e)
	}},
	{"Membership", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		_, err := w.store.Membership(ctx, as, w.owner.ID)
		return err
	}},
	{"DeleteMembership", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.DeleteMembership(ctx, as, w.second, e)
	}},
	{"SetPassword", "", true, func(ctx context.Context, w *world, _ string, e socketxp.AuditEntry) error {
		return w.store.SetPassword(ctx, w.owner.ID, "", "$new", e)
	}},
	{"SetUserDisabled", "", true, func(ctx context.Context, w *world, _ string, e socketxp.AuditEntry) error {
		return w.store.SetUserDisabled(ctx, w.owner.ID, t0, e)
	}},
	{"CreateSignIn", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		s := w.signIn
		s.ID, s.AccountID = socketxp.NewID(t0), as
		s.SecretHash = sha256.Sum256([]byte(s.ID))
		u, err := w.store.User(ctx, w.owner.ID)
		if err != nil {
			return err
		}
		return w.store.CreateSignIn(ctx, s, socketxp.Entrance{PasswordHash: u.PasswordHash, Given: s.SecretHash}, e)
	}},
	{"DeleteSignIn", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.DeleteSignIn(ctx, as, w.owner.ID, w.signIn.ID, e)
	}},
	{"EndSignIns", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.EndSignIns(ctx, as, w.owner.ID, e)
	}},
	{"CreateAuthorization", "", false, func(ctx context.Context, w *world, _ string, _ socketxp.AuditEntry) error {
		a := w.asks
		a.ID, a.UserCode = socketxp.NewID(t0), socketxp.NewUserCode()
		a.DeviceHash = sha256.Sum256([]byte(a.ID))
		return w.store.CreateAuthorization(ctx, a)
	}},
	{"DecideAuthorization", "", true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		a := w.asks
		a.AccountID, a.State = as, socketxp.AuthorizationApproved
		return w.store.DecideAuthorization(ctx, a, t0, e)
	}},
	{"UseAuthorization", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		tok := w.parent
		tok.ID, tok.AccountID = socketxp.NewID(t0), as
		return w.store.UseAuthorization(ctx, w.may.ID, tok, t0, e)
	}},
	{"CreateToken", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		tok := w.token
		tok.ID, tok.AccountID = socketxp.NewID(t0), as
		return w.store.CreateToken(ctx, tok, e)
	}},
	{"Token", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		_, err := w.store.Token(ctx, as, w.token.ID)
		return err
	}},
	{"RevokeToken", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		_, err := w.store.RevokeToken(ctx, as, w.parent.ID, t0, e)
		return err
	}},
	{"TouchToken", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		return w.store.TouchToken(ctx, as, w.token.ID, t0)
	}},
	{"RegisterDevice", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		id := socketxp.NewID(t0)
		key := sha256.Sum256([]byte(id))
		_, _, err := w.store.RegisterDevice(ctx, socketxp.Registration{TokenID: w.token.ID, Device: socketxp.Device{
			ID: id, AccountID: as, Name: "d" + id[24:], Group: "g" + id[24:], PublicKey: key[:], CreatedAt: t0,
		}}, t0, e)
		return err
	}},
	{"RegisterDevice, key of another account", socketxp.CodeConflict, false, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		_, _, err := w.store.RegisterDevice(ctx, socketxp.Registration{Device: socketxp.Device{
			ID: socketxp.NewID(t0), AccountID: as, Name: w.device.Name, PublicKey: w.device.PublicKey, CreatedAt: t0,
		}}, t0, e)
		return err
	}},
	{"Device", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		_, err := w.store.Device(ctx, as, w.device.ID)
		return err
	}},
	{"UpdateDevice", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		_, err := w.store.UpdateDevice(ctx, as, w.device.ID, socketxp.DeviceUpdate{Name: ptr("renamed"), Group: ptr("new")}, e)
		return err
	}},
	{"DeleteDevice", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.DeleteDevice(ctx, as, w.device.ID, e)
	}},
	{"DeviceConnected", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		return w.store.DeviceConnected(ctx, as, w.device.ID, socketxp.DeviceReport{At: t0})
	}},
	{"TouchDevices", "", false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		return w.store.TouchDevices(ctx, []socketxp.DeviceSeen{{AccountID: as, DeviceID: w.device.ID, At: t0.Add(time.Hour)}})
	}},
	{"CreateGroup", "", true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.CreateGroup(ctx, socketxp.Group{AccountID: as, Name: "g" + socketxp.NewID(t0)[24:], CreatedAt: t0}, e)
	}},
	{"RenameGroup", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.RenameGroup(ctx, as, w.group, "renamed", e)
	}},
	{"DeleteGroup", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		return w.store.DeleteGroup(ctx, as, w.empty, e)
	}},
	{"CreateSession", "", true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		s := w.session
		s.ID, s.AccountID = socketxp.NewID(t0), as
		return w.store.CreateSession(ctx, s, e)
	}},
	{"Session", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		_, err := w.store.Session(ctx, as, w.session.ID)
		return err
	}},
	{"CountSession", socketxp.CodeNotFound, false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		return w.store.CountSession(ctx, as, w.session.ID, 1, 1, 1)
	}},
	{"EndSession", socketxp.CodeNotFound, true, func(ctx context.Context, w *world, as string, e socketxp.AuditEntry) error {
		s := w.session
		s.AccountID, s.EndedAt = as, t0
		return w.store.EndSession(ctx, s, e)
	}},
	{"AppendAudit", "", true, func(ctx context.Context, w *world, _ string, e socketxp.AuditEntry) error {
		_, err := w.store.AppendAudit(ctx, e)
		return err
	}},
	{"AddEvent", "", false, func(ctx context.Context, w *world, as string, _ socketxp.AuditEntry) error {
		return w.store.AddEvent(ctx, socketxp.Event{ID: socketxp.NewID(t0), AccountID: as, At: t0, DeviceID: w.device.ID})
	}},
}

// Every act that is to be audited fails wholly when its audit record can't be
// written, which is the last thing that it does: nothing of it is left.
func TestAllOrNothing(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		w := newWorld(t, s, url, "acme")
		failing := []string{`CREATE TRIGGER fail BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'injected'); END`}
		if url[:6] != "sqlite" {
			failing = []string{
				`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'injected'; END $$`,
				`CREATE TRIGGER fail BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION fail()`,
			}
		}
		for _, statement := range failing {
			mustExec(t, db, statement)
		}
		before := dump(t, db, "")
		for _, a := range acts {
			if !a.audited {
				continue
			}
			t.Run("R-10 P-05 "+a.name, func(t *testing.T) {
				wantCode(t, a.run(t.Context(), w, w.id, w.entry("test")), socketxp.CodeInternal)
				if after := dump(t, db, ""); after != before {
					t.Errorf("something is half done:\n%s", after)
				}
			})
		}
	})
}

// A cancelled context stays itself, and does nothing.
func TestCancelled(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		w := newWorld(t, s, url, "acme")
		before := dump(t, db, "")
		ctx := canceled(t)
		for _, a := range acts {
			if err := a.run(ctx, w, w.id, w.entry("test")); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want context canceled", a.name, err)
			}
		}
		if after := dump(t, db, ""); after != before {
			t.Error("something was done")
		}
	})
}

// An act can't be written to another account's chain.
func TestAuditOfAnotherAccount(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		one, two := newWorld(t, s, url, "one"), newTenant(t, s, "two")
		before := dump(t, db, one.id)
		free := map[string]bool{ // they are of no account, or of whichever the entry names
			"CreateAccount": true, "SetPassword": true, "SetUserDisabled": true, "AppendAudit": true,
		}
		for _, a := range acts {
			if !a.audited || free[a.name] {
				continue
			}
			if err := a.run(t.Context(), one, one.id, two.entry("test")); err == nil {
				t.Errorf("%s is audited in another account", a.name)
			}
		}
		if after := dump(t, db, one.id); after != before {
			t.Error("something was done")
		}
	})
}

// with another account's name, no object is found, and none changes.
func TestForeignAccount(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		mine, theirs := newTenant(t, s, "mine"), newWorld(t, s, url, "theirs")
		before := dump(t, db, theirs.id)
		for _, a := range acts {
			if a.foreign == "" {
				continue
			}
			t.Run("A-01 A-10 "+a.name, func(t *testing.T) {
				own := dump(t, db, mine.id)
				wantCode(t, a.run(t.Context(), theirs, mine.id, mine.entry("test")), a.foreign)
				if dump(t, db, theirs.id) != before || dump(t, db, mine.id) != own {
					t.Error("something was done")
				}
			})
		}
		for _, a := range acts { // the same acts do work for whom the objects are, each in a world of its own
			w := newWorld(t, s, url, "own-"+socketxp.NewID(t0))
			if err := a.run(t.Context(), w, w.id, w.entry("test")); err != nil {
				t.Errorf("%s by the account itself: %v", a.name, err)
			}
		}

		lists := map[string]func() (int, error){
			"Devices": func() (int, error) {
				page, total, err := s.Devices(t.Context(), mine.id, socketxp.DeviceQuery{IDs: []string{theirs.device.ID}, Limit: 200})
				return len(page) + total.Devices, err
			},
			"DeviceByName": func() (int, error) {
				_, err := s.DeviceByName(t.Context(), mine.id, theirs.device.Name)
				if socketxp.CodeOf(err) == socketxp.CodeNotFound {
					return 0, nil
				}
				return 1, err
			},
			"Groups": func() (int, error) { l, err := s.Groups(t.Context(), mine.id); return len(l), err },
			"Tunnels": func() (int, error) {
				l, err := s.Tunnels(t.Context(), mine.id, theirs.device.ID, "", "", 200)
				return len(l), err
			},
			"Tokens": func() (int, error) {
				l, err := s.Tokens(t.Context(), mine.id, socketxp.TokenQuery{Limit: 200})
				return len(l), err
			},
			"Sessions": func() (int, error) {
				l, err := s.Sessions(t.Context(), mine.id, socketxp.SessionQuery{DeviceID: theirs.device.ID, Limit: 200})
				return len(l), err
			},
			"Events": func() (int, error) {
				l, err := s.Events(t.Context(), mine.id, socketxp.EventQuery{DeviceID: theirs.device.ID, Limit: 200})
				return len(l), err
			},
			"SignIns": func() (int, error) {
				l, err := s.SignIns(t.Context(), mine.id, theirs.owner.ID, t0)
				return len(l), err
			},
			"Audit": func() (int, error) {
				l, err := s.Audit(t.Context(), mine.id, socketxp.AuditQuery{ActorID: theirs.owner.ID, Limit: 200})
				return len(l), err
			},
		}
		for name, list := range lists {
			if n, err := list(); n != 0 || err != nil {
				t.Errorf("A-01 %s shows %d rows of another account, %v", name, n, err)
			}
		}
	})
}

// whatever account one does, in whatever order, with its own ids or those of
// account two, no row of account two changes. Names are the same in both.
func TestOthersUnchanged(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		s, db := open(t, url), raw(t, url)
		one, two := newWorld(t, s, url, "one"), newWorld(t, s, url, "two")
		before := dump(t, db, two.id)
		worlds := map[string]*world{"own": one, "theirs": two}
		rapid.Check(t, func(r *rapid.T) {
			for range rapid.IntRange(1, 8).Draw(r, "acts") {
				of := rapid.SampledFrom([]string{"own", "theirs"}).Draw(r, "objects")
				a := rapid.SampledFrom(acts).Draw(r, "act")
				if of == "theirs" && (a.name == "SetPassword" || a.name == "SetUserDisabled") {
					continue // a user is of no account; who may is judged by the gateway
				}
				_ = a.run(t.Context(), worlds[of], one.id, one.entry("test"))
			}
			if after := dump(t, db, two.id); after != before {
				r.Fatalf("the other account's rows changed:\n%s", after)
			}
		})
		one.chain()
		two.chain()
	})
}
