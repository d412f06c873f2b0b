-- The transactional outbox behind /v1/stream.

-- name: lock_writer
-- Announces a writer, before its transaction gets a number: readers wait for transactions that hold this lock.
SELECT pg_advisory_xact_lock_shared(16, 0);

-- name: append
-- Appends one piece of what a transaction stored.
INSERT INTO outbox (kind, rows, data) VALUES (%(kind)s, %(rows)s, %(data)b);

-- name: frontier
-- Reads the frontier below which nothing can come any more, in a statement of its own: only a later statement sees everything
-- below. With it the generation of the database and the next number of a transaction.
SELECT outbox_frontier(), database_generation(), pg_snapshot_xmax(pg_current_snapshot())::text::bigint;

-- name: page
-- Reads rows behind a position and below the frontier: as many as have so many readings together, at least one. With the floor and
-- the registry's version.
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
-- Deletes rows that are older or more than is kept, and notes how far. Rows with a number that no transaction had yet come from
-- another generation, that is from a restore.
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
    -- Forward only, even if another process trims too; but a floor of another generation does not count.
    WHERE (cut.xact, cut.id) > (f.xact, f.id) OR f.xact >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
)
SELECT (SELECT count(*) FROM dropped) + (SELECT count(*) FROM strange);

-- name: members
-- Lists the series of a selection, packed.
SELECT string_agg(int4send(series_id), '')
FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
    %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s);

-- name: names
-- Lists all series, packed, with the registry's version.
SELECT (SELECT version FROM registry_version), string_agg(int4send(s.id), ''), array_agg(s.device_id), array_agg(s.metric)
FROM series s;
