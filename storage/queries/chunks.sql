-- Chunks that are made ahead of the readings that will go into them.

-- name: lock
-- Lets one process at a time make chunks; held to the end of the transaction.
SELECT pg_advisory_xact_lock(%(key)s);

-- name: promised
-- Counts readings, and minutes that have any, that registered sensors are expected to bring a day; a sensor without an interval
-- counts as one a minute.
SELECT coalesce(sum(86400 / every), 0)::float8, coalesce(sum(86400 / greatest(every, 60)), 0)::float8
FROM (
    SELECT coalesce(extract(epoch FROM expected_interval(s.interval_s, m.definition)), 60) AS every
    FROM series s JOIN metrics m ON m.name = s.metric
) AS expected;

-- name: sample
-- Samples the series that reported in the window before the newest reading; with the end of the window and the number of all such
-- series.
WITH edge AS (SELECT least(max(time), now()) AS at FROM latest),
active AS (
    SELECT l.series_id, e.at, row_number() OVER (ORDER BY l.series_id) AS place, count(*) OVER () AS n
    FROM latest l CROSS JOIN edge e WHERE l.time > e.at - %(window)s::interval
)
SELECT max(at), max(n), array_agg(series_id) FROM active WHERE place %% (n / %(size)s + 1) = 0;

-- name: spoken
-- Counts the readings of each sampled series in the window, with the age of the first one.
SELECT count(*), extract(epoch FROM %(at)s::timestamptz - min(time))::float8 FROM readings
WHERE series_id = ANY(%(series)s::int[]) AND time > %(at)s::timestamptz - %(window)s::interval AND time <= %(at)s
GROUP BY series_id;

-- name: wanting
-- Finds the intervals of a range that no chunk reaches into.
SELECT s.start FROM generate_series(
    time_bucket(%(length)s::interval, %(start)s::timestamptz, timestamptz 'epoch'), %(stop)s, %(length)s::interval
) AS s(start)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.chunks c
    WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = %(table)s
        AND c.range_start < s.start + %(length)s::interval AND c.range_end > s.start
)
ORDER BY s.start;

-- name: interval
-- Reads the length of new chunks of a table.
SELECT time_interval FROM timescaledb_information.dimensions
WHERE hypertable_schema = current_schema() AND hypertable_name = %(table)s;

-- name: set_interval
-- Sets the length of new chunks of a table; existing chunks stay.
SELECT set_chunk_time_interval(%(table)s, %(length)s::interval);

-- name: touch_readings
-- Makes a chunk, by a row of no series.
INSERT INTO readings (time, received_at, value, series_id, flags) VALUES (%(at)s, %(at)s, 0, 0, 0);

-- name: leave_readings
-- Deletes that row again; the chunk stays.
DELETE FROM readings WHERE series_id = 0 AND time = %(at)s;

-- name: touch_readings_1m
-- Makes a chunk, by a row of no series.
INSERT INTO readings_1m (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2)
VALUES (0, %(at)s, 0, 0, 'infinity', '-infinity', 'infinity', 0, '-infinity', 0, 0, 0);

-- name: leave_readings_1m
-- Deletes that row again; the chunk stays.
DELETE FROM readings_1m WHERE series_id = 0 AND bucket = %(at)s;
