package gateway

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

type auditIn struct {
	Action  string `query:"action" doc:"exactly" maxLength:"64"`
	ActorID string `query:"actor_id" doc:"user or device id" maxLength:"100"`
	Cursor  string `query:"cursor" maxLength:"2048"`
	Limit   int    `query:"limit" default:"50" minimum:"1" maximum:"200"`
}

type auditOut struct {
	Body api.Page[api.AuditRecord]
}

func (g *Gateway) listAudit(ctx context.Context, who caller, in *auditIn) (*auditOut, error) {
	parts, err := decodeCursor(in.Cursor, "audit", 1)
	if err != nil {
		return nil, err
	}
	if err := checkIDs(in.ActorID); err != nil {
		return nil, err
	}
	if err := socketxp.CheckDisplayText("action", in.Action, 64); err != nil {
		return nil, err
	}
	q := socketxp.AuditQuery{Newest: true, Action: in.Action, ActorID: in.ActorID, Limit: in.Limit + 1}
	if parts != nil {
		if q.After, err = strconv.ParseInt(parts[0], 10, 64); err != nil || q.After < 1 {
			return nil, errCursor
		}
	}
	found, err := g.store.Audit(ctx, who.accountID, q)
	if err != nil {
		return nil, err
	}
	found, next := cut(found, in.Limit, func(r socketxp.AuditRecord) string { return encodeCursor("audit", strconv.FormatInt(r.Seq, 10)) })
	return &auditOut{api.Page[api.AuditRecord]{Items: mapped(found, api.NewAuditRecord), NextCursor: next}}, nil
}

// auditPage is how many records of a chain are read at a time.
const auditPage = 1000

// walkAudit calls fn for every page of an account's chain, oldest first, and once
// at least.
func (g *Gateway) walkAudit(ctx context.Context, accountID string, fn func([]socketxp.AuditRecord) error) error {
	var after int64
	for {
		asked, cancel := g.asked(ctx)
		page, err := g.store.Audit(asked, accountID, socketxp.AuditQuery{After: after, Limit: auditPage})
		cancel()
		if err != nil {
			return err
		}
		if err := fn(page); err != nil {
			return err
		}
		if len(page) < auditPage {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		after = page[len(page)-1].Seq
	}
}

type verifyOut struct{ Body api.AuditVerification }

func (g *Gateway) verifyAudit(ctx context.Context, who caller, _ *struct{}) (*verifyOut, error) {
	leave, err := g.rest.exports.enter(who.accountID, "audit exports")
	if err != nil {
		return nil, err
	}
	defer leave()
	out := &verifyOut{}
	out.Body.OK = true
	var prev socketxp.AuditRecord
	err = g.walkAudit(ctx, who.accountID, func(page []socketxp.AuditRecord) error {
		for _, r := range page {
			if err := socketxp.VerifyChain(prev, r); err != nil {
				out.Body.OK, out.Body.Broken = false, err.Error()
				return errBroken
			}
			prev = r
		}
		return nil
	})
	if err != nil && out.Body.OK {
		return nil, err
	}
	out.Body.Records = prev.Seq
	if prev.Seq > 0 {
		out.Body.LastHash = hex.EncodeToString(prev.Hash[:])
	}
	return out, nil
}

var errBroken = socketxp.Errorf(socketxp.CodeInternal, "the audit chain is broken")

// exportWrite is how long a client may take to take in one page of an export.
const exportWrite = time.Minute

// exportAudit writes the whole chain, a JSON object a line. An export that can't be
// finished is cut off, so that it does not look like a whole one.
func (g *Gateway) exportAudit(w http.ResponseWriter, req *http.Request) error {
	who := callOf(req.Context()).who
	leave, err := g.rest.exports.enter(who.accountID, "audit exports")
	if err != nil {
		return err
	}
	defer leave()
	begun := false
	control := http.NewResponseController(w)
	out := bufio.NewWriterSize(w, 64<<10)
	lines := json.NewEncoder(out)
	err = g.walkAudit(req.Context(), who.accountID, func(page []socketxp.AuditRecord) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/jsonl")
			w.Header().Set("Content-Disposition", `attachment; filename="socketxp-audit.jsonl"`)
			w.WriteHeader(http.StatusOK)
		}
		_ = control.SetReadDeadline(time.Time{})
		_ = control.SetWriteDeadline(time.Now().Add(exportWrite))
		for _, r := range page {
			if err := lines.Encode(api.NewAuditRecord(r)); err != nil {
				return err
			}
		}
		return out.Flush()
	})
	if err != nil && begun {
		g.log.Warn("an audit export was cut off", "account", who.accountID, "error", err)
		panic(http.ErrAbortHandler)
	}
	return err
}
