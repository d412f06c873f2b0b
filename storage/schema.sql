-- Made by `make schema` from what migrations give in an empty database; a test compares the two. It is a picture to read, not a
-- script: texts of functions and views are in repeatable/. How to change the schema: docs/migrations.md.

-- Tables --------------------------------------------------------------------------------------------------------------------------

-- Answers to readings that were posted under an id of the client, kept in the transaction that stored them. A request with the same
-- id gets the same answer, and nothing is counted twice.
CREATE TABLE answers (
    id uuid PRIMARY KEY,
    digest bytea NOT NULL,  -- SHA-256 of what was posted.
    answer jsonb NOT NULL,
    forget_at timestamptz NOT NULL
);
CREATE INDEX answers_forget ON answers (forget_at);

-- Keys of the HTTP API. Rows are revoked, never deleted.
CREATE TABLE api_keys (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9]{10}$'),
    name text NOT NULL,
    -- Hash of the secret, which has 256 random bits and is shown once; a slow hash would add nothing to that.
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'write', 'admin']),
    domains text[],  -- The key sees devices of these; NULL: of all.
    districts text[],  -- The key sees devices of these; NULL: of all.
    -- [[name, value], …]: the key sees devices that have all of these tags; a null stands for any value.
    tags jsonb NOT NULL DEFAULT '[]'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_check CHECK (NOT ('admin' = ANY (scopes)) OR domains IS NULL AND districts IS NULL AND tags = '[]'::jsonb)
);

-- Changes of the registry, written by triggers. Rows are added, never changed or deleted: a device's ETag counts them.
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    -- The setting citybeat.actor of the transaction (a key, or a user of a command); without it the user of the database.
    actor text NOT NULL,
    subject text NOT NULL CHECK (subject = ANY (ARRAY['device', 'sensor', 'calibration', 'declaration', 'source'])),
    action text NOT NULL CHECK (action = ANY (ARRAY['created', 'changed', 'retired', 'restored', 'deleted'])),
    device text,
    metric text,
    source text,
    before jsonb,  -- The row before the change, without its NULLs; NULL: the row is new.
    after jsonb  -- The row after the change, without its NULLs; NULL: the row was deleted.
);
CREATE INDEX audit_by_device ON audit (device, id) WHERE device IS NOT NULL;

-- Ids of committed batches, to find out whether a COMMIT with an unknown outcome took effect.
CREATE TABLE batches (
    id uuid PRIMARY KEY,
    committed_at timestamptz NOT NULL DEFAULT now()
);

-- From valid_from until the next one a reading is stored as value * scale + offset, in the metric's unit. Rows are added, never
-- changed or deleted; of two with the same valid_from the later id holds. A calibration does not change readings that are stored.
CREATE TABLE calibrations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id int NOT NULL REFERENCES series(id),
    valid_from timestamptz NOT NULL CHECK (valid_from < 'infinity'::timestamptz),
    scale float8 NOT NULL CHECK (scale <> 0::float8 AND scale > '-Infinity'::float8 AND scale < 'Infinity'::float8),
    "offset" float8 NOT NULL CHECK ("offset" > '-Infinity'::float8 AND "offset" < 'Infinity'::float8),
    created_at timestamptz NOT NULL DEFAULT now(),
    by text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT ''
);
CREATE INDEX calibrations_in_force ON calibrations (series_id, valid_from, id);
CREATE TRIGGER audit_insert AFTER INSERT ON calibrations REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION
    audit_calibrations();
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE OR UPDATE ON calibrations FOR EACH STATEMENT EXECUTE FUNCTION
    registry_changed();

-- The last good reading of each counter that was dropped: the increase of the first one that is left is computed from it.
CREATE TABLE carried_counters (
    series_id int PRIMARY KEY,
    "time" timestamptz NOT NULL,
    value float8 NOT NULL
);

