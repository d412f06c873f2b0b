-- Quarter-hours, the marks that say which of them are behind, and what Grafana reads.

-- Quarter-hours ------------------------------------------------------------------------------------------------------------------

CREATE TABLE readings_15m (LIKE readings_1m);
ALTER TABLE readings_15m ADD PRIMARY KEY (series_id, bucket);
SELECT create_hypertable('readings_15m', by_range('bucket', INTERVAL '365 days'), create_default_indexes => false);
COMMENT ON TABLE readings_15m IS 'As readings_1m; a quarter-hour that is marked in marks_15m is behind: read quarter_hours instead.';

-- Appended in the transaction that changes readings_1m, deleted by the one worker that recomputes (storage/rollup.py). One row for all
-- series of a transaction in one quarter-hour, not one a series: 2,000 times fewer rows to write under live traffic.
CREATE TABLE marks_15m (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL,
    series int[] NOT NULL  -- ids
);
-- Short-lived, and ids compress badly.
ALTER TABLE marks_15m ALTER COLUMN series SET STORAGE EXTERNAL;

CREATE FUNCTION merged_minutes(series int, start timestamptz, stop timestamptz)
RETURNS TABLE (n int, n_bad int, vmin float8, vmax float8, first_at timestamptz, vfirst float8, last_at timestamptz, vlast float8,
    s1 float8, s2 float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT sum(r.n)::int, sum(r.n_bad)::int, min(r.vmin), max(r.vmax), min(r.first_at), first(r.vfirst, r.first_at),
        max(r.last_at), last(r.vlast, r.last_at), sum(r.s1), sum(r.s2)
    FROM readings_1m r
    WHERE r.series_id = series AND r.bucket >= start AND r.bucket < stop
    HAVING count(*) > 0;
END;
COMMENT ON FUNCTION merged_minutes IS 'One row: the minutes of a series in [start, stop) as one bucket; none: there are no minutes.';

CREATE VIEW quarter_hours AS
SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
FROM readings_15m r
WHERE NOT EXISTS (
    SELECT FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
    WHERE m.bucket = r.bucket AND u.series_id = r.series_id
)
UNION ALL
SELECT k.series_id, k.bucket, q.n, q.n_bad, q.vmin, q.vmax, q.first_at, q.vfirst, q.last_at, q.vlast, q.s1, q.s2
FROM (SELECT DISTINCT u.series_id, m.bucket FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)) k
CROSS JOIN LATERAL merged_minutes(k.series_id, k.bucket, k.bucket + INTERVAL '15 minutes') q;
COMMENT ON VIEW quarter_hours IS 'readings_15m as it will be: a marked quarter-hour is taken from readings_1m.';

-- Aggregates by kind ---------------------------------------------------------------------------------------------------------------
-- What api/aggregates.py says in NumPy. NULL where a kind has no such aggregate, and where a bucket has no good reading.
-- PostgreSQL raises an error where a product or quotient becomes 0, so numbers near the smallest that there is count as 0.

