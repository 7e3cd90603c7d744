-- Of all accounts: a restore is of the database as a whole.

-- name: AdvanceEpoch :one
UPDATE epoch SET number = number + 1 WHERE id = 1
RETURNING number;

-- name: CountUnconfirmed :one
SELECT CAST(COUNT(*) AS BIGINT) FROM tokens t
JOIN epoch e ON e.id = 1 AND e.number <> t.epoch
JOIN signing_keys k ON k.id = t.key_id AND k.until_at > @now
WHERE t.revoked_at = 0 AND t.expires_at > @now AND (t.max_uses = 0 OR t.uses < t.max_uses);

-- name: DeleteAllSignIns :execrows
DELETE FROM sign_ins;

-- name: DeleteAllKeys :exec
DELETE FROM idempotency;

-- name: ConfirmToken :execrows
UPDATE tokens SET epoch = (SELECT e.number FROM epoch e WHERE e.id = 1)
WHERE account_id = @account_id AND tokens.id = @id AND epoch <> (SELECT e.number FROM epoch e WHERE e.id = 1);

-- name: DeleteAllAuthorizations :exec
DELETE FROM device_authorizations;

-- Of all accounts: the devices have gone on since the backup, and each begins anew.
-- name: EndAllSequences :exec
UPDATE devices SET seq = @nothing, seq_next = @nothing;
