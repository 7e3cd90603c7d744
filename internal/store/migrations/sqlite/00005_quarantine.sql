-- +goose Up
-- The sequence by which a second holder of a device's key is found: what the device
-- holds, and what it is offered next; empty for none.
ALTER TABLE devices ADD COLUMN seq BLOB NOT NULL DEFAULT x'';
ALTER TABLE devices ADD COLUMN seq_next BLOB NOT NULL DEFAULT x'';
ALTER TABLE devices ADD COLUMN quarantined_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN quarantine_reason TEXT NOT NULL DEFAULT '';
