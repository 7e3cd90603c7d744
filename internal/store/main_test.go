package store_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"socketxp"
	"socketxp/internal/store"
	"socketxp/internal/store/pgtest"
)

var update = flag.Bool("update", false, "write the schemas that the migrations make to schema/")

// backends are every database we support. Each test runs once for each.
var backends = []struct {
	name string
	url  func(*testing.T) string // of an empty database
}{
	{"sqlite", sqliteURL},
	{"postgres", postgresURL},
}

func forEachBackend(t *testing.T, run func(*testing.T, socketxp.Store)) {
	t.Helper()
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			run(t, open(t, b.url(t)))
		})
	}
}

// forEachURL is for the tests that also look behind the interfaces, with SQL of
// their own.
func forEachURL(t *testing.T, run func(t *testing.T, url string)) {
	t.Helper()
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			run(t, b.url(t))
		})
	}
}

// raw opens the database at url past the store.
func raw(t testing.TB, url string) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, dsn = "sqlite", "file:"+path+"?_busy_timeout=5000"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func mustExec(t testing.TB, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

// tables are all that hold rows of an account, with the column that names it.
var tables = map[string]string{
	"accounts": "id", "memberships": "account_id", "sign_ins": "account_id", "device_authorizations": "account_id", "tokens": "account_id", "device_groups": "account_id",
	"devices": "account_id", "tunnels": "account_id", "sessions": "account_id", "audit_heads": "account_id", "audit": "account_id", "events": "account_id",
}

// dump returns all rows of an account, or of all accounts and the users, as text.
func dump(t testing.TB, db *sql.DB, accountID string) string {
	t.Helper()
	var out strings.Builder
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		out.WriteString(dumpQuery(t, db, "SELECT * FROM "+table+" WHERE $1 IN ('', "+tables[table]+") ORDER BY 1, 2", accountID))
	}
	if accountID == "" {
		for _, table := range []string{"users", "known_browsers", "settings", "clock", "idempotency", "signing_keys", "epoch"} {
			out.WriteString(dumpQuery(t, db, "SELECT * FROM "+table+" WHERE $1 = '' ORDER BY 1", ""))
		}
	}
	return out.String()
}

func dumpQuery(t testing.TB, db *sql.DB, query string, args ...any) string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	}()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			fmt.Fprintf(&out, "%s=%v ", columns[i], *v.(*any))
		}
		out.WriteString("\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func open(t testing.TB, url string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func sqliteURL(t *testing.T) string { return "sqlite:" + t.TempDir() + "/socketxp.db" }

// server is the one throwaway PostgreSQL of this test binary. It starts with the
// first test that wants it.
var server struct {
	once sync.Once
	dir  string
	url  string
	stop func() error
	err  error

	databases atomic.Int64
}

func startServer() {
	if server.url = os.Getenv("SOCKETXP_TEST_POSTGRES"); server.url != "" {
		server.stop = func() error { return nil }
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if server.dir, server.err = os.MkdirTemp("", "pgtest"); server.err == nil {
		server.url, server.stop, server.err = pgtest.Start(ctx, server.dir)
	}
}

func stopServer() error {
	var err error
	server.once.Do(func() { server.err = errors.New("the tests are over") })
	if server.stop != nil {
		err = server.stop()
	}
	return errors.Join(err, os.RemoveAll(server.dir))
}

// postgresURL returns a database of the test's own, so that nothing needs a list
// of tables to empty.
func postgresURL(t *testing.T) string {
	t.Helper()
	server.once.Do(startServer)
	if errors.Is(server.err, pgtest.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(server.err)
	}
	if server.err != nil {
		t.Fatal(server.err)
	}
	name := fmt.Sprintf("store_%d_%d", os.Getpid(), server.databases.Add(1))
	url, err := pgtest.NewDatabase(t.Context(), server.url, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pgtest.DropDatabase(context.Background(), server.url, name); err != nil {
			t.Error(err)
		}
	})
	return url
}

// tests makes a function a goleak.TestingM.
type tests func() int

func (t tests) Run() int { return t() }

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(tests(func() int {
		interrupted := make(chan os.Signal, 1)
		signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
		go func() {
			if sig, ok := <-interrupted; ok {
				_ = stopServer()
				signal.Reset()
				_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal))
			}
		}()
		code := m.Run()
		signal.Stop(interrupted)
		close(interrupted)
		if err := stopServer(); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
			return 1
		}
		return code
	}))
}
