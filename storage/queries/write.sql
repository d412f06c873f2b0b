-- The write path: what a batch writes, in one transaction.

-- name: lock_sources
-- Takes the locks of a batch's sources, one writer each; in key order, so that two writers never wait for each other.
SELECT pg_advisory_xact_lock(%(space)s, id) FROM (SELECT unnest(%(sources)s::int[]) AS id ORDER BY id) AS ordered;

-- name: standing
-- Reads, under the locks, the registry's version, since changes up to now apply to this batch, and those of these sources that
-- another process has written for since the batch that is known.
SELECT version, ARRAY(
    SELECT k.source_id FROM unnest(%(sources)s::int[], %(known)s::uuid[]) AS k(source_id, batch)
    JOIN ledger_totals t USING (source_id) WHERE t.batch IS DISTINCT FROM k.batch
) FROM registry_version;

-- name: last_batches
-- Reads the last batch of each source; before `history`, so that what is written in between counts as unknown.
SELECT source_id, batch FROM ledger_totals WHERE batch IS NOT NULL;

-- name: history_of
-- Reads what is known of every series of these sources, with the columns of `history`, packed.
SELECT string_agg(int4send(l.series_id), ''), string_agg(timestamptz_send(l.time), ''), string_agg(float8send(l.value), ''),
    string_agg(timestamptz_send(l.same_since), ''), string_agg(timestamptz_send(l.good_at), ''), string_agg(float8send(l.good_value), '')
FROM latest l JOIN series s ON s.id = l.series_id JOIN devices d ON d.id = s.device_id
WHERE d.source_id = ANY(%(sources)s::int[]);

-- name: begin_batch
-- Notes the batch; no row: it was committed before. Waits for a transaction of the same id that is still under way.
INSERT INTO batches (id) VALUES (%(id)s) ON CONFLICT DO NOTHING RETURNING id;

-- name: temporary_tables
-- Makes the tables where rows land before they are merged, once a connection; every commit empties them.
CREATE TEMPORARY TABLE incoming_readings (LIKE readings) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE incoming_1m (LIKE readings_1m) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE incoming_latest (LIKE latest) ON COMMIT DELETE ROWS;

-- name: copy_readings
-- Loads readings that are certainly new, on the direct path.
COPY readings (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY);

-- name: copy_incoming_readings
-- Loads readings that may be there, first half of the other path.
COPY incoming_readings (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY);

-- name: insert_incoming_readings
-- Inserts those that are new, second half of the other path, and returns their keys, packed.
WITH new AS (
    INSERT INTO readings (time, received_at, value, series_id, flags)
    SELECT time, received_at, value, series_id, flags FROM incoming_readings
    ON CONFLICT DO NOTHING
    RETURNING series_id, time
)
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), '') FROM new;

-- name: stored_values
-- Reads the values that are stored under these keys, packed. The bounds let the planner exclude chunks; LATERAL finds the rest by
-- key.
SELECT string_agg(int8send(k.ord), ''), string_agg(float8send(r.value), '')
FROM unnest(%(series)s::int[], %(times)s::int8[]) WITH ORDINALITY AS k(series_id, us, ord)
CROSS JOIN LATERAL (
    SELECT value FROM readings
    WHERE series_id = k.series_id AND time = timestamptz 'epoch' + k.us * interval '1 microsecond'
        AND time BETWEEN %(oldest)s AND %(newest)s
    LIMIT 1
) r;

-- name: copy_straight_1m
-- Loads minutes that are certainly new.
COPY readings_1m (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2) FROM STDIN (FORMAT BINARY);

-- name: copy_1m
-- Loads partial aggregates of minutes that may be there.
COPY incoming_1m (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2) FROM STDIN (FORMAT BINARY);

