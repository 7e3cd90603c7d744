package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// BeginEpoch implements socketxp.HousekeepingStore.
func (db *DB) BeginEpoch(ctx context.Context, at time.Time, entry socketxp.AuditEntry) (e socketxp.Epoch, err error) {
	err = db.act(ctx, "begin epoch", "", entry, func(q *sqlc.Queries, entry *socketxp.AuditEntry) error {
		e = socketxp.Epoch{}
		if e.Number, err = q.AdvanceEpoch(ctx); err != nil {
			return err
		}
		tokens, err := q.CountUnconfirmed(ctx, micros(at))
		if err != nil {
			return err
		}
		signIns, err := q.DeleteAllSignIns(ctx)
		if err != nil {
			return err
		}
		e.Tokens, e.SignIns = int(tokens), int(signIns)
		entry.Detail = strings.TrimPrefix(fmt.Sprintf("%s; epoch %d: %d tokens unconfirmed, %d sign-ins ended", entry.Detail, e.Number, tokens, signIns), "; ")
		// Known browsers: one may have been forgotten since, because it was stolen.
		if err := q.ForgetAllKnownBrowsers(ctx); err != nil {
			return err
		}
		// Programs that somebody confirmed but that have not fetched their token yet, and
		// answers to writes that the restored database does not hold.
		if err := q.DeleteAllAuthorizations(ctx); err != nil {
			return err
		}
		if err := q.DeleteAllKeys(ctx); err != nil {
			return err
		}
		// The devices have gone on since the backup: by its values each would look like
		// a second holder of its key.
		return q.EndAllSequences(ctx, []byte{})
	})
	return e, err
}

// ConfirmToken implements socketxp.TokenStore.
func (db *DB) ConfirmToken(ctx context.Context, accountID, id string, entry socketxp.AuditEntry) error {
	return db.act(ctx, "confirm token", accountID, entry, func(q *sqlc.Queries, _ *socketxp.AuditEntry) error {
		if _, err := q.Token(ctx, accountID, id); err != nil {
			return err
		}
		confirmed, err := q.ConfirmToken(ctx, accountID, id)
		if err == nil && confirmed == 0 {
			return errUnchanged
		}
		return err
	})
}

// IsSQLite reports whether a database URL is of a SQLite file.
func IsSQLite(url string) bool { return strings.HasPrefix(url, "sqlite:") }

// Snapshot writes the SQLite database at url, as it is at one moment, to a new file
// at path. Whoever uses the database meanwhile is not held up. The file is not
// synced.
func Snapshot(ctx context.Context, url, path string) (err error) {
	db, err := openExisting(ctx, url)
	if err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.writer.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	return nil
}

// openExisting opens a SQLite database that is there, without migrating it or
// asking whether it is whole.
func openExisting(ctx context.Context, from string) (*DB, error) {
	path, ok := strings.CutPrefix(from, "sqlite:")
	if !ok {
		return nil, errors.New("it is not a SQLite database")
	}
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	pool, err := openSQLitePool(path, url.Values{"mode": {"rw"}, "_busy_timeout": {"5000"}, "_dqs": {"0"}}, nil)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s can't be read as a SQLite database: %w", path, err), pool.Close())
	}
	return &DB{engine: sqliteEngine, writer: pool, reader: pool}, nil
}

// Inspection is what can be said of a database without changing it.
type Inspection struct {
	Engine        string // sqlite or postgres
	Version       int    // of its schema
	Newest        int    // that this program knows
	Size, WALSize int64  // bytes; 0 for PostgreSQL
	HighAt        time.Time
	GatewayID     string
	Epoch         int64
	Users         int
	Devices       int
	Keys          []socketxp.SigningKey // of the newest schema only
}

// ErrEmpty is what Inspect says of a database without tables.
var ErrEmpty = errors.New("it is empty")

