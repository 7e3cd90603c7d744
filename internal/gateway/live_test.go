package gateway

import (
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// scene is a visit with bytes flowing from the device to the visitor.
type scene struct {
	*world
	device  socketxp.Device
	td      *testDevice
	token   socketxp.Token
	text    string
	visitor *testVisitor
	grant   control.Granted
	stream  *stream
}

func (w *world) play(scope socketxp.TokenScope) *scene {
	w.Helper()
	d, key := w.register("cam-"+socketxp.NewID(time.Now())[24:], "sensors")
	s := &scene{world: w, device: d, td: w.connect(d, key, flood, "tcp://127.0.0.1:22")}
	s.token, s.text = w.newToken(socketxp.TokenAccess, scope)
	s.visitor = w.visitor()
	s.grant = s.visitor.grant(s.text, d, 22)
	s.stream = s.visitor.read(s.visitor.open(s.grant))
	s.stream.flows(w.T)
	return s
}

// isCut checks what a revocation has to do: bytes stop within a second, none
// crosses the gateway after that, the visitor learns why, and the session has
// ended with the reason.
func (s *scene) isCut(t *testing.T, want socketxp.Code) {
	t.Helper()
	begin := time.Now()
	s.stream.isCut(t)
	if m := expect[control.Ended](s.visitor.agent); m.Code != want || m.Visit != s.grant.Visit || m.Message == "" {
		t.Errorf("the visitor was told %+v, want %q", m, want)
	}
	if took := time.Since(begin); took > soon {
		t.Errorf("cut after %v", took)
	}
	got := s.session(s.grant.SessionID, func(x socketxp.Session) bool { return !x.EndedAt.IsZero() })
	if got.EndReason != want {
		t.Errorf("the session ended with %q, want %q", got.EndReason, want)
	}
	if n := s.stream.bytes.Load(); got.BytesDown < n {
		t.Errorf("%d bytes crossed, but the visitor got %d", got.BytesDown, n)
	}
	eventually(t, patience, "nothing of it is left", func() bool {
		_, visits := s.g.live.counts()
		_, joined := s.g.relay.Counts()
		return visits == 0 && joined == 0
	})
}

func TestRevocationCuts(t *testing.T) {
	w := start(t)
	update := func(s *scene, u socketxp.DeviceUpdate) error {
		_, err := w.store.UpdateDevice(t.Context(), w.account.ID, s.device.ID, u, w.entry("device.update"))
		w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: w.account.ID, ID: s.device.ID})
		return err
	}
	tests := []struct {
		name  string
		scope socketxp.TokenScope
		act   func(*scene) error
		want  socketxp.Code
		undo  func()
	}{
		{name: "L-02 the token is revoked", want: socketxp.CodeTokenRevoked, act: func(s *scene) error {
			_, err := w.store.RevokeToken(t.Context(), w.account.ID, s.token.ID, w.g.now(), w.entry("token.revoke"))
			w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: w.account.ID, ID: s.token.ID})
			return err
		}},
		{name: "L-03 the device is disabled", want: socketxp.CodeDeviceDisabled, act: func(s *scene) error {
			at := w.g.now()
			return update(s, socketxp.DeviceUpdate{DisabledAt: &at})
		}},
		{name: "L-03 the device is deleted", want: socketxp.CodeNotFound, act: func(s *scene) error {
			err := w.store.DeleteDevice(t.Context(), w.account.ID, s.device.ID, w.entry("device.delete"))
			w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceDeleted, AccountID: w.account.ID, ID: s.device.ID})
			return err
		}},
		{name: "L-05 the device is moved out of the token's group", scope: socketxp.TokenScope{Groups: []string{"sensors"}}, want: socketxp.CodeForbidden, act: func(s *scene) error {
			group := "default"
			if err := w.store.CreateGroup(t.Context(), socketxp.Group{AccountID: w.account.ID, Name: group, CreatedAt: w.g.now()}, w.entry("group.create")); err != nil {
				return err
			}
			return update(s, socketxp.DeviceUpdate{Group: &group})
		}},
		{name: "an operator ends the session", want: socketxp.CodeSessionEnded, act: func(s *scene) error {
			w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintSessionEnded, AccountID: w.account.ID, ID: s.grant.SessionID})
			return nil
		}},
		{name: "hints were lost", want: socketxp.CodeTokenRevoked, act: func(s *scene) error {
			_, err := w.store.RevokeToken(t.Context(), w.account.ID, s.token.ID, w.g.now(), w.entry("token.revoke"))
			w.cluster.Publish(socketxp.Hint{})
			return err
		}},
		{
			name: "the token's maker is disabled", want: socketxp.CodeTokenRevoked, act: func(*scene) error {
				err := w.store.SetUserDisabled(t.Context(), w.owner.ID, w.g.now(), w.entry("user.disable"))
				w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintUserDisabled, ID: w.owner.ID})
				return err
			},
			undo: func() {
				if err := w.store.SetUserDisabled(t.Context(), w.owner.ID, time.Time{}, w.entry("user.enable")); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := w.play(tt.scope)
			if err := tt.act(s); err != nil {
				t.Fatal(err)
			}
			s.isCut(t, tt.want)
			again := w.visitor()
			switch m := again.visit(control.Visit{Token: s.text, DeviceID: s.device.ID, Port: 22}).(type) {
			case control.Granted: // the end of a session takes nothing from its token
				if tt.want != socketxp.CodeSessionEnded {
					t.Error("a new visit was granted")
				}
			case control.Ended:
				if m.Code != tt.want {
					t.Errorf("a new visit got %+v, want %q", m, tt.want)
				}
			}
			_ = again.conn.Close()
			if tt.undo != nil {
				tt.undo()
			}
			_ = s.td.conn.Close()
		})
	}
	t.Run("the token's maker is removed from the account", func(t *testing.T) {
		s := w.play(socketxp.TokenScope{})
		w.store.removed.Store(true) // the database would keep the last owner
		defer w.store.removed.Store(false)
		w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintMemberRemoved, AccountID: w.account.ID, ID: w.owner.ID})
		s.isCut(t, socketxp.CodeTokenRevoked)
	})
}

