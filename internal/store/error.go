package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"socketxp"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// wrap is the one place where what a database says becomes an error of the
// domain. An error of the domain passes as it is; with ctx done it is ctx's error
// that counts; what is left over is a fault, "internal" to a client.
func wrap(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if own := (*socketxp.Error)(nil); errors.As(err, &own) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, ctx.Err())
	}
	if e := meaning(err); e != nil {
		return withCause(e, fmt.Errorf("%s: %w", op, err))
	}
	return fmt.Errorf("%s: %w", op, err)
}

func withCause(e *socketxp.Error, cause error) *socketxp.Error {
	c := *e
	c.Err = cause
	return &c
}

// errUnstorable is what a value meets that breaks a CHECK of the schema, or is no
// text that a database can hold.
var errUnstorable = socketxp.Errorf(socketxp.CodeInvalid, "a value can't be stored")

// What a database on a disk that is full, or broken, can't do now.
var (
	errDiskFull  = socketxp.Errorf(socketxp.CodeUnavailable, "the gateway's disk is full").WithHint("its operator has to make room")
	errDiskFails = socketxp.Errorf(socketxp.CodeUnavailable, "the gateway's disk fails").WithHint("its operator has to look at it: socketxp-gateway admin doctor")
)

// brokeDisk reports whether err is of a disk that did not keep what it was given.
// What it has of that, nobody knows from then on.
func brokeDisk(err error) bool {
	var lite *sqlite.Error
	if !errors.As(err, &lite) {
		return false
	}
	switch lite.Code() {
	case sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE:
		return true
	}
	return false
}

// meaning returns what a driver's error is to the domain, or nil for a fault.
func meaning(err error) *socketxp.Error {
	var lite *sqlite.Error
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return socketxp.ErrNotFound
	case errors.As(err, &lite):
		return meaningOfSQLite(lite.Code())
	case errors.As(err, &pg):
		return meaningOfPostgres(pg.Code)
	case isConnectionTrouble(err):
		return socketxp.ErrUnavailable
	}
	return nil
}

// meaningOfSQLite reads an extended result code; its low byte is the primary one.
func meaningOfSQLite(code int) *socketxp.Error {
	switch code {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return socketxp.ErrConflict
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: // only inserts meet it: what the row hangs on is not there
		return socketxp.ErrNotFound
	case sqlite3.SQLITE_CONSTRAINT_CHECK:
		return errUnstorable
	}
	switch code & 0xff {
	case sqlite3.SQLITE_FULL:
		return errDiskFull
	case sqlite3.SQLITE_IOERR:
		return errDiskFails
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN:
		return socketxp.ErrUnavailable
	}
	return nil
}

// meaningOfPostgres reads a SQLSTATE; its first two characters are the class.
func meaningOfPostgres(state string) *socketxp.Error {
	switch state {
	case "23505": // unique_violation
		return socketxp.ErrConflict
	case "23503": // foreign_key_violation
		return socketxp.ErrNotFound
	case "23514", "22021": // check_violation; character_not_in_repertoire: a NUL, or not UTF-8
		return errUnstorable
	case "25006": // read_only_sql_transaction: a standby
		return socketxp.ErrUnavailable
	}
	for _, class := range []string{
		"08", // connection exception
		"28", // invalid authorization: the password was changed under us
		"40", // transaction rollback: serialization failure, deadlock
		"53", // insufficient resources: disk full, too many connections
		"55", // object not in prerequisite state: lock not available
		"57", // operator intervention: shutdown, crash, statement timeout
		"58", // system error: I/O
	} {
		if strings.HasPrefix(state, class) {
			return socketxp.ErrUnavailable
		}
	}
	return nil
}

func isConnectionTrouble(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isContention reports whether a transaction was undone only because another one
// was in its way, so that it may be tried again.
func isContention(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "40")
}