// Inspect looks at the database at url and changes nothing: it is not made and not
// migrated. The error says what is wrong with it; one that an older program left is
// not wrong (Version below Newest). With thorough the whole of a SQLite file is
// read.
func Inspect(ctx context.Context, url string, thorough bool) (i Inspection, err error) {
	var db *DB
	if IsSQLite(url) {
		db, err = openExisting(ctx, url)
	} else {
		db, err = connect(ctx, url)
	}
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	i.Engine = db.engine.name
	if IsSQLite(url) {
		path := strings.TrimPrefix(url, "sqlite:")
		if i.Size, err = sizeOf(path); err != nil {
			return i, err
		}
		if i.WALSize, err = sizeOf(path + "-wal"); err != nil {
			return i, err
		}
		if err := db.checkPages(ctx, path, thorough); err != nil {
			return i, err
		}
	}
	known, err := fs.Glob(files, "migrations/"+db.engine.name+"/*.sql")
	if err != nil {
		return i, err
	}
	i.Newest = len(known)
	if err := db.checkVersion(ctx, int64(i.Newest)); err != nil {
		return i, err
	}
	tables, err := db.queryStrings(ctx, db.engine.listTables)
	if err != nil {
		return i, fmt.Errorf("list tables: %w", err)
	}
	if len(tables) == 0 {
		return i, ErrEmpty
	}
	for _, q := range []struct {
		into  any
		query string
	}{
		{&i.Version, `SELECT COUNT(*) FROM goose_db_version WHERE version_id > 0 AND is_applied`},
		{&i.Users, `SELECT COUNT(*) FROM users`},
		{&i.Devices, `SELECT COUNT(*) FROM devices`},
		{&i.GatewayID, `SELECT COALESCE(MAX(value), '') FROM settings WHERE key = 'gateway_id'`},
	} {
		if err := db.writer.QueryRowContext(ctx, q.query).Scan(q.into); err != nil {
			return i, fmt.Errorf("read the database: %w", err)
		}
	}
	var high int64
	if err := db.writer.QueryRowContext(ctx, `SELECT COALESCE(MAX(high_at), 0) FROM clock`).Scan(&high); err != nil {
		return i, fmt.Errorf("read the database: %w", err)
	}
	i.HighAt = timeOf(high)
	if i.Version < i.Newest {
		return i, nil // the rest is for the migrations to say
	}
	if err := db.writer.QueryRowContext(ctx, `SELECT number FROM epoch WHERE id = 1`).Scan(&i.Epoch); err != nil {
		return i, fmt.Errorf("read the database: %w", err)
	}
	if err := db.checkSchema(ctx); err != nil {
		return i, err
	}
	db.r = sqlc.New(db.reader)
	i.Keys, err = db.SigningKeys(ctx)
	return i, err
}

