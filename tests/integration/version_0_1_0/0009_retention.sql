-- What retention has dropped: how far, how much, and what of it is still needed.

CREATE TABLE horizons (
    level text PRIMARY KEY CHECK (level IN ('raw', '1m', '15m')),
    since timestamptz NOT NULL
);
COMMENT ON TABLE horizons IS
    'Whatever is older is gone, or goes with the rest of its chunk. It never moves back. No reading before raw''s is taken any more, and '
    'no rollup before it recomputed.';
INSERT INTO horizons (level, since) VALUES ('raw', '-infinity'), ('1m', '-infinity'), ('15m', '-infinity');
-- Ingest judges by the horizon, so it is part of the registry's version: a batch that was judged by an older one is judged again.
CREATE TRIGGER registry_changed AFTER UPDATE ON horizons FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();

CREATE TABLE dropped_chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    level text NOT NULL REFERENCES horizons,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    rows bigint NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dropped_chunks IS 'So that rows of readings, with what was dropped, are still what the ledger has as stored.';

CREATE TABLE carried_counters (
    series_id int PRIMARY KEY,
    time timestamptz NOT NULL,
    value float8 NOT NULL
);
COMMENT ON TABLE carried_counters IS
    'Of each counter the last good reading that was dropped: the increase of the first one that is left hangs on it.';
