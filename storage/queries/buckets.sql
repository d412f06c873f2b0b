-- Rollups in buckets of any length, packed (storage/db/packed.py), in no order: statements that storage/rollups/buckets.py puts together from the
-- columns that a question needs, since merging and packing a column takes as long as reading it.

-- name: minutes
-- One-minute rollups of series, as they are.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(bucket), ''), string_agg(int4send(n), ''),
    string_agg(int4send(n_bad), ''){packed}
FROM (
    SELECT * FROM readings_1m
    WHERE series_id = ANY(%(series)s::int[]) AND bucket >= %(start)s AND bucket < %(stop)s
    LIMIT %(limit)s
) AS page;

-- name: buckets
-- Buckets that begin in [start, stop) by the clocks of a zone, from quarter-hours or minutes. What a bucket that began before start
-- holds is read in part, and left out. It says what merged_buckets of migration 0011 says to whoever speaks SQL.
WITH marked AS MATERIALIZED (
    -- Appending nothing hides the column's statistics: with thousands of series a mark, of the marks that there were when they were
    -- taken, the planner expects millions of marked quarter-hours, and joins everything the other way round (75 ms, not 42).
    SELECT DISTINCT u.series_id, m.bucket
    FROM marks_15m m CROSS JOIN LATERAL unnest(m.series || '{{}}'::int[]) AS u(series_id)
    WHERE %(quarters)s AND m.bucket >= %(start)s AND m.bucket < {until} AND u.series_id = ANY(%(series)s::int[])
), parts AS (
    -- Where nothing is marked, as in any range of the past, the first of two scans is the one that runs; which is found out once.
    SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
    FROM readings_15m r
    WHERE %(quarters)s AND r.series_id = ANY(%(series)s::int[]) AND r.bucket >= %(start)s AND r.bucket < {until}
        AND NOT EXISTS (SELECT FROM marked)
    UNION ALL
    SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
    FROM readings_15m r
    WHERE %(quarters)s AND r.series_id = ANY(%(series)s::int[]) AND r.bucket >= %(start)s AND r.bucket < {until}
        AND EXISTS (SELECT FROM marked)
        AND NOT EXISTS (SELECT FROM marked k WHERE k.series_id = r.series_id AND k.bucket = r.bucket)
    UNION ALL
    SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
    FROM marked k CROSS JOIN LATERAL (
        SELECT r.* FROM readings_1m r
        WHERE r.series_id = k.series_id AND r.bucket >= k.bucket AND r.bucket < k.bucket + INTERVAL '15 minutes'
            AND r.bucket >= %(start)s AND r.bucket < {until}
        OFFSET 0  -- keeps the planner from joining with a scan of all minutes
    ) r
    UNION ALL
    SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
    FROM readings_1m r
    WHERE NOT %(quarters)s AND r.series_id = ANY(%(series)s::int[]) AND r.bucket >= %(start)s AND r.bucket < {until}
), merged AS (
    SELECT p.series_id, {place} AS place, sum(p.n)::int AS n, sum(p.n_bad)::int AS n_bad{merged}
    FROM parts p GROUP BY 1, 2
    OFFSET 0  -- keeps what is asked of a bucket's start from becoming a filter of rows, which the planner expects to leave next to none
), begun AS (
    SELECT m.*, {began} AS began FROM merged m
)
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(began), ''), string_agg(int4send(n), ''),
    string_agg(int4send(n_bad), ''){packed}
FROM (SELECT * FROM begun WHERE began >= %(start)s AND began < %(stop)s LIMIT %(limit)s) AS page;

-- name: place_utc
-- Which bucket a part belongs to, where clocks are UTC's.
time_bucket(%(bucket)s::interval, p.bucket);

-- name: place_short
-- Up to an hour, by its instant: where clocks are put forward within a bucket (the Chatham Islands) it shows two walls, and where they
-- are put back one wall is two buckets.
p.bucket - (p.bucket AT TIME ZONE %(zone)s - time_bucket(%(bucket)s::interval, p.bucket AT TIME ZONE %(zone)s));

-- name: place_long
-- A longer one, by what clocks show alone.
time_bucket(%(bucket)s::interval, p.bucket AT TIME ZONE %(zone)s);

-- name: began_short
-- When a bucket begins.
m.place;

-- name: began_long
-- When clocks show its start.
local_instant(m.place, %(zone)s);

-- name: until_short
-- No bucket that is asked for holds anything from then on: where clocks shift by half an hour, a bucket's start can lie within the one
-- before.
%(stop)s::timestamptz + %(bucket)s::interval;

-- name: until_long
-- The same, of buckets that begin and end when clocks say so.
bucket_end(%(bucket)s::interval, %(zone)s, bucket_start(%(bucket)s::interval, %(zone)s, %(stop)s::timestamptz - INTERVAL '1 microsecond'));

-- name: end
-- When a bucket ends that is longer than an hour.
bucket_end(%(bucket)s::interval, %(zone)s, began);

-- name: vmin
-- Merged, as every column of a rollup is.
min(p.vmin);

-- name: vmax
-- The same.
max(p.vmax);

-- name: vfirst
-- The same.
first(p.vfirst, p.first_at);

-- name: vlast
-- The same.
last(p.vlast, p.last_at);

-- name: s1
-- The same.
sum(p.s1);

-- name: s2
-- The same.
sum(p.s2);
