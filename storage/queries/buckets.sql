-- Rollups in buckets of any length, packed (storage/db/packed.py), in no order. storage/rollups/buckets.py assembles the statements from the
-- columns that a query needs, since merging and packing a column takes as long as reading it.

-- name: minutes
-- Reads one-minute rollups of series as they are stored.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(bucket), ''), string_agg(int4send(n), ''),
    string_agg(int4send(n_bad), ''){packed}
FROM (
    SELECT * FROM readings_1m
    WHERE series_id = ANY(%(series)s::int[]) AND bucket >= %(start)s AND bucket < %(stop)s
    LIMIT %(limit)s
) AS page;

-- name: buckets
-- Merges quarter-hours or minutes into the buckets that begin in [start, stop) by the clocks of a zone. A bucket that began before
-- start is read in part, and left out. merged_buckets is the same for users of SQL.
WITH marked AS MATERIALIZED (
    -- Appending an empty array hides the column's statistics: from marks of thousands of series each, which were there when ANALYZE ran,
    -- the planner expects millions of marked quarter-hours, and joins everything the other way round (75 ms, not 42).
    SELECT DISTINCT u.series_id, m.bucket
    FROM marks_15m m CROSS JOIN LATERAL unnest(m.series || '{{}}'::int[]) AS u(series_id)
    WHERE %(quarters)s AND m.bucket >= %(start)s AND m.bucket < {until} AND u.series_id = ANY(%(series)s::int[])
), parts AS (
    -- Of the first two scans one runs, which is decided once: the first where nothing is marked, as in any range of the past.
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
    OFFSET 0  -- keeps the condition on a bucket's start from becoming a filter of rows, of which the planner expects next to none
), begun AS (
    SELECT m.*, {began} AS began FROM merged m
)
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(began), ''), string_agg(int4send(n), ''),
    string_agg(int4send(n_bad), ''){packed}
FROM (SELECT * FROM begun WHERE began >= %(start)s AND began < %(stop)s LIMIT %(limit)s) AS page;

-- name: place_utc
-- The bucket that a part belongs to, where clocks show UTC.
time_bucket(%(bucket)s::interval, p.bucket);

-- name: place_short
-- The bucket that a part belongs to, of up to an hour, told by its instant: where clocks are put forward within a bucket (the
-- Chatham Islands) it has two local times, and where they are put back two buckets have the same one.
p.bucket - (p.bucket AT TIME ZONE %(zone)s - time_bucket(%(bucket)s::interval, p.bucket AT TIME ZONE %(zone)s));

-- name: place_long
-- The bucket that a part belongs to, longer than an hour, told by local time alone.
time_bucket(%(bucket)s::interval, p.bucket AT TIME ZONE %(zone)s);

-- name: began_short
-- Start of a bucket of up to an hour.
m.place;

-- name: began_long
-- Start of a longer bucket: the instant at which clocks show it.
local_instant(m.place, %(zone)s);

-- name: until_short
-- The time from which on no requested bucket of up to an hour has rows. Where clocks shift by half an hour, a bucket can begin
-- within the one before.
%(stop)s::timestamptz + %(bucket)s::interval;

-- name: until_long
-- The same of longer buckets, which begin and end when clocks say so.
bucket_end(%(bucket)s::interval, %(zone)s, bucket_start(%(bucket)s::interval, %(zone)s, %(stop)s::timestamptz - INTERVAL '1 microsecond'));

-- name: end
-- End of a bucket that is longer than an hour.
bucket_end(%(bucket)s::interval, %(zone)s, began);

-- name: vmin
-- Merges minima; as every column of a rollup, without the readings.
min(p.vmin);

-- name: vmax
-- Merges maxima.
max(p.vmax);

-- name: vfirst
-- Takes the earliest of the first values.
first(p.vfirst, p.first_at);

-- name: vlast
-- Takes the latest of the last values.
last(p.vlast, p.last_at);

-- name: s1
-- Adds sums up.
sum(p.s1);

-- name: s2
-- Adds second sums up.
sum(p.s2);
