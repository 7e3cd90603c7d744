package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

var postgresEngine = engine{
	name:       "postgres",
	listTables: `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()`,
	describe: `
SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
    || COALESCE(' collate ' || NULLIF(l.collname, 'default'), '')
    || COALESCE(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname <> 'goose_db_version'
UNION ALL
SELECT 'constraint ' || c.relname || '.' || k.conname || ' ' || pg_get_constraintdef(k.oid)
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = current_schema()::regnamespace AND k.contype IN ('p', 'u', 'f', 'c') AND c.relname <> 'goose_db_version'
UNION ALL
SELECT 'index ' || replace(pg_get_indexdef(i.indexrelid), quote_ident(current_schema()) || '.', '')
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relname <> 'goose_db_version'
UNION ALL
SELECT 'trigger ' || c.relname || '.' || t.tgname
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = current_schema()::regnamespace AND NOT t.tgisinternal`,
	// An array: a subselect in its place may be made anew for each row.
	inJSON:   `= ANY (ARRAY(SELECT json_array_elements_text(CAST(CAST(? AS TEXT) AS JSON))))`,
	concat:   "string_agg",
	position: "strpos",
}

func openPostgres(ctx context.Context, url string) (*DB, error) {
	cfg, err := pgx.ParseConfig(url) // its errors leave the password out
	if err != nil {
		return nil, err
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 5 * time.Second // less than the 10 s in which a gateway is to be back after its database
	}
	for name, value := range map[string]string{
		"application_name": "socketxp-gateway",
		// A gateway that is frozen in the middle of an act holds an account's chain;
		// after this the others go on without it.
		"idle_in_transaction_session_timeout": "30s",
	} {
		if _, set := cfg.RuntimeParams[name]; !set {
			cfg.RuntimeParams[name] = value
		}
	}
	pool := stdlib.OpenDB(*cfg)
	pool.SetMaxOpenConns(16) // PostgreSQL takes 100 by default, shared by all gateways
	pool.SetMaxIdleConns(16)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	pool.SetConnMaxLifetime(30 * time.Minute) // so that a failover behind one name is found
	var encoding string
	if err := pool.QueryRowContext(ctx, `SHOW server_encoding`).Scan(&encoding); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	if encoding != "UTF8" {
		return nil, errors.Join(fmt.Errorf("the database's encoding is %s, not UTF8", encoding), pool.Close())
	}
	return &DB{engine: postgresEngine, writer: pool, reader: pool}, nil
}
