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

// MigrateTo brings the empty database at url to an older version of the schema.
func MigrateTo(ctx context.Context, url string, version int64) (err error) {
	db, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	migrations, err := db.migrations()
	if err != nil {
		return err
	}
	_, err = migrations.UpTo(ctx, version)
	return err
}

// RecordReads makes db call saw with each query that it reads with.
func (db *DB) RecordReads(saw func(query string, args []any)) {
	db.lists = recorder{DBTX: db.reader, saw: saw}
	db.r = sqlc.New(db.lists)
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

// SessionSQL returns the query of a page of sessions.
func (db *DB) SessionSQL(accountID string, q socketxp.SessionQuery) (list string, args []any, err error) {
	s, err := db.sessionStatement(accountID, q)
	if err != nil {
		return "", nil, err
	}
	return s.sql.String(), s.args, nil
}

// ErrInjected is what a step fails with that FailAt says.
var ErrInjected = errors.New("injected")

// FailAt makes step n of each transaction fail, counted from 1: its statements in
// their order, and then the commit. With after it fails once it is done, as when
// the answer is lost. It returns how many steps the last transaction has had; 0
// lets none fail.
func (db *DB) FailAt(n int, after bool) (steps *int) {
	steps = new(int)
	step := func(do func() error) error {
		*steps++
		if *steps != n {
			return do()
		}
		if after {
			if err := do(); err != nil {
				return err
			}
		}
		return ErrInjected
	}
	db.failing = &failing{
		statements: func(tx sqlc.DBTX) sqlc.DBTX {
			*steps = 0
			return failingTx{tx, step}
		},
		commit: func(tx *sql.Tx) func() error { return func() error { return step(tx.Commit) } },
	}
	return steps
}

// Heal ends what FailAt began.
func (db *DB) Heal() { db.failing = nil }

type failingTx struct {
	sqlc.DBTX
	step func(do func() error) error
}

func (f failingTx) ExecContext(ctx context.Context, query string, args ...any) (r sql.Result, err error) {
	err = f.step(func() error {
		r, err = f.DBTX.ExecContext(ctx, query, args...)
		return err
	})
	return r, err
}

func (f failingTx) QueryContext(ctx context.Context, query string, args ...any) (r *sql.Rows, err error) {
	err = f.step(func() error {
		r, err = f.DBTX.QueryContext(ctx, query, args...) //nolint:rowserrcheck,sqlclosecheck // who asked does both
		return err
	})
	if err != nil && r != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, err
}

// QueryRowContext fails by a context that is over: a row can't hold our error.
func (f failingTx) QueryRowContext(ctx context.Context, query string, args ...any) (r *sql.Row) {
	err := f.step(func() error {
		r = f.DBTX.QueryRowContext(ctx, query, args...)
		return nil
	})
	if err != nil {
		if r != nil { // it is to be done, and its answer lost
			_ = r.Scan()
		}
		over, cancel := context.WithCancel(ctx)
		cancel()
		return f.DBTX.QueryRowContext(over, query, args...)
	}
	return r
}
