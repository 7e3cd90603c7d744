-- +goose Up
-- Times are Unix microseconds; 0 stands for none, so that no column is ever NULL.
-- What a statement can sort or page by has an index that begins with the account.
-- Text compares by its bytes (COLLATE "C"), as in SQLite, whatever the database's
-- own collation is: pages, cursors and lower() mean the same on both.

CREATE TABLE settings (
    key   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

-- The high-water mark of the gateway's clock: one row.
CREATE TABLE clock (
    id      BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    high_at BIGINT NOT NULL
);

CREATE TABLE accounts (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    name         TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    basic_tokens BOOLEAN NOT NULL,
    basic_life   BIGINT NOT NULL, -- microseconds
    device_quota BIGINT NOT NULL
);

CREATE TABLE users (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    email           TEXT COLLATE "C" NOT NULL UNIQUE,
    name            TEXT COLLATE "C" NOT NULL,
    password_hash   TEXT COLLATE "C" NOT NULL,
    created_at      BIGINT NOT NULL,
    disabled_at     BIGINT NOT NULL,
    failed_sign_ins BIGINT NOT NULL,
    retry_at        BIGINT NOT NULL
);

CREATE TABLE memberships (
    account_id TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    user_id    TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    role       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id, created_at);

-- A sign-in hangs on a membership and can't outlive it.
CREATE TABLE sign_ins (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    secret_hash  BYTEA NOT NULL UNIQUE,
    account_id   TEXT COLLATE "C" NOT NULL,
    user_id      TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    auth_at      BIGINT NOT NULL,
    remote_addr  TEXT COLLATE "C" NOT NULL,
    user_agent   TEXT COLLATE "C" NOT NULL,
    FOREIGN KEY (account_id, user_id) REFERENCES memberships (account_id, user_id) ON DELETE CASCADE
);
CREATE INDEX sign_ins_by_user ON sign_ins (user_id, account_id, id);

CREATE TABLE tokens (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id   TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    kind         TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    created_by   TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    parent_id    TEXT COLLATE "C" NOT NULL,
    key_id       TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL CHECK (expires_at > created_at),
    revoked_at   BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    max_uses     BIGINT NOT NULL,
    uses         BIGINT NOT NULL CHECK (uses >= 0 AND uses <= max_uses),
    scope        TEXT COLLATE "C" NOT NULL -- JSON
);
CREATE INDEX tokens_by_account ON tokens (account_id, id);
CREATE INDEX tokens_by_parent ON tokens (account_id, parent_id);
CREATE INDEX tokens_by_expiry ON tokens (expires_at);

CREATE TABLE device_groups (
    account_id TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    name       TEXT COLLATE "C" NOT NULL CHECK (name <> ''),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, name)
);

CREATE TABLE devices (
    id                  TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id          TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    name                TEXT COLLATE "C" NOT NULL CHECK (name <> ''),
    display_name        TEXT COLLATE "C" NOT NULL,
    display_name_folded TEXT COLLATE "C" NOT NULL, -- in lower case, for the search
    group_name          TEXT COLLATE "C" NOT NULL,
    public_key          BYTEA NOT NULL UNIQUE,
    created_at          BIGINT NOT NULL,
    created_by          TEXT COLLATE "C" NOT NULL,
    token_id            TEXT COLLATE "C" NOT NULL,
    disabled_at         BIGINT NOT NULL,
    last_seen_at        BIGINT NOT NULL,
    remote_addr         TEXT COLLATE "C" NOT NULL,
    os                  TEXT COLLATE "C" NOT NULL,
    arch                TEXT COLLATE "C" NOT NULL,
    kernel              TEXT COLLATE "C" NOT NULL,
    hostname            TEXT COLLATE "C" NOT NULL,
    hostname_folded     TEXT COLLATE "C" NOT NULL,
    version             TEXT COLLATE "C" NOT NULL,
    local_addrs         TEXT COLLATE "C" NOT NULL, -- JSON
    ssh_host_key        TEXT COLLATE "C" NOT NULL,
    FOREIGN KEY (account_id, group_name) REFERENCES device_groups (account_id, name) ON UPDATE CASCADE
);
CREATE UNIQUE INDEX devices_by_name ON devices (account_id, name);
CREATE INDEX devices_by_group ON devices (account_id, group_name, id);
CREATE INDEX devices_by_created ON devices (account_id, created_at, id);
CREATE INDEX devices_by_seen ON devices (account_id, last_seen_at, id);

