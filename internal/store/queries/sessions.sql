-- name: InsertSession :exec
INSERT INTO sessions (id, account_id, device_id, device_name, user_id, token_id, destination, remote_addr, started_at, ended_at, end_reason, links, bytes_up, bytes_down)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: Session :one
SELECT * FROM sessions WHERE account_id = $1 AND id = $2;

-- name: CountSession :execrows
UPDATE sessions SET links = $3, bytes_up = $4, bytes_down = $5
WHERE account_id = $1 AND id = $2 AND ended_at = 0;

-- name: EndSession :execrows
UPDATE sessions SET ended_at = $3, end_reason = $4, links = $5, bytes_up = $6, bytes_down = $7
WHERE account_id = $1 AND id = $2 AND ended_at = 0;

-- Of all accounts: for a gateway that starts alone.
-- name: EndAllSessions :execrows
UPDATE sessions SET ended_at = @at, end_reason = @reason
WHERE ended_at = 0;

-- name: PruneSessions :execrows
DELETE FROM sessions WHERE id IN (
    SELECT s.id FROM sessions s WHERE s.ended_at > 0 AND s.ended_at <= @ended_by LIMIT @batch
);
