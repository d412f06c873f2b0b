-- Quarantine: what is in it, and what a replay leaves of it.

-- name: list
-- Open rows, oldest first; a filter that is NULL lets everything through.
SELECT q.id, q.received_at, s.name, q.topic, q.refused, q.reasons, q.readings, length(q.payload)
FROM quarantine q JOIN sources s ON s.id = q.source_id
WHERE q.resolved_at IS NULL AND q.id > %(after)s
    AND (%(reasons)s::text[] IS NULL OR q.reasons && %(reasons)s)
    AND (%(sources)s::text[] IS NULL OR s.name = ANY(%(sources)s))
    AND (%(since)s::timestamptz IS NULL OR q.received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR q.received_at < %(until)s)
ORDER BY q.id LIMIT %(limit)s;

-- name: show
-- One row with its payload.
SELECT q.id, q.received_at, s.name, q.topic, q.refused, q.reasons, q.readings, length(q.payload), q.payload, q.resolved_at
FROM quarantine q JOIN sources s ON s.id = q.source_id
WHERE q.id = %(id)s;

-- name: hold
-- Rows to be replayed, for as long as the transaction takes: nobody else replays them meanwhile. A row that was resolved is left out.
SELECT id, received_at, source_id, topic, payload, refused FROM quarantine
WHERE id = ANY(%(ids)s::int8[]) AND resolved_at IS NULL ORDER BY id FOR UPDATE;

-- name: sources_of
-- Whose locks a replay of these rows needs.
SELECT DISTINCT source_id FROM quarantine WHERE id = ANY(%(ids)s::int8[]);

-- name: leave
-- What is still refused of a row; resolved when that is nothing.
UPDATE quarantine SET refused = %(refused)s, reasons = %(reasons)s, readings = %(readings)s,
    resolved_at = CASE WHEN %(open)s THEN NULL ELSE now() END
WHERE id = %(id)s;

-- name: free
-- Room that resolved rows no longer count for; they are kept as a record until their age limit.
UPDATE source_state SET quarantine_bytes = greatest(0, quarantine_bytes - %(bytes)s) WHERE source_id = %(source)s;
