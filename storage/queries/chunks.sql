-- How long a chunk is.

-- name: lock
-- One at a time: two who change the same row at once fail.
SELECT pg_advisory_xact_lock(%(key)s);

-- name: promised
-- Readings, and minutes that have some, that registered sensors are expected to bring a day; where nothing is said, one a minute.
SELECT coalesce(sum(86400 / every), 0)::float8, coalesce(sum(86400 / greatest(every, 60)), 0)::float8
FROM (
    SELECT coalesce(extract(epoch FROM expected_interval(s.interval_s, m.definition)), 60) AS every
    FROM series s JOIN metrics m ON m.name = s.metric
) AS expected;

-- name: sample
-- Series that have said something in the window before the newest reading, how many they are, and when the window ends.
WITH edge AS (SELECT least(max(time), now()) AS at FROM latest),
active AS (
    SELECT l.series_id, e.at, row_number() OVER (ORDER BY l.series_id) AS place, count(*) OVER () AS n
    FROM latest l CROSS JOIN edge e WHERE l.time > e.at - %(window)s::interval
)
SELECT max(at), max(n), array_agg(series_id) FROM active WHERE place %% (n / %(size)s + 1) = 0;

-- name: spoken
-- How many readings each of them has in the window, and how long ago its first one was.
SELECT count(*), extract(epoch FROM %(at)s::timestamptz - min(time))::float8 FROM readings
WHERE series_id = ANY(%(series)s::int[]) AND time > %(at)s::timestamptz - %(window)s::interval AND time <= %(at)s
GROUP BY series_id;

-- name: intervals
-- As they are now.
SELECT hypertable_name, extract(epoch FROM time_interval)::float8 FROM timescaledb_information.dimensions
WHERE hypertable_schema = current_schema();

-- name: set_interval
-- For chunks yet to be made.
SELECT set_chunk_time_interval(%(table)s, make_interval(secs => %(seconds)s));
