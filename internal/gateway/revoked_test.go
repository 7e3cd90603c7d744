package gateway

import (
	"crypto/tls"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/relay"
	"socketxp/internal/websocket"
)

// addOwner makes a person of their own account an owner of the world's too: so far
// nobody can invite one. The gateway's data is in dir.
func (w *world) addOwner(dir, email string) tenant {
	w.Helper()
	_, user := w.newAccount("their own", email)
	db := must[*sql.DB](w.T)(sql.Open("sqlite", "file:"+filepath.Join(dir, "data", "gateway.db")+"?_busy_timeout=60000"))
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(w.Context(), `INSERT INTO memberships (account_id, user_id, role, created_at) VALUES (?, ?, 'owner', 1)`, w.account.ID, user.ID); err != nil {
		w.Fatal(err)
	}
	return tenant{account: w.account, owner: user}
}

// TestPersonIsGone tries all that a person holds on every route there is, when the
// person may not come in any more.
func TestPersonIsGone(t *testing.T) {
	for name, act := range map[string]func(w *world, userID string) error{
		"suspended": func(w *world, userID string) error {
			return w.store.SetUserDisabled(w.Context(), userID, w.g.now(), w.entry("user.disable"))
		},
		"removed from the account": func(w *world, userID string) error {
			return w.store.DeleteMembership(w.Context(), w.account.ID, userID, w.entry("member.remove"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := startIn(t, dir, nil, func(l *limits) {
				l.http.refusals = quota{1e9, 1e9}
				l.http.authorize, l.http.poll, l.http.signIn = quota{1e9, 1e9}, quota{1e9, 1e9}, quota{1e9, 1e9}
				l.http.recheck, l.sweepEvery = 50*time.Millisecond, 50*time.Millisecond // no hint is needed
			})
			gone := w.addOwner(dir, "gone@example.com")
			theirs := w.as(gone)
			theirs.setOwnerPassword(goodPassword)
			device, key := w.register("cam", "default")
			w.connect(device, key, flood, "tcp://127.0.0.1:22")
			c := w.rest()

			// All has been used, so that whatever could be kept from before is.
			_, value := theirs.newSignIn(0)
			credentials := map[socketxp.Kind][]string{socketxp.KindSignIn: cookie(value)}
			texts := map[socketxp.TokenKind]string{}
			for _, kind := range socketxp.TokenKinds {
				_, texts[kind] = theirs.newToken(kind, socketxp.TokenScope{Rights: socketxp.Rights})
				credentials[socketxp.Kind(kind)] = bearer(texts[kind])
			}
			for _, kind := range []socketxp.Kind{socketxp.KindSignIn, socketxp.KindBasic, socketxp.KindAPI} {
				c.do(get, "/api/v1/me", "", credentials[kind]...).want(t, http.StatusOK, "")
			}
			once := []string{"Idempotency-Key", "0123456789abcdef"}
			c.do(post, "/api/v1/groups", `{"name":"once"}`, append(once, credentials[socketxp.KindAPI]...)...).want(t, http.StatusCreated, "")
			must[api.RegisterResponse](t)(w.tryRegister(texts[socketxp.TokenRegistration], "theirs", ""))
			_, unused := theirs.newToken(socketxp.TokenRegistration, socketxp.TokenScope{})
			asked := c.authorize(`{"host":"laptop"}`)
			c.confirm(asked.UserCode, true, credentials[socketxp.KindSignIn]).want(t, http.StatusNoContent, "")
			v := w.visitor()
			granted := v.grant(texts[socketxp.TokenAccess], device, 22)
			stream := v.read(v.open(granted))
			stream.flows(t)
			events, _ := follow(t, w.client(texts[socketxp.TokenAPI]), "")

			// What a public route gives to everybody, it may give to them.
			anonymous := map[string]restAnswer{}
			for _, rt := range routes() {
				if rt.policy == public {
					path, body := example(rt, unknownID)
					anonymous[rt.pattern()] = c.do(rt.method, path, body)
				}
			}
			if err := act(w, gone.owner.ID); err != nil {
				t.Fatal(err)
			}
			records, private := w.lastRecord(), 0
			devices := w.deviceCount()

			for _, rt := range routes() {
				path, body := example(rt, unknownID)
				if rt.policy != public {
					private++
				}
				for kind, credential := range credentials {
					if rt.policy == public && kind != socketxp.KindSignIn && kind != socketxp.KindBasic {
						continue // they look at no credential, and signing in takes its time
					}
					t.Run("L-04 "+string(kind)+" "+rt.pattern(), func(t *testing.T) {
						a := c.do(rt.method, path, body, credential...)
						want := socketxp.CodeTokenRevoked
						if kind == socketxp.KindSignIn {
							want = socketxp.CodeUnauthenticated
						}
						if rt.policy == public {
							if no := anonymous[rt.pattern()]; (a.status < 400) != (no.status < 400) {
								t.Fatalf("got %d %q, without a credential it is %d %q", a.status, a.code, no.status, no.code)
							}
							return
						}
						a.want(t, http.StatusUnauthorized, want)
					})
				}
			}
			t.Run("L-04 the answer that is kept for an Idempotency-Key", func(t *testing.T) {
				c.do(post, "/api/v1/groups", `{"name":"once"}`, append(once, credentials[socketxp.KindAPI]...)...).
					want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
			})
			t.Run("L-04 a registration", func(t *testing.T) {
				_, err := w.tryRegister(unused, "late", "")
				wantCode(t, err, socketxp.CodeTokenRevoked)
			})
			t.Run("L-04 the password", func(t *testing.T) {
				a := c.do(post, "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, gone.owner.Email, goodPassword))
				if name == "removed from the account" { // they have an account of their own
					me := into[api.Me](t, a)
					if me.Account.ID == w.account.ID {
						t.Fatalf("%+v", me)
					}
					return
				}
				a.want(t, http.StatusUnauthorized, socketxp.CodeUnauthenticated)
			})
			t.Run("L-04 what they have approved", func(t *testing.T) {
				if a := c.poll(asked.DeviceCode); a.status == http.StatusOK {
					text := into[api.DeviceToken](t, a).AccessToken
					c.do(get, "/api/v1/me", "", bearer(text)...).want(t, http.StatusUnauthorized, socketxp.CodeTokenRevoked)
				}
			})
			t.Run("L-04 at the control door", func(t *testing.T) {
				stream.isOver(t)
				if m := expect[control.Ended](v.agent); m.Code != socketxp.CodeTokenRevoked || m.Visit != granted.Visit {
					t.Errorf("the visitor was told %+v", m)
				}
				for _, kind := range socketxp.TokenKinds {
					m, ok := v.visit(control.Visit{Token: texts[kind], DeviceID: device.ID, Port: 22}).(control.Ended)
					if !ok || m.Code != socketxp.CodeTokenRevoked {
						t.Errorf("%s: %+v", kind, m)
					}
				}
			})
			t.Run("L-04 the events end", func(t *testing.T) {
				timeout := time.After(patience)
				for {
					select {
					case _, more := <-events:
						if !more {
							return
						}
					case <-timeout:
						t.Fatal("they still come")
					}
				}
			})
			t.Run("L-04 nothing was done, and all was refused in the audit", func(t *testing.T) {
				refused := 0
				for _, r := range w.recordsAfter(records) {
					if r.Reason == "" && r.Actor.UserID == gone.owner.ID {
						t.Errorf("%+v", r)
					}
					if r.Reason == socketxp.CodeTokenRevoked && r.Actor.UserID == gone.owner.ID {
						refused++
					}
				}
				if n := w.deviceCount(); n != devices || refused < len(socketxp.TokenKinds)*private {
					t.Errorf("%d devices, were %d; %d refusals on %d routes", n, devices, refused, private)
				}
			})
			t.Run("another owner is none the worse for it", func(t *testing.T) {
				_, value := w.newSignIn(0)
				c.do(get, "/api/v1/me", "", cookie(value)...).want(t, http.StatusOK, "")
			})
		})
	}
}

// isOver waits for the end of a stream.
func (s *stream) isOver(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("bytes still flow")
	}
}

// lastRecord is the number of the account's newest audit record.
func (w *world) lastRecord() int64 {
	w.Helper()
	return must[[]socketxp.AuditRecord](w.T)(w.store.Audit(w.Context(), w.account.ID, socketxp.AuditQuery{Newest: true, Limit: 1}))[0].Seq
}

// recordsAfter are the account's audit records after one.
func (w *world) recordsAfter(seq int64) []socketxp.AuditRecord {
	w.Helper()
	return must[[]socketxp.AuditRecord](w.T)(w.store.Audit(w.Context(), w.account.ID, socketxp.AuditQuery{After: seq, Limit: 1000}))
}

// resuming is the world, reached by WebSockets in TLS sessions that are resumed if
// the gateway lets them; again says whether the last one was.
func (w *world) resuming() (ws *world, again *atomic.Bool) {
	w.Helper()
	cache := tls.NewLRUClientSessionCache(8)
	again = new(atomic.Bool)
	return w.by(func() (net.Conn, error) {
		raw, err := net.Dial("tcp", w.g.Addr().String())
		if err != nil {
			return nil, err
		}
		w.Cleanup(func() { _ = raw.Close() })
		cfg := must[*tls.Config](w.T)(w.g.Address().TLSConfig(nil))
		cfg.NextProtos, cfg.ClientSessionCache = []string{"http/1.1"}, cache
		c := tls.Client(raw, cfg)
		_ = c.SetDeadline(time.Now().Add(patience))
		if err := c.HandshakeContext(w.Context()); err != nil {
			return nil, err
		}
		again.Store(c.ConnectionState().DidResume)
		return websocket.Client(c, "localhost", doorPath)
	}), again
}

// TestRevokedDeviceOnEveryWay comes again with all that a device had before it was
// revoked: its key, the TLS sessions, and a ticket.
func TestRevokedDeviceOnEveryWay(t *testing.T) {
	w := start(t)
	ws, again := w.resuming()
	for way, by := range map[string]*world{"TCP": w.by(func() (net.Conn, error) { return net.Dial("tcp", w.g.Addr().String()) }), "WebSocket": ws} {
		for how, want := range map[string]socketxp.Code{"disabled": socketxp.CodeDeviceDisabled, "deleted": socketxp.CodeDeviceUnknown} {
			t.Run("K-10 "+how+" by "+way, func(t *testing.T) {
				by.T, by.sessions = t, tls.NewLRUClientSessionCache(8)
				d, key := w.register("cam-"+how+socketxp.NewID(time.Now())[24:], "default")
				_, text := w.access()
				a, _ := by.online(d, key)
				v := by.visitor()
				granted := v.grant(text, d, 22)
				offered := func() (control.Offer, []byte) {
					v.next++
					v.send(control.LinkRequest{Visit: granted.Visit, Link: v.next})
					return expect[control.Offer](a), expect[control.LinkTicket](v.agent).Ticket
				}
				first, ticket := offered()
				td := &testDevice{agent: a, Device: d, serve: flood}
				td.running.Go(func() { td.link(first) })
				t.Cleanup(td.running.Wait)
				stream := v.read(v.join(granted, ticket))
				stream.flows(t)
				if !joins(t, by, must[*relay.Pair](t)(w.g.relay.Expect()).DeviceTicket()) {
					t.Fatal("no ticket is good: the rest of this test means nothing")
				}
				second, ticket := offered()

				method, path := remove, "/api/v1/devices/"+d.ID
				if how == "disabled" {
					method, path = post, path+"/disable"
				}
				_, value := w.newSignIn(0)
				if a := w.rest().do(method, path, "", cookie(value)...); a.status >= 300 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				if m := expect[control.Refused](a); m.Code == "" || m.RetryAfter < 300 {
					t.Errorf("the open channel ends with %+v", m)
				}
				stream.isOver(t)
				for _, ticket := range [][]byte{second.Ticket, ticket} { // of a data link that was still to be made
					c := by.dialRaw()
					_, _ = c.Write(link.AppendPreface(nil, ticket))
					readEnd(t, c)
				}
				for range 3 {
					if m := expect[control.Refused](by.dial(key, control.RoleDevice)); m.Code != want {
						t.Errorf("a new channel is refused with %+v, want %s", m, want)
					}
				}
				if way == "WebSocket" && !again.Load() {
					t.Error("the session was not resumed: this says less than it should")
				}
				if m, ok := by.visitor().visit(control.Visit{Token: text, DeviceID: d.ID, Port: 22}).(control.Ended); !ok {
					t.Errorf("a visit got %+v", m)
				}
			})
		}
	}
}

// TestRevokedTokenOnEveryWay uses a token where it was good before it was revoked.
func TestRevokedTokenOnEveryWay(t *testing.T) {
	w := start(t)
	ws, again := w.resuming()
	d, key := w.register("cam", "default")
	w.connect(d, key, flood, "tcp://127.0.0.1:22")
	token, text := w.newToken(socketxp.TokenBasic, socketxp.TokenScope{Rights: socketxp.Rights})

	// Each use of the API says whether it had a new connection, and a resumed session.
	type client struct {
		*http.Client
		reused bool
	}
	newClient := func(protocol string, keep bool) *client {
		c := &client{Client: w.httpClient(protocol)}
		tr := c.Transport.(*http.Transport)
		tr.DisableKeepAlives, tr.TLSClientConfig.ClientSessionCache = !keep, tls.NewLRUClientSessionCache(8)
		return c
	}
	use := func(c *client) (status int, resumed bool) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { c.reused = i.Reused }})
		req := must[*http.Request](t)(http.NewRequestWithContext(ctx, get, w.url("/api/v1/me"), nil))
		req.Header.Set("Authorization", "Bearer "+text)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode, resp.TLS.DidResume
	}
	kept := map[string]*client{"HTTP/1.1": newClient("http/1.1", true), "HTTP/2": newClient("h2", true)}
	resuming := newClient("http/1.1", false)
	for range 2 {
		for _, c := range append(slices.Collect(maps.Values(kept)), resuming) {
			if status, _ := use(c); status != http.StatusOK {
				t.Fatalf("before: %d", status)
			}
		}
	}
	type scene struct {
		*testVisitor
		granted control.Granted
		stream  *stream
	}
	visits := map[string]scene{}
	for way, by := range map[string]*world{"TCP": w, "WebSocket": ws} {
		v := by.visitor()
		g := v.grant(text, d, 22)
		s := v.read(v.open(g))
		s.flows(t)
		visits[way] = scene{v, g, s}
	}
	v := ws.visitor()
	idle := v.grant(text, d, 22)
	if _, err := w.store.RevokeToken(t.Context(), w.account.ID, token.ID, w.g.now(), w.entry("token.revoke")); err != nil {
		t.Fatal(err)
	}
	// Nobody has told the gateway: what comes new is judged by the database.
	for name, c := range kept {
		t.Run("K-10 a connection that is kept, "+name, func(t *testing.T) {
			if status, _ := use(c); status != http.StatusUnauthorized || !c.reused {
				t.Errorf("got %d, reused: %v", status, c.reused)
			}
		})
	}
	t.Run("K-10 a new connection", func(t *testing.T) {
		if status, resumed := use(newClient("http/1.1", false)); status != http.StatusUnauthorized || resumed {
			t.Errorf("got %d, resumed: %v", status, resumed)
		}
	})
	t.Run("K-10 a resumed TLS session", func(t *testing.T) {
		if status, resumed := use(resuming); status != http.StatusUnauthorized || !resumed {
			t.Errorf("got %d, resumed: %v", status, resumed)
		}
	})
	t.Run("K-10 a new link of a visit of before", func(t *testing.T) {
		v.send(control.LinkRequest{Visit: idle.Visit, Link: 100})
		switch m := must[control.Message](t)(v.receive()).(type) {
		case control.LinkRefused, control.Ended:
		default:
			t.Errorf("got %+v", m)
		}
	})
	for way, by := range map[string]*world{"TCP": w, "WebSocket": ws} {
		t.Run("K-10 a visit by "+way, func(t *testing.T) {
			if m, ok := by.visitor().visit(control.Visit{Token: text, DeviceID: d.ID, Port: 22}).(control.Ended); !ok || m.Code != socketxp.CodeTokenRevoked {
				t.Errorf("got %+v", m)
			}
			if way == "WebSocket" && !again.Load() {
				t.Error("the session was not resumed: this says less than it should")
			}
		})
	}
	w.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: w.account.ID, ID: token.ID})
	for way, s := range visits {
		t.Run("K-10 an open link by "+way, func(t *testing.T) {
			s.stream.isOver(t)
			if m := expect[control.Ended](s.agent); m.Code != socketxp.CodeTokenRevoked || m.Visit != s.granted.Visit {
				t.Errorf("the visitor was told %+v", m)
			}
		})
	}
}
