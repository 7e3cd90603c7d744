package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"socketxp"
	"socketxp/internal/store"
	"socketxp/internal/store/pgtest"
)

// refused fails unless the database can't be opened, and says why in these words.
func refused(t *testing.T, url string, words ...string) {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{})
	if err == nil {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		t.Fatal("opened")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestOpenTwice(t *testing.T) {
	forEachURL(t, func(t *testing.T, url string) {
		acme := newTenant(t, open(t, url), "acme")
		again := open(t, url) // beside the first one, as an admin command does
		if _, err := again.Account(t.Context(), acme.id); err != nil {
			t.Error(err)
		}
		if _, err := again.AppendAudit(t.Context(), acme.entry("test")); err != nil {
			t.Error(err)
		}
		if n := len(acme.chain()); n != 2 {
			t.Errorf("%d audit records", n)
		}
	})
}

// Gateways that start at once on an empty database: one migrates it, the others wait.
func TestOpenAtOnce(t *testing.T) {
	url := postgresURL(t)
	errs := make(chan error)
	for range 4 {
		go func() {
			db, err := store.Open(t.Context(), url, store.Options{})
			if err == nil {
				err = db.Close()
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name, statement string
		words           []string
	}{
		{"U-04 newer schema", `INSERT INTO goose_db_version (version_id, is_applied) SELECT MAX(version_id) + 1, TRUE FROM goose_db_version`, []string{"schema version", "up to", "start the newer program"}},
		{"P-21 missing migration row", `DELETE FROM goose_db_version WHERE version_id = 1`, []string{"no record of migration 1"}},
		{"P-21 missing record", `DROP TABLE goose_db_version`, []string{"no record of migrations"}},
		{"P-21 gap in the record", `UPDATE goose_db_version SET version_id = 999 WHERE version_id = 1`, []string{"no record of migration 1"}},
		{"P-21 missing column", `ALTER TABLE users DROP COLUMN retry_at`, []string{"lacks", "retry_at"}},
		{"P-21 missing table", `DROP TABLE idempotency`, []string{"lacks", "idempotency"}},
		{"P-21 missing index", `DROP INDEX devices_by_name`, []string{"lacks", "devices_by_name"}},
		{"P-21 column too many", `ALTER TABLE users ADD COLUMN extra TEXT`, []string{"not the one of this program", "extra"}},
		{"P-21 table too many", `CREATE TABLE extra (id INTEGER)`, []string{"it has", "extra"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			forEachURL(t, func(t *testing.T, url string) {
				newTenant(t, open(t, url), "acme")
				db := raw(t, url)
				mustExec(t, db, c.statement)
				refused(t, url, c.words...)
				if got := dumpQuery(t, db, `SELECT name FROM accounts`); !strings.Contains(got, "acme") {
					t.Errorf("the data was touched: %q", got)
				}
			})
		})
	}
	t.Run("U-04 a trigger", func(t *testing.T) {
		url := sqliteURL(t)
		open(t, url)
		mustExec(t, raw(t, url), `CREATE TRIGGER extra AFTER INSERT ON users BEGIN SELECT 1; END`)
		refused(t, url, "it has", "extra")
	})
	t.Run("P-21 someone else's database", func(t *testing.T) {
		forEachURL(t, func(t *testing.T, url string) {
			mustExec(t, raw(t, url), `CREATE TABLE theirs (id INTEGER)`)
			refused(t, url, "theirs", "no record of migrations")
		})
	})
}

func TestOpenURL(t *testing.T) {
	for _, url := range []string{"", "sqlite:", "mysql://user:secret-word@host/db", "postgres://user:secret-word@127.0.0.1:1/db?sslmode=disable", "postgres://user:secret-word@%zz/"} {
		_, err := store.Open(t.Context(), url, store.Options{})
		if err == nil {
			t.Errorf("%q was opened", url)
		} else if strings.Contains(err.Error(), "secret-word") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestSQLiteFile(t *testing.T) {
	t.Run("K-16 only its owner can read it", func(t *testing.T) {
		// A folder with all that means something in a URI.
		path := filepath.Join(t.TempDir(), "a b?c%20#d&_query_only=1", "socketxp.db")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		newTenant(t, open(t, "sqlite:"+path), "acme")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode().Perm(); mode != 0o600 {
				t.Errorf("the mode of socketxp.db%s is %o", suffix, mode)
			}
		}
	})
	t.Run("no folder", func(t *testing.T) {
		refused(t, "sqlite:"+t.TempDir()+"/nowhere/socketxp.db", "no such file")
	})
	t.Run("P-21 no database", func(t *testing.T) {
		path := t.TempDir() + "/socketxp.db"
		if err := os.WriteFile(path, []byte(strings.Repeat("this is something else\n", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "sqlite:"+path, path, "can't be read as a SQLite database")
	})
	t.Run("P-21 a damaged page", func(t *testing.T) {
		path := t.TempDir() + "/socketxp.db"
		db, err := store.Open(t.Context(), "sqlite:"+path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		acme := newTenant(t, db, "acme")
		for i := range 60 { // pages enough to hit one of them
			acme.newToken(socketxp.TokenAPI, func(tok *socketxp.Token) { tok.Name = strings.Repeat("x", 10*i) })
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := strings.Index(string(data), "xxxxxxxx") &^ 4095 // the page that it is on
		for i := range 64 {
			data[at+i] ^= 0xff
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "sqlite:"+path, path, "damaged")
	})
	t.Run("P-01 what was done is there after a crash", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, "sqlite:"+dir+"/socketxp.db")
		acme := newTenant(t, s, "acme")
		// What a crash leaves: the files as they are while the database is open.
		crashed := t.TempDir()
		for _, name := range []string{"socketxp.db", "socketxp.db-wal"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(crashed, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := open(t, "sqlite:"+crashed+"/socketxp.db").Account(t.Context(), acme.id); err != nil {
			t.Error(err)
		}
	})
}

// A database that went away is CodeUnavailable, and the store recovers by itself.
func TestPostgresLost(t *testing.T) {
	if os.Getenv("SOCKETXP_TEST_POSTGRES") != "" {
		t.Skip("the server is not ours to stop")
	}
	_ = postgresURL(t)                     // skips without PostgreSQL
	dir, err := os.MkdirTemp("", "pgtest") //nolint:usetesting // PostgreSQL runs as another user, who may not enter the folder above a t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	url, stop, err := pgtest.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	s := open(t, url)
	acme := newTenant(t, s, "acme")

	db := raw(t, url)
	mustExec(t, db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'socketxp-gateway'`)
	if _, err := s.Account(t.Context(), acme.id); err != nil {
		if socketxp.CodeOf(err) != socketxp.CodeUnavailable {
			t.Errorf("P-07 connections killed: %v", err)
		}
		if _, err := s.Account(t.Context(), acme.id); err != nil {
			t.Errorf("P-07 connections killed, second try: %v", err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Account(t.Context(), acme.id)
	wantCode(t, err, socketxp.CodeUnavailable)
	_, err = s.AppendAudit(t.Context(), acme.entry("test"))
	wantCode(t, err, socketxp.CodeUnavailable)
	wantCode(t, s.Ping(t.Context()), socketxp.CodeUnavailable)
	if err := s.Ping(canceled(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
}

// What is left of SQLite's log says how far the database had come. Wherever it is
// cut off or damaged, what opens is whole: all acts up to some one, and none in part.
func TestSQLiteLogDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "socketxp.db")
	s := open(t, "sqlite:"+path)
	acme := newTenant(t, s, "acme")
	mustExec(t, raw(t, "sqlite:"+path), `PRAGMA wal_checkpoint(TRUNCATE)`)
	const acts = 4
	for i := range acts {
		acme.newDevice(fmt.Sprintf("dev-%d", i))
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	database, log := read("socketxp.db"), read("socketxp.db-wal")
	damaged := map[string][]byte{"P-21 no log": nil, "P-21 a log of something else": []byte(strings.Repeat("something else\n", 1000)), "a whole log": log}
	const frame = 4096 + 24
	for at := 0; at < len(log); at += frame {
		damaged[fmt.Sprintf("P-21 cut off at %d", at)] = log[:at]
		damaged[fmt.Sprintf("P-21 cut off at %d", at+100)] = log[:min(at+100, len(log))]
		changed := bytes.Clone(log)
		changed[min(at+200, len(log)-1)] ^= 1
		damaged[fmt.Sprintf("P-21 changed at %d", at+200)] = changed
	}
	seen := map[int]bool{}
	for name, log := range damaged {
		crashed := t.TempDir()
		path := filepath.Join(crashed, "socketxp.db")
		if err := errors.Join(os.WriteFile(path, database, 0o600), os.WriteFile(path+"-wal", log, 0o600)); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			again := *acme
			again.t, again.store = t, open(t, "sqlite:"+path)
			devices, n, err := again.store.Devices(t.Context(), acme.id, socketxp.DeviceQuery{Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			for i := range n.Devices {
				again.device(fmt.Sprintf("dev-%d", i))
			}
			if records := len(again.chain()); records != n.Devices+1 || len(devices) != n.Devices {
				t.Errorf("%d devices and %d audit records", n.Devices, records)
			}
			if _, err := store.Inspect(t.Context(), "sqlite:"+path, true); err != nil {
				t.Error(err)
			}
			seen[n.Devices] = true
		})
	}
	if len(seen) != acts+1 {
		t.Errorf("not every number of acts was met: %v", seen)
	}
}
