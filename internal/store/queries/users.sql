-- name: InsertUser :exec
INSERT INTO users (id, email, name, password_hash, created_at, disabled_at, failed_sign_ins, retry_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: User :one
SELECT * FROM users WHERE id = $1;

-- name: UserByEmail :one
SELECT * FROM users WHERE email = $1;

-- name: Users :many
SELECT * FROM users ORDER BY created_at, id;

-- name: CountUsers :one
SELECT COUNT(*) FROM users;

-- name: SetPassword :execrows
UPDATE users SET password_hash = $2, failed_sign_ins = 0, retry_at = 0
WHERE id = $1;

-- name: SetUserDisabled :execrows
UPDATE users SET disabled_at = $2 WHERE id = $1;

-- name: CountFailedSignIn :one
UPDATE users SET failed_sign_ins = failed_sign_ins + 1, retry_at = $2
WHERE id = $1
RETURNING failed_sign_ins;

-- name: ClearFailedSignIns :execrows
UPDATE users SET failed_sign_ins = 0, retry_at = 0
WHERE id = $1 AND disabled_at = 0;

-- name: InsertSignIn :exec
INSERT INTO sign_ins (id, secret_hash, account_id, user_id, created_at, last_seen_at, expires_at, auth_at, remote_addr, user_agent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: SignInBySecret :one
SELECT s.* FROM sign_ins s
JOIN users u ON u.id = s.user_id AND u.disabled_at = 0
JOIN memberships m ON m.account_id = s.account_id AND m.user_id = s.user_id
WHERE s.secret_hash = @secret_hash AND s.expires_at > @now AND s.last_seen_at > @idle_since;

-- name: SignIns :many
SELECT * FROM sign_ins
WHERE user_id = @user_id AND account_id = @account_id AND expires_at > @now AND last_seen_at > @idle_since
ORDER BY id DESC;

-- name: TouchSignIn :execrows
UPDATE sign_ins SET
    last_seen_at = CASE WHEN last_seen_at < CAST(@now AS BIGINT) THEN CAST(@now AS BIGINT) ELSE last_seen_at END,
    auth_at = CASE WHEN CAST(@fresh_auth AS BOOLEAN) THEN CAST(@now AS BIGINT) ELSE auth_at END
WHERE id = @id;

-- name: DeleteSignIn :execrows
DELETE FROM sign_ins WHERE account_id = $1 AND user_id = $2 AND id = $3;

-- name: DeleteSignInsBut :exec
DELETE FROM sign_ins WHERE user_id = $1 AND id <> $2;

-- name: PruneSignIns :execrows
DELETE FROM sign_ins WHERE id IN (
    SELECT s.id FROM sign_ins s WHERE s.expires_at <= @now OR s.last_seen_at <= @idle_since LIMIT @batch
);
