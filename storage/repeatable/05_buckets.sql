-- Buckets of any length by the clocks of any zone, and rollup rows merged into them.
--
-- Functions of timestamptz are STABLE: PostgreSQL inlines a function only if its text is no more volatile than declared, and timestamptz
-- minus interval is STABLE. Declared IMMUTABLE they were called row by row, at 50 us each.

CREATE OR REPLACE FUNCTION local_instant(wall timestamp, zone text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN ((wall AT TIME ZONE zone) - INTERVAL '1 hour') AT TIME ZONE zone = wall THEN (wall AT TIME ZONE zone) - INTERVAL '1 hour'
    ELSE wall AT TIME ZONE zone
END;
COMMENT ON FUNCTION local_instant IS
    'The instant at which clocks of the zone show this time; the first of two where clocks are put back.';

-- A bucket of up to an hour has that length by any clock, and the hour that clocks show twice is two buckets. A longer bucket begins and
-- ends when local clocks show it: a day has 23, 24 or 25 hours.
CREATE OR REPLACE FUNCTION bucket_start(bucket interval, zone text, at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN bucket <= INTERVAL '1 hour' THEN at - (at AT TIME ZONE zone - time_bucket(bucket, at AT TIME ZONE zone))
    ELSE local_instant(time_bucket(bucket, at AT TIME ZONE zone), zone)
END;
COMMENT ON FUNCTION bucket_start IS 'Start of the bucket that contains an instant, by the clocks of a zone.';

CREATE OR REPLACE FUNCTION bucket_end(bucket interval, zone text, start timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN bucket <= INTERVAL '1 hour' THEN start + bucket
    ELSE local_instant(time_bucket(bucket, start AT TIME ZONE zone) + bucket, zone)
END;
COMMENT ON FUNCTION bucket_end IS 'End of the bucket that begins at an instant, by the clocks of a zone.';

CREATE OR REPLACE FUNCTION zone_shift(zone text, since timestamptz, until timestamptz) RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN count(DISTINCT o.shift) = 1 THEN min(o.shift) END
    FROM (
        SELECT t.at AT TIME ZONE zone_shift.zone - t.at AT TIME ZONE 'UTC' AS shift
        FROM generate_series(zone_shift.since, zone_shift.until + INTERVAL '7 days', INTERVAL '7 days') AS t(at)
    ) o;
END;
COMMENT ON FUNCTION zone_shift IS
    'Offset of the zone from UTC if it is constant in a period; NULL: clocks are put forward or back within it. With a constant '
    'offset a bucket is found by an addition, which over millions of rows costs a third of a conversion.';

CREATE OR REPLACE FUNCTION merged_minutes(series int, start timestamptz, stop timestamptz)
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
COMMENT ON FUNCTION merged_minutes IS 'Minutes of a series in [start, stop) merged into one row; no row if there are no minutes.';

CREATE OR REPLACE VIEW quarter_hours AS
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
COMMENT ON VIEW quarter_hours IS 'All quarter-hours, up to date: one that is marked as out of date is computed from readings_1m.';

CREATE OR REPLACE FUNCTION merged_buckets(bucket interval, zone text, since timestamptz, until timestamptz, series int[], quarters bool)
RETURNS TABLE (series_id int, began timestamptz, n int, n_bad int, vmin float8, vmax float8, vfirst float8, vlast float8, s1 float8,
    s2 float8)
-- The best plan depends on the range, so each call is planned for its own. Few chunks are left in such a plan; excluding some of them
-- anew for every marked quarter-hour would take longer than looking into them.
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET timescaledb.enable_runtime_exclusion = off
AS $$
#variable_conflict use_column
DECLARE
    short CONSTANT bool := merged_buckets.bucket <= INTERVAL '1 hour';
BEGIN
    RETURN QUERY
    WITH marked AS MATERIALIZED (
        SELECT DISTINCT u.series_id, m.bucket
        FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
        WHERE quarters AND m.bucket >= since AND m.bucket < until AND u.series_id = ANY(merged_buckets.series)
    ), parts AS (
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM readings_15m r
        WHERE quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(merged_buckets.series)
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
        WHERE NOT quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(merged_buckets.series)
    ), placed AS (
        SELECT p.*, p.bucket AT TIME ZONE merged_buckets.zone AS wall FROM parts p OFFSET 0  -- one conversion a row
    ), merged AS (
        -- As in bucket_start. A short bucket is told by its instant: where clocks are put forward within one (the Chatham Islands) it has
        -- two local times, and where they are put back two buckets have the same one. A long bucket is told by local time alone.
        SELECT p.series_id,
            CASE WHEN short THEN p.bucket - (p.wall - time_bucket(merged_buckets.bucket, p.wall))
                ELSE time_bucket(merged_buckets.bucket, p.wall) AT TIME ZONE 'UTC'
            END AS place,
            sum(p.n)::int AS n, sum(p.n_bad)::int AS n_bad, min(p.vmin) AS vmin, max(p.vmax) AS vmax,
            first(p.vfirst, p.first_at) AS vfirst, last(p.vlast, p.last_at) AS vlast, sum(p.s1) AS s1, sum(p.s2) AS s2
        FROM placed p GROUP BY 1, 2
    )
    SELECT m.series_id,
        CASE WHEN short THEN m.place ELSE local_instant(m.place AT TIME ZONE 'UTC', merged_buckets.zone) END,
        m.n, m.n_bad, m.vmin, m.vmax, m.vfirst, m.vlast, m.s1, m.s2
    FROM merged m;
END $$;
COMMENT ON FUNCTION merged_buckets IS
    'Rollup rows in buckets of any length by the clocks of any zone, merged from the quarter-hours or minutes that begin in '
    '[since, until). A bucket that begins before since is merged in part.';
