-- name: InsertEvent :exec
INSERT INTO events (id, account_id, at, type, device_id, device_name, object_id, message)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: EventsDown :many
SELECT * FROM events
WHERE account_id = @account_id AND id < @before
ORDER BY id DESC
LIMIT @count;

-- name: EventsOfType :many
SELECT * FROM events
WHERE account_id = @account_id AND type = @type AND id < @before
ORDER BY id DESC
LIMIT @count;

-- name: EventsUp :many
SELECT * FROM events
WHERE account_id = @account_id AND id > @after
  AND (CAST(@device_id AS TEXT) = '' OR device_id = @device_id)
  AND (CAST(@type AS TEXT) = '' OR type = @type)
ORDER BY id
LIMIT @count;

-- name: EventsOfDevice :many
SELECT * FROM events
WHERE account_id = @account_id AND device_id = @device_id AND id < @before
  AND (CAST(@type AS TEXT) = '' OR type = @type)
ORDER BY id DESC
LIMIT @count;

-- name: PruneEvents :execrows
DELETE FROM events WHERE id IN (
    SELECT e.id FROM events e WHERE e.at <= @made_by LIMIT @batch
);