func sizeOf(path string) (int64, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// checkPages reads a SQLite file: its structure, or with thorough also whether its
// indexes say what its tables do and whether all that rows refer to is there.
func (db *DB) checkPages(ctx context.Context, path string, thorough bool) error {
	checks := []string{`PRAGMA quick_check(1)`}
	if thorough {
		checks = []string{
			`PRAGMA integrity_check(1)`,
			`SELECT 'a row of ' || "table" || ' refers to nothing in ' || parent FROM pragma_foreign_key_check LIMIT 1`,
		}
	}
	for _, check := range checks {
		found, err := db.queryStrings(ctx, check)
		if err != nil {
			return fmt.Errorf("%s can't be read as a SQLite database: %w", path, err)
		}
		if len(found) > 0 && found[0] != "ok" {
			return fmt.Errorf("%s is damaged (%s): restore it from a backup", path, found[0])
		}
	}
	return nil
}

// Carried is what CarryOver found in the newer database.
type Carried struct {
	Tokens  int      // revoked since
	Keys    int      // signing keys that were found to be compromised since
	Devices []string // names of those disabled since
	Users   []string // email addresses of those disabled since
	// Names of devices that were put in quarantine since, and of those that have
	// changed their keys: the ones of before are retired again.
	Quarantined, Rekeyed []string
	// What was found and left as it is: devices that were deleted since are back, and
	// these users have the password of before.
	Deleted, Passwords []string
}

// CarryOver brings into db, a SQLite database restored from a backup, what the
// newer database at url says against letting in: revocations, what is disabled or in
// quarantine, and which keys of devices are retired. It only ever takes away, but for
// the keys that devices have in the place of retired ones.
func (db *DB) CarryOver(ctx context.Context, from string, entry socketxp.AuditEntry) (c Carried, err error) {
	newer, err := openExisting(ctx, from) // is it one at all?
	if err != nil {
		return c, err
	}
	tables, err := newer.queryStrings(ctx, newer.engine.listTables)
	if err = errors.Join(err, newer.Close()); err != nil {
		return c, err
	}
	if _, err := db.writer.ExecContext(ctx, `ATTACH DATABASE ? AS newer`, strings.TrimPrefix(from, "sqlite:")); err != nil {
		return c, fmt.Errorf("read the newer database: %w", err)
	}
	defer func() {
		_, derr := db.writer.ExecContext(context.WithoutCancel(ctx), `DETACH DATABASE newer`)
		err = errors.Join(err, derr)
	}()
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return c, err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	var tokens, keys, ignored []string
	for _, step := range []struct {
		needs string
		into  *[]string
		query string
	}{
		{"tokens", &tokens, `UPDATE tokens SET revoked_at = n.revoked_at FROM newer.tokens n
			WHERE n.id = tokens.id AND n.revoked_at <> 0 AND tokens.revoked_at = 0 RETURNING tokens.id`},
		{"signing_keys", &keys, `UPDATE signing_keys SET until_at = 0, compromised_at = n.compromised_at FROM newer.signing_keys n
			WHERE n.id = signing_keys.id AND n.compromised_at <> 0 AND signing_keys.compromised_at = 0 RETURNING signing_keys.id`},
		{"devices", &c.Devices, `UPDATE devices SET disabled_at = n.disabled_at FROM newer.devices n
			WHERE n.id = devices.id AND n.disabled_at <> 0 AND devices.disabled_at = 0 RETURNING devices.name`},
		{"device_keys", &c.Quarantined, `UPDATE devices SET quarantined_at = n.quarantined_at, quarantine_reason = n.quarantine_reason FROM newer.devices n
			WHERE n.id = devices.id AND n.quarantined_at <> 0 AND devices.quarantined_at = 0 RETURNING devices.name`},
		{"device_keys", &ignored, `UPDATE device_keys SET state = n.state, since = n.since, vouch = n.vouch FROM newer.device_keys n
			WHERE n.key = device_keys.key AND n.device_id = device_keys.device_id AND n.state <> device_keys.state RETURNING device_keys.device_id`},
		{"device_keys", &ignored, `INSERT INTO device_keys (key, account_id, device_id, state, since, vouch)
			SELECT n.key, n.account_id, n.device_id, n.state, n.since, n.vouch FROM newer.device_keys n JOIN devices d ON d.id = n.device_id
			WHERE NOT EXISTS (SELECT 1 FROM device_keys k WHERE k.key = n.key) RETURNING device_keys.device_id`},
		{"device_keys", &c.Rekeyed, `UPDATE devices SET public_key = n.public_key, key_since = n.key_since FROM newer.devices n
			WHERE n.id = devices.id AND n.public_key <> devices.public_key RETURNING devices.name`},
		{"users", &c.Users, `UPDATE users SET disabled_at = n.disabled_at FROM newer.users n
			WHERE n.id = users.id AND n.disabled_at <> 0 AND users.disabled_at = 0 RETURNING users.email`},
		{"devices", &c.Deleted, `SELECT name FROM devices d WHERE NOT EXISTS (SELECT 1 FROM newer.devices n WHERE n.id = d.id) ORDER BY name`},
		{"users", &c.Passwords, `SELECT u.email FROM users u JOIN newer.users n ON n.id = u.id AND n.password_hash <> u.password_hash ORDER BY u.email`},
	} {
		if !slices.Contains(tables, step.needs) {
			continue // a database of before there was such a thing
		}
		if *step.into, err = stringsOf(ctx, tx, step.query); err != nil {
			return c, fmt.Errorf("read the newer database: %w", err)
		}
	}
	c.Tokens, c.Keys = len(tokens), len(keys)
	entry.Detail = fmt.Sprintf("%d tokens revoked, %d signing keys withdrawn, %d devices and %d users disabled, %d devices quarantined and %d with other keys since the backup",
		c.Tokens, c.Keys, len(c.Devices), len(c.Users), len(c.Quarantined), len(c.Rekeyed))
	q := db.w.WithTx(tx)
	place, err := advanceChain(ctx, q, "")
	if err != nil {
		return c, err
	}
	if _, err := place.write(ctx, q, entry); err != nil {
		return c, err
	}
	return c, tx.Commit()
}
