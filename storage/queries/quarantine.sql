-- Quarantine: its rows, and what a retry leaves of them.

-- name: list
-- Lists open rows, the oldest first; a filter that is NULL lets everything through.
SELECT q.id, q.received_at, s.name, q.topic, q.refused, q.reasons, q.readings, length(q.payload)
FROM quarantine q JOIN sources s ON s.id = q.source_id
WHERE q.resolved_at IS NULL AND q.id > %(after)s
    AND (%(reasons)s::text[] IS NULL OR q.reasons && %(reasons)s)
    AND (%(sources)s::text[] IS NULL OR s.name = ANY(%(sources)s))
    AND (%(since)s::timestamptz IS NULL OR q.received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR q.received_at < %(until)s)
ORDER BY q.id LIMIT %(limit)s;

-- name: show
-- Reads one row with its payload.
SELECT q.id, q.received_at, s.name, q.topic, q.refused, q.reasons, q.readings, length(q.payload), q.payload, q.resolved_at
FROM quarantine q JOIN sources s ON s.id = q.source_id
WHERE q.id = %(id)s;

-- name: hold
-- Locks rows for a retry until the transaction ends, so that nobody else retries them; a row that was resolved is left out.
SELECT id, received_at, source_id, topic, payload, refused FROM quarantine
WHERE id = ANY(%(ids)s::int8[]) AND resolved_at IS NULL ORDER BY id FOR UPDATE;

-- name: sources_of
-- Finds the sources whose locks a retry of these rows needs.
SELECT DISTINCT source_id FROM quarantine WHERE id = ANY(%(ids)s::int8[]);

-- name: leave
-- Writes what is still refused of a row; the row is resolved when that is nothing.
UPDATE quarantine SET refused = %(refused)s, reasons = %(reasons)s, readings = %(readings)s,
    resolved_at = CASE WHEN %(open)s THEN NULL ELSE now() END
WHERE id = %(id)s;

-- name: free
-- Subtracts resolved rows from a source's quota; they are kept as a record until their age limit.
UPDATE source_state SET quarantine_bytes = greatest(0, quarantine_bytes - %(bytes)s) WHERE source_id = %(source)s;
