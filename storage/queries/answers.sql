-- What became of readings that were posted.

-- name: find
-- Answers that there are.
SELECT id, digest, answer FROM answers WHERE id = ANY(%(ids)s::uuid[]);

-- name: keep
-- One answer. Waits for a transaction that keeps one for the same id; no row: it did.
INSERT INTO answers (id, digest, answer, forget_at) VALUES (%(id)s, %(digest)s, %(answer)s, now() + %(for)s)
ON CONFLICT DO NOTHING;

-- name: forget
-- Those whose time is over.
DELETE FROM answers WHERE forget_at < now();
