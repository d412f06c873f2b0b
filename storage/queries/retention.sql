-- Retention: how far back there is what, chunks that go, and chunks that are compressed.

-- name: lock_retention
-- One at a time, to the end of the session or `unlock_retention`; false: another one is at it.
SELECT pg_try_advisory_lock(%(key)s);

-- name: unlock_retention
-- The next one may.
SELECT pg_advisory_unlock(%(key)s);

-- name: move_horizon
-- To the beginning of the day, UTC, that is so long ago: whole quarter-hours on either side. Never back.
UPDATE horizons SET since = date_trunc('day', now() - %(keep)s::interval, 'UTC')
WHERE level = %(level)s AND since < date_trunc('day', now() - %(keep)s::interval, 'UTC');

-- name: horizons
-- How far back there is what.
SELECT level, nullif(since, '-infinity') FROM horizons;

-- name: sources
-- Whose locks are taken once.
SELECT id FROM sources ORDER BY id;

-- name: behind
-- Chunks that lie wholly before their horizon, oldest first.
SELECT c.range_start, c.range_end
FROM timescaledb_information.chunks c JOIN horizons h ON h.level = %(level)s
WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = %(table)s AND c.range_end <= h.since
ORDER BY c.range_start;

-- name: patience
-- To the end of the transaction: dropping a chunk waits for readers of its table, and everybody else waits behind it.
SELECT set_config('lock_timeout', %(timeout)s, true);

-- name: lock_worker
-- Nobody brings quarter-hours up to date meanwhile; false: somebody does.
SELECT pg_try_advisory_xact_lock(%(key)s);

-- name: marked_before
-- Whether a quarter-hour before that is still to be taken from its minutes.
SELECT EXISTS (SELECT FROM marks_15m WHERE bucket < %(stop)s);

-- name: carry_counters
-- The last good reading of each counter in a chunk that goes.
INSERT INTO carried_counters AS c (series_id, time, value)
SELECT DISTINCT ON (r.series_id) r.series_id, r.time, r.value
FROM readings r JOIN series s ON s.id = r.series_id JOIN metrics m ON m.name = s.metric AND m.kind = 'counter'
WHERE r.time >= %(start)s AND r.time < %(stop)s AND ((r.flags & %(bad)s) = 0 OR (r.flags & %(good)s) <> 0)
ORDER BY r.series_id, r.time DESC
ON CONFLICT (series_id) DO UPDATE SET time = EXCLUDED.time, value = EXCLUDED.value WHERE EXCLUDED.time > c.time;

-- name: count_readings
-- Rows of a chunk.
SELECT count(*) FROM readings WHERE time >= %(start)s AND time < %(stop)s;

-- name: count_1m
-- Rows of a chunk.
SELECT count(*) FROM readings_1m WHERE bucket >= %(start)s AND bucket < %(stop)s;

-- name: count_15m
-- Rows of a chunk.
SELECT count(*) FROM readings_15m WHERE bucket >= %(start)s AND bucket < %(stop)s;

-- name: drop_chunk
-- The one chunk with these bounds.
SELECT drop_chunks(%(table)s::regclass, older_than => %(stop)s::timestamptz, newer_than => %(start)s::timestamptz);

-- name: note_dropped
-- What went.
INSERT INTO dropped_chunks (level, range_start, range_end, rows) VALUES (%(level)s, %(start)s, %(stop)s, %(rows)s);

-- name: summary
-- What there is of each level, and what was dropped.
SELECT h.level, nullif(h.since, '-infinity'),
    (SELECT count(*) FROM timescaledb_information.chunks c
     WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = t.name),
    (SELECT count(*) FROM dropped_chunks d WHERE d.level = h.level),
    (SELECT coalesce(sum(d.rows), 0)::int8 FROM dropped_chunks d WHERE d.level = h.level)
FROM horizons h JOIN (VALUES ('raw', 'readings', 1), ('1m', 'readings_1m', 2), ('15m', 'readings_15m', 3)) AS t(level, name, place)
    ON t.level = h.level
ORDER BY t.place;

-- name: expire_quarantine
-- The oldest rows beyond their age. What was still open found no room, as the ledger has it: it is counted, and kept no longer.
WITH old AS MATERIALIZED (
    SELECT id FROM quarantine WHERE received_at < now() - %(keep)s::interval ORDER BY id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED  -- a replay under way decides about its rows first
), gone AS (
    DELETE FROM quarantine WHERE id IN (SELECT id FROM old)
    RETURNING source_id, date_trunc('minute', received_at, 'UTC') AS minute, readings, length(payload) AS size, resolved_at IS NULL AS open
), counted AS (
    UPDATE ledger l SET overflow = l.overflow + g.readings
    FROM (SELECT source_id, minute, sum(readings) AS readings FROM gone WHERE open GROUP BY source_id, minute) g
    WHERE l.source_id = g.source_id AND l.minute = g.minute
), totalled AS (
    -- In the order in which batches write them, so that nobody waits in a circle.
    INSERT INTO ledger_totals AS t (source_id, overflow)
    SELECT source_id, sum(readings) FROM gone WHERE open GROUP BY source_id ORDER BY source_id
    ON CONFLICT (source_id) DO UPDATE SET overflow = t.overflow + EXCLUDED.overflow
), freed AS (
    UPDATE source_state s SET quarantine_bytes = greatest(0, s.quarantine_bytes - g.size)
    FROM (SELECT source_id, sum(size) AS size FROM gone WHERE open GROUP BY source_id) g
    WHERE s.source_id = g.source_id
)
SELECT count(*) FROM gone;

-- name: edition
-- Which of TimescaleDB's editions the server runs.
SELECT current_setting('timescaledb.license');

-- name: columnstore_on
-- Whether chunks of a table can be compressed already.
SELECT compression_enabled FROM timescaledb_information.hypertables
WHERE hypertable_schema = current_schema() AND hypertable_name = %(table)s;

-- name: columnstore_readings
-- Segments by series, in order of time: how they are read.
ALTER TABLE readings SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'time');

-- name: columnstore_1m
-- Segments by series, in order of time: how they are read.
ALTER TABLE readings_1m SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'bucket');

-- name: compressible
-- Chunks that are old enough and rows still, oldest first.
SELECT format('%%I.%%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
WHERE hypertable_schema = current_schema() AND hypertable_name = %(table)s AND NOT is_compressed
    AND range_end <= now() - %(after)s::interval
ORDER BY range_start;

-- name: compress
-- One of them.
SELECT compress_chunk(%(chunk)s::regclass, if_not_compressed => true);
