-- name: InsertGroup :exec
INSERT INTO device_groups (account_id, name, created_at)
VALUES ($1, $2, $3);

-- name: EnsureGroup :exec
INSERT INTO device_groups (account_id, name, created_at)
VALUES ($1, $2, $3)
ON CONFLICT (account_id, name) DO NOTHING;

-- name: Groups :many
SELECT * FROM device_groups
WHERE account_id = $1
ORDER BY name;

-- name: AddToGroup :exec
UPDATE device_groups SET devices = devices + @change
WHERE account_id = @account_id AND name = @name;

-- Of one group, or of all if name is empty.
-- name: CountInGroups :one
SELECT CAST(COALESCE(SUM(devices), 0) AS BIGINT) FROM device_groups
WHERE account_id = @account_id AND (CAST(@name AS TEXT) = '' OR name = @name);

-- The devices move along: their foreign key follows the name.
-- name: RenameGroup :execrows
UPDATE device_groups SET name = @new_name
WHERE account_id = @account_id AND name = @name;

-- name: DeleteGroup :execrows
DELETE FROM device_groups WHERE account_id = $1 AND name = $2;
