-- +goose Up
-- The public halves of the keys that tokens are signed with, by their kid.
CREATE TABLE signing_keys (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    public_key     BYTEA NOT NULL,
    created_at     BIGINT NOT NULL,
    retired_at     BIGINT NOT NULL,
    until_at       BIGINT NOT NULL, -- what it signed ends then
    compromised_at BIGINT NOT NULL
);

-- How often the database was restored from a backup: one row. Tokens of another
-- epoch than this one are good for nothing until they are confirmed.
CREATE TABLE epoch (
    id     BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    number BIGINT NOT NULL
);
INSERT INTO epoch (id, number) VALUES (1, 0);
ALTER TABLE tokens ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
