-- +goose Up
-- Times are Unix microseconds; 0 stands for none, so that no column is ever NULL.
-- What a statement can sort or page by has an index that begins with the account.

CREATE TABLE settings (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- The high-water mark of the gateway's clock: one row.
CREATE TABLE clock (
    id      INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    high_at INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    id           TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    name         TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    basic_tokens INTEGER NOT NULL,
    basic_life   INTEGER NOT NULL, -- microseconds
    device_quota INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id              TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    email           TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    password_hash   TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    disabled_at     INTEGER NOT NULL,
    failed_sign_ins INTEGER NOT NULL,
    retry_at        INTEGER NOT NULL
) STRICT;

CREATE TABLE memberships (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    user_id    TEXT NOT NULL REFERENCES users (id),
    role       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, user_id)
) STRICT;
CREATE INDEX memberships_by_user ON memberships (user_id, created_at);

-- A sign-in hangs on a membership and can't outlive it.
CREATE TABLE sign_ins (
    id           TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    secret_hash  BLOB NOT NULL UNIQUE,
    account_id   TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    auth_at      INTEGER NOT NULL,
    remote_addr  TEXT NOT NULL,
    user_agent   TEXT NOT NULL,
    FOREIGN KEY (account_id, user_id) REFERENCES memberships (account_id, user_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX sign_ins_by_user ON sign_ins (user_id, account_id, id);

CREATE TABLE tokens (
    id           TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id   TEXT NOT NULL REFERENCES accounts (id),
    kind         TEXT NOT NULL,
    name         TEXT NOT NULL,
    created_by   TEXT NOT NULL REFERENCES users (id),
    parent_id    TEXT NOT NULL,
    key_id       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL CHECK (expires_at > created_at),
    revoked_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    max_uses     INTEGER NOT NULL,
    uses         INTEGER NOT NULL CHECK (uses >= 0 AND uses <= max_uses),
    scope        TEXT NOT NULL -- JSON
) STRICT;
CREATE INDEX tokens_by_account ON tokens (account_id, id);
CREATE INDEX tokens_by_parent ON tokens (account_id, parent_id);
CREATE INDEX tokens_by_expiry ON tokens (expires_at);

CREATE TABLE device_groups (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name       TEXT NOT NULL CHECK (name <> ''),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, name)
) STRICT;

CREATE TABLE devices (
    id                  TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id          TEXT NOT NULL REFERENCES accounts (id),
    name                TEXT NOT NULL CHECK (name <> ''),
    display_name        TEXT NOT NULL,
    display_name_folded TEXT NOT NULL, -- in lower case, for the search
    group_name          TEXT NOT NULL,
    public_key          BLOB NOT NULL UNIQUE,
    created_at          INTEGER NOT NULL,
    created_by          TEXT NOT NULL,
    token_id            TEXT NOT NULL,
    disabled_at         INTEGER NOT NULL,
    last_seen_at        INTEGER NOT NULL,
    remote_addr         TEXT NOT NULL,
    os                  TEXT NOT NULL,
    arch                TEXT NOT NULL,
    kernel              TEXT NOT NULL,
    hostname            TEXT NOT NULL,
    hostname_folded     TEXT NOT NULL,
    version             TEXT NOT NULL,
    local_addrs         TEXT NOT NULL, -- JSON
    ssh_host_key        TEXT NOT NULL,
    FOREIGN KEY (account_id, group_name) REFERENCES device_groups (account_id, name) ON UPDATE CASCADE
) STRICT;
CREATE UNIQUE INDEX devices_by_name ON devices (account_id, name);
CREATE INDEX devices_by_group ON devices (account_id, group_name, id);
CREATE INDEX devices_by_created ON devices (account_id, created_at, id);
CREATE INDEX devices_by_seen ON devices (account_id, last_seen_at, id);

CREATE TABLE tunnels (
    account_id  TEXT NOT NULL,
    device_id   TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    ssh         INTEGER NOT NULL,
    PRIMARY KEY (device_id, destination)
) STRICT;

-- Sessions, events and audit outlive the devices, tokens and users they name.
CREATE TABLE sessions (
    id          TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id  TEXT NOT NULL REFERENCES accounts (id),
    device_id   TEXT NOT NULL,
    device_name TEXT NOT NULL,
    user_id     TEXT NOT NULL,
    token_id    TEXT NOT NULL,
    destination TEXT NOT NULL,
    remote_addr TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER NOT NULL,
    end_reason  TEXT NOT NULL,
    links       INTEGER NOT NULL,
    bytes_up    INTEGER NOT NULL,
    bytes_down  INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_account ON sessions (account_id, id);
CREATE INDEX sessions_by_device ON sessions (account_id, device_id, id);
CREATE INDEX sessions_by_end ON sessions (ended_at);

-- The last record of each chain. Its row is the lock under which an account's
-- audited acts happen one after the other.
CREATE TABLE audit_heads (
    account_id TEXT NOT NULL PRIMARY KEY, -- '' is the gateway's own chain
    seq        INTEGER NOT NULL,
    hash       BLOB NOT NULL
) STRICT;

CREATE TABLE audit (
    account_id    TEXT NOT NULL,
    seq           INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    actor_kind    TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    device_id     TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    remote_addr   TEXT NOT NULL,
    action        TEXT NOT NULL,
    object_kind   TEXT NOT NULL,
    object_id     TEXT NOT NULL,
    object_name   TEXT NOT NULL,
    reason        TEXT NOT NULL,
    detail        TEXT NOT NULL,
    prev          BLOB NOT NULL,
    hash          BLOB NOT NULL,
    PRIMARY KEY (account_id, seq)
) STRICT;

CREATE TABLE events (
    id          TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id  TEXT NOT NULL REFERENCES accounts (id),
    at          INTEGER NOT NULL,
    type        TEXT NOT NULL,
    device_id   TEXT NOT NULL,
    device_name TEXT NOT NULL,
    object_id   TEXT NOT NULL,
    message     TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_account ON events (account_id, id);
CREATE INDEX events_by_device ON events (account_id, device_id, id);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE idempotency (
    key_hash     BLOB NOT NULL PRIMARY KEY,
    request_hash BLOB NOT NULL,
    at           INTEGER NOT NULL,
    status       INTEGER NOT NULL, -- 0 while the first request is being served
    body         BLOB NOT NULL
) STRICT;
CREATE INDEX idempotency_by_time ON idempotency (at);
