-- The role grafana, which dashboards log in as: it reads what is named here, and nothing else. Every migration that changes something
-- grants it again, so that a view that was dropped and made anew is readable.

CREATE OR REPLACE FUNCTION grant_reader() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    made regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') THEN
        IF NOT (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            RETURN format('the role grafana is not there, and %I may not make it; let an administrator run CREATE ROLE grafana LOGIN, '
                'then run: citybeat dashboards reader', current_user);
        END IF;
        BEGIN
            CREATE ROLE grafana LOGIN;
            ALTER ROLE grafana SET default_transaction_read_only = on;
            ALTER ROLE grafana SET statement_timeout = '30s';
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made for another database of this server in this moment
        END;
    END IF;
    -- EXECUTE throughout: TimescaleDB 2.19 writes into the statement's tree when it grants on a hypertable, so that the second use of a
    -- plan that is kept, a function's or a prepared statement's, crashes the server.
    -- Roles of older servers could read every table; now a new table is not shown before it is named here.
    EXECUTE 'ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM grafana';
    FOR made IN
        SELECT c.oid::regclass FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v') AND c.relowner = current_user::regrole
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM grafana', made);
    END LOOP;
    EXECUTE 'GRANT SELECT ON metrics, sources, devices, series, readings, readings_1m, readings_15m, marks_15m, latest, ledger, '
        'ledger_totals, source_state, seqs, declarations, horizons, quarter_hours, telemetry_series, telemetry_1m, telemetry_15m, '
        'liveness, sensor_board, metric_limits TO grafana';
    -- Payloads are left out: they can hold anything.
    EXECUTE 'GRANT SELECT (id, received_at, source_id, reasons, readings, resolved_at) ON quarantine TO grafana';
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION grant_reader FROM PUBLIC;
COMMENT ON FUNCTION grant_reader IS
    'Makes the role grafana if that is allowed, and lets it read what dashboards show. Returns what an administrator has to do, or '
    'NULL.';

-- Last, when every table and view is there.
DO $$
DECLARE
    left_to_do CONSTANT text := grant_reader();
BEGIN
    IF left_to_do IS NOT NULL THEN
        RAISE NOTICE '%', left_to_do;
    END IF;
END $$;
