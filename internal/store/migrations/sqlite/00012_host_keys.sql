-- +goose Up
-- The keys of SSH servers on devices that a person has trusted for a terminal.
CREATE TABLE host_keys (
    account_id TEXT NOT NULL,
    device_id  TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    port       INTEGER NOT NULL,
    key        TEXT NOT NULL CHECK (key <> ''), -- as in authorized_keys
    trusted_at INTEGER NOT NULL,
    trusted_by TEXT NOT NULL, -- a user, who may be gone
    PRIMARY KEY (device_id, port)
) STRICT;
