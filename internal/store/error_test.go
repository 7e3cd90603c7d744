package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	sqlite3 "modernc.org/sqlite/lib"

	"socketxp"
)

func TestMeaning(t *testing.T) {
	for _, c := range []struct {
		err  error
		want socketxp.Code
	}{
		{sql.ErrNoRows, socketxp.CodeNotFound},
		{fmt.Errorf("op: %w", sql.ErrNoRows), socketxp.CodeNotFound},
		{&pgconn.PgError{Code: "23505"}, socketxp.CodeConflict},
		{&pgconn.PgError{Code: "23503"}, socketxp.CodeNotFound},
		{&pgconn.PgError{Code: "23514"}, socketxp.CodeInvalid},
		{&pgconn.PgError{Code: "22021"}, socketxp.CodeInvalid},
		{&pgconn.PgError{Code: "40P01"}, socketxp.CodeUnavailable},
		{&pgconn.PgError{Code: "53300"}, socketxp.CodeUnavailable},
		{&pgconn.PgError{Code: "57P01"}, socketxp.CodeUnavailable},
		{&pgconn.PgError{Code: "57014"}, socketxp.CodeUnavailable},
		{&pgconn.PgError{Code: "25006"}, socketxp.CodeUnavailable},
		{&pgconn.PgError{Code: "42601"}, socketxp.CodeInternal},
		{&pgconn.PgError{Code: "23502"}, socketxp.CodeInternal},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, socketxp.CodeUnavailable},
		{driver.ErrBadConn, socketxp.CodeUnavailable},
		{io.ErrUnexpectedEOF, socketxp.CodeUnavailable},
		{errors.New("anything else"), socketxp.CodeInternal},
		{socketxp.ErrUsesExhausted, socketxp.CodeUsesExhausted},
	} {
		err := wrap(t.Context(), "op", c.err)
		if got := socketxp.CodeOf(err); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%v lost its cause", err)
		}
	}
	for code, want := range map[int]socketxp.Code{
		sqlite3.SQLITE_CONSTRAINT_UNIQUE:     socketxp.CodeConflict,
		sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: socketxp.CodeConflict,
		sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: socketxp.CodeNotFound,
		sqlite3.SQLITE_CONSTRAINT_CHECK:      socketxp.CodeInvalid,
		sqlite3.SQLITE_BUSY:                  socketxp.CodeUnavailable,
		sqlite3.SQLITE_BUSY_SNAPSHOT:         socketxp.CodeUnavailable,
		sqlite3.SQLITE_FULL:                  socketxp.CodeUnavailable,
		sqlite3.SQLITE_IOERR_FSYNC:           socketxp.CodeUnavailable,
	} {
		if got := meaningOfSQLite(code); got == nil || got.Code != want {
			t.Errorf("SQLite's %d is %v, want %s", code, got, want)
		}
	}
	for _, code := range []int{sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT_NOTNULL} {
		if got := meaningOfSQLite(code); got != nil {
			t.Errorf("SQLite's %d is %v, want a fault", code, got)
		}
	}
	if err := wrap(t.Context(), "op", nil); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wrap(ctx, "op", &pgconn.PgError{Code: "57014"}); !errors.Is(err, context.Canceled) || socketxp.CodeOf(err) != socketxp.CodeInternal {
		t.Errorf("with a cancelled context: %v", err)
	}
	if err := wrap(ctx, "op", socketxp.ErrUsesExhausted); !errors.Is(err, socketxp.ErrUsesExhausted) {
		t.Errorf("a verdict, with a cancelled context: %v", err)
	}
}
