-- +goose Up
-- Browsers and command lines in which a user has signed in before: each has a count of
-- wrong passwords of its own, users.failed_sign_ins is that of all others.
CREATE TABLE known_browsers (
    secret_hash BYTEA NOT NULL PRIMARY KEY,
    user_id     TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    wrong       BIGINT NOT NULL,
    retry_at    BIGINT NOT NULL
);
CREATE INDEX known_browsers_by_user ON known_browsers (user_id, created_at, secret_hash);
CREATE INDEX known_browsers_by_expiry ON known_browsers (expires_at);
