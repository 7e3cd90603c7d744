-- name: CountPendingAuthorizations :one
SELECT COUNT(*) FROM device_authorizations WHERE state = 'pending' AND expires_at > $1;

-- name: InsertAuthorization :exec
INSERT INTO device_authorizations (id, device_hash, user_code, host, remote_addr, token_life, created_at, expires_at,
    state, account_id, approver_kind, approver_user, approver_id, approver_addr)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', '', '', '', '', '');

-- name: AuthorizationByCode :one
SELECT * FROM device_authorizations WHERE user_code = @user_code AND state = 'pending' AND expires_at > @now;

-- name: AuthorizationByDevice :one
SELECT * FROM device_authorizations WHERE device_hash = @device_hash AND expires_at > @now;

-- Both changes of state have the state before in their condition, which is the
-- whole guard: however many ask at once, one of them changes the row.
-- name: DecideAuthorization :execrows
UPDATE device_authorizations SET state = @state, account_id = @account_id,
    approver_kind = @approver_kind, approver_user = @approver_user, approver_id = @approver_id, approver_addr = @approver_addr
WHERE id = @id AND state = 'pending' AND expires_at > @now;

-- name: UseAuthorization :execrows
UPDATE device_authorizations SET state = 'used'
WHERE account_id = @account_id AND id = @id AND state = 'approved' AND expires_at > @now;

-- name: PruneAuthorizations :execrows
DELETE FROM device_authorizations WHERE id IN (
    SELECT a.id FROM device_authorizations a WHERE a.expires_at <= @now LIMIT @batch
);
