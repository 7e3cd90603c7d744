-- +goose Up
-- Every key that a device has, is about to have, or had: one table, so that no key is
-- ever two devices'. devices.public_key is the current one.
CREATE TABLE device_keys (
    key        BYTEA NOT NULL PRIMARY KEY,
    account_id TEXT COLLATE "C" NOT NULL,
    device_id  TEXT COLLATE "C" NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('current', 'next', 'retired', 'void')),
    since      BIGINT NOT NULL, -- when it became current; of others, when they were made known
    vouch      BYTEA NOT NULL  -- the signature by which the key before vouches for it; empty for none
);
CREATE INDEX device_keys_by_device ON device_keys (account_id, device_id, since);
INSERT INTO device_keys (key, account_id, device_id, state, since, vouch)
SELECT public_key, account_id, id, 'current', created_at, '' FROM devices;

ALTER TABLE devices ADD COLUMN key_since BIGINT NOT NULL DEFAULT 0;
UPDATE devices SET key_since = created_at;
