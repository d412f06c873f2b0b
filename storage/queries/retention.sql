-- Retention: horizons, chunks that are dropped, and chunks that are compressed.

-- name: lock_retention
-- Lets one process at a time apply retention, to the end of the session or `unlock_retention`; false: another one does.
SELECT pg_try_advisory_lock(%(key)s);

-- name: unlock_retention
-- Lets the next process apply retention.
SELECT pg_advisory_unlock(%(key)s);

-- name: move_horizon
-- Moves a horizon to the beginning of the day, UTC, that is so long ago, so that quarter-hours on either side are whole. It never
-- moves back.
UPDATE horizons SET since = date_trunc('day', now() - %(keep)s::interval, 'UTC')
WHERE level = %(level)s AND since < date_trunc('day', now() - %(keep)s::interval, 'UTC');

-- name: horizons
-- Reads how far back each level reaches.
SELECT level, nullif(since, '-infinity') FROM horizons;

-- name: sources
-- Lists the sources, whose locks are each taken once.
SELECT id FROM sources ORDER BY id;

-- name: behind
-- Finds chunks that lie wholly before their horizon, the oldest first.
SELECT c.range_start, c.range_end
FROM timescaledb_information.chunks c JOIN horizons h ON h.level = %(level)s
WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = %(table)s AND c.range_end <= h.since
ORDER BY c.range_start;

-- name: patience
-- Bounds the wait for locks in this transaction: dropping a chunk waits for readers of its table, and every other session waits
-- behind it.
SELECT set_config('lock_timeout', %(timeout)s, true);

-- name: lock_worker
-- Keeps quarter-hours from being recomputed meanwhile; false: they are being recomputed.
SELECT pg_try_advisory_xact_lock(%(key)s);

-- name: marked_before
-- Tells if a quarter-hour before a time still has to be computed from its minutes.
SELECT EXISTS (SELECT FROM marks_15m WHERE bucket < %(stop)s);

-- name: carry_counters
-- Keeps the last good reading of each counter in a chunk that is to be dropped.
INSERT INTO carried_counters AS c (series_id, time, value)
SELECT DISTINCT ON (r.series_id) r.series_id, r.time, r.value
FROM readings r JOIN series s ON s.id = r.series_id JOIN metrics m ON m.name = s.metric AND m.kind = 'counter'
WHERE r.time >= %(start)s AND r.time < %(stop)s AND ((r.flags & %(bad)s) = 0 OR (r.flags & %(good)s) <> 0)
ORDER BY r.series_id, r.time DESC
ON CONFLICT (series_id) DO UPDATE SET time = EXCLUDED.time, value = EXCLUDED.value WHERE EXCLUDED.time > c.time;

-- name: count_readings
-- Counts the rows of a chunk.
SELECT count(*) FROM readings WHERE time >= %(start)s AND time < %(stop)s;

-- name: count_1m
-- Counts the rows of a chunk.
SELECT count(*) FROM readings_1m WHERE bucket >= %(start)s AND bucket < %(stop)s;

-- name: count_15m
-- Counts the rows of a chunk.
SELECT count(*) FROM readings_15m WHERE bucket >= %(start)s AND bucket < %(stop)s;

-- name: drop_chunk
-- Drops the one chunk with these bounds.
SELECT drop_chunks(%(table)s::regclass, older_than => %(stop)s::timestamptz, newer_than => %(start)s::timestamptz);

-- name: note_dropped
-- Notes the dropped chunk with its rows.
INSERT INTO dropped_chunks (level, range_start, range_end, rows) VALUES (%(level)s, %(start)s, %(stop)s, %(rows)s);

-- name: summary
-- Sums up each level: its horizon, its chunks, and what was dropped.
SELECT h.level, nullif(h.since, '-infinity'),
    (SELECT count(*) FROM timescaledb_information.chunks c
     WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = t.name),
    (SELECT count(*) FROM dropped_chunks d WHERE d.level = h.level),
    (SELECT coalesce(sum(d.rows), 0)::int8 FROM dropped_chunks d WHERE d.level = h.level)
FROM horizons h JOIN (VALUES ('raw', 'readings', 1), ('1m', 'readings_1m', 2), ('15m', 'readings_15m', 3)) AS t(level, name, place)
    ON t.level = h.level
ORDER BY t.place;

-- name: expire_quarantine
-- Deletes the oldest rows of quarantine that are beyond their age. Those that were still open are added to overflow: they remain
-- counted, but are no longer kept.
WITH old AS MATERIALIZED (
    SELECT id FROM quarantine WHERE received_at < now() - %(keep)s::interval ORDER BY id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED  -- a retry under way decides about its rows first
), gone AS (
    DELETE FROM quarantine WHERE id IN (SELECT id FROM old)
    RETURNING source_id, date_trunc('minute', received_at, 'UTC') AS minute, readings, length(payload) AS size, resolved_at IS NULL AS open
), counted AS (
    UPDATE ledger l SET overflow = l.overflow + g.readings
    FROM (SELECT source_id, minute, sum(readings) AS readings FROM gone WHERE open GROUP BY source_id, minute) g
    WHERE l.source_id = g.source_id AND l.minute = g.minute
), totalled AS (
    -- In the order in which batches write them, against deadlocks.
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
-- Reads which edition of TimescaleDB the server runs.
SELECT current_setting('timescaledb.license');

-- name: columnstore_on
-- Tells if chunks of a table can be compressed already.
SELECT compression_enabled FROM timescaledb_information.hypertables
WHERE hypertable_schema = current_schema() AND hypertable_name = %(table)s;

-- name: columnstore_readings
-- Prepares compression in segments by series, in order of time, which is how readings are read.
ALTER TABLE readings SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'time');

-- name: columnstore_1m
-- Prepares compression in segments by series, in order of time, which is how minutes are read.
ALTER TABLE readings_1m SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'bucket');

-- name: compressible
-- Finds chunks that are old enough and not compressed yet, the oldest first.
SELECT format('%%I.%%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
WHERE hypertable_schema = current_schema() AND hypertable_name = %(table)s AND NOT is_compressed
    AND range_end <= now() - %(after)s::interval
ORDER BY range_start;

-- name: compress
-- Compresses a chunk.
SELECT compress_chunk(%(chunk)s::regclass, if_not_compressed => true);
