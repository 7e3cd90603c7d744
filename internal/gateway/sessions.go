package gateway

import (
	"context"

	"socketxp"
	"socketxp/internal/api"
)

type sessionsIn struct {
	DeviceID string `query:"device_id" maxLength:"100"`
	UserID   string `query:"user_id" doc:"who made the token" maxLength:"100"`
	TokenID  string `query:"token_id" maxLength:"100"`
	Live     string `query:"live" enum:"true,false" doc:"only those that go on, or only those that ended"`
	Cursor   string `query:"cursor" maxLength:"2048"`
	Limit    int    `query:"limit" default:"50" minimum:"1" maximum:"200"`
}

type sessionsOut struct{ Body api.Page[api.Session] }

func (g *Gateway) listSessions(ctx context.Context, who caller, in *sessionsIn) (*sessionsOut, error) {
	after, err := decodeIDCursor(in.Cursor, "sessions")
	if err != nil {
		return nil, err
	}
	if err := checkIDs(in.DeviceID, in.UserID, in.TokenID); err != nil {
		return nil, err
	}
	q := socketxp.SessionQuery{DeviceID: in.DeviceID, UserID: in.UserID, TokenID: in.TokenID, After: after, Limit: in.Limit + 1}
	if in.Live != "" {
		live := in.Live == "true"
		q.Live = &live
	}
	found, err := g.store.Sessions(ctx, who.accountID, q)
	if err != nil {
		return nil, err
	}
	found, next := cut(found, in.Limit, func(s socketxp.Session) string { return encodeCursor("sessions", s.ID) })
	return &sessionsOut{api.Page[api.Session]{Items: mapped(found, api.NewSession), NextCursor: next}}, nil
}

// checkIDs refuses filters that are neither empty nor ids.
func checkIDs(ids ...string) error {
	for _, id := range ids {
		if id != "" && !socketxp.ValidID(id) {
			return socketxp.Errorf(socketxp.CodeInvalid, "%q is not an id", clipText(id))
		}
	}
	return nil
}

type sessionOut struct{ Body api.Session }

func (g *Gateway) showSession(ctx context.Context, who caller, in *idIn) (*sessionOut, error) {
	s, err := g.sessionOf(ctx, who, in.ID)
	if err != nil {
		return nil, err
	}
	return &sessionOut{api.NewSession(s)}, nil
}

func (g *Gateway) sessionOf(ctx context.Context, who caller, id string) (socketxp.Session, error) {
	if !socketxp.ValidID(id) {
		return socketxp.Session{}, missing("session")
	}
	s, err := g.store.Session(ctx, who.accountID, id)
	return s, orMissing(err, "session")
}

// cutSession has a session cut by the gateway that carries it, which records its
// end and its bytes. That someone wanted it so is recorded first.
func (g *Gateway) cutSession(ctx context.Context, who caller, in *idIn) (*struct{}, error) {
	s, err := g.sessionOf(ctx, who, in.ID)
	if err != nil || !s.EndedAt.IsZero() {
		return nil, err
	}
	entry := g.entry(who, "session.cut", "session", s.ID, s.DeviceName)
	entry.Detail = s.Destination
	if _, err := g.store.AppendAudit(ctx, entry); err != nil {
		return nil, err
	}
	g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintSessionEnded, AccountID: who.accountID, ID: s.ID})
	return nil, nil
}
