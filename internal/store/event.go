package store

import (
	"context"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// AddEvent implements socketxp.EventStore.
func (db *DB) AddEvent(ctx context.Context, e socketxp.Event) error {
	return wrap(ctx, "add event", db.w.InsertEvent(ctx, sqlc.InsertEventParams{
		ID:         e.ID,
		AccountID:  e.AccountID,
		At:         micros(e.At),
		Type:       string(e.Type),
		DeviceID:   e.DeviceID,
		DeviceName: e.DeviceName,
		ObjectID:   e.ObjectID,
		Message:    e.Message,
	}))
}

// Events implements socketxp.EventStore.
func (db *DB) Events(ctx context.Context, accountID string, query socketxp.EventQuery) ([]socketxp.Event, error) {
	limit, err := pageSize(query.Limit)
	if err != nil {
		return nil, err
	}
	var rows []sqlc.Event
	switch {
	case query.After != "":
		rows, err = db.r.EventsUp(ctx, sqlc.EventsUpParams{
			AccountID: accountID, After: query.After, DeviceID: query.DeviceID, Type: string(query.Type), Count: limit,
		})
	case query.DeviceID != "": // each apart, for its own index
		rows, err = db.r.EventsOfDevice(ctx, sqlc.EventsOfDeviceParams{
			AccountID: accountID, DeviceID: query.DeviceID, Before: before(query.Before), Type: string(query.Type), Count: limit,
		})
	case query.Type != "":
		rows, err = db.r.EventsOfType(ctx, sqlc.EventsOfTypeParams{
			AccountID: accountID, Type: string(query.Type), Before: before(query.Before), Count: limit,
		})
	default:
		rows, err = db.r.EventsDown(ctx, sqlc.EventsDownParams{AccountID: accountID, Before: before(query.Before), Count: limit})
	}
	if err != nil {
		return nil, wrap(ctx, "list events", err)
	}
	return convert(rows, func(r sqlc.Event) socketxp.Event {
		return socketxp.Event{
			ID:         r.ID,
			AccountID:  r.AccountID,
			At:         timeOf(r.At),
			Type:       socketxp.EventType(r.Type),
			DeviceID:   r.DeviceID,
			DeviceName: r.DeviceName,
			ObjectID:   r.ObjectID,
			Message:    r.Message,
		}
	}), nil
}
