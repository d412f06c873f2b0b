-- Aggregates by the kind of a metric, and the views and functions that show them. An aggregate is NULL where a kind does not have it, and
-- where a bucket has no good reading; api/series/aggregates.py computes the same in NumPy. PostgreSQL raises an error where a product or a
-- quotient becomes 0, so numbers near the smallest that float8 has count as 0.

CREATE OR REPLACE FUNCTION telemetry_length(n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN n > 0 THEN CASE
        WHEN abs(s1) < 1e-150 THEN CASE WHEN abs(s2) < 1e-150 THEN 0 ELSE abs(s2) END
        WHEN abs(s2) < 1e-150 THEN abs(s1)
        ELSE sqrt(s1 * s1 + s2 * s2)
    END / n
END;
COMMENT ON FUNCTION telemetry_length IS 'Length of the mean vector of n directions: 1 if all point one way, 0 if they cancel out.';

CREATE OR REPLACE FUNCTION telemetry_mean(kind text, n int, s1 float8, s2 float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN n > 0 THEN CASE
        WHEN kind IN ('gauge', 'amount', 'state') THEN CASE WHEN abs(s1) < 1e-290 THEN 0 ELSE s1 / n END
        WHEN kind = 'level' AND s1 > 0 THEN 10 * (log(s1) - log(n))
        WHEN kind = 'direction' AND telemetry_length(n, s1, s2) > 1e-9 THEN
            -- A tiny negative angle would become 360 by the addition.
            CASE WHEN atan2d(s1, s2) >= 0 THEN atan2d(s1, s2) WHEN atan2d(s1, s2) + 360 < 360 THEN atan2d(s1, s2) + 360 ELSE 0 END
    END
END;
COMMENT ON FUNCTION telemetry_mean IS
    'Mean: circular of a direction, in [0, 360); energetic of a level; of a state the share of 1; else arithmetic.';

CREATE OR REPLACE FUNCTION telemetry_stddev(kind text, n int, s1 float8, s2 float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN n > 1 THEN CASE
        WHEN kind IN ('gauge', 'amount') AND abs(s1) < 1e150
            THEN CASE WHEN s2 < 1e-280 THEN 0
                ELSE sqrt(greatest(s2 - CASE WHEN abs(s1) < 1e-140 THEN 0 ELSE s1 * s1 / n END, 0) / (n - 1)) END
        WHEN kind = 'direction' AND telemetry_length(n, s1, s2) > 1e-9
            THEN degrees(sqrt(greatest(-2 * ln(least(telemetry_length(n, s1, s2), 1)), 0)))
    END
END;
COMMENT ON FUNCTION telemetry_stddev IS
    'Standard deviation of the sample; of a direction the circular one, in degrees (Mardia & Jupp, 2.3.4).';

CREATE OR REPLACE FUNCTION telemetry_coverage(received bigint, length interval, expected_every float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN expected_every > 0 THEN least(received * expected_every / extract(epoch FROM length)::float8, 1) END;
COMMENT ON FUNCTION telemetry_coverage IS 'Share of the expected readings that were received, good or bad; at most 1.';

CREATE OR REPLACE VIEW telemetry_series AS
SELECT s.id AS series_id, s.device_id AS device, s.metric, m.unit, m.kind, d.domain, d.district,
    coalesce(s.interval_s, (m.definition ->> 'interval')::float8) AS expected_every
FROM series s JOIN metrics m ON m.name = s.metric JOIN devices d ON d.id = s.device_id;
COMMENT ON VIEW telemetry_series IS 'Every series with its labels; expected_every: seconds between two readings.';

CREATE OR REPLACE VIEW telemetry_1m AS
SELECT r.bucket AS time, t.device, t.metric, t.unit, t.domain, t.district,
    telemetry_mean(t.kind, r.n, r.s1, r.s2) AS mean,
    CASE WHEN t.kind = 'amount' AND r.n > 0 THEN r.s1 END AS sum,
    CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmin END AS min,
    CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmax END AS max,
    CASE WHEN r.n > 0 THEN r.vfirst END AS first,
    CASE WHEN r.n > 0 THEN r.vlast END AS last,
    r.n AS count, r.n_bad AS bad_count,
    telemetry_stddev(t.kind, r.n, r.s1, r.s2) AS stddev,
    CASE WHEN t.kind = 'counter' AND r.n > 0 THEN r.s1 END AS increase,
    telemetry_coverage(r.n + r.n_bad, INTERVAL '1 minute', t.expected_every) AS coverage
FROM readings_1m r JOIN telemetry_series t ON t.series_id = r.series_id;
COMMENT ON VIEW telemetry_1m IS 'Minutes of every series, as aggregates by kind: docs/rollups.md.';

-- Labels are joined within each half, so that a filter by device or metric excludes marked quarter-hours of all others before those are
-- computed from the minutes.
CREATE OR REPLACE VIEW telemetry_15m AS
WITH shown AS NOT MATERIALIZED (
    SELECT r.bucket, t.device, t.metric, t.unit, t.domain, t.district, t.kind, t.expected_every,
        r.n, r.n_bad, r.vmin, r.vmax, r.vfirst, r.vlast, r.s1, r.s2
    FROM readings_15m r JOIN telemetry_series t ON t.series_id = r.series_id
    WHERE NOT EXISTS (
        SELECT FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
        WHERE m.bucket = r.bucket AND u.series_id = r.series_id
    )
    UNION ALL
    SELECT k.bucket, t.device, t.metric, t.unit, t.domain, t.district, t.kind, t.expected_every,
        q.n, q.n_bad, q.vmin, q.vmax, q.vfirst, q.vlast, q.s1, q.s2
    FROM (SELECT DISTINCT u.series_id, m.bucket FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)) k
    JOIN telemetry_series t ON t.series_id = k.series_id
    CROSS JOIN LATERAL merged_minutes(k.series_id, k.bucket, k.bucket + INTERVAL '15 minutes') q
)
SELECT r.bucket AS time, r.device, r.metric, r.unit, r.domain, r.district,
    telemetry_mean(r.kind, r.n, r.s1, r.s2) AS mean,
    CASE WHEN r.kind = 'amount' AND r.n > 0 THEN r.s1 END AS sum,
    CASE WHEN r.kind <> 'direction' AND r.n > 0 THEN r.vmin END AS min,
    CASE WHEN r.kind <> 'direction' AND r.n > 0 THEN r.vmax END AS max,
    CASE WHEN r.n > 0 THEN r.vfirst END AS first,
    CASE WHEN r.n > 0 THEN r.vlast END AS last,
    r.n AS count, r.n_bad AS bad_count,
    telemetry_stddev(r.kind, r.n, r.s1, r.s2) AS stddev,
    CASE WHEN r.kind = 'counter' AND r.n > 0 THEN r.s1 END AS increase,
    telemetry_coverage(r.n + r.n_bad, INTERVAL '15 minutes', r.expected_every) AS coverage
FROM shown r;
COMMENT ON VIEW telemetry_15m IS
    'Quarter-hours of every series, as aggregates by kind; those that are out of date are computed from the minutes: '
    'docs/rollups.md.';

CREATE OR REPLACE FUNCTION telemetry(bucket interval, zone text, start timestamptz, stop timestamptz,
    devices text[] DEFAULT NULL, metrics text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, metric text, unit text, domain text, district text, mean float8, sum float8,
    min float8, max float8, first float8, last float8, count int, bad_count int, stddev float8, increase float8, coverage float8)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    -- A month counts 30 days here and a year 365.25; every month and every year is a multiple of a quarter-hour.
    seconds CONSTANT float8 := extract(epoch FROM telemetry.bucket);
    since timestamptz;
    until timestamptz;
    ids int[];
BEGIN
    IF telemetry.bucket <= INTERVAL '0' OR seconds / 60 <> floor(seconds / 60) THEN
        RAISE EXCEPTION 'a bucket of % is no multiple of a minute', telemetry.bucket USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whole buckets, whatever the range: a value does not depend on where the range begins or ends.
    since := bucket_start(telemetry.bucket, telemetry.zone, telemetry.start);
    until := bucket_end(telemetry.bucket, telemetry.zone,
        bucket_start(telemetry.bucket, telemetry.zone, telemetry.stop - INTERVAL '1 microsecond'));
    ids := ARRAY(
        SELECT t.series_id FROM telemetry_series t
        WHERE (telemetry.devices IS NULL OR t.device = ANY(telemetry.devices))
            AND (telemetry.metrics IS NULL OR t.metric = ANY(telemetry.metrics))
    );
    RETURN QUERY
    SELECT r.began, t.device, t.metric, t.unit, t.domain, t.district,
        telemetry_mean(t.kind, r.n, r.s1, r.s2),
        CASE WHEN t.kind = 'amount' AND r.n > 0 THEN r.s1 END,
        CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmin END,
        CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmax END,
        CASE WHEN r.n > 0 THEN r.vfirst END,
        CASE WHEN r.n > 0 THEN r.vlast END,
        r.n, r.n_bad,
        telemetry_stddev(t.kind, r.n, r.s1, r.s2),
        CASE WHEN t.kind = 'counter' AND r.n > 0 THEN r.s1 END,
        telemetry_coverage(r.n + r.n_bad,
            CASE WHEN telemetry.bucket <= INTERVAL '1 hour' THEN telemetry.bucket
                ELSE bucket_end(telemetry.bucket, telemetry.zone, r.began) - r.began END,
            t.expected_every)
    FROM merged_buckets(telemetry.bucket, telemetry.zone, since, until, ids, seconds / 900 = floor(seconds / 900)) r
    JOIN telemetry_series t ON t.series_id = r.series_id
    ORDER BY r.began, t.device, t.metric;
END $$;
COMMENT ON FUNCTION telemetry IS
    'Aggregates by kind as in telemetry_15m, in buckets of any length and by the clocks of any zone: docs/rollups.md.';
