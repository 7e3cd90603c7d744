-- +goose Up
-- The public halves of the keys that tokens are signed with, by their kid.
CREATE TABLE signing_keys (
    id             TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    public_key     BLOB NOT NULL,
    created_at     INTEGER NOT NULL,
    retired_at     INTEGER NOT NULL,
    until_at       INTEGER NOT NULL, -- what it signed ends then
    compromised_at INTEGER NOT NULL
) STRICT;

-- How often the database was restored from a backup: one row. Tokens of another
-- epoch than this one are good for nothing until they are confirmed.
CREATE TABLE epoch (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT INTO epoch (id, number) VALUES (1, 0);
ALTER TABLE tokens ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
