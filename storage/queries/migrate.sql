-- Migrations: one at a time, and a note of each file that was applied.

-- name: lock
-- Lets one migration run at a time; held to the end of the transaction.
SELECT pg_advisory_xact_lock(%(key)s);

-- name: limit_waits
-- Bounds the wait for a lock, for this transaction: everybody who uses a table or view queues behind a migration that waits for it.
SELECT set_config('lock_timeout', %(ms)s::text, true);

-- name: make_table
-- Makes the table where applied migrations are noted; part of no migration, since it must be there before the first.
CREATE TABLE IF NOT EXISTS schema_migrations (
    number int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,  -- SHA-256 of the file
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: note
-- Notes a migration that was applied.
INSERT INTO schema_migrations (number, name, checksum) VALUES (%(number)s, %(name)s, %(checksum)s);

-- name: note_repeatables
-- Notes the text of every repeatable file; `applied_at` stays where the text is the same, and files that are gone are forgotten.
WITH ours AS (
    SELECT * FROM unnest(%(names)s::text[], %(checksums)s::text[]) AS o(name, checksum)
), gone AS (
    DELETE FROM schema_repeatables r WHERE r.name NOT IN (SELECT name FROM ours)
)
INSERT INTO schema_repeatables AS r (name, checksum) SELECT name, checksum FROM ours
ON CONFLICT (name) DO UPDATE SET checksum = EXCLUDED.checksum, applied_at = EXCLUDED.applied_at WHERE r.checksum <> EXCLUDED.checksum;
