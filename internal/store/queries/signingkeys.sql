-- Of all accounts: these are the gateway's own.

-- name: InsertSigningKey :exec
INSERT INTO signing_keys (id, public_key, created_at, retired_at, until_at, compromised_at)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: SigningKeys :many
SELECT * FROM signing_keys ORDER BY created_at DESC, id;

-- name: SigningKeyIsActive :one
SELECT CAST(COUNT(*) AS BIGINT) FROM signing_keys
WHERE id = @id AND retired_at = 0 AND compromised_at = 0;

-- name: RetireSigningKey :execrows
UPDATE signing_keys SET retired_at = @at, until_at = @until
WHERE id = @id AND retired_at = 0 AND compromised_at = 0;

-- name: CompromiseSigningKey :execrows
UPDATE signing_keys SET
    until_at = 0,
    compromised_at = CASE WHEN compromised_at <> 0 THEN compromised_at ELSE CAST(@at AS BIGINT) END
WHERE id = @id;

-- name: SigningKeyUses :many
SELECT t.key_id, t.kind,
    CAST(COUNT(*) AS BIGINT) AS tokens,
    CAST(COALESCE(SUM(CASE WHEN t.expires_at > CAST(@until AS BIGINT) THEN 1 ELSE 0 END), 0) AS BIGINT) AS later
FROM tokens t
JOIN signing_keys k ON k.id = t.key_id AND k.until_at > @now
JOIN epoch e ON e.id = 1 AND e.number = t.epoch
WHERE t.revoked_at = 0 AND t.expires_at > @now AND (t.max_uses = 0 OR t.uses < t.max_uses)
GROUP BY t.key_id, t.kind
ORDER BY t.key_id, t.kind;

-- Compromised ones stay: a gateway that comes back after years must not find its
-- key unknown and take it into use again.
-- name: PruneSigningKeys :execrows
DELETE FROM signing_keys WHERE id IN (
    SELECT k.id FROM signing_keys k
    WHERE k.until_at <= @ended_by AND k.compromised_at = 0 AND NOT EXISTS (SELECT 1 FROM tokens t WHERE t.key_id = k.id)
    LIMIT @batch
);
