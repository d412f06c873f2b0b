-- The tables of version 0.1.0, for new databases. Databases that version 0.1.0 made have them from its own migrations 1 to 19, the last of
-- which has the place of this one. Functions, views, descriptions and grants come from storage/repeatable/.

CREATE EXTENSION IF NOT EXISTS timescaledb;

-- Triggers need their functions; the repeatable files replace these before anybody else sees them.
DO $$
DECLARE
    made text;
BEGIN
    FOREACH made IN ARRAY ARRAY['registry_changed', 'audit_devices', 'audit_series', 'audit_calibrations', 'audit_declarations',
        'audit_sources']
    LOOP
        EXECUTE format('CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS %L', made, 'BEGIN RETURN NULL; END');
    END LOOP;
END $$;

-- Registry -----------------------------------------------------------------------------------------------------------------------

CREATE TABLE metrics (
    name text PRIMARY KEY,
    domain text NOT NULL,
    unit text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('gauge', 'amount', 'counter', 'direction', 'level', 'state')),
    definition jsonb NOT NULL
);

CREATE TABLE sources (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    conflict_policy text NOT NULL DEFAULT 'keep' CHECK (conflict_policy IN ('keep', 'replace'))
);
-- Messages whose topic names no source are counted here; no source can have this name.
INSERT INTO sources (name) VALUES ('?');

CREATE TABLE devices (
    id text PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    domain text NOT NULL,
    source_id int NOT NULL REFERENCES sources,
    latitude float8 CHECK (latitude BETWEEN -90 AND 90),
    longitude float8 CHECK (longitude BETWEEN -180 AND 180),
    district text NOT NULL DEFAULT '',
    tags jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz
);

-- A sequence would leave gaps in the ids, for sensors that are registered already and for files that are only tried. Whoever adds series
-- holds the registry's lock, and takes the numbers after the last one.
CREATE TABLE series (
    id int PRIMARY KEY,
    device_id text NOT NULL REFERENCES devices,
    metric text NOT NULL REFERENCES metrics,
    low float8,
    high float8,
    suspect_low float8,
    suspect_high float8,
    rating float8,
    interval_s float8 CHECK (interval_s > 0),
    sentinels float8[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    unit text,
    step_floor float8,
    step_per_minute float8,
    stuck_after_s float8,
    retired_at timestamptz,
    UNIQUE (device_id, metric)
);

CREATE TABLE calibrations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id int NOT NULL REFERENCES series,
    valid_from timestamptz NOT NULL CHECK (valid_from < 'infinity'),
    scale float8 NOT NULL CHECK (scale <> 0 AND scale > '-infinity' AND scale < 'infinity'),
    "offset" float8 NOT NULL CHECK ("offset" > '-infinity' AND "offset" < 'infinity'),
    created_at timestamptz NOT NULL DEFAULT now(),
    "by" text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT ''
);
CREATE INDEX calibrations_in_force ON calibrations (series_id, valid_from, id);

CREATE TABLE declarations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id int NOT NULL REFERENCES series,
    "from" timestamptz NOT NULL,
    "to" timestamptz NOT NULL CHECK ("to" > "from"),
    verdict text NOT NULL CHECK (verdict IN ('bad', 'good', 'clear')),
    declared_at timestamptz NOT NULL DEFAULT now(),
    "by" text NOT NULL,
    reason text NOT NULL
);
CREATE INDEX declarations_of ON declarations (series_id, id);

CREATE TABLE registry_version (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);
INSERT INTO registry_version (version) VALUES (1);

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

CREATE TABLE api_keys (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9]{10}$'),
    name text NOT NULL,
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'write', 'admin']),
    domains text[],
    districts text[],
    tags jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK (NOT 'admin' = ANY(scopes) OR (domains IS NULL AND districts IS NULL AND tags = '[]'))
);

-- Readings -----------------------------------------------------------------------------------------------------------------------
-- `citybeat migrate` sets the chunk intervals of readings and readings_1m as configured.

CREATE TABLE readings (
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    value float8 NOT NULL,
    series_id int NOT NULL,
    flags smallint NOT NULL,
    PRIMARY KEY (series_id, time)
);
SELECT create_hypertable('readings', by_range('time', INTERVAL '7 days'), create_default_indexes => false);

CREATE TABLE readings_1m (
    bucket timestamptz NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    vmin float8 NOT NULL,
    vmax float8 NOT NULL,
    vfirst float8 NOT NULL,
    vlast float8 NOT NULL,
    s1 float8 NOT NULL,
    s2 float8 NOT NULL,
    series_id int NOT NULL,
    n int NOT NULL,
    n_bad int NOT NULL,
    PRIMARY KEY (series_id, bucket)
);
SELECT create_hypertable('readings_1m', by_range('bucket', INTERVAL '30 days'), create_default_indexes => false);

CREATE TABLE readings_15m (LIKE readings_1m, PRIMARY KEY (series_id, bucket));
SELECT create_hypertable('readings_15m', by_range('bucket', INTERVAL '365 days'), create_default_indexes => false);