func TestRevocationSparesOthers(t *testing.T) {
	w := start(t)
	cut, spared := w.play(socketxp.TokenScope{}), w.play(socketxp.TokenScope{})
	if _, err := w.store.RevokeToken(t.Context(), w.account.ID, cut.token.ID, w.g.now(), w.entry("token.revoke")); err != nil {
		t.Fatal(err)
	}
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: w.account.ID, ID: cut.token.ID})
	cut.stream.isCut(t)
	for _, h := range []socketxp.Hint{
		{Kind: socketxp.HintTokenRevoked, ID: spared.token.ID}, // not true
		{Kind: socketxp.HintDeviceChanged, ID: spared.device.ID},
		{Kind: socketxp.HintUserDisabled, ID: w.owner.ID},
		{Kind: socketxp.HintSignInEnded, ID: spared.token.ID},
		{},
	} {
		w.cluster.Publish(h)
	}
	w.flush()
	spared.stream.flows(t)
}

func TestRevokedDeviceLosesItsChannel(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo)
	at := w.g.now()
	if _, err := w.store.UpdateDevice(t.Context(), w.account.ID, d.ID, socketxp.DeviceUpdate{DisabledAt: &at}, w.entry("device.disable")); err != nil {
		t.Fatal(err)
	}
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: w.account.ID, ID: d.ID})
	select {
	case m := <-td.refused:
		if m.Code != socketxp.CodeDeviceDisabled || m.RetryAfter != 300 {
			t.Errorf("refused with %+v", m)
		}
	case <-time.After(soon):
		t.Fatal("not within a second")
	}
	if must[bool](t)(w.cluster.Online(t.Context(), d.ID)) {
		t.Error("it was told, but is still online")
	}
}

// TestLostHints is L-07 within one gateway: the database is asked anyway.
func TestLostHints(t *testing.T) {
	w := start(t, func(l *limits) { l.sweepEvery = 100 * time.Millisecond })
	s := w.play(socketxp.TokenScope{})
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo)
	if _, err := w.store.RevokeToken(t.Context(), w.account.ID, s.token.ID, w.g.now(), w.entry("token.revoke")); err != nil {
		t.Fatal(err)
	}
	if err := w.store.DeleteDevice(t.Context(), w.account.ID, d.ID, w.entry("device.delete")); err != nil {
		t.Fatal(err)
	}
	if m := expect[control.Ended](s.visitor.agent); m.Code != socketxp.CodeTokenRevoked {
		t.Errorf("the visitor was told %+v", m)
	}
	if m := <-td.refused; m.Code != socketxp.CodeDeviceUnknown {
		t.Errorf("the deleted device was told %+v", m)
	}
	w.flush()
	select {
	case m := <-s.td.refused:
		t.Errorf("a good device was refused: %+v", m)
	default:
	}
}

