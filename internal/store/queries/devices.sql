-- name: InsertDevice :exec
INSERT INTO devices (id, account_id, name, display_name, display_name_folded, group_name, public_key, created_at, created_by, token_id,
    disabled_at, last_seen_at, remote_addr, os, arch, kernel, hostname, hostname_folded, version, local_addrs, ssh_host_key, key_since)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22);

-- name: Device :one
SELECT * FROM devices WHERE account_id = $1 AND id = $2;

-- name: DeviceByName :one
SELECT * FROM devices WHERE account_id = $1 AND name = $2;

-- name: DeviceByKey :one
SELECT sqlc.embed(d), k.state FROM device_keys k JOIN devices d ON d.id = k.device_id WHERE k.key = $1;

-- Names from first on and before end, in the order of their bytes.
-- name: DeviceNames :many
SELECT name FROM devices
WHERE account_id = @account_id AND name >= @first AND name < @end_before;

-- name: UpdateDevice :exec
UPDATE devices SET name = $3, display_name = $4, display_name_folded = $5, group_name = $6, disabled_at = $7
WHERE account_id = $1 AND id = $2;

-- name: DeleteDevice :one
DELETE FROM devices WHERE account_id = $1 AND id = $2
RETURNING group_name;

-- name: ReportDevice :execrows
UPDATE devices SET
    last_seen_at = CASE WHEN last_seen_at < CAST(@at AS BIGINT) THEN CAST(@at AS BIGINT) ELSE last_seen_at END,
    remote_addr = @remote_addr, os = @os, arch = @arch, kernel = @kernel, hostname = @hostname,
    hostname_folded = @hostname_folded, version = @version, local_addrs = @local_addrs, ssh_host_key = @ssh_host_key,
    gateway_known_by = @gateway_known_by
WHERE account_id = @account_id AND id = @id;

-- A pin has 43 characters, and two stand with a space between.
-- name: KeyKnowledge :many
SELECT a.id, a.name, COUNT(*) AS devices,
    CAST(SUM(CASE WHEN d.gateway_known_by = CAST(@authorities AS TEXT)
        OR substr(d.gateway_known_by, 1, 43) = CAST(@pin AS TEXT) OR substr(d.gateway_known_by, 45) = CAST(@pin AS TEXT) THEN 1 ELSE 0 END) AS BIGINT) AS know,
    CAST(SUM(CASE WHEN d.gateway_known_by <> CAST(@authorities AS TEXT)
        AND substr(d.gateway_known_by, 1, 43) <> CAST(@pin AS TEXT) AND substr(d.gateway_known_by, 45) <> CAST(@pin AS TEXT)
        AND d.disabled_at = 0 AND d.last_seen_at >= CAST(@seen_since AS BIGINT) THEN 1 ELSE 0 END) AS BIGINT) AS recent_dont
FROM devices d
JOIN accounts a ON a.id = d.account_id
GROUP BY a.id, a.name
ORDER BY a.name, a.id;

-- name: TouchDevice :exec
UPDATE devices SET last_seen_at = @at
WHERE account_id = @account_id AND id = @id AND last_seen_at < @at;

-- name: DeviceTunnels :many
SELECT destination, ssh FROM tunnels
WHERE account_id = $1 AND device_id = $2
ORDER BY destination;

-- name: DeleteTunnels :exec
DELETE FROM tunnels WHERE account_id = $1 AND device_id = $2;

-- name: InsertTunnel :exec
INSERT INTO tunnels (account_id, device_id, destination, ssh)
VALUES ($1, $2, $3, $4);

-- name: Tunnels :many
SELECT d.id, d.name, t.destination, t.ssh
FROM devices d
JOIN tunnels t ON t.device_id = d.id AND t.account_id = d.account_id
WHERE d.account_id = @account_id
  AND (CAST(@device_id AS TEXT) = '' OR d.id = @device_id)
  AND d.name >= @after_name
  AND (d.name > @after_name OR t.destination > @after_destination)
ORDER BY d.name, t.destination
LIMIT @count;

-- Moves a sequence that is as it is thought to be, of a device that may connect.
-- name: MoveSequence :execrows
UPDATE devices SET seq = @to_current, seq_next = @to_next
WHERE account_id = @account_id AND id = @id AND seq = @from_current AND seq_next = @from_next AND quarantined_at = 0;

-- name: QuarantineDevice :execrows
UPDATE devices SET quarantined_at = @at, quarantine_reason = @reason
WHERE account_id = @account_id AND id = @id AND seq = @from_current AND seq_next = @from_next AND quarantined_at = 0;

-- name: ReleaseDevice :execrows
UPDATE devices SET quarantined_at = 0, quarantine_reason = '', seq = @nothing, seq_next = @nothing
WHERE account_id = @account_id AND id = @id;

-- name: InsertDeviceKey :exec
INSERT INTO device_keys (key, account_id, device_id, state, since, vouch) VALUES ($1, $2, $3, $4, $5, $6);

-- name: DeviceKey :one
SELECT * FROM device_keys WHERE key = $1;

-- name: DeviceKeys :many
SELECT * FROM device_keys WHERE account_id = $1 AND device_id = $2 ORDER BY since;

-- name: SetDeviceKeyState :execrows
UPDATE device_keys SET state = @state, since = @since
WHERE account_id = @account_id AND device_id = @device_id AND key = @key;

-- name: DeleteDeviceKey :exec
DELETE FROM device_keys WHERE account_id = $1 AND device_id = $2 AND key = $3;

-- name: SetPublicKey :exec
UPDATE devices SET public_key = @key, key_since = @since WHERE account_id = @account_id AND id = @id;
