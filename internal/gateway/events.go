package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"socketxp"
	"socketxp/internal/api"
)

type eventsIn struct {
	DeviceID string             `query:"device_id" maxLength:"100"`
	Type     socketxp.EventType `query:"type" enum:"device.registered,device.online,device.offline,device.changed,device.deleted,device.key_changed,device.key_retired,device.quarantined,device.single_use_key,token.created,token.revoked,session.started,session.ended"`
	Cursor   string             `query:"cursor" maxLength:"2048"`
	Limit    int                `query:"limit" default:"50" minimum:"1" maximum:"200"`
}

type eventsOut struct{ Body api.Page[api.Event] }

func (g *Gateway) listEvents(ctx context.Context, who caller, in *eventsIn) (*eventsOut, error) {
	before, err := decodeIDCursor(in.Cursor, "events")
	if err != nil {
		return nil, err
	}
	if err := checkIDs(in.DeviceID); err != nil {
		return nil, err
	}
	found, err := g.store.Events(ctx, who.accountID, socketxp.EventQuery{DeviceID: in.DeviceID, Type: in.Type, Before: before, Limit: in.Limit + 1})
	if err != nil {
		return nil, err
	}
	found, next := cut(found, in.Limit, func(e socketxp.Event) string { return encodeCursor("events", e.ID) })
	return &eventsOut{api.Page[api.Event]{Items: mapped(found, api.NewEvent), NextCursor: next}}, nil
}

// streamParams are the parameters of an event stream.
var streamParams = []*huma.Param{{
	Name: "Last-Event-ID", In: "header", Description: "the id of the last event that was received: goes on after it. Without it the stream begins now",
	Schema: &huma.Schema{Type: huma.TypeString},
}}

// streamEvents answers with server-sent events until the client leaves, its
// credential ends, or the gateway does.
func (g *Gateway) streamEvents(w http.ResponseWriter, req *http.Request) error {
	who := callOf(req.Context()).who
	if req.URL.RawQuery != "" {
		return socketxp.Errorf(socketxp.CodeInvalid, "an event stream has no query parameters")
	}
	last := req.Header.Get("Last-Event-ID")
	if err := checkIDs(last); err != nil {
		return err
	}
	leave, err := g.rest.streams.enter(who.accountID, "event streams")
	if err != nil {
		return err
	}
	defer leave()
	s := &eventStream{g: g, who: who, w: w, control: http.NewResponseController(w), sent: make(map[string]bool)}
	// A resumed stream goes on after the last event; a new one begins with what
	// happens from here on.
	if s.after = last; last == "" {
		s.after = firstID(g.now())
	}
	return s.run(req.Context())
}

// eventStream is one client that follows an account.
type eventStream struct {
	g       *Gateway
	who     caller
	w       http.ResponseWriter
	control *http.ResponseController

	// after is the id up to which all events were sent, and sent those that were
	// beyond it.
	after string
	sent  map[string]bool
}

// settled is how long after its time an event may still turn up: ids are made
// before their rows are written, by several gateways, and those of one millisecond
// come in no order. What is younger is asked for again.
const settled = 2 * time.Second

// streamWrite is how long a client may take to take in what it was sent.
const streamWrite = 15 * time.Second

func (s *eventStream) run(ctx context.Context) error {
	news, doubt := make(chan struct{}, 1), make(chan struct{}, 1)
	defer s.g.cluster.Subscribe(func(h socketxp.Hint) { s.hint(h, news, doubt) })()
	_ = s.control.SetReadDeadline(time.Time{}) // the request is read; the client has no more to say
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.w.WriteHeader(http.StatusOK)
	if err := s.write(": connected\n\n"); err != nil {
		return nil
	}
	// Judged again after it subscribed: what was revoked before told it nothing.
	ring(doubt)
	ring(news)
	beat := time.NewTicker(s.g.rest.limits.heartbeat)
	defer beat.Stop()
	recheck := time.NewTicker(s.g.rest.limits.recheck)
	defer recheck.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-s.g.stopping:
			return nil
		case <-beat.C:
			err = s.write(": still here\n\n")
		case <-recheck.C: // hints may be lost
			if err = s.judge(ctx); err == nil {
				err = s.send(ctx)
			}
		case <-doubt:
			err = s.judge(ctx)
		case <-news:
			err = s.send(ctx)
		}
		if err != nil {
			// It has begun, so there is no status to tell by: the stream ends, and the
			// client that comes again is told.
			s.g.log.Debug("an event stream ended", "account", s.who.accountID, "error", err)
			return nil
		}
	}
}

// hint is called for every hint there is, and must not block.
func (s *eventStream) hint(h socketxp.Hint, news, doubt chan<- struct{}) {
	switch h.Kind {
	case "":
		ring(news)
		ring(doubt)
	case socketxp.HintEvent:
		if h.AccountID == s.who.accountID {
			ring(news)
		}
	case socketxp.HintTokenRevoked, socketxp.HintSignInEnded:
		if h.ID == s.who.credentialID {
			ring(doubt)
		}
	case socketxp.HintUserDisabled, socketxp.HintMemberRemoved:
		if h.ID == s.who.userID {
			ring(doubt)
		}
	case socketxp.HintDeviceChanged, socketxp.HintDeviceDeleted, socketxp.HintSessionEnded:
	}
}

// ring sets a flag that is looked at later.
func ring(bell chan<- struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// judge ends the stream unless its credential would be let in now.
func (s *eventStream) judge(ctx context.Context) error {
	return s.g.judgeAgain(ctx, s.who, needs(socketxp.RightEventsRead))
}

// send writes the events that were not sent yet.
func (s *eventStream) send(ctx context.Context) error {
	const page = 200
	newest, cursor := time.Time{}, s.after
	for {
		asked, cancel := s.g.asked(ctx)
		found, err := s.g.store.Events(asked, s.who.accountID, socketxp.EventQuery{After: cursor, Limit: page})
		cancel()
		if err != nil {
			return err
		}
		for _, e := range found {
			cursor, newest = e.ID, e.At
			if s.sent[e.ID] {
				continue
			}
			data, err := json.Marshal(api.NewEvent(e))
			if err != nil {
				return err
			}
			if err := s.write(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Type, data)); err != nil {
				return err
			}
			s.sent[e.ID] = true
		}
		if floor := firstID(newest.Add(-settled)); !newest.IsZero() && floor > s.after {
			s.after = floor
			for id := range s.sent {
				if id <= floor {
					delete(s.sent, id)
				}
			}
		}
		if len(found) < page {
			return nil
		}
	}
}

func (s *eventStream) write(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}

// firstID sorts before all ids that are made at t or later, and after those of
// before.
func firstID(t time.Time) string {
	return socketxp.NewID(t)[:len("00000000-0000")] + "-7000-8000-000000000000"
}
