-- What operators declare of readings: good or bad, whatever the machine found. Kept as intervals, and applied to new readings too.

CREATE TABLE declarations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id int NOT NULL REFERENCES series,
    "from" timestamptz NOT NULL,
    "to" timestamptz NOT NULL CHECK ("to" > "from"),
    verdict text NOT NULL CHECK (verdict IN ('bad', 'good', 'clear')),
    declared_at timestamptz NOT NULL DEFAULT now(),
    "by" text NOT NULL,
    reason text NOT NULL
);
COMMENT ON TABLE declarations IS 'Rows are added, never changed: of two that overlap the later one holds. clear: as if nothing were declared.';
CREATE INDEX declarations_of ON declarations (series_id, id);
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON declarations
    FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