func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	t.Run("L-08 sessions end when they could not be judged for so long", func(t *testing.T) {
		w := start(t, func(l *limits) {
			l.sweepEvery, l.sweepRetry, l.strictAfter = 50*time.Millisecond, 50*time.Millisecond, time.Second
		})
		s := w.play(socketxp.TokenScope{})
		w.store.down.Store(true)
		begin := time.Now()
		if m := expect[control.Ended](s.visitor.agent); m.Code != socketxp.CodeUnavailable {
			t.Errorf("the visitor was told %+v", m)
		}
		if took := time.Since(begin); took < 800*time.Millisecond || took > 10*time.Second {
			t.Errorf("cut after %v, want about 1 s", took)
		}
		s.stream.isCut(t)
		select {
		case m := <-s.td.refused:
			t.Errorf("the device lost its channel: %+v", m)
		default:
		}
		w.store.down.Store(false)
		got := w.session(s.grant.SessionID, func(x socketxp.Session) bool {
			w.g.writeSessions(t.Context())
			return !x.EndedAt.IsZero()
		})
		if got.EndReason != socketxp.CodeUnavailable {
			t.Errorf("the session ended with %q", got.EndReason)
		}
	})
	t.Run("P-07 a database that is back in time cuts nothing", func(t *testing.T) {
		w := start(t, func(l *limits) {
			l.sweepEvery, l.sweepRetry, l.strictAfter = 50*time.Millisecond, 50*time.Millisecond, time.Hour
		})
		s := w.play(socketxp.TokenScope{})
		w.store.down.Store(true)
		asked := w.store.asked.Load()
		eventually(t, patience, "some sweeps failed", func() bool { return w.store.asked.Load() > asked+5 })
		s.stream.flows(t)
		w.store.down.Store(false)
		w.flush()
		s.stream.flows(t)
	})
	t.Run("J12 a hint that can't be checked is believed", func(t *testing.T) {
		w := start(t)
		s := w.play(socketxp.TokenScope{})
		w.store.down.Store(true)
		defer w.store.down.Store(false)
		w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: w.account.ID, ID: s.token.ID})
		s.stream.isCut(t)
	})
}

func TestJ4NothingOutlivesTheToken(t *testing.T) {
	t.Parallel()
	w := start(t)
	d, key := w.register("cam", "default")
	w.connect(d, key, flood, "tcp://127.0.0.1:22")
	token, text := w.newToken(socketxp.TokenAccess, socketxp.TokenScope{}, 3*time.Second)
	v := w.visitor()
	g := v.grant(text, d, 22)
	s := v.read(v.open(g))
	s.flows(t)
	if m := expect[control.Ended](v.agent); m.Code != socketxp.CodeTokenExpired {
		t.Errorf("the visitor was told %+v", m)
	}
	s.isCut(t)
	if late := time.Since(token.ExpiresAt); late < 0 || late > 5*time.Second {
		t.Errorf("cut %v after the expiry", late)
	}
}

// TestOpenAfterHint is the race of a revocation with what is being opened: the
// hint comes between the database's answer and the registration.
func TestOpenAfterHint(t *testing.T) {
	w := start(t)
	d, _ := w.register("cam", "default")
	thing := &deviceChannel{accountID: w.account.ID, id: d.ID, channel: &channel{g: w.g, key: d.PublicKey}}
	seen := w.g.live.mark()
	at := w.g.now()
	if _, err := w.store.UpdateDevice(t.Context(), w.account.ID, d.ID, socketxp.DeviceUpdate{DisabledAt: &at}, w.entry("device.disable")); err != nil {
		t.Fatal(err)
	}
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, ID: d.ID})
	w.flush()
	if err := w.g.open(thing, seen); socketxp.CodeOf(err) != socketxp.CodeDeviceDisabled {
		t.Errorf("opened: %v", err)
	}
	if devices, _ := w.g.live.counts(); devices != 0 {
		t.Error("it stays registered")
	}
	if err := w.g.open(thing, w.g.live.mark()); err != nil {
		t.Errorf("judged again without a reason: %v", err)
	}
	w.g.live.remove(thing)
}
