package socketxp

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// AuditEntry says who did what to which object with which credential from where,
// and how it ended. Stores write it in the transaction of the act it tells of,
// or before the act where that is outside the database. It never holds a secret.
type AuditEntry struct {
	AccountID string // "" for what belongs to no account (the gateway's own chain)
	At        time.Time
	Actor     Actor
	Action    string // noun.verb, e.g. device.register
	// Object is what was acted on.
	ObjectKind string // device, token, user, session, group, account …
	ObjectID   string
	ObjectName string
	Reason     Code   // "" when it was done, else why it was refused
	Detail     string // one line for people, without secrets; at most 500 bytes
}

// Actor is who did something, and with what.
type Actor struct {
	Kind         Kind   // of the credential
	UserID       string // "" for devices
	DeviceID     string // "" for people
	CredentialID string // token, sign-in or session id
	RemoteAddr   string
}

// AuditRecord is an entry in its chain.
type AuditRecord struct {
	AuditEntry
	Seq  int64 // 1, 2, 3 … without gaps within the account
	Prev [32]byte
	Hash [32]byte
}

// ChainHash returns the hash of r: SHA-256 over a version, Prev, Seq, and every
// field of the entry as length and bytes, times in Unix microseconds. What an
// export holds is enough to compute it.
func (r AuditRecord) ChainHash() [32]byte {
	b := make([]byte, 0, 512)
	b = append(b, "socketxp-audit/1\x00"...)
	b = append(b, r.Prev[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Seq)) //nolint:gosec // a bijection is all that is needed
	b = binary.BigEndian.AppendUint64(b, uint64(r.At.UTC().UnixMicro()))
	for _, s := range []string{
		r.AccountID, string(r.Actor.Kind), r.Actor.UserID, r.Actor.DeviceID, r.Actor.CredentialID, r.Actor.RemoteAddr,
		r.Action, r.ObjectKind, r.ObjectID, r.ObjectName, string(r.Reason), r.Detail,
	} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // fields are far below 4 GiB
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}

// VerifyChain checks that record follows prev in the same chain; for the first
// record of a chain prev is the zero AuditRecord. The error names the place and
// what is wrong.
func VerifyChain(prev, record AuditRecord) error {
	switch {
	case record.Seq != prev.Seq+1:
		return Errorf(CodeInvalid, "audit record %d follows record %d: records are missing or out of order", record.Seq, prev.Seq)
	case record.Prev != prev.Hash:
		return Errorf(CodeInvalid, "audit record %d does not continue record %d", record.Seq, prev.Seq)
	case record.Hash != record.ChainHash():
		return Errorf(CodeInvalid, "audit record %d was changed", record.Seq)
	case prev.Seq > 0 && record.AccountID != prev.AccountID:
		return Errorf(CodeInvalid, "audit record %d is of another account", record.Seq)
	}
	return nil
}

// AuditStore keeps the chains. Records are never changed or removed.
type AuditStore interface {
	// AppendAudit adds an entry to its account's chain.
	AppendAudit(ctx context.Context, entry AuditEntry) (AuditRecord, error)
	// Audit lists records by sequence number: from q.After on upwards, or with
	// q.Newest downwards from below q.After (0: from the end).
	Audit(ctx context.Context, accountID string, q AuditQuery) ([]AuditRecord, error)
}

// AuditQuery selects a page of audit records.
type AuditQuery struct {
	After   int64
	Newest  bool
	Action  string // exact; "" for all
	ActorID string // user or device id; "" for all
	Limit   int    // 1 to 1000
}
