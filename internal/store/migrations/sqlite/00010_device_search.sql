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
ALTER TABLE device_groups ADD COLUMN devices INTEGER NOT NULL DEFAULT 0;
UPDATE device_groups SET devices = (
    SELECT COUNT(*) FROM devices d WHERE d.account_id = device_groups.account_id AND d.group_name = device_groups.name
);

-- The texts that devices are searched by, and which of them have what three characters
-- in a row. Groups are not among them: to rename one would rewrite its devices' texts.
-- Each body ends with two line feeds, so that any one or two characters in it begin three.
-- The numbers are for the search table: a rowid of devices may change in a VACUUM.
CREATE TABLE device_texts (
    n          INTEGER NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL,
    device_id  TEXT NOT NULL UNIQUE,
    body       TEXT NOT NULL
) STRICT;
CREATE VIRTUAL TABLE device_search USING fts5(body, content='device_texts', content_rowid='n', tokenize='trigram case_sensitive 1');
CREATE VIRTUAL TABLE device_trigrams USING fts5vocab(device_search, row);

-- +goose StatementBegin
CREATE TRIGGER devices_text_added AFTER INSERT ON devices BEGIN
    INSERT INTO device_texts (account_id, device_id, body)
    VALUES (new.account_id, new.id, new.name || char(10) || new.display_name_folded || char(10) || new.hostname_folded || char(10) || new.id || char(10) || char(10));
    INSERT INTO device_search (rowid, body) SELECT t.n, t.body FROM device_texts t WHERE t.device_id = new.id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER devices_text_changed AFTER UPDATE OF name, display_name_folded, hostname_folded ON devices
WHEN old.name <> new.name OR old.display_name_folded <> new.display_name_folded OR old.hostname_folded <> new.hostname_folded
BEGIN
    INSERT INTO device_search (device_search, rowid, body) SELECT 'delete', t.n, t.body FROM device_texts t WHERE t.device_id = new.id;
    UPDATE device_texts SET body = new.name || char(10) || new.display_name_folded || char(10) || new.hostname_folded || char(10) || new.id || char(10) || char(10)
    WHERE device_id = new.id;
    INSERT INTO device_search (rowid, body) SELECT t.n, t.body FROM device_texts t WHERE t.device_id = new.id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER devices_text_removed AFTER DELETE ON devices BEGIN
    INSERT INTO device_search (device_search, rowid, body) SELECT 'delete', t.n, t.body FROM device_texts t WHERE t.device_id = old.id;
    DELETE FROM device_texts WHERE device_id = old.id;
END;
-- +goose StatementEnd

INSERT INTO device_texts (account_id, device_id, body)
SELECT account_id, id, name || char(10) || display_name_folded || char(10) || hostname_folded || char(10) || id || char(10) || char(10) FROM devices;
INSERT INTO device_search (rowid, body) SELECT n, body FROM device_texts;
