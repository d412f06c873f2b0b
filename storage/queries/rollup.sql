-- Rollups: minutes recomputed from readings, and quarter-hours from minutes. Marks tell which quarter-hours are out of date.

-- name: temporary_tables
-- Makes the tables where recomputed minutes land before they replace others, once a connection; every commit empties them.
CREATE TEMPORARY TABLE IF NOT EXISTS touched_1m (series_id int NOT NULL, bucket timestamptz NOT NULL) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS recomputed_1m (LIKE readings_1m) ON COMMIT DELETE ROWS;

-- name: no_exclusion
-- Turns runtime exclusion of chunks off for this transaction: a look-up by key that excludes chunks one by one, for every key anew,
-- spends ten times as long on that (6 ms, not 0.6, with 360 chunks) as on looking into them. The planner still excludes chunks.
SELECT set_config('timescaledb.enable_runtime_exclusion', 'off', true);

-- name: counters_state
-- Reads the newest good reading of these series, packed.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(good_at), ''), string_agg(float8send(good_value), '')
FROM latest WHERE series_id = ANY(%(series)s::int[]) AND good_at > '-infinity';

-- name: mark
-- Marks the quarter-hours whose minutes this transaction added to; the series of each are a slice of one array of all.
INSERT INTO marks_15m (bucket, series)
SELECT timestamptz 'epoch' + us * interval '1 microsecond', (%(series)s::int[])[a + 1 : b]
FROM unnest(%(quarters)s::int8[], %(starts)s::int8[], %(stops)s::int8[]) AS q(us, a, b);

-- name: next_good
-- Finds the first good reading of each series after a time, if it lies in a range, packed; with the place of that time, counted
-- from 0.
SELECT string_agg(int8send(k.ord - 1), ''), string_agg(timestamptz_send(next.time), '')
FROM (
    SELECT series_id, timestamptz 'epoch' + us * interval '1 microsecond' AS after, ord
    FROM unnest(%(series)s::int[], %(after)s::int8[]) WITH ORDINALITY AS u(series_id, us, ord)
) k
CROSS JOIN LATERAL (
    SELECT time FROM readings
    WHERE series_id = k.series_id AND time > k.after AND time > %(oldest)s AND time <= %(newest)s
        AND ((flags & %(bad)s) = 0 OR (flags & %(good)s) <> 0)
    ORDER BY time LIMIT 1
) next;

-- name: copy_touched
-- Loads the minutes that have to be recomputed.
COPY touched_1m (series_id, bucket) FROM STDIN (FORMAT BINARY);

-- name: touched_series
-- Reads the first and last touched minute of each series on each day, packed. A day's bounds become constants in the statements
-- that follow, by which the planner excludes chunks.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(first), ''), string_agg(timestamptz_send(last), '')
FROM (SELECT series_id, min(bucket) AS first, max(bucket) AS last FROM touched_1m GROUP BY series_id, time_bucket('1 day', bucket)) t;

-- name: read_touched
-- Reads the readings of touched minutes in a range, and for each minute of these counters the last good one before, unless it is
-- older than `floor`; packed.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''),
    string_agg(int2send(flags), '')
FROM (
    SELECT r.series_id, r.time, r.value, r.flags
    FROM (SELECT DISTINCT series_id, bucket FROM touched_1m WHERE bucket >= %(oldest)s AND bucket < %(newest)s) t
    CROSS JOIN LATERAL (
        SELECT series_id, time, value, flags FROM readings
        WHERE series_id = t.series_id AND time >= t.bucket AND time < t.bucket + INTERVAL '1 minute'
            AND time >= %(oldest)s AND time < %(newest)s
        OFFSET 0  -- keeps the planner from joining with a scan of all readings
    ) r
    UNION
    SELECT p.series_id, p.time, p.value, p.flags
    FROM (
        SELECT DISTINCT series_id, bucket FROM touched_1m
        WHERE series_id = ANY(%(counters)s::int[]) AND bucket >= %(oldest)s AND bucket < %(newest)s
    ) t
    CROSS JOIN LATERAL (
        SELECT series_id, time, value, flags FROM readings
        WHERE series_id = t.series_id AND time < t.bucket AND time >= %(floor)s AND time < %(newest)s
            AND ((flags & %(bad)s) = 0 OR (flags & %(good)s) <> 0)
        ORDER BY time DESC LIMIT 1
    ) p
    ORDER BY series_id, time
) ordered;

-- name: read_before
-- Reads the last good reading of each of these counters in a range, packed; where retention dropped it, the one that was carried
-- over.
SELECT string_agg(int4send(p.series_id), ''), string_agg(timestamptz_send(p.time), ''), string_agg(float8send(p.value), ''),
    string_agg(int2send(p.flags), '')
FROM unnest(%(series)s::int[]) AS t(series_id)
CROSS JOIN LATERAL (
    (SELECT series_id, time, value, flags FROM readings
    WHERE series_id = t.series_id AND time >= %(floor)s AND time < %(before)s
        AND ((flags & %(bad)s) = 0 OR (flags & %(good)s) <> 0)
    ORDER BY time DESC LIMIT 1)
    UNION ALL
    SELECT series_id, time, value, 0::int2 FROM carried_counters WHERE series_id = t.series_id AND time >= %(floor)s
    ORDER BY time DESC LIMIT 1
) p;

