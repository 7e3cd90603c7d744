package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"socketxp/internal/store/sqlc"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// The migrations are append-only: one that was released is never changed,
// renumbered or removed, and none goes down. A change is a new file in both
// folders and a new text in schema/ (go test ./internal/store -run Schema -update).
//
//go:embed migrations/*/*.sql schema/*.txt
var files embed.FS

func (db *DB) migrations() (*goose.Provider, error) {
	sources, err := fs.Sub(files, "migrations/"+db.engine.name)
	if err != nil {
		return nil, err
	}
	dialect := goose.DialectSQLite3
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if db.engine.name == postgresEngine.name {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker() // gateways that start together migrate one after the other
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(dialect, db.writer, sources, options...)
}

// migrate brings the schema to the newest version.
func (db *DB) migrate(ctx context.Context) error {
	provider, err := db.migrations()
	if err != nil {
		return err
	}
	known := provider.ListSources()
	if err := db.checkVersion(ctx, known[len(known)-1].Version); err != nil {
		return err
	}
	done, err := provider.Up(ctx)
	for _, m := range done {
		db.log.Info("database migrated", "version", m.Source.Version, "took", m.Duration)
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// checkVersion refuses, before anything is touched, a database whose record of
// migrations is missing, has gaps, or goes beyond newest.
func (db *DB) checkVersion(ctx context.Context, newest int64) error {
	tables, err := db.queryStrings(ctx, db.engine.listTables)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	var applied []string
	if slices.Contains(tables, "goose_db_version") {
		// By the column and not by its text, in which 10 comes before 2.
		applied, err = db.queryStrings(ctx, `SELECT CAST(version_id AS TEXT) FROM goose_db_version WHERE version_id > 0 AND is_applied ORDER BY goose_db_version.version_id`)
		if err != nil {
			return fmt.Errorf("read the record of migrations: %w", err)
		}
		tables = slices.DeleteFunc(tables, func(t string) bool { return t == "goose_db_version" })
	}
	if len(applied) == 0 && len(tables) > 0 {
		return fmt.Errorf("the database has tables (%s) but no record of migrations: it is not one of this program, or it is damaged", tables[0])
	}
	for i, version := range applied {
		if want := fmt.Sprint(i + 1); version != want {
			return fmt.Errorf("the database has no record of migration %s, but one of migration %s: it is damaged", want, version)
		}
	}
	if int64(len(applied)) > newest {
		return fmt.Errorf("the database has schema version %d and this program knows versions up to %d: start the newer program that wrote it, or restore the backup from before it", len(applied), newest)
	}
	return nil
}

// checkSchema compares the live schema with the committed one.
func (db *DB) checkSchema(ctx context.Context) error {
	committed, err := files.ReadFile("schema/" + db.engine.name + ".txt")
	if err != nil {
		return err
	}
	live, err := db.liveSchema(ctx)
	if err != nil {
		return fmt.Errorf("read schema: %w", err)
	}
	want := strings.Split(strings.TrimSpace(string(committed)), "\n")
	var wrong []string
	for _, d := range []struct {
		verb         string
		these, those []string
	}{{"lacks", want, live}, {"has", live, want}} {
		for _, line := range d.these {
			if !slices.Contains(d.those, line) {
				wrong = append(wrong, fmt.Sprintf("it %s %q", d.verb, line))
				break // the first of each kind: a changed table shows as both
			}
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the database's schema is not the one of this program: %s", strings.Join(wrong, ", "))
	}
	return nil
}

// sqlComment is what SQLite keeps of a migration's remarks in its schema.
var sqlComment = regexp.MustCompile(`--[^\n]*`)

// liveSchema describes all that is in the database, one line each, sorted.
func (db *DB) liveSchema(ctx context.Context) ([]string, error) {
	lines, err := db.queryStrings(ctx, db.engine.describe)
	if err != nil {
		return nil, err
	}
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(sqlComment.ReplaceAllString(l, "")), " ")
	}
	slices.Sort(lines)
	return lines, nil
}

// queryStrings returns the one column of a query.
func (db *DB) queryStrings(ctx context.Context, query string) ([]string, error) {
	return stringsOf(ctx, db.writer, query)
}

func stringsOf(ctx context.Context, db sqlc.DBTX, query string, args ...any) (_ []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}
