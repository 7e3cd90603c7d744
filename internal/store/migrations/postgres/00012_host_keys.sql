-- +goose Up
-- The keys of SSH servers on devices that a person has trusted for a terminal.
CREATE TABLE host_keys (
    account_id TEXT COLLATE "C" NOT NULL,
    device_id  TEXT COLLATE "C" NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    port       BIGINT NOT NULL,
    key        TEXT NOT NULL CHECK (key <> ''), -- as in authorized_keys
    trusted_at BIGINT NOT NULL,
    trusted_by TEXT COLLATE "C" NOT NULL, -- a user, who may be gone
    PRIMARY KEY (device_id, port)
);
