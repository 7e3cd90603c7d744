-- Takes the next number of the chain, and with it the chain's row until the
-- transaction ends; returns the hash of the record before.
-- name: AdvanceChain :one
INSERT INTO audit_heads (account_id, seq, hash)
VALUES (@account_id, 1, @no_hash)
ON CONFLICT (account_id) DO UPDATE SET seq = audit_heads.seq + 1
RETURNING seq, hash;

-- name: SetChainHash :exec
UPDATE audit_heads SET hash = $2 WHERE account_id = $1;

-- name: InsertAudit :exec
INSERT INTO audit (account_id, seq, at, actor_kind, user_id, device_id, credential_id, remote_addr, action, object_kind, object_id, object_name, reason, detail, prev, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: AuditUp :many
SELECT * FROM audit
WHERE account_id = @account_id AND seq > @after
  AND (CAST(@action AS TEXT) = '' OR action = @action)
  AND (CAST(@actor_id AS TEXT) = '' OR user_id = @actor_id OR device_id = @actor_id)
ORDER BY seq
LIMIT @count;

-- name: AuditDown :many
SELECT * FROM audit
WHERE account_id = @account_id AND seq < @before
ORDER BY seq DESC
LIMIT @count;

-- name: AuditOfAction :many
SELECT * FROM audit
WHERE account_id = @account_id AND action = @action AND seq < @before
ORDER BY seq DESC
LIMIT @count;

-- The index has no rows without a user, and has to be told that none is asked for.
-- name: AuditOfUser :many
SELECT * FROM audit
WHERE account_id = @account_id AND user_id = @user_id AND user_id <> '' AND seq < @before
  AND (CAST(@action AS TEXT) = '' OR action = @action)
ORDER BY seq DESC
LIMIT @count;

-- name: AuditOfDevice :many
SELECT * FROM audit
WHERE account_id = @account_id AND device_id = @device_id AND device_id <> '' AND seq < @before
  AND (CAST(@action AS TEXT) = '' OR action = @action)
ORDER BY seq DESC
LIMIT @count;
