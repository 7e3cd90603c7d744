package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

var sqliteEngine = engine{
	name:         "sqlite",
	listTables:   `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'`,
	describe:     `SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name <> 'goose_db_version' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'`,
	inJSON:       `IN (SELECT value FROM json_each(CAST(? AS TEXT)))`,
	concat:       "group_concat",
	position:     "instr",
	findTrigrams: `SELECT term FROM device_trigrams WHERE term >= ? AND term <= ? LIMIT ?`,
	findTexts: `SELECT t.device_id FROM device_search JOIN device_texts t ON t.n = device_search.rowid ` +
		`WHERE device_search MATCH ? AND t.account_id = ? AND instr(t.body, ?) > 0 LIMIT ?`,
	indexedBy: " INDEXED BY ",
}

// openSQLite opens the file at path, readable by its owner alone; its folder must exist.
func openSQLite(ctx context.Context, path string) (_ *DB, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// SQLite gives its log and index files the mode of the database file.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, err
	}
	db := &DB{engine: sqliteEngine}
	defer func() {
		if err != nil && db.writer != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	common := url.Values{
		"_busy_timeout": {"5000"}, // ms: another process may be an admin command or a backup
		"_foreign_keys": {"on"},
		"_dqs":          {"0"}, // a misspelt column is an error, not a string
		"_pragma":       {"trusted_schema(0)", "cell_size_check(1)"},
	}
	if db.writer, err = openSQLitePool(path, common, url.Values{
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},      // what was acknowledged outlives a power cut
		"_txlock":       {"immediate"}, // a transaction that reads first never fails to write later
		"_pragma":       {"journal_size_limit(67108864)"},
	}); err != nil {
		return nil, err
	}
	db.writer.SetMaxOpenConns(1)

	var verdict string
	if err := db.writer.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return nil, fmt.Errorf("%s can't be read as a SQLite database: %w", path, err)
	}
	if verdict != "ok" {
		return nil, fmt.Errorf("%s is damaged (%s): restore it from a backup", path, verdict)
	}

	if db.reader, err = openSQLitePool(path, common, url.Values{"_query_only": {"1"}}); err != nil {
		return nil, err
	}
	db.reader.SetMaxOpenConns(max(4, runtime.NumCPU()))
	db.reader.SetMaxIdleConns(4)
	return db, nil
}

func openSQLitePool(path string, common, own url.Values) (*sql.DB, error) {
	q := url.Values{}
	for _, values := range []url.Values{common, own} {
		for k, v := range values {
			q[k] = append(q[k], v...)
		}
	}
	// The path is escaped: a ? or % in a folder's name is no parameter.
	return sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String())
}