-- name: copy_recomputed
-- Loads recomputed minutes, and those before them that were read for a counter's sake.
COPY recomputed_1m (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2) FROM STDIN (FORMAT BINARY);

-- name: replace_1m
-- Replaces touched minutes by recomputed ones, where they differ.
INSERT INTO readings_1m AS r (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2)
SELECT series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2
FROM recomputed_1m c
WHERE EXISTS (SELECT FROM touched_1m t WHERE t.series_id = c.series_id AND t.bucket = c.bucket)
ORDER BY series_id, bucket
ON CONFLICT (series_id, bucket) DO UPDATE SET
    n = EXCLUDED.n, n_bad = EXCLUDED.n_bad, vmin = EXCLUDED.vmin, vmax = EXCLUDED.vmax, first_at = EXCLUDED.first_at,
    vfirst = EXCLUDED.vfirst, last_at = EXCLUDED.last_at, vlast = EXCLUDED.vlast, s1 = EXCLUDED.s1, s2 = EXCLUDED.s2
WHERE (r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2) IS DISTINCT FROM
    (EXCLUDED.n, EXCLUDED.n_bad, EXCLUDED.vmin, EXCLUDED.vmax, EXCLUDED.first_at, EXCLUDED.vfirst, EXCLUDED.last_at, EXCLUDED.vlast,
     EXCLUDED.s1, EXCLUDED.s2);

-- name: unfounded
-- Finds touched minutes that have no reading.
SELECT series_id, bucket FROM touched_1m EXCEPT SELECT series_id, bucket FROM recomputed_1m;

-- name: delete_minute
-- Deletes a minute that has no reading.
DELETE FROM readings_1m WHERE series_id = %(series)s AND bucket = %(bucket)s;

-- name: mark_touched
-- Marks the quarter-hours whose minutes were recomputed.
INSERT INTO marks_15m (bucket, series)
SELECT time_bucket(INTERVAL '15 minutes', bucket) AS quarter, array_agg(DISTINCT series_id) FROM touched_1m
GROUP BY quarter ORDER BY quarter;

-- name: forget_touched
-- Makes room for the next recomputation in the same transaction.
WITH gone AS (DELETE FROM touched_1m) DELETE FROM recomputed_1m;

-- name: series_by_source
-- Groups the series to rebuild by source.
SELECT d.source_id, array_agg(s.id ORDER BY s.id) FROM series s JOIN devices d ON d.id = s.device_id
WHERE %(devices)s::text[] IS NULL OR d.id = ANY(%(devices)s)
GROUP BY d.source_id ORDER BY d.source_id;

-- name: kinds
-- Reads the kind of every series.
SELECT s.id, m.kind FROM series s JOIN metrics m ON m.name = s.metric;

-- name: rows_within
-- Counts readings of these series in a range, up to a limit.
SELECT count(*) FROM (
    SELECT FROM readings WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s AND time < %(stop)s LIMIT %(limit)s
) AS counted;

-- name: touch_range
-- Touches every minute of these series in a range that has a reading, or a rollup of its own or as part of a quarter-hour.
INSERT INTO touched_1m (series_id, bucket)
SELECT series_id, time_bucket(INTERVAL '1 minute', time) FROM readings
WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s AND time < %(stop)s
UNION
SELECT series_id, bucket FROM readings_1m
WHERE series_id = ANY(%(series)s::int[]) AND bucket >= %(start)s AND bucket < %(stop)s
UNION
SELECT series_id, greatest(bucket, %(start)s) FROM readings_15m
WHERE series_id = ANY(%(series)s::int[]) AND bucket > %(start)s::timestamptz - INTERVAL '15 minutes' AND bucket < %(stop)s;

-- name: counters_after
-- Finds those of these counters that have readings at a time or later, and the time of the last one.
SELECT array_agg(s.id), max(l.time)
FROM series s JOIN metrics m ON m.name = s.metric AND m.kind = 'counter' JOIN latest l ON l.series_id = s.id
WHERE s.id = ANY(%(series)s::int[]) AND l.time >= %(stop)s;

-- name: touch_after
-- Touches a counter's first minute after the range, whose increase depends on the last one in it.
INSERT INTO touched_1m (series_id, bucket)
SELECT s.series_id, time_bucket(INTERVAL '1 minute', next.time)
FROM unnest(%(series)s::int[]) AS s(series_id)
CROSS JOIN LATERAL (
    SELECT time FROM readings
    WHERE series_id = s.series_id AND time >= %(stop)s AND time <= %(newest)s
        AND ((flags & %(bad)s) = 0 OR (flags & %(good)s) <> 0)
    ORDER BY time LIMIT 1
) next;

-- name: lock_worker
-- Lets one worker at a time recompute quarter-hours; false: another one does.
SELECT pg_try_advisory_xact_lock(%(key)s);

