-- Keys of the API.

-- name: add
-- A new key; its secret is not among the parameters.
INSERT INTO api_keys (id, name, sha256, scopes, domains, districts, tags, created_by, expires_at)
VALUES (%(id)s, %(name)s, %(sha256)s, %(scopes)s, %(domains)s, %(districts)s, %(tags)s, %(created_by)s, %(expires_at)s);

-- name: list
-- All keys, the oldest first.
SELECT id, name, scopes, domains, districts, tags, created_at, created_by, expires_at, revoked_at FROM api_keys ORDER BY created_at, id;

-- name: find
-- What one request's key may do, by its id; whether the secret is right is for the caller to say.
SELECT id, name, scopes, domains, districts, tags, created_at, created_by, expires_at, revoked_at, sha256
FROM api_keys WHERE id = %(id)s;

-- name: revoke
-- From now on; a key that is revoked already stays as it is.
UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL;
