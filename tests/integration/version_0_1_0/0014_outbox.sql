-- What streams tell: new readings and states of sensors, for a short while, in an order in which nothing can be overlooked.

CREATE TABLE outbox (
    xact bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,  -- the transaction that wrote it
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    kind smallint NOT NULL CHECK (kind IN (0, 1)),  -- readings, states of sensors
    rows int NOT NULL CHECK (rows > 0),
    data bytea NOT NULL,  -- columns, storage/outbox.py
    PRIMARY KEY (xact, id)
) WITH (autovacuum_vacuum_scale_factor = 0.1, toast.autovacuum_vacuum_scale_factor = 0.1);
-- Compressing a batch would take longer than all else that is done with it here.
ALTER TABLE outbox ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE outbox IS
    'Rows are read in order of (xact, id). Whoever writes one takes the shared advisory lock (16, 0) before its transaction gets its '
    'number; outbox_frontier says below which number nothing can come any more.';

CREATE TABLE outbox_floor (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    xact bigint NOT NULL,
    id bigint NOT NULL
);
INSERT INTO outbox_floor (xact, id) VALUES (0, 0);
COMMENT ON TABLE outbox_floor IS 'The highest row of outbox that was dropped: whoever has not come so far has missed something.';

CREATE FUNCTION outbox_frontier() RETURNS bigint LANGUAGE sql VOLATILE
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
    'What transactions below this number wrote to outbox is visible to every statement that begins after this one. The snapshot was taken '
    'before pg_locks is read. Whoever is under way in it counts, unless it is seen to hold its own number and not the lock of writers: '
    'writers take that first, and release it after they became visible. A snapshot''s xmin would do too, and wait for every other long '
    'transaction of the server.';

CREATE FUNCTION database_generation() RETURNS text LANGUAGE sql STABLE
RETURN (SELECT left(md5(concat_ws('/', s.system_identifier, c.timeline_id, d.oid)), 8)
    FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d WHERE d.datname = current_database());
COMMENT ON FUNCTION database_generation IS
    'Another one after a restore, a copy, or a failover: numbers of transactions of one generation mean nothing in another.';

CREATE FUNCTION stream_cursor() RETURNS text LANGUAGE sql STABLE
RETURN (SELECT concat_ws(':', database_generation(), pg_snapshot_xmax(pg_current_snapshot()),
        coalesce((SELECT string_agg(x::text, ',') FROM pg_snapshot_xip(pg_current_snapshot()) x WHERE x::text::bigint > f.xact), ''))
    FROM outbox_floor f);
COMMENT ON FUNCTION stream_cursor IS
    'Where a stream goes on behind what the statement that calls this sees: generation, the next number, and those still under way. What '
    'is under way at or below the floor writes no outbox: it would have held the floor back.';

-- States of sensors -----------------------------------------------------------------------------------------------------------------

CREATE TABLE sensor_states (
    series_id int PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('ok', 'bad', 'stuck', 'overdue', 'silent')),
    since timestamptz NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sensor_states IS
    'Sensors in service, as ingest last looked (every few seconds). bad: the newest reading is kept out of rollups by a flag; stuck: by '
    'that one; overdue: as liveness has it; silent: never reported. since: the time of the reading by which it was noticed; of overdue '
    'when it became due, of silent when it was registered.';