-- Periods that operators declared good or bad, whatever the flags of single readings say; new readings within them are flagged too.
-- Rows are added, never changed: of two that overlap the later one holds.
CREATE TABLE declarations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id int NOT NULL REFERENCES series(id),
    "from" timestamptz NOT NULL,
    "to" timestamptz NOT NULL,
    verdict text NOT NULL CHECK (verdict = ANY (ARRAY['bad', 'good', 'clear'])),  -- clear: as if nothing were declared.
    declared_at timestamptz NOT NULL DEFAULT now(),
    by text NOT NULL,
    reason text NOT NULL,
    CONSTRAINT declarations_check CHECK ("to" > "from")
);
CREATE INDEX declarations_of ON declarations (series_id, id);
CREATE TRIGGER audit_insert AFTER INSERT ON declarations REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION
    audit_declarations();
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE OR UPDATE ON declarations FOR EACH STATEMENT EXECUTE FUNCTION
    registry_changed();
GRANT SELECT ON declarations TO grafana;

-- Registered devices, each with the source that reports for it.
CREATE TABLE devices (
    id text PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    domain text NOT NULL,
    source_id int NOT NULL REFERENCES sources(id),
    latitude float8 CHECK (latitude >= '-90'::int::float8 AND latitude <= 90::float8),  -- Degrees, WGS 84.
    longitude float8 CHECK (longitude >= '-180'::int::float8 AND longitude <= 180::float8),  -- Degrees, WGS 84.
    district text NOT NULL DEFAULT '',
    tags jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz  -- Out of service since then; NULL: in service.
);
CREATE TRIGGER audit_delete AFTER DELETE ON devices REFERENCING OLD TABLE AS olds FOR EACH STATEMENT EXECUTE FUNCTION
    audit_devices();
CREATE TRIGGER audit_insert AFTER INSERT ON devices REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION
    audit_devices();
CREATE TRIGGER audit_update AFTER UPDATE ON devices REFERENCING OLD TABLE AS olds NEW TABLE AS news FOR EACH STATEMENT EXECUTE
    FUNCTION audit_devices();
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE OR UPDATE ON devices FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
GRANT SELECT ON devices TO grafana;

-- Chunks that retention dropped, with their rows, so that the ledger can be compared with what is and was stored.
CREATE TABLE dropped_chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    level text NOT NULL REFERENCES horizons(level),
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    rows bigint NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now()
);

-- How far back each level reaches. Rows before it are gone, or go with the rest of their chunk; no reading before raw's is
-- accepted, and no rollup before it is recomputed. A horizon never moves back.
CREATE TABLE horizons (
    level text PRIMARY KEY CHECK (level = ANY (ARRAY['raw', '1m', '15m'])),
    since timestamptz NOT NULL
);
CREATE TRIGGER registry_changed AFTER UPDATE ON horizons FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
GRANT SELECT ON horizons TO grafana;

-- The newest reading of each series. Every batch writes it: half of each page is left empty, so that an update stays on its page
-- and touches no index.
CREATE TABLE latest (
    series_id int PRIMARY KEY,
    "time" timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    value float8 NOT NULL,
    flags smallint NOT NULL,
    good_at timestamptz NOT NULL,  -- Time of the last good reading; -infinity: none yet.
    good_value float8 NOT NULL,
    same_since timestamptz NOT NULL  -- Since when the series has shown its newest value; -infinity: not known.
) WITH (fillfactor=50);
GRANT SELECT ON latest TO grafana;

-- Counts of messages and of what became of their readings. received = stored + duplicate + conflict + missing + quarantined.
CREATE TABLE ledger (
    minute timestamptz NOT NULL,  -- Minute of receipt.
    source_id int NOT NULL REFERENCES sources(id),
    messages bigint NOT NULL,  -- Counts messages, as the next two columns do; all others count readings.
    undecodable bigint NOT NULL,
    redelivered bigint NOT NULL,
    received bigint NOT NULL,
    stored bigint NOT NULL,
    duplicate bigint NOT NULL,
    conflict bigint NOT NULL,
    missing bigint NOT NULL,
    quarantined bigint NOT NULL,
    overflow bigint NOT NULL,  -- Part of quarantined that was not kept, since the source's quota was full.
    CONSTRAINT ledger_pkey PRIMARY KEY (minute, source_id)
);
GRANT SELECT ON ledger TO grafana;

