-- What a series' past says of its new readings (STEP, STUCK) is kept where its newest reading is.

ALTER TABLE latest ADD COLUMN same_since timestamptz NOT NULL DEFAULT '-infinity';
COMMENT ON COLUMN latest.same_since IS 'Since when the series has shown its newest value, as far as its memory reaches; -infinity: not known.';
ALTER TABLE latest ALTER COLUMN same_since DROP DEFAULT;

-- Thresholds that a registration overrides; NULL: as the catalogue says.
ALTER TABLE series
    ADD COLUMN step_floor float8,
    ADD COLUMN step_per_minute float8,
    ADD COLUMN stuck_after_s float8;
