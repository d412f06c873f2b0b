-- Functions, views and descriptions come from storage/repeatable/ from now on; this table says which text of each file was applied last.
-- Until then every change of one of them was another copy in a migration: the newest copies are replaced right after this migration.
CREATE TABLE schema_repeatables (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