-- Sums of ledger over all time, written by the statement that writes ledger. Every batch writes it, and pages are half-empty as
-- those of latest.
CREATE TABLE ledger_totals (
    source_id int PRIMARY KEY REFERENCES sources(id),
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
    -- The last transaction that wrote readings of this source. A writer that holds the source's lock and finds another one than it
    -- remembers loads again what it knows of the source's series.
    batch uuid
) WITH (fillfactor=50);
GRANT SELECT ON ledger_totals TO grafana;

-- Quarter-hours that have to be recomputed. The transaction that changes readings_1m adds a row for all series of a quarter-hour,
-- since one for each series would be 2,000 times as many; ingest's housekeeping deletes it.
CREATE TABLE marks_15m (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL,
    series int[] STORAGE EXTERNAL NOT NULL,  -- Ids of series.
    -- Time of the mark: a quarter-hour that is still being filled is recomputed later, once for many batches.
    at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON marks_15m TO grafana;

-- The catalogue, as `citybeat migrate` last wrote it. Edit devices/catalogue.toml or the city's own file, not this table.
CREATE TABLE metrics (
    name text PRIMARY KEY,
    domain text NOT NULL,
    unit text NOT NULL,  -- UCUM.
    kind text NOT NULL CHECK (kind = ANY (ARRAY['gauge', 'amount', 'counter', 'direction', 'level', 'state'])),
    definition jsonb NOT NULL  -- Every field of the catalogue's row.
);
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE OR UPDATE ON metrics FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
GRANT SELECT ON metrics TO grafana;

-- Transactional outbox behind /v1/stream. Rows are read in order of (xact, id). A transaction that writes one takes the shared
-- advisory lock (16, 0) before it gets its number; outbox_frontier() says below which number nothing can come any more.
CREATE TABLE outbox (
    xact bigint NOT NULL DEFAULT ((pg_current_xact_id()))::bigint,  -- Number of the transaction that wrote the row.
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    kind smallint NOT NULL CHECK (kind = ANY (ARRAY[0, 1])),  -- 0: readings, 1: states of sensors.
    rows int NOT NULL CHECK (rows > 0),
    -- Columns, storage/batches/outbox.py; uncompressed, which would take longer than all else that a batch does here.
    data bytea STORAGE EXTERNAL NOT NULL,
    CONSTRAINT outbox_pkey PRIMARY KEY (xact, id)
) WITH (autovacuum_vacuum_scale_factor=0.1, toast.autovacuum_vacuum_scale_factor=0.1);

-- One row: the highest row of outbox that was deleted. A stream that has not come so far has missed something.
CREATE TABLE outbox_floor (
    only_row bool DEFAULT true PRIMARY KEY CHECK (only_row),
    xact bigint NOT NULL,
    id bigint NOT NULL
);

-- Messages with readings that were refused, with the reasons.
CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    source_id int NOT NULL REFERENCES sources(id),
    topic text NOT NULL,
    payload bytea NOT NULL,
    refused jsonb NOT NULL,  -- [[index of the reading, or null for the message; reason; detail], …]
    reasons text[] NOT NULL,
    readings int NOT NULL,  -- Refused readings that the ledger has as quarantined; conflicts are not among them.
    resolved_at timestamptz
);
CREATE INDEX quarantine_by_source ON quarantine (source_id, received_at);
CREATE INDEX quarantine_open ON quarantine (id) INCLUDE (reasons) WHERE resolved_at IS NULL;
GRANT SELECT (id, received_at, source_id, reasons, readings, resolved_at) ON quarantine TO grafana;

