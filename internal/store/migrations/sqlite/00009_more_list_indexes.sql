-- +goose Up
-- What a list can be asked for is found in an index, also when it is rare or not there.
CREATE INDEX events_by_type ON events (account_id, type, id);
CREATE INDEX tokens_by_kind ON tokens (account_id, kind, id);
CREATE INDEX audit_by_action ON audit (account_id, action, seq);
-- A record names one of the two, or none.
CREATE INDEX audit_by_user ON audit (account_id, user_id, seq) WHERE user_id <> '';
CREATE INDEX audit_by_device ON audit (account_id, device_id, seq) WHERE device_id <> '';
