package api

import (
	"encoding/hex"
	"time"

	"socketxp"
)

// Session is one visitor reaching one tunnel of one device.
type Session struct {
	ID          string        `json:"id"`
	DeviceID    string        `json:"device_id"`
	DeviceName  string        `json:"device_name" doc:"as it was at the start"`
	UserID      string        `json:"user_id" doc:"who made the token"`
	TokenID     string        `json:"token_id"`
	Destination string        `json:"destination" example:"tcp://localhost:22"`
	RemoteAddr  string        `json:"remote_addr" doc:"the visitor's"`
	Live        bool          `json:"live"`
	StartedAt   time.Time     `json:"started_at"`
	EndedAt     *time.Time    `json:"ended_at,omitempty"`
	EndReason   socketxp.Code `json:"end_reason,omitempty" doc:"missing if the visitor left"`
	Links       int64         `json:"links" doc:"links so far"`
	BytesUp     int64         `json:"bytes_up" doc:"from visitor to device, as they crossed the gateway"`
	BytesDown   int64         `json:"bytes_down"`
}

// NewSession returns s for clients.
func NewSession(s socketxp.Session) Session {
	return Session{
		ID: s.ID, DeviceID: s.DeviceID, DeviceName: s.DeviceName, UserID: s.UserID, TokenID: s.TokenID,
		Destination: s.Destination, RemoteAddr: s.RemoteAddr, Live: s.EndedAt.IsZero(), StartedAt: s.StartedAt,
		EndedAt: timeOf(s.EndedAt), EndReason: s.EndReason, Links: s.Links, BytesUp: s.BytesUp, BytesDown: s.BytesDown,
	}
}

// Event is a change that programs can follow live.
type Event struct {
	ID         string             `json:"id"`
	At         time.Time          `json:"at"`
	Type       socketxp.EventType `json:"type" example:"device.online"`
	DeviceID   string             `json:"device_id,omitempty"`
	DeviceName string             `json:"device_name,omitempty"`
	ObjectID   string             `json:"object_id,omitempty" doc:"token or session id, where one is meant"`
	Message    string             `json:"message" doc:"one line for people"`
}

// NewEvent returns e for clients.
func NewEvent(e socketxp.Event) Event {
	return Event{ID: e.ID, At: e.At, Type: e.Type, DeviceID: e.DeviceID, DeviceName: e.DeviceName, ObjectID: e.ObjectID, Message: e.Message}
}

// AuditRecord is an audit entry in its account's chain. It holds all that its
// hash is computed from.
type AuditRecord struct {
	AccountID    string        `json:"account_id"`
	Seq          int64         `json:"seq" doc:"1, 2, 3 … without gaps"`
	At           time.Time     `json:"at" doc:"to the microsecond"`
	ActorKind    socketxp.Kind `json:"actor_kind" doc:"kind of the credential"`
	UserID       string        `json:"user_id,omitempty"`
	DeviceID     string        `json:"device_id,omitempty"`
	CredentialID string        `json:"credential_id,omitempty"`
	RemoteAddr   string        `json:"remote_addr,omitempty"`
	Action       string        `json:"action" example:"device.register"`
	ObjectKind   string        `json:"object_kind,omitempty"`
	ObjectID     string        `json:"object_id,omitempty"`
	ObjectName   string        `json:"object_name,omitempty"`
	Reason       socketxp.Code `json:"reason,omitempty" doc:"why it was refused; missing if it was done"`
	Detail       string        `json:"detail,omitempty"`
	Prev         string        `json:"prev" doc:"hash of the record before, in hexadecimal"`
	Hash         string        `json:"hash" doc:"SHA-256 over prev and all fields"`
}

// NewAuditRecord returns r for clients.
func NewAuditRecord(r socketxp.AuditRecord) AuditRecord {
	return AuditRecord{
		AccountID: r.AccountID, Seq: r.Seq, At: r.At, ActorKind: r.Actor.Kind, UserID: r.Actor.UserID, DeviceID: r.Actor.DeviceID,
		CredentialID: r.Actor.CredentialID, RemoteAddr: r.Actor.RemoteAddr, Action: r.Action,
		ObjectKind: r.ObjectKind, ObjectID: r.ObjectID, ObjectName: r.ObjectName, Reason: r.Reason, Detail: r.Detail,
		Prev: hex.EncodeToString(r.Prev[:]), Hash: hex.EncodeToString(r.Hash[:]),
	}
}

// Domain is the inverse of NewAuditRecord, so that an export can be verified with
// socketxp.VerifyChain. Hashes that are none come back as zeros, which no record
// has.
func (r AuditRecord) Domain() socketxp.AuditRecord {
	out := socketxp.AuditRecord{
		AuditEntry: socketxp.AuditEntry{
			AccountID: r.AccountID, At: r.At, Action: r.Action, ObjectKind: r.ObjectKind, ObjectID: r.ObjectID, ObjectName: r.ObjectName,
			Reason: r.Reason, Detail: r.Detail,
			Actor: socketxp.Actor{Kind: r.ActorKind, UserID: r.UserID, DeviceID: r.DeviceID, CredentialID: r.CredentialID, RemoteAddr: r.RemoteAddr},
		},
		Seq: r.Seq,
	}
	for _, f := range []struct {
		text string
		sum  *[32]byte
	}{{r.Prev, &out.Prev}, {r.Hash, &out.Hash}} {
		if b, err := hex.DecodeString(f.text); err == nil && len(b) == len(f.sum) {
			copy(f.sum[:], b)
		}
	}
	return out
}

// AuditVerification says whether the account's audit chain holds.
type AuditVerification struct {
	OK       bool   `json:"ok"`
	Records  int64  `json:"records" doc:"records that were found good"`
	LastHash string `json:"last_hash,omitempty" doc:"of the last good record: note it elsewhere to notice later if the end of the chain was cut off"`
	Broken   string `json:"broken,omitempty" doc:"where and how the chain is broken"`
}
