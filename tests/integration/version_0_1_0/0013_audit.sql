-- Who changed what of the registry, and when: written by triggers, so that no way of changing it is left out. And sensors that are out
-- of service while their device goes on.

CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    subject text NOT NULL CHECK (subject IN ('device', 'sensor', 'calibration', 'declaration', 'source')),
    action text NOT NULL CHECK (action IN ('created', 'changed', 'retired', 'restored', 'deleted')),
    device text,
    metric text,
    source text,
    before jsonb,
    after jsonb
);
CREATE INDEX audit_by_device ON audit (device, id) WHERE device IS NOT NULL;
COMMENT ON TABLE audit IS
    'actor: citybeat.actor of the transaction, a key or a user of a command; else the database''s user. before, after: what the row says, '
    'without what is not given; NULL: there was, or is, none. Rows are added, never changed or deleted: a device''s ETag counts them.';
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') THEN
        REVOKE ALL ON audit FROM grafana;
    END IF;
END $$;

ALTER TABLE series ADD COLUMN retired_at timestamptz;
COMMENT ON COLUMN series.retired_at IS 'Out of service since then, as if its device were; NULL: in service, if its device is.';

CREATE FUNCTION audit_actor() RETURNS text LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('citybeat.actor', true), ''), 'database user ' || session_user);

CREATE FUNCTION audited(row_of jsonb, VARIADIC left_out text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_strip_nulls(row_of - left_out);

CREATE FUNCTION audit_action(before jsonb, after jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN before IS NULL THEN 'created'
    WHEN after IS NULL THEN 'deleted'
    WHEN before ? 'retired_at' AND NOT after ? 'retired_at' THEN 'restored'
    WHEN after ? 'retired_at' AND NOT before ? 'retired_at' THEN 'retired'
    ELSE 'changed'
END;

-- One function an event, since a trigger sees only the tables of its own; `olds` and `news` are the rows of one statement.
CREATE FUNCTION audit_devices() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE FUNCTION audit_series() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- Calibrations and declarations are only ever added.
CREATE FUNCTION audit_calibrations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, subject, action, device, metric, after)
    SELECT audit_actor(), 'calibration', 'created', s.device_id, s.metric, audited(to_jsonb(n), 'id', 'series_id', 'created_at')
    FROM news n JOIN series s ON s.id = n.series_id;
    RETURN NULL;
END $$;

CREATE FUNCTION audit_declarations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, subject, action, device, metric, after)
    SELECT audit_actor(), 'declaration', 'created', s.device_id, s.metric, audited(to_jsonb(n), 'id', 'series_id', 'declared_at')
    FROM news n JOIN series s ON s.id = n.series_id;
    RETURN NULL;
END $$;

CREATE FUNCTION audit_sources() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, subject, action, source, before, after)
    SELECT audit_actor(), 'source', 'changed', n.name, audited(to_jsonb(o), 'id', 'name', 'created_at'),
        audited(to_jsonb(n), 'id', 'name', 'created_at')
    FROM olds o JOIN news n ON n.id = o.id
    WHERE audited(to_jsonb(o), 'id', 'name', 'created_at') <> audited(to_jsonb(n), 'id', 'name', 'created_at');
    RETURN NULL;
END $$;

CREATE TRIGGER audit_insert AFTER INSERT ON devices REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION audit_devices();
CREATE TRIGGER audit_update AFTER UPDATE ON devices REFERENCING OLD TABLE AS olds NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_devices();
CREATE TRIGGER audit_delete AFTER DELETE ON devices REFERENCING OLD TABLE AS olds FOR EACH STATEMENT EXECUTE FUNCTION audit_devices();
CREATE TRIGGER audit_insert AFTER INSERT ON series REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_update AFTER UPDATE ON series REFERENCING OLD TABLE AS olds NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_delete AFTER DELETE ON series REFERENCING OLD TABLE AS olds FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_insert AFTER INSERT ON calibrations REFERENCING NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_calibrations();
CREATE TRIGGER audit_insert AFTER INSERT ON declarations REFERENCING NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_declarations();
CREATE TRIGGER audit_update AFTER UPDATE ON sources REFERENCING OLD TABLE AS olds NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_sources();

-- Sensors out of service are treated as those of a device that is.
CREATE OR REPLACE FUNCTION selected_series(devices text[], metrics text[], domains text[], districts text[], tags jsonb[],
    tag_names text[], bbox float8[], near float8[], retired bool)
RETURNS TABLE (series_id int, device text, metric text, unit text, kind text, expected_every float8, latitude float8,
    longitude float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.id, s.device_id, s.metric, m.unit, m.kind, coalesce(s.interval_s, (m.definition ->> 'interval')::float8),
        d.latitude, d.longitude
    FROM selected_devices(selected_series.devices, selected_series.domains, selected_series.districts, selected_series.tags,
        selected_series.tag_names, selected_series.bbox, selected_series.near, selected_series.retired) d
    JOIN series s ON s.device_id = d.id
    JOIN metrics m ON m.name = s.metric
    WHERE (selected_series.metrics IS NULL OR s.metric = ANY(selected_series.metrics))
        AND (selected_series.retired OR s.retired_at IS NULL);
END;

CREATE OR REPLACE VIEW liveness AS
SELECT series_id, device, metric, domain, district, source, expected, last_at, last_value, good_at, good_value, due_at,
    now() > due_at AS stale,
    CASE WHEN now() > due_at THEN due_at END AS overdue_since
FROM (
    SELECT s.id AS series_id, s.device_id AS device, s.metric, d.domain, d.district, o.name AS source,
        expected_interval(s.interval_s, m.definition) AS expected,
        l.time AS last_at,
        l.value AS last_value,
        CASE WHEN isfinite(l.good_at) THEN l.good_at END AS good_at,
        CASE WHEN isfinite(l.good_at) THEN l.good_value END AS good_value,
        coalesce(l.time, s.created_at) + 3 * expected_interval(s.interval_s, m.definition) AS due_at
    FROM series s
    JOIN devices d ON d.id = s.device_id
    JOIN sources o ON o.id = d.source_id
    JOIN metrics m ON m.name = s.metric
    LEFT JOIN latest l ON l.series_id = s.id
    WHERE d.retired_at IS NULL AND s.retired_at IS NULL
) AS sensors;
