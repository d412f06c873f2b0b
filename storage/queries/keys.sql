-- Keys of the API.

-- name: add
-- Adds a key; its secret is not among the parameters.
INSERT INTO api_keys (id, name, sha256, scopes, domains, districts, tags, created_by, expires_at)
VALUES (%(id)s, %(name)s, %(sha256)s, %(scopes)s, %(domains)s, %(districts)s, %(tags)s, %(created_by)s, %(expires_at)s);

-- name: list
-- Lists all keys, the oldest first.
SELECT id, name, scopes, domains, districts, tags, created_at, created_by, expires_at, revoked_at FROM api_keys ORDER BY created_at, id;

-- name: find
-- Finds a key by its id, for a request; the caller compares the secret.
SELECT id, name, scopes, domains, districts, tags, created_at, created_by, expires_at, revoked_at, sha256
FROM api_keys WHERE id = %(id)s;

-- name: revoke
-- Revokes a key from now on; one that is revoked already stays as it is.
UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL;
