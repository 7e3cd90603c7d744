// Package store keeps everything on SQLite or PostgreSQL: one hand-written SQL
// text that both take (queries/, made into Go by sqlc), one numbered set of
// migrations each (migrations/), and one suite of tests that runs on both.
//
// # Rules
//
// Every statement on an account's rows names the account; the few that are of the
// gateway as a whole say so. Who may do what is not decided here.
//
// An audited act is one transaction that first takes the account's audit chain
// and holds it to the end. So the audited acts of an account happen one after the
// other, on both engines alike: what an act reads (a count against a quota, the
// names that are taken, the last owner) still holds when it writes, and two of
// them can't deadlock. Acts without an audit entry change single rows.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

var _ socketxp.Store = (*DB)(nil)

// Options configure Open. The zero value is good.
type Options struct {
	// Log is told of migrations and of transactions that were tried again; nil for none.
	Log *slog.Logger
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	engine engine
	log    *slog.Logger
	// SQLite has one writer at a time in any case: one connection that all
	// transactions queue for is fairer than a lock they fight for. On PostgreSQL
	// both are the same pool.
	writer, reader *sql.DB
	w, r           *sqlc.Queries
	lists          sqlc.DBTX // reader, for the statements that are put together
	// broken is set when a write to the disk or its fsync has failed: from then on
	// nothing is written, and nothing acknowledged, until the database is opened anew
	// and finds what the disk really has.
	broken atomic.Pointer[socketxp.Error]
	// failing makes steps of transactions fail; nil but in tests.
	failing *failing
}

// engine is what differs between the databases.
type engine struct {
	name       string // of the folder in migrations and the file in schema
	listTables string // names of all tables
	describe   string // one line for each thing in the schema, see liveSchema
	// inJSON tests a column against a parameter that is a JSON array of strings.
	inJSON string
	// concat is the aggregate that makes one text of many, in the order they come.
	concat string
	// position is the function that finds a text in another; 0 if it isn't there.
	position string
	// findTexts lists the ids of devices by a text they have, by an index that knows it:
	// of a phrase, in an account, with the text, at most so many; "" if there is none.
	findTexts string
	// findTrigrams lists what that index knows, from one text to another, at most so much.
	findTrigrams string
	// indexedBy comes before the name of an index that a query has to use; "" where the
	// planner finds it.
	indexedBy string
}

// Open opens the database at url, "sqlite:PATH" or "postgres://…", creates what is
// missing and migrates it. It fails, and changes nothing, if the database is
// damaged, was written by a newer program, or holds anything else than exactly
// the schema that this program knows.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db, err := connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.log = log
	if err = db.migrate(ctx); err == nil {
		err = db.checkSchema(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), db.Close())
	}
	db.w, db.r, db.lists = sqlc.New(guarded{db.writer, db}), sqlc.New(db.reader), db.reader
	return db, nil
}

func connect(ctx context.Context, url string) (*DB, error) {
	switch path, isSQLite := strings.CutPrefix(url, "sqlite:"); {
	case isSQLite && path != "":
		return openSQLite(ctx, path)
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		return openPostgres(ctx, url)
	}
	return nil, errors.New("the URL is neither sqlite:PATH nor postgres://…") // and is not shown: it may hold a password
}

// Close waits for the queries that run and closes all connections.
func (db *DB) Close() error {
	var err error
	if db.reader != nil && db.reader != db.writer {
		err = db.reader.Close() // first: the last to close a SQLite database folds its log into it, and must be able to write
	}
	return errors.Join(err, db.writer.Close())
}

// errUnchanged ends a transaction that found nothing to do: it is rolled back,
// leaves no audit record, and is no error to the caller.
var errUnchanged = errors.New("nothing to change")

