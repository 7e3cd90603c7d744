-- +goose Up
-- Every key that a device has, is about to have, or had: one table, so that no key is
-- ever two devices'. devices.public_key is the current one.
CREATE TABLE device_keys (
    key        BLOB NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL,
    device_id  TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    state      TEXT NOT NULL CHECK (state IN ('current', 'next', 'retired', 'void')),
    since      INTEGER NOT NULL, -- when it became current; of others, when they were made known
    vouch      BLOB NOT NULL  -- the signature by which the key before vouches for it; empty for none
) STRICT;
CREATE INDEX device_keys_by_device ON device_keys (account_id, device_id, since);
INSERT INTO device_keys (key, account_id, device_id, state, since, vouch)
SELECT public_key, account_id, id, 'current', created_at, x'' FROM devices;

ALTER TABLE devices ADD COLUMN key_since INTEGER NOT NULL DEFAULT 0;
UPDATE devices SET key_since = created_at;
