-- +goose Up
-- The sequence by which a second holder of a device's key is found: what the device
-- holds, and what it is offered next; empty for none.
ALTER TABLE devices ADD COLUMN seq BYTEA NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN seq_next BYTEA NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN quarantined_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN quarantine_reason TEXT COLLATE "C" NOT NULL DEFAULT '';