-- Every reading. It has no foreign key: on a hypertable that deadlocks with concurrent COPY when a chunk is created
-- (timescaledb#4800, #7429).
CREATE TABLE readings (
    "time" timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    value float8 NOT NULL,  -- In the metric's unit, calibrated.
    series_id int NOT NULL,
    flags smallint NOT NULL,  -- Bit mask, devices/flags.py; 0: good.
    CONSTRAINT readings_pkey PRIMARY KEY (series_id, "time")
);  -- hypertable by time
GRANT SELECT ON readings TO grafana;

-- Quarter-hour rollups, with the columns of readings_1m. Those that are marked in marks_15m are out of date: the view quarter_hours
-- has all of them as they should be.
CREATE TABLE readings_15m (
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
    CONSTRAINT readings_15m_pkey PRIMARY KEY (series_id, bucket)
);  -- hypertable by bucket
GRANT SELECT ON readings_15m TO grafana;

-- One-minute rollups, written by the transaction that stores the readings.
CREATE TABLE readings_1m (
    bucket timestamptz NOT NULL,
    first_at timestamptz NOT NULL,  -- Time of the first good reading; infinity when there is none.
    last_at timestamptz NOT NULL,  -- Time of the last good reading; -infinity when there is none.
    vmin float8 NOT NULL,  -- Lowest good value; infinity when there is none.
    vmax float8 NOT NULL,  -- Highest good value; -infinity when there is none.
    vfirst float8 NOT NULL,
    vlast float8 NOT NULL,
    s1 float8 NOT NULL,  -- A sum whose meaning depends on the kind of the metric: devices/batch.py, Partials.
    s2 float8 NOT NULL,  -- A second such sum.
    series_id int NOT NULL,
    n int NOT NULL,  -- Good readings.
    n_bad int NOT NULL,  -- Readings that a flag keeps out.
    CONSTRAINT readings_1m_pkey PRIMARY KEY (series_id, bucket)
);  -- hypertable by bucket
GRANT SELECT ON readings_1m TO grafana;

-- One row. Every change of the registry raises the version in its own transaction, so that a reader who sees the number sees the
-- change.
CREATE TABLE registry_version (
    only_row bool DEFAULT true PRIMARY KEY CHECK (only_row),
    version bigint NOT NULL
);

-- Migrations that were applied, with the SHA-256 of their files.
CREATE TABLE schema_migrations (
    number int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Repeatable files, with the SHA-256 of the text that was applied last.
CREATE TABLE schema_repeatables (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- State of each sensor in service, as ingest found it a few seconds ago. bad: a flag keeps the newest reading out of rollups;
-- stuck: the flag STUCK does; overdue: as the view liveness has it; silent: the sensor has never reported.
CREATE TABLE sensor_states (
    series_id int PRIMARY KEY,
    state text NOT NULL CHECK (state = ANY (ARRAY['ok', 'bad', 'stuck', 'overdue', 'silent'])),
    -- Time of the reading by which the state was noticed; of overdue the time when it became due, of silent that of its
    -- registration.
    since timestamptz NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now()
);

-- Message numbers that were received, by source and boot: they tell repeated messages, and missing ones.
CREATE TABLE seqs (
    source_id int NOT NULL REFERENCES sources(id),
    boot text NOT NULL,
    seen int8multirange NOT NULL,  -- A hole is a message that never came, or that is still under way.
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    -- Holes below this number are messages that never came: a higher number came a grace time before the newest message. NULL: none
    -- is old enough yet.
    settled bigint,
    mark bigint,  -- Becomes settled when the next mark is made.
    mark_at timestamptz,
    CONSTRAINT seqs_pkey PRIMARY KEY (source_id, boot)
);
GRANT SELECT ON seqs TO grafana;

-- Sensors: one metric of one device. Thresholds are NULL where the catalogue's hold.
CREATE TABLE series (
    id int PRIMARY KEY,  -- Without gaps, so that arrays indexed by id are no longer than there are series.
    device_id text NOT NULL REFERENCES devices(id),
    metric text NOT NULL REFERENCES metrics(name),
    low float8,  -- A reading below is flagged RANGE.
    high float8,  -- A reading above is flagged RANGE.
    suspect_low float8,  -- A reading below is flagged SUSPECT.
    suspect_high float8,  -- A reading above is flagged SUSPECT.
    rating float8,  -- Value that the device is built for; the catalogue's bounds can be multiples of it.
    interval_s float8 CHECK (interval_s > 0::float8),  -- Seconds between two readings, as expected.
    sentinels float8[] NOT NULL DEFAULT '{}'::float8[],  -- Codes for "missing" as they are sent, beside the default ones.
    created_at timestamptz NOT NULL DEFAULT now(),
    unit text,  -- Unit that the sensor sends; NULL: the metric's own.
    step_floor float8,  -- A change by more than step_floor + step_per_minute * minutes is flagged STEP.
    step_per_minute float8,
    stuck_after_s float8,  -- Seconds after which an unchanged value is flagged STUCK.
    retired_at timestamptz,  -- Out of service since then, whatever its device is; NULL: in service if the device is.
    CONSTRAINT series_device_id_metric_key UNIQUE (device_id, metric)
);
CREATE TRIGGER audit_delete AFTER DELETE ON series REFERENCING OLD TABLE AS olds FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_insert AFTER INSERT ON series REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION audit_series();
CREATE TRIGGER audit_update AFTER UPDATE ON series REFERENCING OLD TABLE AS olds NEW TABLE AS news FOR EACH STATEMENT EXECUTE
    FUNCTION audit_series();
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE OR UPDATE ON series FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
GRANT SELECT ON series TO grafana;

-- Figures of a source that change with traffic. They are not in sources, where each change would be one of the registry.
CREATE TABLE source_state (
    source_id int PRIMARY KEY REFERENCES sources(id),
    status text,  -- online or offline, as the source last said itself; NULL: it has not.
    status_at timestamptz,
    quarantine_bytes bigint NOT NULL DEFAULT 0
);
GRANT SELECT ON source_state TO grafana;

-- MQTT identities: gateways, and devices that speak MQTT themselves. Messages whose topic names no source are counted under '?'.
CREATE TABLE sources (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When another value arrives for a series and time that is stored: keep the first one, or replace it by the last one.
    conflict_policy text NOT NULL DEFAULT 'keep' CHECK (conflict_policy = ANY (ARRAY['keep', 'replace']))
);
CREATE TRIGGER audit_update AFTER UPDATE ON sources REFERENCING OLD TABLE AS olds NEW TABLE AS news FOR EACH STATEMENT EXECUTE
    FUNCTION audit_sources();
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE OR UPDATE ON sources FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
GRANT SELECT ON sources TO grafana;

-- Views ---------------------------------------------------------------------------------------------------------------------------

-- Sensors in service, and which of them are overdue (stale): three expected intervals after the newest reading, since one lost
-- message and some jitter are no alarm, or after the registration if there is no reading.
CREATE VIEW liveness (series_id int, device text, metric text, domain text, district text, source text, expected interval, last_at
    timestamptz, last_value float8, good_at timestamptz, good_value float8, due_at timestamptz, stale bool, overdue_since
    timestamptz);
GRANT SELECT ON liveness TO grafana;

-- Limits of the catalogue that are in force, in the metric's unit. span: the time over which the mean is taken, 1h, 8h, 24h or 1y.
CREATE VIEW metric_limits (metric text, standard text, span text, value float8, source text, since date);
GRANT SELECT ON metric_limits TO grafana;

-- All quarter-hours, up to date: one that is marked as out of date is computed from readings_1m.
CREATE VIEW quarter_hours (series_id int, bucket timestamptz, n int, n_bad int, vmin float8, vmax float8, first_at timestamptz,
    vfirst float8, last_at timestamptz, vlast float8, s1 float8, s2 float8);
GRANT SELECT ON quarter_hours TO grafana;

-- Sensors in service with their state: ok, bad or stuck by the flags of the newest reading, overdue, or silent since registration;
-- severity 0 to 4 in that order.
CREATE VIEW sensor_board (series_id int, device text, name text, metric text, unit text, domain text, district text, source text,
    latitude float8, longitude float8, expected interval, last_at timestamptz, received_at timestamptz, last_value float8, flags
    smallint, state text, severity int, since timestamptz);
GRANT SELECT ON sensor_board TO grafana;

-- Quarter-hours of every series, as aggregates by kind; those that are out of date are computed from the minutes: docs/rollups.md.
CREATE VIEW telemetry_15m ("time" timestamptz, device text, metric text, unit text, domain text, district text, mean float8, sum
    float8, min float8, max float8, first float8, last float8, count int, bad_count int, stddev float8, increase float8, coverage
    float8);
GRANT SELECT ON telemetry_15m TO grafana;

-- Minutes of every series, as aggregates by kind: docs/rollups.md.
CREATE VIEW telemetry_1m ("time" timestamptz, device text, metric text, unit text, domain text, district text, mean float8, sum
    float8, min float8, max float8, first float8, last float8, count int, bad_count int, stddev float8, increase float8, coverage
    float8);
GRANT SELECT ON telemetry_1m TO grafana;

-- Every series with its labels; expected_every: seconds between two readings.
CREATE VIEW telemetry_series (series_id int, device text, metric text, unit text, kind text, domain text, district text,
    expected_every float8);
GRANT SELECT ON telemetry_series TO grafana;

-- Functions -----------------------------------------------------------------------------------------------------------------------

-- Name of the change from one row to another; NULL: there is no such row.
CREATE FUNCTION audit_action(before jsonb, after jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- Who makes the change: the setting citybeat.actor of the transaction, else the user of the database.
CREATE FUNCTION audit_actor() RETURNS text LANGUAGE sql STABLE;

-- Trigger: writes new calibrations to audit.
CREATE FUNCTION audit_calibrations() RETURNS trigger LANGUAGE plpgsql;

-- Trigger: writes new declarations to audit.
CREATE FUNCTION audit_declarations() RETURNS trigger LANGUAGE plpgsql;

-- Trigger: writes changes of devices, with the name of their source to audit.
CREATE FUNCTION audit_devices() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop=off;

-- Trigger: writes changes of sensors to audit.
CREATE FUNCTION audit_series() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop=off;

-- Trigger: writes changes of sources to audit.
CREATE FUNCTION audit_sources() RETURNS trigger LANGUAGE plpgsql;

-- A row as audit keeps it: without its NULLs and without the columns that are left out.
CREATE FUNCTION audited(row_of jsonb, VARIADIC left_out text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- End of the bucket that begins at an instant, by the clocks of a zone.
CREATE FUNCTION bucket_end(bucket interval, zone text, start timestamptz) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE;

-- Start of the bucket that contains an instant, by the clocks of a zone.
CREATE FUNCTION bucket_start(bucket interval, zone text, at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE;

-- Aggregates for a chart, of the first devices of each metric; the bucket follows from the range. usual: the sum of an amount, the
-- increase of a counter, the mean of all others. An aggregate that a kind does not have is NULL.
CREATE FUNCTION chart(aggregate text, step_ms float8, zone text, start timestamptz, stop timestamptz, districts text[], devices
    text[], metrics text[], most int) RETURNS TABLE("time" timestamptz, device text, metric text, district text, value float8, vmin
    float8, vmax float8, n int, n_bad int, coverage float8) LANGUAGE plpgsql STABLE;

-- Length of buckets for a chart of this range whose points are so many milliseconds apart.
CREATE FUNCTION chart_bucket(step_ms float8, start timestamptz, stop timestamptz) RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL
    SAFE;

-- Readings received and bad, and coverage, by district, in buckets of a quarter-hour or longer. Coverage assumes that every sensor
-- was in service all the time.
CREATE FUNCTION chart_quality(step_ms float8, zone text, start timestamptz, stop timestamptz, districts text[], devices text[],
    metrics text[]) RETURNS TABLE("time" timestamptz, district text, received bigint, bad bigint, coverage float8) LANGUAGE plpgsql
    STABLE SET plan_cache_mode=force_custom_plan;

-- Single readings of a sensor, if the range is two days or shorter.
CREATE FUNCTION chart_raw(device text, metric text, start timestamptz, stop timestamptz) RETURNS TABLE("time" timestamptz, value
    float8, flags smallint) LANGUAGE plpgsql STABLE SET plan_cache_mode=force_custom_plan;

-- Values picked in a variable of a dashboard; NULL, which means all of them, if everything or nothing is picked.
CREATE FUNCTION chosen(picked text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- Identifies the database between two restores, copies or failovers: numbers of transactions mean nothing in another generation.
CREATE FUNCTION database_generation() RETURNS text LANGUAGE sql STABLE;

-- Distance in metres along a sphere of the Earth's mean radius (haversine); within 0.6 % of the ellipsoid.
CREATE FUNCTION distance_m(latitude float8, longitude float8, to_latitude float8, to_longitude float8) RETURNS float8 LANGUAGE sql
    IMMUTABLE PARALLEL SAFE;

-- Time between two readings of a sensor, as it is registered, else as the catalogue says.
CREATE FUNCTION expected_interval(own float8, definition jsonb) RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- Makes the role grafana if that is allowed, and lets it read what dashboards show. Returns what an administrator has to do, or
-- NULL.
CREATE FUNCTION grant_reader() RETURNS text LANGUAGE plpgsql;
REVOKE ALL ON FUNCTION grant_reader FROM PUBLIC;

-- Sums and counts of good readings by hour: the part of merged_buckets that hourly means need, at a third of its cost.
CREATE FUNCTION hourly_means(zone text, since timestamptz, until timestamptz, series int[]) RETURNS TABLE(series_id int, began
    timestamptz, n int, s1 float8) LANGUAGE plpgsql STABLE SET plan_cache_mode=force_custom_plan;

-- Ratio of the means of the last full hour, 8 hours and 24 hours to the limits of a standard; a mean needs three quarters of its
-- hours.
CREATE FUNCTION limits_now(standard text) RETURNS TABLE(device text, metric text, span text, ratio float8) LANGUAGE sql STABLE;

-- The instant at which clocks of the zone show this time; the first of two where clocks are put back.
CREATE FUNCTION local_instant(wall timestamp, zone text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE;

-- Rollup rows in buckets of any length by the clocks of any zone, merged from the quarter-hours or minutes that begin in [since,
-- until). A bucket that begins before since is merged in part.
CREATE FUNCTION merged_buckets(bucket interval, zone text, since timestamptz, until timestamptz, series int[], quarters bool)
    RETURNS TABLE(series_id int, began timestamptz, n int, n_bad int, vmin float8, vmax float8, vfirst float8, vlast float8, s1
    float8, s2 float8) LANGUAGE plpgsql STABLE SET plan_cache_mode=force_custom_plan SET timescaledb.enable_runtime_exclusion=off;

-- Minutes of a series in [start, stop) merged into one row; no row if there are no minutes.
CREATE FUNCTION merged_minutes(series int, start timestamptz, stop timestamptz) RETURNS TABLE(n int, n_bad int, vmin float8, vmax
    float8, first_at timestamptz, vfirst float8, last_at timestamptz, vlast float8, s1 float8, s2 float8) LANGUAGE sql STABLE
    PARALLEL SAFE;

-- The number below which no transaction can write to outbox any more: every statement that begins after this one sees what those
-- wrote. The snapshot is taken before pg_locks is read. A transaction that is under way in the snapshot counts, unless pg_locks
-- shows that it holds its own number but not the lock of writers, which writers take before and release after they become visible.
-- The xmin of a snapshot would do too, but would wait for every other long transaction of the server.
CREATE FUNCTION outbox_frontier() RETURNS bigint LANGUAGE sql;

-- Counts, for each sensor, of the means of hours, moving 8 hours and local days that were above the limits of a standard.
CREATE FUNCTION over_limits(standard text, zone text, start timestamptz, stop timestamptz, districts text[], devices text[]) RETURNS
    TABLE(device text, metric text, span text, "limit" float8, periods int, above int, worst float8) LANGUAGE plpgsql STABLE;

-- Raises the registry's version and notifies listeners; a trigger of every table of the registry.
CREATE FUNCTION registry_changed() RETURNS trigger LANGUAGE plpgsql;

-- Devices that fit all given filters; storage/registry/selection.py (Selection) describes the parameters. A device without a place
-- is in no box and near nothing.
CREATE FUNCTION selected_devices(devices text[], domains text[], districts text[], tags jsonb[], tag_names text[], bbox float8[],
    near float8[], retired bool) RETURNS SETOF devices LANGUAGE sql STABLE PARALLEL SAFE;

-- Sensors of selected_devices. A sensor that is out of service is treated as one of a device that is.
CREATE FUNCTION selected_series(devices text[], metrics text[], domains text[], districts text[], tags jsonb[], tag_names text[],
    bbox float8[], near float8[], retired bool) RETURNS TABLE(series_id int, device text, metric text, unit text, kind text,
    expected_every float8, latitude float8, longitude float8) LANGUAGE sql STABLE PARALLEL SAFE;

-- The cursor from which a stream continues after what the calling statement sees: generation, the next number of a transaction, and
-- the numbers still under way. Those at or below the floor are left out: a writer of outbox would have held the floor back.
CREATE FUNCTION stream_cursor() RETURNS text LANGUAGE sql STABLE;

-- Aggregates by kind as in telemetry_15m, in buckets of any length and by the clocks of any zone: docs/rollups.md.
CREATE FUNCTION telemetry(bucket interval, zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL::text[],
    metrics text[] DEFAULT NULL::text[]) RETURNS TABLE("time" timestamptz, device text, metric text, unit text, domain text,
    district text, mean float8, sum float8, min float8, max float8, first float8, last float8, count int, bad_count int, stddev
    float8, increase float8, coverage float8) LANGUAGE plpgsql STABLE;

-- Share of the expected readings that were received, good or bad; at most 1.
CREATE FUNCTION telemetry_coverage(received bigint, length interval, expected_every float8) RETURNS float8 LANGUAGE sql IMMUTABLE
    PARALLEL SAFE;

-- Length of the mean vector of n directions: 1 if all point one way, 0 if they cancel out.
CREATE FUNCTION telemetry_length(n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- Mean: circular of a direction, in [0, 360); energetic of a level; of a state the share of 1; else arithmetic.
CREATE FUNCTION telemetry_mean(kind text, n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- Standard deviation of the sample; of a direction the circular one, in degrees (Mardia & Jupp, 2.3.4).
CREATE FUNCTION telemetry_stddev(kind text, n int, s1 float8, s2 float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE;

-- Sources whose counts a restricted key may see: those of which every device, retired or not, is within the key's restriction,
-- since counts of a gateway include what it carries for others.
CREATE FUNCTION visible_sources(domains text[], districts text[], tags jsonb[], tag_names text[]) RETURNS SETOF sources LANGUAGE sql
    STABLE PARALLEL SAFE;

-- VN_AQI by station: hourly for a range of up to 31 days, else daily.
CREATE FUNCTION vn_aqi(zone text, start timestamptz, stop timestamptz, districts text[], devices text[]) RETURNS TABLE("time"
    timestamptz, device text, aqi int) LANGUAGE plpgsql STABLE;

-- VN_AQI by local day and station; that of the running day comes from its hours so far.
CREATE FUNCTION vn_aqi_days(zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL::text[]) RETURNS
    TABLE("time" timestamptz, device text, aqi int) LANGUAGE sql STABLE;

-- VN_AQI by hour, stamped at its start, and station; PM10 or PM2.5 is mandatory.
CREATE FUNCTION vn_aqi_hours(zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL::text[]) RETURNS
    TABLE("time" timestamptz, device text, aqi int) LANGUAGE sql STABLE;

-- Sub-index of a concentration in ug/m3. Pollutants: o3 (1 h), o3_8h, co, so2, no2, pm10, pm25.
CREATE FUNCTION vn_aqi_index(pollutant text, c float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE;

-- Hourly means of good readings in ug/m3, of stations that measure particles.
CREATE FUNCTION vn_aqi_means(zone text, start timestamptz, stop timestamptz, devices text[]) RETURNS TABLE(device text, "time"
    timestamptz, pm25 float8, pm10 float8, no2 float8, so2 float8, co float8, o3 float8) LANGUAGE plpgsql STABLE;

-- NowCast concentration of 12 hourly means, the current hour last, NULL where there is none. NULL unless two of the last three are
-- there.
CREATE FUNCTION vn_nowcast(hours float8[]) RETURNS float8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE;

-- Offset of the zone from UTC if it is constant in a period; NULL: clocks are put forward or back within it. With a constant offset
-- a bucket is found by an addition, which over millions of rows costs a third of a conversion.
CREATE FUNCTION zone_shift(zone text, since timestamptz, until timestamptz) RETURNS interval LANGUAGE sql STABLE PARALLEL SAFE;
