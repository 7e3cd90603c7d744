package store

import (
	"context"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// Groups implements socketxp.DeviceStore.
func (db *DB) Groups(ctx context.Context, accountID string) ([]socketxp.Group, error) {
	rows, err := db.r.Groups(ctx, accountID)
	if err != nil {
		return nil, wrap(ctx, "list groups", err)
	}
	return convert(rows, func(r sqlc.DeviceGroup) socketxp.Group {
		return socketxp.Group{AccountID: accountID, Name: r.Name, CreatedAt: timeOf(r.CreatedAt), Devices: int(r.Devices)}
	}), nil
}

// joinGroup makes the group if it isn't there and counts one device more in it.
func joinGroup(ctx context.Context, q *sqlc.Queries, accountID, name string, now time.Time) error {
	if err := q.EnsureGroup(ctx, sqlc.EnsureGroupParams{AccountID: accountID, Name: name, CreatedAt: micros(now)}); err != nil {
		return err
	}
	return q.AddToGroup(ctx, sqlc.AddToGroupParams{AccountID: accountID, Name: name, Change: 1})
}

// CreateGroup implements socketxp.DeviceStore.
func (db *DB) CreateGroup(ctx context.Context, g socketxp.Group, entry socketxp.AuditEntry) error {
	return db.act(ctx, "create group", g.AccountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return q.InsertGroup(ctx, sqlc.InsertGroupParams{AccountID: g.AccountID, Name: g.Name, CreatedAt: micros(g.CreatedAt)})
	})
}

// RenameGroup implements socketxp.DeviceStore.
func (db *DB) RenameGroup(ctx context.Context, accountID, name, newName string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "rename group", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		return affected(q.RenameGroup(ctx, sqlc.RenameGroupParams{AccountID: accountID, Name: name, NewName: newName}))
	})
}

// DeleteGroup implements socketxp.DeviceStore.
func (db *DB) DeleteGroup(ctx context.Context, accountID, name string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "delete group", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		devices, err := q.CountInGroups(ctx, accountID, name)
		if err != nil {
			return err
		}
		if devices > 0 {
			return socketxp.Errorf(socketxp.CodeConflict, "the group has %d devices", devices).WithHint("move them to another group first")
		}
		return affected(q.DeleteGroup(ctx, accountID, name))
	})
}
