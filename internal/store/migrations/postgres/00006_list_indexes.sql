-- +goose Up
-- Of 100,000 devices, a page and its total are found within 50 ms. PostgreSQL can't
-- answer from an index that holds an expression; it reads the rows.
CREATE INDEX devices_by_version ON devices (account_id, version, name, id);
CREATE INDEX devices_disabled ON devices (account_id, name, id) WHERE disabled_at <> 0;
CREATE INDEX devices_quarantined ON devices (account_id, name, id) WHERE quarantined_at <> 0;
