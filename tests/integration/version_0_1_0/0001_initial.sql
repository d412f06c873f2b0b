-- The registry, the readings with their one-minute rollup, and the accounts.

CREATE EXTENSION IF NOT EXISTS timescaledb;

-- Registry -----------------------------------------------------------------------------------------------------------------------

CREATE TABLE metrics (
    name text PRIMARY KEY,
    domain text NOT NULL,
    unit text NOT NULL,  -- UCUM
    kind text NOT NULL CHECK (kind IN ('gauge', 'amount', 'counter', 'direction', 'level', 'state')),
    definition jsonb NOT NULL  -- every column of the catalogue's row
);
COMMENT ON TABLE metrics IS 'The catalogue, as the program last synced it; edit devices/catalogue.toml or the city''s own file, not this.';

CREATE TABLE sources (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sources IS 'MQTT identities: gateways, and devices that speak MQTT themselves.';
-- Messages whose topic names no source are accounted here; no source can be called so.
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

CREATE TABLE series (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id text NOT NULL REFERENCES devices,
    metric text NOT NULL REFERENCES metrics,
    -- What the registration overrides; NULL: as the catalogue says.
    low float8,
    high float8,
    suspect_low float8,
    suspect_high float8,
    rating float8,
    interval_s float8 CHECK (interval_s > 0),
    sentinels float8[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (device_id, metric)
);

-- One row, in the same transaction as every change, so that whoever sees the new number sees the change.
CREATE TABLE registry_version (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);
INSERT INTO registry_version (version) VALUES (1);

CREATE FUNCTION registry_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry_version SET version = version + 1;
    NOTIFY registry;
    RETURN NULL;
END $$;
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON metrics FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON sources FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON devices FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON series FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();

-- Readings -----------------------------------------------------------------------------------------------------------------------
-- No foreign key on a hypertable: it deadlocks with concurrent COPY when a chunk is created (timescaledb#4800, #7429).

CREATE TABLE readings (
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    value float8 NOT NULL,
    series_id int NOT NULL,
    flags smallint NOT NULL,  -- bit mask, devices/flags.py; 0: good
    PRIMARY KEY (series_id, time)
);
-- The interval is a setting, applied by `citybeat migrate`; days would make thousands of chunks out of an imported history.
SELECT create_hypertable('readings', by_range('time', INTERVAL '7 days'), create_default_indexes => false);

CREATE TABLE readings_1m (
    bucket timestamptz NOT NULL,
    first_at timestamptz NOT NULL,  -- 'infinity' when n = 0
    last_at timestamptz NOT NULL,  -- '-infinity' when n = 0
    vmin float8 NOT NULL,  -- 'infinity' when n = 0
    vmax float8 NOT NULL,  -- '-infinity' when n = 0
    vfirst float8 NOT NULL,
    vlast float8 NOT NULL,
    s1 float8 NOT NULL,  -- by kind, see devices/batch.py Partials
    s2 float8 NOT NULL,
    series_id int NOT NULL,
    n int NOT NULL,  -- good readings
    n_bad int NOT NULL,  -- readings that a flag keeps out
    PRIMARY KEY (series_id, bucket)
);
SELECT create_hypertable('readings_1m', by_range('bucket', INTERVAL '30 days'), create_default_indexes => false);

-- One row a series, written by every batch: half-empty pages, so that an update stays on its page and touches no index.
CREATE TABLE latest (
    series_id int PRIMARY KEY,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    value float8 NOT NULL,
    flags smallint NOT NULL,
    good_at timestamptz NOT NULL,  -- last good reading; '-infinity': none yet
    good_value float8 NOT NULL
) WITH (fillfactor = 50);

-- Accounts -----------------------------------------------------------------------------------------------------------------------

CREATE TABLE ledger (
    minute timestamptz NOT NULL,  -- of receipt
    source_id int NOT NULL REFERENCES sources,
    messages bigint NOT NULL,
    undecodable bigint NOT NULL,  -- messages
    redelivered bigint NOT NULL,  -- messages
    received bigint NOT NULL,  -- readings, as all below
    stored bigint NOT NULL,
    duplicate bigint NOT NULL,
    conflict bigint NOT NULL,
    missing bigint NOT NULL,
    quarantined bigint NOT NULL,
    overflow bigint NOT NULL,  -- of quarantined: not kept, the source's quota being full
    PRIMARY KEY (minute, source_id)
);

CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    source_id int NOT NULL REFERENCES sources,
    topic text NOT NULL,
    payload bytea NOT NULL,
    refused jsonb NOT NULL,  -- [[index of the reading or null for the message, reason, detail], …]
    reasons text[] NOT NULL,
    readings int NOT NULL,  -- refused readings that the ledger has as quarantined (conflicts are not among them)
    resolved_at timestamptz
);
CREATE INDEX quarantine_by_source ON quarantine (source_id, received_at);

CREATE TABLE source_state (
    source_id int PRIMARY KEY REFERENCES sources,
    status text,  -- online, offline
    status_at timestamptz,
    quarantine_bytes bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE source_state IS 'What changes with traffic; apart from sources, so that it does not count as a change of the registry.';

CREATE TABLE seqs (
    source_id int NOT NULL REFERENCES sources,
    boot text NOT NULL,
    seen int8multirange NOT NULL,  -- message numbers; a hole is a message that never came
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (source_id, boot)
);

-- Ids of committed batches: whoever does not know whether his COMMIT took effect asks here.
CREATE TABLE batches (
    id uuid PRIMARY KEY,
    committed_at timestamptz NOT NULL DEFAULT now()
);
