-- What streams tell.

-- name: lock_writer
-- Before the transaction gets its number: who holds this is waited for by readers.
SELECT pg_advisory_xact_lock_shared(16, 0);

-- name: append
-- One piece of what a transaction stored.
INSERT INTO outbox (kind, rows, data) VALUES (%(kind)s, %(rows)s, %(data)b);

-- name: frontier
-- A statement of its own: only what begins later sees all that is below. And what hangs on the server: generation, next number.
SELECT outbox_frontier(), database_generation(), pg_snapshot_xmax(pg_current_snapshot())::text::bigint;

-- name: page
-- Floor, the registry's version, and rows behind a position and below the frontier, as many as have so many readings together, at
-- least one.
SELECT f.xact, f.id, (SELECT version FROM registry_version), r.xact, r.id, r.kind, r.rows, r.data
FROM outbox_floor f
LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT o.*, sum(o.rows) OVER (ORDER BY o.xact, o.id) AS upto
        FROM (
            SELECT * FROM outbox
            WHERE (xact, id) > (%(xact)s, %(id)s) AND xact < %(frontier)s AND (xact >= %(until)s OR xact = ANY(%(running)s::int8[]))
            ORDER BY xact, id LIMIT %(limit)s
        ) o
    ) counted WHERE upto - rows < %(readings)s
) r ON true
ORDER BY r.xact, r.id;

-- name: trim
-- Drop what is older than it is kept, or more than is kept; and note how far. What has a number that no transaction had yet is of
-- another generation: it was restored.
WITH cut AS MATERIALIZED (
    SELECT xact, id FROM (
        SELECT xact, id, at, sum(octet_length(data)) OVER (ORDER BY xact DESC, id DESC) AS bytes FROM outbox WHERE xact < %(frontier)s
    ) counted
    WHERE at < clock_timestamp() - %(keep)s OR bytes > %(bytes)s
    ORDER BY xact DESC, id DESC LIMIT 1
), dropped AS (
    DELETE FROM outbox o USING cut WHERE (o.xact, o.id) <= (cut.xact, cut.id) RETURNING 1
), strange AS (
    DELETE FROM outbox WHERE xact >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint RETURNING 1
), floor AS (
    UPDATE outbox_floor f SET xact = coalesce(cut.xact, 0), id = coalesce(cut.id, 0)
    FROM (SELECT) AS one LEFT JOIN cut ON true
    -- Forward only, whoever else trims; but what was said in another generation does not count.
    WHERE (cut.xact, cut.id) > (f.xact, f.id) OR f.xact >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
)
SELECT (SELECT count(*) FROM dropped) + (SELECT count(*) FROM strange);

-- name: members
-- Series of a selection, packed.
SELECT string_agg(int4send(series_id), '')
FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
    %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s);

-- name: names
-- All series, packed, with the registry's version.
SELECT (SELECT version FROM registry_version), string_agg(int4send(s.id), ''), array_agg(s.device_id), array_agg(s.metric)
FROM series s;