-- name: take_marks
-- Takes all marks of the quarter-hours that are due, in the order in which they were first marked: as many as have no more than
-- `limit` series together, and at least one. Ages are measured by the clock when the statement runs, not from the start of the
-- transaction.
WITH due AS MATERIALIZED (
    SELECT bucket, min(id) AS first FROM marks_15m GROUP BY bucket
    HAVING max(at) <= clock_timestamp() - %(quiet)s::interval OR min(at) <= clock_timestamp() - %(patience)s::interval
    ORDER BY first LIMIT %(limit)s
), sized AS MATERIALIZED (
    SELECT d.first, m.bucket, array_agg(m.id) AS ids, sum(cardinality(m.series)) AS size
    FROM due d JOIN marks_15m m USING (bucket) GROUP BY d.first, m.bucket
), counted AS (
    SELECT ids, bucket, size, sum(size) OVER (ORDER BY first) - size AS before, row_number() OVER (ORDER BY first) AS place FROM sized
)
SELECT array_agg(id), (
    SELECT sum(size)::int8 FROM counted WHERE place = 1 OR before + size <= %(limit)s
)
FROM counted CROSS JOIN LATERAL unnest(ids) AS u(id)
WHERE place = 1 OR before + size <= %(limit)s;

-- name: slices
-- Finds the chunks of minutes in which marked quarter-hours begin, each up to the end of a quarter-hour; 30 days where there is no
-- chunk. The bounds become constants in the statements that follow, by which the planner excludes all other chunks.
SELECT DISTINCT coalesce(c.range_start, time_bucket(INTERVAL '30 days', m.bucket)),
    coalesce(time_bucket(INTERVAL '15 minutes', c.range_end + INTERVAL '15 minutes' - INTERVAL '1 microsecond'),
        time_bucket(INTERVAL '30 days', m.bucket) + INTERVAL '30 days')
FROM (SELECT DISTINCT bucket FROM marks_15m WHERE id = ANY(%(ids)s::int8[])) m
LEFT JOIN timescaledb_information.chunks c ON c.hypertable_schema = current_schema() AND c.hypertable_name = 'readings_1m'
    AND m.bucket >= c.range_start AND m.bucket < c.range_end
ORDER BY 1;

-- name: advance_15m
-- Computes marked quarter-hours of a slice from their minutes, and writes those that differ. Returns those that have no minute any
-- more.
WITH merged AS MATERIALIZED (
    SELECT k.series_id, k.bucket, q.n, q.n_bad, q.vmin, q.vmax, q.first_at, q.vfirst, q.last_at, q.vlast, q.s1, q.s2
    FROM (
        SELECT DISTINCT u.series_id, m.bucket FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
        WHERE m.id = ANY(%(ids)s::int8[]) AND m.bucket >= %(start)s AND m.bucket < %(stop)s
    ) k
    CROSS JOIN LATERAL (  -- as merged_minutes, but with constants for bounds, by which the planner excludes chunks
        SELECT sum(r.n)::int AS n, sum(r.n_bad)::int AS n_bad, min(r.vmin) AS vmin, max(r.vmax) AS vmax,
            min(r.first_at) AS first_at, first(r.vfirst, r.first_at) AS vfirst,
            max(r.last_at) AS last_at, last(r.vlast, r.last_at) AS vlast, sum(r.s1) AS s1, sum(r.s2) AS s2
        FROM readings_1m r
        WHERE r.series_id = k.series_id AND r.bucket >= k.bucket AND r.bucket < k.bucket + INTERVAL '15 minutes'
            AND r.bucket >= %(start)s AND r.bucket < %(stop)s
    ) q
), made AS (
    INSERT INTO readings_15m AS r (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2)
    SELECT series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2
    FROM merged WHERE n IS NOT NULL ORDER BY series_id, bucket
    ON CONFLICT (series_id, bucket) DO UPDATE SET
        n = EXCLUDED.n, n_bad = EXCLUDED.n_bad, vmin = EXCLUDED.vmin, vmax = EXCLUDED.vmax, first_at = EXCLUDED.first_at,
        vfirst = EXCLUDED.vfirst, last_at = EXCLUDED.last_at, vlast = EXCLUDED.vlast, s1 = EXCLUDED.s1, s2 = EXCLUDED.s2
    WHERE (r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2) IS DISTINCT FROM
        (EXCLUDED.n, EXCLUDED.n_bad, EXCLUDED.vmin, EXCLUDED.vmax, EXCLUDED.first_at, EXCLUDED.vfirst, EXCLUDED.last_at,
         EXCLUDED.vlast, EXCLUDED.s1, EXCLUDED.s2)
)
SELECT series_id, bucket FROM merged WHERE n IS NULL;

-- name: delete_quarter
-- Deletes a quarter-hour that has no minute.
DELETE FROM readings_15m WHERE series_id = %(series)s AND bucket = %(bucket)s;

-- name: delete_marks
-- Deletes exactly the marks that were taken.
DELETE FROM marks_15m WHERE id = ANY(%(ids)s::int8[]);
