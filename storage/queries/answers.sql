-- Answers to readings that were posted under an id of the client.

-- name: find
-- Finds the answers that are kept under these ids.
SELECT id, digest, answer FROM answers WHERE id = ANY(%(ids)s::uuid[]);

-- name: keep
-- Keeps an answer. Waits for a transaction that keeps one for the same id; affects no row if that one committed.
INSERT INTO answers (id, digest, answer, forget_at) VALUES (%(id)s, %(digest)s, %(answer)s, now() + %(for)s)
ON CONFLICT DO NOTHING;

-- name: forget
-- Deletes answers that have been kept long enough.
DELETE FROM answers WHERE forget_at < now();
