-- The same answers as before, with plans that do not grow with what is marked, or with the number of chunks.

-- PostgreSQL puts a function's text in place of its call only if the text is no more volatile than it says; timestamptz minus interval
-- is STABLE. As IMMUTABLE these were called row by row, at 50 us each.
ALTER FUNCTION local_instant STABLE;
ALTER FUNCTION bucket_start STABLE;
ALTER FUNCTION bucket_end STABLE;

-- Labels are joined within each half, so that a device or metric that is asked for leaves out marked quarter-hours of all others before
-- they are taken from the minutes.
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

CREATE OR REPLACE FUNCTION telemetry(bucket interval, zone text, start timestamptz, stop timestamptz,
    devices text[] DEFAULT NULL, metrics text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, metric text, unit text, domain text, district text, mean float8, sum float8,
    min float8, max float8, first float8, last float8, count int, bad_count int, stddev float8, increase float8, coverage float8)
-- The best plan hangs on the range, and there is one plan a call. With the range in the plan, few chunks are left; leaving out some of
-- those for every marked quarter-hour anew would take longer than looking into them.
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET timescaledb.enable_runtime_exclusion = off
AS $$
#variable_conflict use_column
DECLARE
    -- A month counts 30 days here and a year 365.25: multiples of a quarter-hour, as every one of them is.
    seconds CONSTANT float8 := extract(epoch FROM telemetry.bucket);
    quarters CONSTANT bool := seconds / 900 = floor(seconds / 900);
    short CONSTANT bool := telemetry.bucket <= INTERVAL '1 hour';
    since timestamptz;
    until timestamptz;
    ids int[];
BEGIN
    IF telemetry.bucket <= INTERVAL '0' OR seconds / 60 <> floor(seconds / 60) THEN
        RAISE EXCEPTION 'a bucket of % is no multiple of a minute', telemetry.bucket USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whole buckets, whatever the range: a value never hangs on where the range begins or ends.
    since := bucket_start(telemetry.bucket, telemetry.zone, telemetry.start);
    until := bucket_end(telemetry.bucket, telemetry.zone,
        bucket_start(telemetry.bucket, telemetry.zone, telemetry.stop - INTERVAL '1 microsecond'));
    ids := ARRAY(
        SELECT t.series_id FROM telemetry_series t
        WHERE (telemetry.devices IS NULL OR t.device = ANY(telemetry.devices))
            AND (telemetry.metrics IS NULL OR t.metric = ANY(telemetry.metrics))
    );
    RETURN QUERY
    WITH marked AS MATERIALIZED (
        SELECT DISTINCT u.series_id, m.bucket
        FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
        WHERE quarters AND m.bucket >= since AND m.bucket < until AND u.series_id = ANY(ids)
    ), parts AS (
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM readings_15m r
        WHERE quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(ids)
            AND NOT EXISTS (SELECT FROM marked k WHERE k.series_id = r.series_id AND k.bucket = r.bucket)
        UNION ALL
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM marked k CROSS JOIN LATERAL (
            SELECT r.* FROM readings_1m r
            WHERE r.series_id = k.series_id AND r.bucket >= k.bucket AND r.bucket < k.bucket + INTERVAL '15 minutes'
                AND r.bucket >= since AND r.bucket < until
            OFFSET 0  -- keeps the planner from joining with a scan of all minutes
        ) r
        UNION ALL
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM readings_1m r
        WHERE NOT quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(ids)
    ), placed AS (
        SELECT p.*, p.bucket AT TIME ZONE telemetry.zone AS wall FROM parts p OFFSET 0  -- one conversion a row
    ), merged AS (
        -- As bucket_start has it: a short bucket is told apart by the zone's offset too, a long one by what clocks show alone.
        SELECT p.series_id, time_bucket(telemetry.bucket, p.wall) AS wall,
            CASE WHEN short THEN p.bucket - p.wall AT TIME ZONE 'UTC' END AS shift,
            sum(p.n)::int AS n, sum(p.n_bad)::int AS n_bad, min(p.vmin) AS vmin, max(p.vmax) AS vmax,
            first(p.vfirst, p.first_at) AS vfirst, last(p.vlast, p.last_at) AS vlast, sum(p.s1) AS s1, sum(p.s2) AS s2
        FROM placed p GROUP BY 1, 2, 3
    ), begun AS (
        SELECT m.*, CASE WHEN short THEN m.wall AT TIME ZONE 'UTC' + m.shift ELSE local_instant(m.wall, telemetry.zone) END AS began
        FROM merged m
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
        telemetry_coverage(r.n + r.n_bad,
            CASE WHEN short THEN telemetry.bucket ELSE bucket_end(telemetry.bucket, telemetry.zone, r.began) - r.began END,
            t.expected_every)
    FROM begun r JOIN telemetry_series t ON t.series_id = r.series_id
    ORDER BY r.began, t.device, t.metric;
END $$;
