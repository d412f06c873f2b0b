-- Cursors of streams: positions in outbox behind which no transaction can be overlooked (docs/decisions/0005-outbox.md).

CREATE OR REPLACE FUNCTION outbox_frontier() RETURNS bigint LANGUAGE sql VOLATILE
BEGIN ATOMIC
    WITH held AS MATERIALIZED (
        SELECT virtualtransaction AS holder, transactionid::text::bigint AS low, (locktype = 'advisory' AND classid = 16
            AND objid = 0 AND objsubid = 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS writes
        FROM pg_locks WHERE granted AND (locktype = 'advisory' OR (locktype = 'transactionid' AND mode = 'ExclusiveLock'))
    ), others AS MATERIALIZED (
        SELECT low FROM held WHERE low IS NOT NULL AND holder NOT IN (SELECT holder FROM held WHERE writes)
    )
    SELECT coalesce(
        (SELECT min(x::text::bigint) FROM pg_snapshot_xip(pg_current_snapshot()) AS x
         -- pg_locks has the low 32 bits of a transaction's number.
         WHERE (x::text::bigint & 4294967295) NOT IN (SELECT low FROM others)),
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint);
END;
COMMENT ON FUNCTION outbox_frontier IS
    'The number below which no transaction can write to outbox any more: every statement that begins after this one sees what '
    'those wrote. The snapshot is taken before pg_locks is read. A transaction that is under way in the snapshot counts, unless '
    'pg_locks shows that it holds its own number but not the lock of writers, which writers take before and release after they '
    'become visible. The xmin of a snapshot would do too, but would wait for every other long transaction of the server.';

CREATE OR REPLACE FUNCTION database_generation() RETURNS text LANGUAGE sql STABLE
RETURN (SELECT left(md5(concat_ws('/', s.system_identifier, c.timeline_id, d.oid)), 8)
    FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d WHERE d.datname = current_database());
COMMENT ON FUNCTION database_generation IS
    'Identifies the database between two restores, copies or failovers: numbers of transactions mean nothing in another '
    'generation.';

CREATE OR REPLACE FUNCTION stream_cursor() RETURNS text LANGUAGE sql STABLE
RETURN (SELECT concat_ws(':', database_generation(), pg_snapshot_xmax(pg_current_snapshot()),
        coalesce((SELECT string_agg(x::text, ',') FROM pg_snapshot_xip(pg_current_snapshot()) x WHERE x::text::bigint > f.xact), ''))
    FROM outbox_floor f);
COMMENT ON FUNCTION stream_cursor IS
    'The cursor from which a stream continues after what the calling statement sees: generation, the next number of a transaction, '
    'and the numbers still under way. Those at or below the floor are left out: a writer of outbox would have held the floor back.';
