-- name: HostKey :one
SELECT * FROM host_keys WHERE account_id = @account_id AND device_id = @device_id AND port = @port;

-- Nothing for a device of another account.
-- name: TrustHostKey :execrows
INSERT INTO host_keys (account_id, device_id, port, key, trusted_at, trusted_by)
SELECT d.account_id, d.id, CAST(@port AS BIGINT), CAST(@key AS TEXT), CAST(@at AS BIGINT), CAST(@trusted_by AS TEXT)
FROM devices d WHERE d.account_id = @account_id AND d.id = @device_id
ON CONFLICT (device_id, port) DO UPDATE SET key = excluded.key, trusted_at = excluded.trusted_at, trusted_by = excluded.trusted_by;
