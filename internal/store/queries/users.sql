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
UPDATE users SET password_hash = @hash, failed_sign_ins = 0, retry_at = 0
WHERE id = @id AND (CAST(@old AS TEXT) = '' OR password_hash = CAST(@old AS TEXT));

-- name: SetUserDisabled :execrows
UPDATE users SET disabled_at = $2 WHERE id = $1;

-- Changes nothing, and holds the row until the transaction has ended.
-- name: HoldPassword :execrows
UPDATE users SET password_hash = password_hash
WHERE id = $1 AND password_hash = $2 AND disabled_at = 0;

-- name: CountStranger :execrows
UPDATE users SET failed_sign_ins = @next, retry_at = @next_retry_at
WHERE id = @id AND failed_sign_ins = @wrong AND retry_at = @retry_at;

-- name: UncountStranger :exec
UPDATE users SET failed_sign_ins = failed_sign_ins - 1
WHERE id = $1 AND password_hash = $2 AND failed_sign_ins > 0;

-- name: KnownBrowser :one
SELECT * FROM known_browsers WHERE user_id = @user_id AND secret_hash = @secret_hash AND expires_at > @now;

-- name: CountKnown :execrows
UPDATE known_browsers SET wrong = @next, retry_at = @next_retry_at
WHERE user_id = @user_id AND secret_hash = @secret_hash AND wrong = @wrong AND retry_at = @retry_at;

-- name: UncountKnown :exec
UPDATE known_browsers SET wrong = wrong - 1
WHERE user_id = $1 AND secret_hash = $2 AND wrong > 0;

-- name: InsertKnownBrowser :exec
INSERT INTO known_browsers (secret_hash, user_id, created_at, expires_at, wrong, retry_at)
VALUES ($1, $2, $3, $4, 0, 0);

-- name: ForgetKnownBrowser :exec
DELETE FROM known_browsers WHERE user_id = $1 AND secret_hash = $2;

-- name: ForgetKnownBrowsers :exec
DELETE FROM known_browsers WHERE user_id = $1;

-- name: ForgetAllKnownBrowsers :exec
DELETE FROM known_browsers;

-- name: ForgetOldKnownBrowsers :exec
DELETE FROM known_browsers WHERE known_browsers.user_id = @user_id AND known_browsers.secret_hash NOT IN (
    SELECT k.secret_hash FROM known_browsers k WHERE k.user_id = @user_id ORDER BY k.created_at DESC, k.secret_hash LIMIT @most
);

-- name: PruneKnownBrowsers :execrows
DELETE FROM known_browsers WHERE secret_hash IN (
    SELECT k.secret_hash FROM known_browsers k WHERE k.expires_at <= @now LIMIT @batch
);

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

-- name: DeleteSignIns :exec
DELETE FROM sign_ins WHERE user_id = $1;

-- name: PruneSignIns :execrows
DELETE FROM sign_ins WHERE id IN (
    SELECT s.id FROM sign_ins s WHERE s.expires_at <= @now OR s.last_seen_at <= @idle_since LIMIT @batch
);
