-- What happens when a source sends another value for a series and time that is stored: the first stays, or the last one replaces it.

ALTER TABLE sources ADD COLUMN conflict_policy text NOT NULL DEFAULT 'keep' CHECK (conflict_policy IN ('keep', 'replace'));