CREATE TABLE tunnels (
    account_id  TEXT COLLATE "C" NOT NULL,
    device_id   TEXT COLLATE "C" NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    destination TEXT COLLATE "C" NOT NULL,
    ssh         BOOLEAN NOT NULL,
    PRIMARY KEY (device_id, destination)
);

-- Sessions, events and audit outlive the devices, tokens and users they name.
CREATE TABLE sessions (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id  TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    device_id   TEXT COLLATE "C" NOT NULL,
    device_name TEXT COLLATE "C" NOT NULL,
    user_id     TEXT COLLATE "C" NOT NULL,
    token_id    TEXT COLLATE "C" NOT NULL,
    destination TEXT COLLATE "C" NOT NULL,
    remote_addr TEXT COLLATE "C" NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL,
    end_reason  TEXT COLLATE "C" NOT NULL,
    links       BIGINT NOT NULL,
    bytes_up    BIGINT NOT NULL,
    bytes_down  BIGINT NOT NULL
);
CREATE INDEX sessions_by_account ON sessions (account_id, id);
CREATE INDEX sessions_by_device ON sessions (account_id, device_id, id);
CREATE INDEX sessions_by_end ON sessions (ended_at);

-- The last record of each chain. Its row is the lock under which an account's
-- audited acts happen one after the other.
CREATE TABLE audit_heads (
    account_id TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- '' is the gateway's own chain
    seq        BIGINT NOT NULL,
    hash       BYTEA NOT NULL
);

CREATE TABLE audit (
    account_id    TEXT COLLATE "C" NOT NULL,
    seq           BIGINT NOT NULL,
    at            BIGINT NOT NULL,
    actor_kind    TEXT COLLATE "C" NOT NULL,
    user_id       TEXT COLLATE "C" NOT NULL,
    device_id     TEXT COLLATE "C" NOT NULL,
    credential_id TEXT COLLATE "C" NOT NULL,
    remote_addr   TEXT COLLATE "C" NOT NULL,
    action        TEXT COLLATE "C" NOT NULL,
    object_kind   TEXT COLLATE "C" NOT NULL,
    object_id     TEXT COLLATE "C" NOT NULL,
    object_name   TEXT COLLATE "C" NOT NULL,
    reason        TEXT COLLATE "C" NOT NULL,
    detail        TEXT COLLATE "C" NOT NULL,
    prev          BYTEA NOT NULL,
    hash          BYTEA NOT NULL,
    PRIMARY KEY (account_id, seq)
);

CREATE TABLE events (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    account_id  TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    at          BIGINT NOT NULL,
    type        TEXT COLLATE "C" NOT NULL,
    device_id   TEXT COLLATE "C" NOT NULL,
    device_name TEXT COLLATE "C" NOT NULL,
    object_id   TEXT COLLATE "C" NOT NULL,
    message     TEXT COLLATE "C" NOT NULL
);
CREATE INDEX events_by_account ON events (account_id, id);
CREATE INDEX events_by_device ON events (account_id, device_id, id);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE idempotency (
    key_hash     BYTEA NOT NULL PRIMARY KEY,
    request_hash BYTEA NOT NULL,
    at           BIGINT NOT NULL,
    status       BIGINT NOT NULL, -- 0 while the first request is being served
    body         BYTEA NOT NULL
);
CREATE INDEX idempotency_by_time ON idempotency (at);
