package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// MigratedSchema migrates the empty database at url and describes what came out,
// without asking whether it is the committed schema.
func MigratedSchema(ctx context.Context, url string) (_ string, err error) {
	db, err := connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.log = slog.New(slog.DiscardHandler)
	if err := db.migrate(ctx); err != nil {
		return "", err
	}
	lines, err := db.liveSchema(ctx)
	return strings.Join(lines, "\n") + "\n", err
}

// RecordReads makes db call saw with each query that the generated code reads with.
func (db *DB) RecordReads(saw func(query string, args []any)) {
	db.r = sqlc.New(recorder{DBTX: db.reader, saw: saw})
}

type recorder struct {
	sqlc.DBTX
	saw func(query string, args []any)
}

func (r recorder) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	r.saw(query, args)
	return r.DBTX.QueryContext(ctx, query, args...)
}

func (r recorder) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	r.saw(query, args)
	return r.DBTX.QueryRowContext(ctx, query, args...)
}

// DeviceListSQL is the query of a page of devices.
func (db *DB) DeviceListSQL(accountID string, q socketxp.DeviceQuery) (string, []any, error) {
	var s statement
	s.add(`SELECT ` + deviceColumns + ` FROM devices`)
	err := errors.Join(db.selectDevices(&s, accountID, q), orderDevices(&s, q))
	return s.sql.String(), s.args, err
}
