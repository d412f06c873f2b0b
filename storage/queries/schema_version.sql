-- The version of the schema: which SQL files the database has seen.

-- name: table_exists
-- Tells a database that has no schema yet.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: applied
-- Migrations that were applied, to compare them with those of the program.
SELECT number, name, checksum FROM schema_migrations;

-- name: repeated
-- Repeatable files, each with the text that was applied last, to find those that have changed.
SELECT name, checksum FROM schema_repeatables;
