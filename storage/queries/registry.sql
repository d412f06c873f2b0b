-- The registry: catalogue, sources, devices, series.

-- name: sync_metric
-- Writes one row of the catalogue, unless it is equal already.
INSERT INTO metrics AS m (name, domain, unit, kind, definition)
VALUES (%(name)s, %(domain)s, %(unit)s, %(kind)s, %(definition)s)
ON CONFLICT (name) DO UPDATE
SET domain = EXCLUDED.domain, unit = EXCLUDED.unit, kind = EXCLUDED.kind, definition = EXCLUDED.definition
WHERE (m.domain, m.unit, m.kind, m.definition)
    IS DISTINCT FROM (EXCLUDED.domain, EXCLUDED.unit, EXCLUDED.kind, EXCLUDED.definition);

-- name: metrics_as_synced
-- Reads the catalogue as it was last written, to find out whether it has changed.
SELECT name, definition FROM metrics;

-- name: kind_in_use
-- Finds the metrics of these names that have series: their kind cannot change under their history.
SELECT DISTINCT m.name, m.kind FROM metrics m JOIN series s ON s.metric = m.name WHERE m.name = ANY(%(names)s);

-- name: add_sources
-- Adds sources that do not exist yet.
INSERT INTO sources (name) SELECT unnest(%(names)s::text[]) ON CONFLICT (name) DO NOTHING;

-- name: source_ids
-- Reads the ids of those of these sources that exist.
SELECT name, id FROM sources WHERE name = ANY(%(names)s);

-- name: lock_registry
-- Lets one change at a time be made; held to the end of the transaction.
SELECT pg_advisory_xact_lock(%(key)s);

-- name: sources_to_hold
-- Finds the sources of which no batch may be half way through a change: both, where a device moves from one to the other, and that
-- of a sensor whose calibration is for every reading if none is stored.
SELECT DISTINCT held.source_id
FROM jsonb_to_recordset(%(rows)s) AS r(device text, source text, undated bool)
JOIN devices d ON d.id = r.device
LEFT JOIN sources s ON s.name = r.source
CROSS JOIN LATERAL unnest(ARRAY[d.source_id, s.id]) AS held(source_id)
WHERE held.source_id IS NOT NULL AND (s.id <> d.source_id OR r.undated)
ORDER BY held.source_id;

-- name: put_devices
-- Registers devices, or replaces their descriptions; a retired one comes back into service. It is one statement, so the version
-- rises once.
INSERT INTO devices AS d (id, domain, source_id, {fields})
SELECT r.id, r.domain, s.id, {r.fields}
FROM jsonb_to_recordset(%(rows)s) AS r(id text, domain text, source text, {fields types})
JOIN sources s ON s.name = r.source
ON CONFLICT (id) DO UPDATE
SET domain = EXCLUDED.domain, source_id = EXCLUDED.source_id, {fields = EXCLUDED}, updated_at = now(), retired_at = NULL
WHERE (d.domain, d.source_id, d.retired_at, {d.fields})
    IS DISTINCT FROM (EXCLUDED.domain, EXCLUDED.source_id, NULL::timestamptz, {EXCLUDED.fields});

-- name: update_series
-- Writes what sensors override, where it differs; a retired one comes back into service.
UPDATE series s
SET low = r.low, high = r.high, suspect_low = r.suspect_low, suspect_high = r.suspect_high, rating = r.rating,
    interval_s = r."interval", sentinels = r.sentinels, unit = r.unit, step_floor = r.step_floor,
    step_per_minute = r.step_per_minute, stuck_after_s = r.stuck_after, retired_at = NULL
FROM jsonb_to_recordset(%(rows)s) AS r(
    device text, metric text, low float8, high float8, suspect_low float8, suspect_high float8, rating float8, "interval" float8,
    sentinels float8[], unit text, step_floor float8, step_per_minute float8, stuck_after float8)
WHERE (s.device_id, s.metric) = (r.device, r.metric)
    AND (s.low, s.high, s.suspect_low, s.suspect_high, s.rating, s.interval_s, s.sentinels, s.unit, s.step_floor,
        s.step_per_minute, s.stuck_after_s, s.retired_at)
    IS DISTINCT FROM (r.low, r.high, r.suspect_low, r.suspect_high, r.rating, r."interval", r.sentinels, r.unit, r.step_floor,
        r.step_per_minute, r.stuck_after, NULL::timestamptz);