-- name: merge_1m
-- Merges minutes: every column by +, least, greatest, or "earlier/later wins", whatever the kind. In key order, against deadlocks.
INSERT INTO readings_1m AS r (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2)
SELECT series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2
FROM incoming_1m ORDER BY series_id, bucket
ON CONFLICT (series_id, bucket) DO UPDATE SET
    n = r.n + EXCLUDED.n,
    n_bad = r.n_bad + EXCLUDED.n_bad,
    vmin = least(r.vmin, EXCLUDED.vmin),
    vmax = greatest(r.vmax, EXCLUDED.vmax),
    first_at = least(r.first_at, EXCLUDED.first_at),
    vfirst = CASE WHEN EXCLUDED.first_at < r.first_at THEN EXCLUDED.vfirst ELSE r.vfirst END,
    last_at = greatest(r.last_at, EXCLUDED.last_at),
    vlast = CASE WHEN EXCLUDED.last_at > r.last_at THEN EXCLUDED.vlast ELSE r.vlast END,
    s1 = r.s1 + EXCLUDED.s1,
    s2 = r.s2 + EXCLUDED.s2;

-- name: copy_latest
-- Loads the newest reading, and the newest good one, of each series in the batch.
COPY incoming_latest (series_id, time, received_at, value, flags, good_at, good_value, same_since) FROM STDIN (FORMAT BINARY);

-- name: merge_latest
-- Updates the newest reading and the newest good one, where the batch has later ones. An UPDATE takes two thirds of the time of
-- INSERT … ON CONFLICT, since nearly every series is there. No other session writes rows of these series: the locks of their
-- sources are held.
UPDATE latest l SET
    time = greatest(l.time, n.time),
    received_at = CASE WHEN n.time > l.time THEN n.received_at ELSE l.received_at END,
    value = CASE WHEN n.time > l.time THEN n.value ELSE l.value END,
    flags = CASE WHEN n.time > l.time THEN n.flags ELSE l.flags END,
    same_since = CASE WHEN n.time > l.time THEN n.same_since ELSE l.same_since END,
    good_at = greatest(l.good_at, n.good_at),
    good_value = CASE WHEN n.good_at > l.good_at THEN n.good_value ELSE l.good_value END
FROM incoming_latest n
WHERE n.series_id = l.series_id AND (n.time > l.time OR n.good_at > l.good_at);

-- name: add_latest
-- Adds series that had no reading yet.
INSERT INTO latest (series_id, time, received_at, value, flags, good_at, good_value, same_since)
SELECT series_id, time, received_at, value, flags, good_at, good_value, same_since FROM incoming_latest n
WHERE NOT EXISTS (SELECT FROM latest l WHERE l.series_id = n.series_id) ORDER BY series_id;

-- name: history
-- Reads what is known of every series, when a writer starts.
COPY (SELECT series_id, time, received_at, value, flags, good_at, good_value, same_since FROM latest) TO STDOUT (FORMAT BINARY);

-- name: replace
-- Replaces stored values, under the conflict policy of their source.
UPDATE readings r SET value = n.value, received_at = n.received_at, flags = n.flags
FROM (
    SELECT series_id, timestamptz 'epoch' + us * interval '1 microsecond' AS time,
        timestamptz 'epoch' + received_us * interval '1 microsecond' AS received_at, value, flags
    FROM unnest(%(series)s::int[], %(times)s::int8[], %(received)s::int8[], %(values)s::float8[], %(flags)s::int2[])
        AS k(series_id, us, received_us, value, flags)
) n
WHERE r.series_id = n.series_id AND r.time = n.time AND r.time BETWEEN %(oldest)s AND %(newest)s;

-- name: renew_latest
-- Finds the newest and the newest good reading again, of series whose stored readings changed.
UPDATE latest l SET
    time = n.time, received_at = n.received_at, value = n.value, flags = n.flags,
    -- A last good reading that retention dropped remains the last good one, if no other is left.
    good_at = coalesce(g.time, CASE WHEN l.good_at < h.since THEN l.good_at ELSE '-infinity' END),
    good_value = coalesce(g.value, CASE WHEN l.good_at < h.since THEN l.good_value ELSE 0 END)
FROM unnest(%(series)s::int[]) AS s(id)
CROSS JOIN (SELECT since FROM horizons WHERE level = 'raw') h
CROSS JOIN LATERAL (SELECT time, received_at, value, flags FROM readings WHERE series_id = s.id ORDER BY time DESC LIMIT 1) n
LEFT JOIN LATERAL (
    SELECT time, value FROM readings
    WHERE series_id = s.id AND ((flags & %(bad)s) = 0 OR (flags & %(good)s) <> 0) ORDER BY time DESC LIMIT 1
) g ON true
WHERE l.series_id = s.id;

