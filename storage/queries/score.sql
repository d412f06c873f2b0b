-- Results of a run, for `citybeat simulate score`: everything since it began. Readings are packed as for exports, and read by
-- slices of time (storage/reads/scoring.py).

-- name: prepare
-- Sets the planner for the transaction as for exports: groups in the order of the primary key, no parallel worker.
SELECT set_config('enable_hashagg', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
    set_config('jit', 'off', true), set_config('work_mem', '64MB', true);

-- name: readings
-- Reads readings of a slice of time that were received since the run began.
COPY (
    SELECT series_id, array_agg(time ORDER BY time), array_agg(received_at ORDER BY time), array_agg(value ORDER BY time),
        array_agg(flags ORDER BY time)
    FROM readings
    WHERE series_id = ANY(%(series)s) AND time >= %(start)s AND time < %(stop)s AND received_at >= %(since)s
    GROUP BY series_id
    ORDER BY series_id
) TO STDOUT (FORMAT BINARY);

-- name: received
-- Sums the readings that the ledger has of these sources since a minute, to find out how far ingest is.
SELECT coalesce(sum(l.received), 0)::int8
FROM ledger l JOIN sources s ON s.id = l.source_id
WHERE s.name = ANY(%(sources)s) AND l.minute >= %(minute)s;

-- name: ledger
-- Sums the ledger of these sources since a minute, by source.
SELECT s.name, {sums}
FROM ledger l JOIN sources s ON s.id = l.source_id
WHERE s.name = ANY(%(sources)s) AND l.minute >= %(minute)s
GROUP BY s.name;

-- name: refused
-- Reads open rows of quarantine of these sources since a moment, in order of id, after an id.
SELECT q.id, s.name, q.topic, q.payload, q.refused, q.received_at
FROM quarantine q JOIN sources s ON s.id = q.source_id
WHERE q.resolved_at IS NULL AND s.name = ANY(%(sources)s) AND q.received_at >= %(since)s AND q.id > %(after)s
ORDER BY q.id LIMIT %(limit)s;

-- name: numbers
-- Reads the ranges of message numbers that came from these sources, of runs that were heard of since a moment.
SELECT s.name, q.boot, lower(r.numbers), upper(r.numbers)
FROM seqs q
JOIN sources s ON s.id = q.source_id
CROSS JOIN LATERAL unnest(q.seen) AS r(numbers)
WHERE s.name = ANY(%(sources)s) AND q.last_at >= %(since)s
ORDER BY s.name, q.boot, lower(r.numbers);
