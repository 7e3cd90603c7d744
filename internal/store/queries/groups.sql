-- name: InsertGroup :exec
INSERT INTO device_groups (account_id, name, created_at)
VALUES ($1, $2, $3);

-- name: EnsureGroup :exec
INSERT INTO device_groups (account_id, name, created_at)
VALUES ($1, $2, $3)
ON CONFLICT (account_id, name) DO NOTHING;

-- name: Groups :many
SELECT g.name, g.created_at,
    (SELECT COUNT(*) FROM devices d WHERE d.account_id = g.account_id AND d.group_name = g.name) AS devices
FROM device_groups g
WHERE g.account_id = $1
ORDER BY g.name;

-- The devices move along: their foreign key follows the name.
-- name: RenameGroup :execrows
UPDATE device_groups SET name = @new_name
WHERE account_id = @account_id AND name = @name;

-- name: CountGroupDevices :one
SELECT COUNT(*) FROM devices WHERE account_id = $1 AND group_name = $2;

-- name: DeleteGroup :execrows
DELETE FROM device_groups WHERE account_id = $1 AND name = $2;
