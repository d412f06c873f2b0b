-- Migrations: what was applied, and how to note it.

-- name: lock
-- One migration at a time; held to the end of the transaction.
SELECT pg_advisory_xact_lock(%(key)s);

-- name: make_table
-- Where applied migrations are noted; part of no migration, since it must be there before the first.
CREATE TABLE IF NOT EXISTS schema_migrations (
    number int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,  -- SHA-256 of the file
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: table_exists
-- Whether any migration was ever applied.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: applied
-- What was applied.
SELECT number, name, checksum FROM schema_migrations;

-- name: note
-- One more.
INSERT INTO schema_migrations (number, name, checksum) VALUES (%(number)s, %(name)s, %(checksum)s);