CREATE TABLE marks_15m (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL,
    series int[] STORAGE EXTERNAL NOT NULL,  -- rows live for a short time, and ids compress badly
    at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE latest (
    series_id int PRIMARY KEY,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    value float8 NOT NULL,
    flags smallint NOT NULL,
    good_at timestamptz NOT NULL,
    good_value float8 NOT NULL,
    same_since timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE sensor_states (
    series_id int PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('ok', 'bad', 'stuck', 'overdue', 'silent')),
    since timestamptz NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now()
);

-- Retention ----------------------------------------------------------------------------------------------------------------------

CREATE TABLE horizons (
    level text PRIMARY KEY CHECK (level IN ('raw', '1m', '15m')),
    since timestamptz NOT NULL
);
INSERT INTO horizons (level, since) VALUES ('raw', '-infinity'), ('1m', '-infinity'), ('15m', '-infinity');

CREATE TABLE dropped_chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    level text NOT NULL REFERENCES horizons,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    rows bigint NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE carried_counters (
    series_id int PRIMARY KEY,
    time timestamptz NOT NULL,
    value float8 NOT NULL
);

-- Ledger -------------------------------------------------------------------------------------------------------------------------

CREATE TABLE ledger (
    minute timestamptz NOT NULL,
    source_id int NOT NULL REFERENCES sources,
    messages bigint NOT NULL,
    undecodable bigint NOT NULL,
    redelivered bigint NOT NULL,
    received bigint NOT NULL,
    stored bigint NOT NULL,
    duplicate bigint NOT NULL,
    conflict bigint NOT NULL,
    missing bigint NOT NULL,
    quarantined bigint NOT NULL,
    overflow bigint NOT NULL,
    PRIMARY KEY (minute, source_id)
);

CREATE TABLE ledger_totals (
    source_id int PRIMARY KEY REFERENCES sources,
    messages bigint NOT NULL DEFAULT 0,
    undecodable bigint NOT NULL DEFAULT 0,
    redelivered bigint NOT NULL DEFAULT 0,
    received bigint NOT NULL DEFAULT 0,
    stored bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    conflict bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    overflow bigint NOT NULL DEFAULT 0,
    batch uuid
) WITH (fillfactor = 50);

CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    source_id int NOT NULL REFERENCES sources,
    topic text NOT NULL,
    payload bytea NOT NULL,
    refused jsonb NOT NULL,
    reasons text[] NOT NULL,
    readings int NOT NULL,
    resolved_at timestamptz
);
CREATE INDEX quarantine_by_source ON quarantine (source_id, received_at);
CREATE INDEX quarantine_open ON quarantine (id) INCLUDE (reasons) WHERE resolved_at IS NULL;

CREATE TABLE source_state (
    source_id int PRIMARY KEY REFERENCES sources,
    status text,
    status_at timestamptz,
    quarantine_bytes bigint NOT NULL DEFAULT 0
);

CREATE TABLE seqs (
    source_id int NOT NULL REFERENCES sources,
    boot text NOT NULL,
    seen int8multirange NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    settled bigint,
    mark bigint,
    mark_at timestamptz,
    PRIMARY KEY (source_id, boot)
);

CREATE TABLE batches (
    id uuid PRIMARY KEY,
    committed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE answers (
    id uuid PRIMARY KEY,
    digest bytea NOT NULL,
    answer jsonb NOT NULL,
    forget_at timestamptz NOT NULL
);
CREATE INDEX answers_forget ON answers (forget_at);

-- Streams ------------------------------------------------------------------------------------------------------------------------

CREATE TABLE outbox (
    xact bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    kind smallint NOT NULL CHECK (kind IN (0, 1)),
    rows int NOT NULL CHECK (rows > 0),
    data bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (xact, id)
) WITH (autovacuum_vacuum_scale_factor = 0.1, toast.autovacuum_vacuum_scale_factor = 0.1);

CREATE TABLE outbox_floor (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    xact bigint NOT NULL,
    id bigint NOT NULL
);
INSERT INTO outbox_floor (xact, id) VALUES (0, 0);

-- Triggers -----------------------------------------------------------------------------------------------------------------------

CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON metrics FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON sources FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON devices FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON series FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON calibrations FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON declarations FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
-- Ingest judges by the horizon: a batch that was judged by an older one is judged again.
CREATE TRIGGER registry_changed AFTER UPDATE ON horizons FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();

-- One trigger for each event, since a trigger sees only the rows of its own.
CREATE TRIGGER audit_insert AFTER INSERT ON devices REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION audit_devices();
CREATE TRIGGER audit_update AFTER UPDATE ON devices REFERENCING OLD TABLE AS olds NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_devices();
CREATE TRIGGER audit_delete AFTER DELETE ON devices REFERENCING OLD TABLE AS olds FOR EACH STATEMENT EXECUTE FUNCTION audit_devices();
CREATE TRIGGER audit_insert AFTER INSERT ON series REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_update AFTER UPDATE ON series REFERENCING OLD TABLE AS olds NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_delete AFTER DELETE ON series REFERENCING OLD TABLE AS olds FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
-- Rows of these two are only ever added.
CREATE TRIGGER audit_insert AFTER INSERT ON calibrations REFERENCING NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_calibrations();
CREATE TRIGGER audit_insert AFTER INSERT ON declarations REFERENCING NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_declarations();
-- A source is created by its first message or device, which is no change by anybody.
CREATE TRIGGER audit_update AFTER UPDATE ON sources REFERENCING OLD TABLE AS olds NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION audit_sources();
