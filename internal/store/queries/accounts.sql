-- name: InsertAccount :exec
INSERT INTO accounts (id, name, created_at, basic_tokens, basic_life, device_quota)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: Account :one
SELECT * FROM accounts WHERE id = $1;

-- name: InsertMembership :exec
INSERT INTO memberships (account_id, user_id, role, created_at)
VALUES ($1, $2, $3, $4);

-- name: Membership :one
SELECT m.* FROM memberships m
JOIN users u ON u.id = m.user_id AND u.disabled_at = 0
WHERE m.account_id = $1 AND m.user_id = $2;

-- name: MembershipsOf :many
SELECT * FROM memberships WHERE user_id = $1
ORDER BY created_at, account_id;

-- name: CountMembers :one
SELECT COUNT(*) FROM memberships WHERE account_id = $1 AND role = $2;

-- name: DeleteMembership :one
DELETE FROM memberships WHERE account_id = $1 AND user_id = $2
RETURNING role;
