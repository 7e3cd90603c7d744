-- name: Setting :one
SELECT value FROM settings WHERE key = $1;

-- name: SetSetting :exec
INSERT INTO settings (key, value) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: InitSetting :execrows
INSERT INTO settings (key, value) VALUES ($1, $2)
ON CONFLICT (key) DO NOTHING;

-- name: RaiseClock :one
INSERT INTO clock (id, high_at) VALUES (1, @at)
ON CONFLICT (id) DO UPDATE SET high_at = CASE WHEN excluded.high_at > clock.high_at THEN excluded.high_at ELSE clock.high_at END
RETURNING high_at;

-- A row comes back only if the claim was won.
-- name: ClaimKey :one
INSERT INTO idempotency (key_hash, request_hash, at, status, body)
VALUES (@key_hash, @request_hash, @at, 0, @no_body)
ON CONFLICT (key_hash) DO UPDATE SET request_hash = excluded.request_hash, at = excluded.at, status = 0, body = excluded.body
    WHERE idempotency.at <= @expired_by OR idempotency.status = 0 AND idempotency.at <= @abandoned_by
RETURNING key_hash;

-- name: Key :one
SELECT * FROM idempotency WHERE key_hash = $1;

-- name: FinishKey :exec
UPDATE idempotency SET status = $3, body = $4
WHERE key_hash = $1 AND request_hash = $2 AND status = 0;

-- name: FreeKey :exec
DELETE FROM idempotency WHERE key_hash = $1 AND status = 0;

-- name: PruneKeys :execrows
DELETE FROM idempotency WHERE key_hash IN (
    SELECT i.key_hash FROM idempotency i WHERE i.at <= @expired_by LIMIT @batch
);
