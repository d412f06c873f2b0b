-- Trigger functions that write the table audit. The triggers themselves belong to their tables (migration 0019): `olds` and `news`
-- are the rows of one statement before and after it, and each trigger has only those of its own event.

CREATE OR REPLACE FUNCTION audit_actor() RETURNS text LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('citybeat.actor', true), ''), 'database user ' || session_user);
COMMENT ON FUNCTION audit_actor IS
    'Who makes the change: the setting citybeat.actor of the transaction, else the user of the database.';

CREATE OR REPLACE FUNCTION audited(row_of jsonb, VARIADIC left_out text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_strip_nulls(row_of - left_out);
COMMENT ON FUNCTION audited IS 'A row as audit keeps it: without its NULLs and without the columns that are left out.';

CREATE OR REPLACE FUNCTION audit_action(before jsonb, after jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN before IS NULL THEN 'created'
    WHEN after IS NULL THEN 'deleted'
    WHEN before ? 'retired_at' AND NOT after ? 'retired_at' THEN 'restored'
    WHEN after ? 'retired_at' AND NOT before ? 'retired_at' THEN 'retired'
    ELSE 'changed'
END;
COMMENT ON FUNCTION audit_action IS 'Name of the change from one row to another; NULL: there is no such row.';

-- A session plans the statements of a trigger once. With nested loops the plan that a first change of one device gets takes minutes
-- for ten thousand devices.
CREATE OR REPLACE FUNCTION audit_devices() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit (actor, subject, action, device, source, after)
        SELECT audit_actor(), 'device', 'created', n.id, s.name,
            audited(to_jsonb(n), 'id', 'source_id', 'created_at', 'updated_at') || jsonb_build_object('source', s.name)
        FROM news n JOIN sources s ON s.id = n.source_id;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO audit (actor, subject, action, device, source, before, after)
        SELECT audit_actor(), 'device', audit_action(before, after), id, after ->> 'source', before, after
        FROM (
            SELECT n.id,
                audited(to_jsonb(o), 'id', 'source_id', 'created_at', 'updated_at') || jsonb_build_object('source', f.name) AS before,
                audited(to_jsonb(n), 'id', 'source_id', 'created_at', 'updated_at') || jsonb_build_object('source', t.name) AS after
            FROM olds o JOIN news n ON n.id = o.id JOIN sources f ON f.id = o.source_id JOIN sources t ON t.id = n.source_id
        ) AS both_of
        WHERE before <> after;
    ELSE
        INSERT INTO audit (actor, subject, action, device, before)
        SELECT audit_actor(), 'device', 'deleted', o.id, audited(to_jsonb(o), 'id', 'source_id', 'created_at', 'updated_at') FROM olds o;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION audit_devices IS 'Trigger: writes changes of devices, with the name of their source to audit.';

CREATE OR REPLACE FUNCTION audit_series() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit (actor, subject, action, device, metric, after)
        SELECT audit_actor(), 'sensor', 'created', n.device_id, n.metric, audited(to_jsonb(n), 'id', 'device_id', 'metric', 'created_at')
        FROM news n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO audit (actor, subject, action, device, metric, before, after)
        SELECT audit_actor(), 'sensor', audit_action(before, after), device_id, metric, before, after
        FROM (
            SELECT n.device_id, n.metric, audited(to_jsonb(o), 'id', 'device_id', 'metric', 'created_at') AS before,
                audited(to_jsonb(n), 'id', 'device_id', 'metric', 'created_at') AS after
            FROM olds o JOIN news n ON n.id = o.id
        ) AS both_of
        WHERE before <> after;
    ELSE
        INSERT INTO audit (actor, subject, action, device, metric, before)
        SELECT audit_actor(), 'sensor', 'deleted', o.device_id, o.metric, audited(to_jsonb(o), 'id', 'device_id', 'metric', 'created_at')
        FROM olds o;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION audit_series IS 'Trigger: writes changes of sensors to audit.';

-- Calibrations and declarations are added, never changed or deleted.
CREATE OR REPLACE FUNCTION audit_calibrations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, subject, action, device, metric, after)
    SELECT audit_actor(), 'calibration', 'created', s.device_id, s.metric, audited(to_jsonb(n), 'id', 'series_id', 'created_at')
    FROM news n JOIN series s ON s.id = n.series_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION audit_calibrations IS 'Trigger: writes new calibrations to audit.';

CREATE OR REPLACE FUNCTION audit_declarations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, subject, action, device, metric, after)
    SELECT audit_actor(), 'declaration', 'created', s.device_id, s.metric, audited(to_jsonb(n), 'id', 'series_id', 'declared_at')
    FROM news n JOIN series s ON s.id = n.series_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION audit_declarations IS 'Trigger: writes new declarations to audit.';

CREATE OR REPLACE FUNCTION audit_sources() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, subject, action, source, before, after)
    SELECT audit_actor(), 'source', 'changed', n.name, audited(to_jsonb(o), 'id', 'name', 'created_at'),
        audited(to_jsonb(n), 'id', 'name', 'created_at')
    FROM olds o JOIN news n ON n.id = o.id
    WHERE audited(to_jsonb(o), 'id', 'name', 'created_at') <> audited(to_jsonb(n), 'id', 'name', 'created_at');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION audit_sources IS 'Trigger: writes changes of sources to audit.';
