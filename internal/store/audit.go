package store

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// chainPlace is the next free place of a chain, held until the transaction ends.
type chainPlace struct {
	seq  int64
	prev [32]byte
}

// advanceChain takes the next place of an account's chain. Whoever holds it is
// the only one in any audited act of the account.
func advanceChain(ctx context.Context, q *sqlc.Queries, accountID string) (chainPlace, error) {
	var zero [32]byte // what comes before the first record
	head, err := q.AdvanceChain(ctx, accountID, zero[:])
	if err != nil {
		return chainPlace{}, err
	}
	p := chainPlace{seq: head.Seq}
	copy(p.prev[:], head.Hash)
	return p, nil
}

// write puts entry at p.
func (p chainPlace) write(ctx context.Context, q *sqlc.Queries, entry socketxp.AuditEntry) (socketxp.AuditRecord, error) {
	r := socketxp.AuditRecord{AuditEntry: storable(entry), Seq: p.seq, Prev: p.prev}
	r.Hash = r.ChainHash()
	err := q.InsertAudit(ctx, sqlc.InsertAuditParams{
		AccountID:    r.AccountID,
		Seq:          r.Seq,
		At:           r.At.UnixMicro(),
		ActorKind:    string(r.Actor.Kind),
		UserID:       r.Actor.UserID,
		DeviceID:     r.Actor.DeviceID,
		CredentialID: r.Actor.CredentialID,
		RemoteAddr:   r.Actor.RemoteAddr,
		Action:       r.Action,
		ObjectKind:   r.ObjectKind,
		ObjectID:     r.ObjectID,
		ObjectName:   r.ObjectName,
		Reason:       string(r.Reason),
		Detail:       r.Detail,
		Prev:         r.Prev[:],
		Hash:         r.Hash[:],
	})
	if err != nil {
		return socketxp.AuditRecord{}, err
	}
	return r, q.SetChainHash(ctx, r.AccountID, r.Hash[:])
}

// storable returns the entry as it will be read back, so that its hash holds. It
// also bounds it and replaces what PostgreSQL can't keep (NUL, invalid UTF-8):
// that an act must be audited is no means to prevent it by strange names.
func storable(e socketxp.AuditEntry) socketxp.AuditEntry {
	e.At = time.UnixMicro(e.At.UnixMicro()).UTC()
	for _, s := range []*string{&e.Actor.RemoteAddr, &e.Action, &e.ObjectKind, &e.ObjectID, &e.ObjectName, &e.Detail} {
		*s = strings.ReplaceAll(strings.ToValidUTF8(*s, "\uFFFD"), "\x00", "\uFFFD")
		const longest = 500
		if len(*s) > longest {
			cut := longest
			for !utf8.RuneStart((*s)[cut]) {
				cut--
			}
			*s = (*s)[:cut]
		}
	}
	return e
}

// AppendAudit implements socketxp.AuditStore.
func (db *DB) AppendAudit(ctx context.Context, entry socketxp.AuditEntry) (record socketxp.AuditRecord, err error) {
	err = db.tx(ctx, "append audit", func(q *sqlc.Queries) error {
		place, err := advanceChain(ctx, q, entry.AccountID)
		if err != nil {
			return err
		}
		record, err = place.write(ctx, q, entry)
		return err
	})
	if err != nil {
		return socketxp.AuditRecord{}, err
	}
	return record, nil
}

// Audit implements socketxp.AuditStore.
func (db *DB) Audit(ctx context.Context, accountID string, query socketxp.AuditQuery) ([]socketxp.AuditRecord, error) {
	limit, err := pageSize(query.Limit)
	if err != nil {
		return nil, err
	}
	var rows []sqlc.Audit
	below := query.After
	if below == 0 {
		below = math.MaxInt64
	}
	switch {
	case !query.Newest:
		rows, err = db.r.AuditUp(ctx, sqlc.AuditUpParams{
			AccountID: accountID, After: query.After, Action: query.Action, ActorID: query.ActorID, Count: limit,
		})
	case query.ActorID != "":
		rows, err = db.auditOfActor(ctx, accountID, query, below, limit)
	case query.Action != "":
		rows, err = db.r.AuditOfAction(ctx, sqlc.AuditOfActionParams{AccountID: accountID, Action: query.Action, Before: below, Count: limit})
	default:
		rows, err = db.r.AuditDown(ctx, sqlc.AuditDownParams{AccountID: accountID, Before: below, Count: limit})
	}
	if err != nil {
		return nil, wrap(ctx, "list audit", err)
	}
	return convert(rows, auditRecord), nil
}

// auditOfActor asks for a user and for a device of that id, each by an index of its
// own: one condition for both would read every record.
func (db *DB) auditOfActor(ctx context.Context, accountID string, query socketxp.AuditQuery, below int64, limit int32) ([]sqlc.Audit, error) {
	rows, err := db.r.AuditOfUser(ctx, sqlc.AuditOfUserParams{
		AccountID: accountID, UserID: query.ActorID, Before: below, Action: query.Action, Count: limit,
	})
	if err != nil {
		return nil, err
	}
	more, err := db.r.AuditOfDevice(ctx, sqlc.AuditOfDeviceParams{
		AccountID: accountID, DeviceID: query.ActorID, Before: below, Action: query.Action, Count: limit,
	})
	if err != nil {
		return nil, err
	}
	rows = append(rows, more...)
	slices.SortFunc(rows, func(a, b sqlc.Audit) int { return cmp.Compare(b.Seq, a.Seq) })
	rows = slices.CompactFunc(rows, func(a, b sqlc.Audit) bool { return a.Seq == b.Seq }) // one that names it as both
	return rows[:min(len(rows), int(limit))], nil
}

func auditRecord(r sqlc.Audit) socketxp.AuditRecord {
	out := socketxp.AuditRecord{
		AuditEntry: socketxp.AuditEntry{
			AccountID: r.AccountID,
			At:        time.UnixMicro(r.At).UTC(),
			Actor: socketxp.Actor{
				Kind:         socketxp.Kind(r.ActorKind),
				UserID:       r.UserID,
				DeviceID:     r.DeviceID,
				CredentialID: r.CredentialID,
				RemoteAddr:   r.RemoteAddr,
			},
			Action:     r.Action,
			ObjectKind: r.ObjectKind,
			ObjectID:   r.ObjectID,
			ObjectName: r.ObjectName,
			Reason:     socketxp.Code(r.Reason),
			Detail:     r.Detail,
		},
		Seq: r.Seq,
	}
	copy(out.Prev[:], r.Prev)
	copy(out.Hash[:], r.Hash)
	return out
}