// tx runs do in a transaction: all of it is done, or nothing. do may run more
// than once and must keep nothing of a run that failed.
func (db *DB) tx(ctx context.Context, op string, do func(q *sqlc.Queries) error) error {
	const tries = 3 // a deadlock's victim has had its turn by then; more would hide a mistake of ours
	for try := 1; ; try++ {
		err := db.tryTx(ctx, do)
		switch {
		case err == nil, errors.Is(err, errUnchanged):
			return nil
		case !isContention(err) || try == tries:
			return wrap(ctx, op, err)
		}
		db.log.Warn("transaction tried again", "op", op, "err", err)
	}
}

func (db *DB) tryTx(ctx context.Context, do func(q *sqlc.Queries) error) error {
	if err := db.writable(); err != nil {
		return err
	}
	err := db.runTx(ctx, do)
	db.note(err)
	return err
}

func (db *DB) runTx(ctx context.Context, do func(q *sqlc.Queries) error) error {
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back, and before it the first error is the one to tell
	q, commit := db.w.WithTx(tx), tx.Commit
	if db.failing != nil {
		q, commit = sqlc.New(db.failing.statements(tx)), db.failing.commit(tx)
	}
	if err := do(q); err != nil {
		return err
	}
	return commit()
}

// failing decides which steps of a transaction fail.
type failing struct {
	statements func(sqlc.DBTX) sqlc.DBTX
	commit     func(*sql.Tx) func() error
}

// writable returns why nothing may be written any more, or nil.
func (db *DB) writable() error {
	if e := db.broken.Load(); e != nil {
		return e
	}
	return nil
}

// note remembers that the disk has failed, if that is what err says.
func (db *DB) note(err error) {
	if brokeDisk(err) && db.broken.CompareAndSwap(nil, withCause(errDiskFails, err)) {
		db.log.Error("the disk fails: nothing is written to the database until the program is started anew", "err", err)
	}
}

// guarded is the writer for what is written outside of a transaction. What such a
// statement returns in a row is not guarded: RaiseClock sees to it itself.
type guarded struct {
	sqlc.DBTX
	db *DB
}

func (g guarded) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := g.db.writable(); err != nil {
		return nil, err
	}
	result, err := g.DBTX.ExecContext(ctx, query, args...)
	g.db.note(err)
	return result, err
}

// act runs an audited act on the account's rows: entry, which do may still
// complete, is written in the same transaction.
func (db *DB) act(ctx context.Context, op, accountID string, entry socketxp.AuditEntry, do func(q *sqlc.Queries, entry *socketxp.AuditEntry) error) error {
	if entry.AccountID != accountID {
		return fmt.Errorf("%s: the audit entry is of another account than the act", op)
	}
	return db.tx(ctx, op, func(q *sqlc.Queries) error {
		entry := entry // each try completes its own
		place, err := advanceChain(ctx, q, accountID)
		if err != nil {
			return err
		}
		if err := do(q, &entry); err != nil {
			return err
		}
		_, err = place.write(ctx, q, entry)
		return err
	})
}

// affected turns "no row changed" into ErrNotFound.
func affected(rows int64, err error) error {
	if err == nil && rows == 0 {
		return socketxp.ErrNotFound
	}
	return err
}

// lastID sorts after every id.
const lastID = "~"

// before returns the id to page down from.
func before(id string) string {
	if id == "" {
		return lastID
	}
	return id
}

// maxPage bounds what one call holds in memory, whatever it was asked for.
const maxPage = 1000

func pageSize(limit int) (int32, error) {
	if limit < 1 || limit > maxPage {
		return 0, socketxp.Errorf(socketxp.CodeInvalid, "the page size is not from 1 to %d", maxPage)
	}
	return int32(limit), nil
}

// micros returns t as the database keeps it: Unix microseconds, 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// timeOf is the inverse of micros, in UTC.
func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// convert applies one to each row.
func convert[R, T any](rows []R, one func(R) T) []T {
	out := make([]T, len(rows))
	for i, r := range rows {
		out[i] = one(r)
	}
	return out
}
