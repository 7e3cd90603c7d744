-- name: InsertToken :exec
INSERT INTO tokens (id, account_id, kind, name, created_by, parent_id, key_id, created_at, expires_at, revoked_at, last_used_at, max_uses, uses, scope, epoch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, (SELECT e.number FROM epoch e WHERE e.id = 1));

-- name: Token :one
SELECT sqlc.embed(t), CAST(COALESCE(k.until_at, 0) AS BIGINT) AS key_until, CAST(t.epoch <> e.number AS BOOLEAN) AS unconfirmed
FROM tokens t
JOIN epoch e ON e.id = 1
LEFT JOIN signing_keys k ON k.id = t.key_id
WHERE t.account_id = $1 AND t.id = $2;

-- name: Tokens :many
SELECT sqlc.embed(t), CAST(COALESCE(k.until_at, 0) AS BIGINT) AS key_until, CAST(t.epoch <> e.number AS BOOLEAN) AS unconfirmed
FROM tokens t
JOIN epoch e ON e.id = 1
LEFT JOIN signing_keys k ON k.id = t.key_id
WHERE t.account_id = @account_id AND t.id < @before
  AND (CAST(@live_at AS BIGINT) = 0 OR t.revoked_at = 0 AND t.expires_at > @live_at AND t.created_at <= @made_by
    AND k.until_at > @live_at AND t.epoch = e.number)
ORDER BY t.id DESC
LIMIT @count;

-- name: TokensOfKind :many
SELECT sqlc.embed(t), CAST(COALESCE(k.until_at, 0) AS BIGINT) AS key_until, CAST(t.epoch <> e.number AS BOOLEAN) AS unconfirmed
FROM tokens t
JOIN epoch e ON e.id = 1
LEFT JOIN signing_keys k ON k.id = t.key_id
WHERE t.account_id = @account_id AND t.kind = @kind AND t.id < @before
  AND (CAST(@live_at AS BIGINT) = 0 OR t.revoked_at = 0 AND t.expires_at > @live_at AND t.created_at <= @made_by
    AND k.until_at > @live_at AND t.epoch = e.number)
ORDER BY t.id DESC
LIMIT @count;

-- name: RevokeTokens :many
WITH RECURSIVE made (id) AS (
    SELECT t.id FROM tokens t WHERE t.account_id = @account_id AND t.id = @id
    UNION
    SELECT c.id FROM tokens c JOIN made ON c.parent_id = made.id WHERE c.account_id = @account_id
)
UPDATE tokens SET revoked_at = @revoked_at
WHERE tokens.account_id = @account_id AND tokens.revoked_at = 0 AND tokens.id IN (SELECT made.id FROM made)
RETURNING tokens.id;

-- name: TouchToken :execrows
UPDATE tokens SET last_used_at = CASE WHEN last_used_at < CAST(@at AS BIGINT) THEN CAST(@at AS BIGINT) ELSE last_used_at END
WHERE account_id = @account_id AND id = @id;

-- One use of a registration token. The condition is the whole guard: however many
-- ask at once, the row changes max_uses times.
-- name: TakeUse :execrows
UPDATE tokens SET uses = uses + 1, last_used_at = @now
WHERE account_id = @account_id AND id = @id
  AND uses < max_uses AND revoked_at = 0 AND expires_at > @now;

-- name: PruneTokens :execrows
DELETE FROM tokens WHERE id IN (
    SELECT t.id FROM tokens t WHERE t.expires_at <= @expired_by LIMIT @batch
);