-- name: add_series
-- Adds new sensors, with the ids after the last one, so that a sensor that is registered already, or a change that is rolled back,
-- leaves no gap.
INSERT INTO series (id, device_id, metric, low, high, suspect_low, suspect_high, rating, interval_s, sentinels, unit,
    step_floor, step_per_minute, stuck_after_s)
SELECT (SELECT coalesce(max(id), 0) FROM series) + row_number() OVER (ORDER BY r.place),
    r.device, r.metric, r.low, r.high, r.suspect_low, r.suspect_high, r.rating, r."interval", r.sentinels, r.unit, r.step_floor,
    r.step_per_minute, r.stuck_after
FROM jsonb_to_recordset(%(rows)s) AS r(
    place int, device text, metric text, low float8, high float8, suspect_low float8, suspect_high float8, rating float8,
    "interval" float8, sentinels float8[], unit text, step_floor float8, step_per_minute float8, stuck_after float8)
WHERE NOT EXISTS (SELECT FROM series s WHERE (s.device_id, s.metric) = (r.device, r.metric));

-- name: add_calibrations
-- Adds calibrations that differ from those in force. One without valid_from is for every reading if none is stored and there was no
-- calibration, else from now on.
INSERT INTO calibrations (series_id, valid_from, scale, "offset", "by", reason)
SELECT s.id, t.valid_from, r.scale, r."offset", r."by", r.reason
FROM jsonb_to_recordset(%(rows)s) AS r(
    device text, metric text, valid_from timestamptz, scale float8, "offset" float8, "by" text, reason text)
JOIN series s ON (s.device_id, s.metric) = (r.device, r.metric)
CROSS JOIN LATERAL (
    SELECT coalesce(r.valid_from, CASE
        WHEN EXISTS (SELECT FROM calibrations WHERE series_id = s.id) OR EXISTS (SELECT FROM latest WHERE series_id = s.id) THEN now()
        ELSE '-infinity' END) AS valid_from
) AS t
LEFT JOIN LATERAL (
    SELECT c.valid_from, c.scale, c."offset" FROM calibrations c WHERE c.series_id = s.id AND c.valid_from <= t.valid_from
    ORDER BY c.valid_from DESC, c.id DESC LIMIT 1
) AS c ON true
WHERE (coalesce(c.scale, 1), coalesce(c."offset", 0)) IS DISTINCT FROM (r.scale, r."offset")
    OR (r.valid_from IS NOT NULL AND r.valid_from IS DISTINCT FROM c.valid_from);

-- name: retire_device
-- Takes a device out of service; its history stays.
UPDATE devices SET retired_at = now(), updated_at = now() WHERE id = %(id)s AND retired_at IS NULL;

-- name: version
-- Reads the version, which grows with every change of the registry.
SELECT version FROM registry_version;

-- name: all_sources
-- Reads every source, for a snapshot.
SELECT name, id FROM sources;

-- name: replacing_sources
-- Finds the sources whose last value wins a conflict.
SELECT id FROM sources WHERE conflict_policy = 'replace';

-- name: set_conflict_policy
-- Sets the policy for conflicts from now on.
UPDATE sources SET conflict_policy = %(policy)s WHERE name = %(source)s;

-- name: all_devices
-- Reads every device, for a snapshot.
SELECT id, source_id, retired_at IS NOT NULL FROM devices;

-- name: all_series
-- Reads every series, for a snapshot: overrides in the order of devices.device.SENSOR_NUMBERS; last, true if it is out of service.
SELECT id, device_id, metric, sentinels, unit, low, high, suspect_low, suspect_high, rating, interval_s,
    step_floor, step_per_minute, stuck_after_s, retired_at IS NOT NULL
FROM series;

-- name: calibrations_in_force
-- Reads the calibrations in force at any time, in microseconds since 1970; NULL: from the beginning.
SELECT DISTINCT ON (series_id, valid_from) series_id,
    CASE WHEN isfinite(valid_from) THEN (extract(epoch FROM valid_from) * 1000000)::int8 END, scale, "offset"
FROM calibrations ORDER BY series_id, valid_from, id DESC;

-- name: all_declarations
-- Reads what operators declared, in microseconds since 1970, in the order of the declarations.
SELECT series_id, (extract(epoch FROM "from") * 1000000)::int8, (extract(epoch FROM "to") * 1000000)::int8, verdict
FROM declarations ORDER BY series_id, id;

-- name: metric_units
-- Reads the names that a metric can have, and the units that its values are converted to.
SELECT name, unit FROM metrics;

-- name: listen
-- Subscribes to changes of the registry.
LISTEN registry;
