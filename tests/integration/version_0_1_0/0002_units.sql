-- Units that sensors send, and calibrations with their history.

ALTER TABLE series ADD COLUMN unit text;
COMMENT ON COLUMN series.unit IS 'What the sensor sends, as it was registered; NULL: the metric''s own unit.';

CREATE TABLE calibrations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id int NOT NULL REFERENCES series,
    valid_from timestamptz NOT NULL CHECK (valid_from < 'infinity'),
    scale float8 NOT NULL CHECK (scale <> 0 AND scale > '-infinity' AND scale < 'infinity'),
    "offset" float8 NOT NULL CHECK ("offset" > '-infinity' AND "offset" < 'infinity'),
    created_at timestamptz NOT NULL DEFAULT now(),
    "by" text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT ''
);
COMMENT ON TABLE calibrations IS
    'value * scale + offset, in the metric''s unit, from valid_from until the next. Rows are added, never changed or deleted; of two '
    'with one valid_from the later id holds. Readings that were stored before are as they were calibrated then.';
CREATE INDEX calibrations_in_force ON calibrations (series_id, valid_from, id);
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON calibrations FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
