package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// follow streams events into a channel, which is closed when the stream ends.
func follow(t *testing.T, c *api.Client, after string) (<-chan api.Event, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan api.Event, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(events)
		_ = c.StreamEvents(ctx, after, func(e api.Event) error {
			events <- e
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return events, cancel
}

// next waits for the next event whose message has this in it.
func next(t *testing.T, events <-chan api.Event, part string) api.Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the stream ended before an event with %q", part)
			}
			if strings.Contains(e.Message, part) {
				return e
			}
		case <-deadline:
			t.Fatalf("no event with %q", part)
		}
	}
}

func (w *world) publish(message string) {
	w.g.publishEvent(w.Context(), socketxp.Event{AccountID: w.account.ID, Type: socketxp.EventDeviceChanged, Message: message})
}

func TestEventStream(t *testing.T) {
	w := start(t, func(l *limits) { l.http.heartbeat = 50 * time.Millisecond })
	client := w.owns()
	other := w.as(w.otherTenant("umbrella"))
	w.publish("before the stream")
	events, cancel := follow(t, client, "")
	// A stream that is open has subscribed; until then what is published may be
	// before its beginning.
	eventually(t, patience, "it follows", func() bool {
		w.publish("warming up")
		select {
		case e := <-events:
			return !strings.Contains(e.Message, "before")
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	t.Run("each event once, in order, and none of another account", func(t *testing.T) {
		w.publish("start")
		next(t, events, "start")
		for i := range 300 {
			w.publish(fmt.Sprintf("event %d;", i))
			if i%10 == 0 {
				other.publish("theirs")
			}
		}
		seen := make(map[string]bool)
		for len(seen) < 300 {
			e := next(t, events, "")
			if e.Message == "theirs" || seen[e.ID] {
				t.Fatalf("got %+v", e)
			}
			if strings.HasPrefix(e.Message, "event ") {
				seen[e.ID] = true
			}
		}
	})
	t.Run("heartbeats keep it open", func(t *testing.T) {
		w.publish("a mark")
		next(t, events, "a mark")
	})
	t.Run("an event that is stored late is not missed", func(t *testing.T) {
		now := w.g.now()
		late := socketxp.Event{ID: socketxp.NewID(now), AccountID: w.account.ID, At: now, Type: socketxp.EventDeviceChanged, Message: "late"}
		eventually(t, patience, "a later millisecond", func() bool { return w.g.now().Sub(now) > time.Millisecond })
		w.publish("early")
		next(t, events, "early")
		w.g.publishEvent(t.Context(), late)
		next(t, events, "late")
	})
	t.Run("resumed after the last one", func(t *testing.T) {
		w.publish("the last one seen")
		last := next(t, events, "the last one seen")
		cancel()
		w.publish("while away")
		resumed, _ := follow(t, client, last.ID)
		if e := next(t, resumed, ""); e.Message != "while away" {
			t.Fatalf("got %+v", e)
		}
	})
	t.Run("refused", func(t *testing.T) {
		c := w.rest()
		_, session := w.newSignIn(0)
		c.do(get, "/api/v1/events/stream?token=x", "", cookie(session)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		c.do(get, "/api/v1/events/stream", "", append(cookie(session), "Last-Event-ID", "1; DROP")...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	})
	t.Run("listed", func(t *testing.T) {
		page := must[api.Page[api.Event]](t)(client.Events(t.Context(), api.EventList{Limit: 2}))
		if len(page.Items) != 2 || page.NextCursor == "" || page.Items[0].ID < page.Items[1].ID {
			t.Fatalf("got %+v", page)
		}
	})
}

func TestEventStreamEnds(t *testing.T) {
	w := start(t)
	ended := func(t *testing.T, events <-chan api.Event) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case _, ok := <-events:
				if !ok {
					return
				}
			case <-deadline:
				t.Fatal("it is still open")
			}
		}
	}
	open := func(t *testing.T, w *world, c *api.Client) <-chan api.Event {
		t.Helper()
		events, _ := follow(t, c, "")
		eventually(t, patience, "it follows", func() bool {
			w.publish("ping")
			select {
			case <-events:
				return true
			case <-time.After(50 * time.Millisecond):
				return false
			}
		})
		return events
	}
	t.Run("L-01 when its token is revoked", func(t *testing.T) {
		tok, text := w.newToken(socketxp.TokenAPI, socketxp.TokenScope{Rights: socketxp.Rights})
		events := open(t, w, w.client(text))
		if err := w.owns().RevokeToken(t.Context(), tok.ID); err != nil {
			t.Fatal(err)
		}
		ended(t, events)
	})
	t.Run("L-01 when its person signs out", func(t *testing.T) {
		w.setOwnerPassword(goodPassword)
		c := w.client("")
		must[api.Me](t)(c.SignIn(t.Context(), w.owner.Email, goodPassword))
		events := open(t, w, c)
		if err := c.SignOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended(t, events)
	})
	t.Run("when nobody said that its maker was disabled", func(t *testing.T) {
		w := start(t, func(l *limits) { l.http.recheck = 50 * time.Millisecond })
		events, _ := follow(t, w.owns(), "")
		if err := w.store.SetUserDisabled(t.Context(), w.owner.ID, w.g.now(), w.entry("user.disable")); err != nil {
			t.Fatal(err)
		}
		ended(t, events)
	})
	t.Run("when the gateway does", func(t *testing.T) {
		w := start(t)
		events := open(t, w, w.owns())
		go func() { _ = w.stop() }()
		ended(t, events)
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("J11 no more than so many of one account", func(t *testing.T) {
		w := start(t, func(l *limits) { l.http.streams = 1 })
		c := w.owns()
		open(t, w, c)
		eventually(t, patience, "the second is refused", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			return socketxp.CodeOf(c.StreamEvents(ctx, "", func(api.Event) error { return nil })) == socketxp.CodeRateLimited
		})
	})
}
