-- +goose Up
-- Sign-ins of programs that wait for a person to confirm them. Until somebody has
-- decided they are of no account ('').
CREATE TABLE device_authorizations (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    device_hash   BYTEA NOT NULL UNIQUE,
    user_code     TEXT COLLATE "C" NOT NULL UNIQUE CHECK (user_code <> ''),
    host          TEXT COLLATE "C" NOT NULL,
    remote_addr   TEXT COLLATE "C" NOT NULL,
    token_life    BIGINT NOT NULL, -- microseconds
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    account_id    TEXT COLLATE "C" NOT NULL,
    approver_kind TEXT COLLATE "C" NOT NULL,
    approver_user TEXT COLLATE "C" NOT NULL,
    approver_id   TEXT COLLATE "C" NOT NULL,
    approver_addr TEXT COLLATE "C" NOT NULL
);
CREATE INDEX device_authorizations_by_state ON device_authorizations (state, expires_at);
CREATE INDEX device_authorizations_by_expiry ON device_authorizations (expires_at);