CREATE FUNCTION telemetry_length(n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN n > 0 THEN CASE
        WHEN abs(s1) < 1e-150 THEN CASE WHEN abs(s2) < 1e-150 THEN 0 ELSE abs(s2) END
        WHEN abs(s2) < 1e-150 THEN abs(s1)
        ELSE sqrt(s1 * s1 + s2 * s2)
    END / n
END;
COMMENT ON FUNCTION telemetry_length IS 'Of the mean vector of n directions: 1 all point one way, 0 they cancel out.';

CREATE FUNCTION telemetry_mean(kind text, n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN n > 0 THEN CASE
        WHEN kind IN ('gauge', 'amount', 'state') THEN CASE WHEN abs(s1) < 1e-290 THEN 0 ELSE s1 / n END
        WHEN kind = 'level' AND s1 > 0 THEN 10 * (log(s1) - log(n))
        WHEN kind = 'direction' AND telemetry_length(n, s1, s2) > 1e-9 THEN
            -- A tiny negative angle is 360 after the addition.
            CASE WHEN atan2d(s1, s2) >= 0 THEN atan2d(s1, s2) WHEN atan2d(s1, s2) + 360 < 360 THEN atan2d(s1, s2) + 360 ELSE 0 END
    END
END;
COMMENT ON FUNCTION telemetry_mean IS 'Arithmetic; of a direction circular, in [0, 360); of a level energetic; of a state the share of 1.';

CREATE FUNCTION telemetry_stddev(kind text, n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN n > 1 THEN CASE
        WHEN kind IN ('gauge', 'amount') AND abs(s1) < 1e150
            THEN CASE WHEN s2 < 1e-280 THEN 0
                ELSE sqrt(greatest(s2 - CASE WHEN abs(s1) < 1e-140 THEN 0 ELSE s1 * s1 / n END, 0) / (n - 1)) END
        WHEN kind = 'direction' AND telemetry_length(n, s1, s2) > 1e-9
            THEN degrees(sqrt(greatest(-2 * ln(least(telemetry_length(n, s1, s2), 1)), 0)))
    END
END;
COMMENT ON FUNCTION telemetry_stddev IS 'Of the sample; of a direction the circular one, degrees (Mardia & Jupp, 2.3.4).';

CREATE FUNCTION telemetry_coverage(received bigint, length interval, expected_every float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN expected_every > 0 THEN least(received * expected_every / extract(epoch FROM length)::float8, 1) END;
COMMENT ON FUNCTION telemetry_coverage IS 'Readings received, good or bad, over those expected; at most 1.';

-- Views ----------------------------------------------------------------------------------------------------------------------------

CREATE VIEW telemetry_series AS
SELECT s.id AS series_id, s.device_id AS device, s.metric, m.unit, m.kind, d.domain, d.district,
    coalesce(s.interval_s, (m.definition ->> 'interval')::float8) AS expected_every
FROM series s JOIN metrics m ON m.name = s.metric JOIN devices d ON d.id = s.device_id;
COMMENT ON VIEW telemetry_series IS 'Every series with its labels, and how many seconds apart its readings are expected.';

CREATE VIEW telemetry_1m AS
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
COMMENT ON VIEW telemetry_1m IS 'Minutes of every series: docs/rollups.md.';

CREATE VIEW telemetry_15m AS
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
    telemetry_coverage(r.n + r.n_bad, INTERVAL '15 minutes', t.expected_every) AS coverage
FROM quarter_hours r JOIN telemetry_series t ON t.series_id = r.series_id;
COMMENT ON VIEW telemetry_15m IS 'Quarter-hours of every series, those that are behind taken from the minutes: docs/rollups.md.';

-- Any bucket, any zone -------------------------------------------------------------------------------------------------------------

CREATE FUNCTION local_instant(wall timestamp, zone text) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN ((wall AT TIME ZONE zone) - INTERVAL '1 hour') AT TIME ZONE zone = wall THEN (wall AT TIME ZONE zone) - INTERVAL '1 hour'
    ELSE wall AT TIME ZONE zone
END;
COMMENT ON FUNCTION local_instant IS 'When clocks of the zone show this; of two such instants, where they are put back, the first.';

-- Up to an hour, a bucket is so long by any clock, and the hour that clocks show twice is two buckets. Longer ones begin and end when
-- local clocks show it: a day has 23, 24 or 25 hours.
CREATE FUNCTION bucket_start(bucket interval, zone text, at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN bucket <= INTERVAL '1 hour' THEN at - (at AT TIME ZONE zone - time_bucket(bucket, at AT TIME ZONE zone))
    ELSE local_instant(time_bucket(bucket, at AT TIME ZONE zone), zone)
END;
COMMENT ON FUNCTION bucket_start IS 'Start of the bucket that an instant lies in, by the clocks of a zone.';

CREATE FUNCTION bucket_end(bucket interval, zone text, start timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN bucket <= INTERVAL '1 hour' THEN start + bucket
    ELSE local_instant(time_bucket(bucket, start AT TIME ZONE zone) + bucket, zone)
END;
COMMENT ON FUNCTION bucket_end IS 'End of the bucket that starts there.';

CREATE FUNCTION telemetry(bucket interval, zone text, start timestamptz, stop timestamptz,
    devices text[] DEFAULT NULL, metrics text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, metric text, unit text, domain text, district text, mean float8, sum float8,
    min float8, max float8, first float8, last float8, count int, bad_count int, stddev float8, increase float8, coverage float8)
-- The best plan hangs on the range, and there is one plan a call.
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    -- A month counts 30 days here and a year 365.25: multiples of a quarter-hour, as every one of them is.
    seconds CONSTANT float8 := extract(epoch FROM telemetry.bucket);
    quarters CONSTANT bool := seconds / 900 = floor(seconds / 900);
    since timestamptz;
    until timestamptz;
BEGIN
    IF telemetry.bucket <= INTERVAL '0' OR seconds / 60 <> floor(seconds / 60) THEN
        RAISE EXCEPTION 'a bucket of % is no multiple of a minute', telemetry.bucket USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whole buckets, whatever the range: a value never hangs on where the range begins or ends.
    since := bucket_start(telemetry.bucket, telemetry.zone, telemetry.start);
    until := bucket_end(telemetry.bucket, telemetry.zone,
        bucket_start(telemetry.bucket, telemetry.zone, telemetry.stop - INTERVAL '1 microsecond'));
    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT t.* FROM telemetry_series t
        WHERE (telemetry.devices IS NULL OR t.device = ANY(telemetry.devices))
            AND (telemetry.metrics IS NULL OR t.metric = ANY(telemetry.metrics))
    ), parts AS (
        SELECT q.* FROM quarter_hours q
        WHERE quarters AND q.bucket >= since AND q.bucket < until AND q.series_id = ANY(ARRAY(SELECT series_id FROM wanted))
        UNION ALL
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM readings_1m r
        WHERE NOT quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(ARRAY(SELECT series_id FROM wanted))
    ), merged AS (
        SELECT p.series_id, bucket_start(telemetry.bucket, telemetry.zone, p.bucket) AS began,
            sum(p.n)::int AS n, sum(p.n_bad)::int AS n_bad, min(p.vmin) AS vmin, max(p.vmax) AS vmax,
            first(p.vfirst, p.first_at) AS vfirst, last(p.vlast, p.last_at) AS vlast, sum(p.s1) AS s1, sum(p.s2) AS s2
        FROM parts p GROUP BY 1, 2
    )
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
        telemetry_coverage(r.n + r.n_bad, bucket_end(telemetry.bucket, telemetry.zone, r.began) - r.began, t.expected_every)
    FROM merged r JOIN wanted t ON t.series_id = r.series_id
    ORDER BY r.began, t.device, t.metric;
END $$;
COMMENT ON FUNCTION telemetry IS 'telemetry_15m, in buckets of any length and by the clocks of any zone: docs/rollups.md.';
