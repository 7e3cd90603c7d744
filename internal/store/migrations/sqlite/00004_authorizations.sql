-- +goose Up
-- Sign-ins of programs that wait for a person to confirm them. Until somebody has
-- decided they are of no account ('').
CREATE TABLE device_authorizations (
    id            TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    device_hash   BLOB NOT NULL UNIQUE,
    user_code     TEXT NOT NULL UNIQUE CHECK (user_code <> ''),
    host          TEXT NOT NULL,
    remote_addr   TEXT NOT NULL,
    token_life    INTEGER NOT NULL, -- microseconds
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    state         TEXT NOT NULL,
    account_id    TEXT NOT NULL,
    approver_kind TEXT NOT NULL,
    approver_user TEXT NOT NULL,
    approver_id   TEXT NOT NULL,
    approver_addr TEXT NOT NULL
) STRICT;
CREATE INDEX device_authorizations_by_state ON device_authorizations (state, expires_at);
CREATE INDEX device_authorizations_by_expiry ON device_authorizations (expires_at);
