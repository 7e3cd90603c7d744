-- +goose Up
-- A page of devices in any order, and who is online or not among them, is found in an
-- index alone; devices_of_group also has a group in the order of names.
DROP INDEX devices_by_group;
DROP INDEX devices_by_created;
DROP INDEX devices_by_seen;
DROP INDEX devices_by_version;
CREATE INDEX devices_by_group ON devices (account_id, group_name, id, disabled_at, quarantined_at);
CREATE INDEX devices_by_created ON devices (account_id, created_at, id, disabled_at, quarantined_at);
CREATE INDEX devices_by_seen ON devices (account_id, last_seen_at, id, disabled_at, quarantined_at);
CREATE INDEX devices_by_version ON devices (account_id, version, name, id, disabled_at, quarantined_at);
CREATE INDEX devices_of_group ON devices (account_id, group_name, name, id, disabled_at, quarantined_at);
-- The narrowest of all, for those who are offline when nearly nobody is.
CREATE INDEX devices_enabled ON devices (account_id, id) WHERE disabled_at = 0 AND quarantined_at = 0;

-- How many devices are in the group: what adds, moves or removes one changes it in the
-- same transaction.
ALTER TABLE device_groups ADD COLUMN devices BIGINT NOT NULL DEFAULT 0;
UPDATE device_groups SET devices = (
    SELECT COUNT(*) FROM devices d WHERE d.account_id = device_groups.account_id AND d.group_name = device_groups.name
);

-- PostgreSQL looks through the rows for a text: it is fast enough at that, and what
-- would find it by an index, pg_trgm, is an extension that not every operator can have.