-- name: seen
-- Finds those of these messages that were received before, by source, boot and number.
SELECT m.ord FROM unnest(%(sources)s::int[], %(boot)s::int[], %(seqs)s::int8[]) WITH ORDINALITY AS m(source_id, boot, seq, ord)
JOIN seqs s ON s.source_id = m.source_id AND s.boot = (%(boots)s::text[])[m.boot] WHERE s.seen @> m.seq;

-- name: add_seqs
-- Adds the message numbers of this batch. A mark is how far a source had come; once it is a grace time old, holes below it are old
-- too.
INSERT INTO seqs AS s (source_id, boot, seen, first_at, last_at, mark, mark_at)
SELECT source_id, boot, range_agg(int8range(seq, seq + 1)), min(at), max(at), max(seq) + 1, max(at)
FROM (
    SELECT source_id, (%(boots)s::text[])[b] AS boot, seq, timestamptz 'epoch' + us * interval '1 microsecond' AS at
    FROM unnest(%(sources)s::int[], %(boot)s::int[], %(seqs)s::int8[], %(received)s::int8[]) AS u(source_id, b, seq, us)
) m
GROUP BY source_id, boot ORDER BY source_id, boot
ON CONFLICT (source_id, boot) DO UPDATE SET
    seen = s.seen + EXCLUDED.seen, first_at = least(s.first_at, EXCLUDED.first_at), last_at = greatest(s.last_at, EXCLUDED.last_at),
    settled = CASE WHEN EXCLUDED.last_at >= s.mark_at + %(grace)s THEN s.mark ELSE s.settled END,
    -- A mark moves back, too: a clock that was ahead must not keep marks from being made.
    mark = CASE WHEN EXCLUDED.last_at BETWEEN s.mark_at - %(grace)s AND s.mark_at + %(grace)s THEN s.mark
        ELSE greatest(s.mark, EXCLUDED.mark) END,
    mark_at = CASE WHEN EXCLUDED.last_at BETWEEN s.mark_at - %(grace)s AND s.mark_at + %(grace)s THEN s.mark_at
        ELSE EXCLUDED.last_at END;

-- name: add_ledger
-- Adds the counts of this batch, by minute of receipt and source, and by source over all time.
WITH totals AS (
    INSERT INTO ledger_totals AS l (source_id, {counters}, batch)
    VALUES (%(source)s, {values}, %(batch)s)
    ON CONFLICT (source_id) DO UPDATE SET {grown}, batch = EXCLUDED.batch
)
INSERT INTO ledger AS l (minute, source_id, {counters})
VALUES (%(minute)s, %(source)s, {values})
ON CONFLICT (minute, source_id) DO UPDATE SET {grown};

-- name: quarantine_room
-- Reads the bytes in quarantine by source, to keep each within its quota.
SELECT source_id, quarantine_bytes FROM source_state WHERE source_id = ANY(%(sources)s::int[]);

-- name: add_quarantine
-- Quarantines a message with readings that were refused, or one that could not be read at all.
INSERT INTO quarantine (received_at, source_id, topic, payload, refused, reasons, readings)
VALUES (%(received_at)s, %(source)s, %(topic)s, %(payload)s, %(refused)s, %(reasons)s, %(readings)s);

-- name: add_quarantine_bytes
-- Adds the bytes that this batch quarantined.
INSERT INTO source_state AS s (source_id, quarantine_bytes) VALUES (%(source)s, %(bytes)s)
ON CONFLICT (source_id) DO UPDATE SET quarantine_bytes = s.quarantine_bytes + EXCLUDED.quarantine_bytes;

-- name: set_status
-- Notes the status that a source last sent of itself.
INSERT INTO source_state AS s (source_id, status, status_at) VALUES (%(source)s, %(status)s, %(at)s)
ON CONFLICT (source_id) DO UPDATE SET status = EXCLUDED.status, status_at = EXCLUDED.status_at
WHERE s.status_at IS NULL OR s.status_at <= EXCLUDED.status_at;

-- name: forget_batches
-- Deletes ids that no retry can have any more. A batch that was spooled in an outage is the first one written after it, so its id
-- is not older than a day before the newest.
DELETE FROM batches WHERE committed_at < (SELECT max(committed_at) FROM batches) - interval '1 day';
