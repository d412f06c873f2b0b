-- The registry: catalogue, sources, devices, series.

-- name: sync_metric
-- One row of the catalogue; touches nothing that is equal already.
INSERT INTO metrics AS m (name, domain, unit, kind, definition)
VALUES (%(name)s, %(domain)s, %(unit)s, %(kind)s, %(definition)s)
ON CONFLICT (name) DO UPDATE
SET domain = EXCLUDED.domain, unit = EXCLUDED.unit, kind = EXCLUDED.kind, definition = EXCLUDED.definition
WHERE (m.domain, m.unit, m.kind, m.definition)
    IS DISTINCT FROM (EXCLUDED.domain, EXCLUDED.unit, EXCLUDED.kind, EXCLUDED.definition);

-- name: metrics_as_synced
-- To see whether the catalogue changed at all, before writing.
SELECT name, definition FROM metrics;

-- name: kind_in_use
-- Metrics of these names that have series: their kind cannot change under their history.
SELECT DISTINCT m.name, m.kind FROM metrics m JOIN series s ON s.metric = m.name WHERE m.name = ANY(%(names)s);

-- name: add_sources
-- Sources that were not there yet.
INSERT INTO sources (name) SELECT unnest(%(names)s::text[]) ON CONFLICT (name) DO NOTHING;

-- name: source_ids
-- Ids of these sources, as far as they exist.
SELECT name, id FROM sources WHERE name = ANY(%(names)s);

-- name: lock_registry
-- One change at a time, to the end of the transaction under way.
SELECT pg_advisory_xact_lock(%(key)s);

-- name: sources_to_hold
-- Sources of which no batch may be half way through what changes: both, where a device moves from one to the other, and that of a
-- sensor whose calibration is of every reading if none is stored.
SELECT DISTINCT held.source_id
FROM jsonb_to_recordset(%(rows)s) AS r(device text, source text, undated bool)
JOIN devices d ON d.id = r.device
LEFT JOIN sources s ON s.name = r.source
CROSS JOIN LATERAL unnest(ARRAY[d.source_id, s.id]) AS held(source_id)
WHERE held.source_id IS NOT NULL AND (s.id <> d.source_id OR r.undated)
ORDER BY held.source_id;

-- name: put_devices
-- Register devices, or replace their descriptions; a retired one comes back into service. One statement, so one new version.
INSERT INTO devices AS d (id, domain, source_id, {fields})
SELECT r.id, r.domain, s.id, {r.fields}
FROM jsonb_to_recordset(%(rows)s) AS r(id text, domain text, source text, {fields types})
JOIN sources s ON s.name = r.source
ON CONFLICT (id) DO UPDATE
SET domain = EXCLUDED.domain, source_id = EXCLUDED.source_id, {fields = EXCLUDED}, updated_at = now(), retired_at = NULL
WHERE (d.domain, d.source_id, d.retired_at, {d.fields})
    IS DISTINCT FROM (EXCLUDED.domain, EXCLUDED.source_id, NULL::timestamptz, {EXCLUDED.fields});

-- name: update_series
-- What sensors override, where it differs; a retired one comes back into service.
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
-- Sensors that are new, with the numbers behind the last one: what is found registered, or undone, leaves no gap.
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
-- Calibrations that say something new. Without a valid_from: of every reading, if none is stored and none was calibrated; else from now.
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
-- Out of service from now on; its history stays.
UPDATE devices SET retired_at = now(), updated_at = now() WHERE id = %(id)s AND retired_at IS NULL;

-- name: version
-- Grows with every change of the registry.
SELECT version FROM registry_version;

-- name: all_sources
-- Every source, for a snapshot.
SELECT name, id FROM sources;

-- name: replacing_sources
-- Sources whose last value wins.
SELECT id FROM sources WHERE conflict_policy = 'replace';

-- name: set_conflict_policy
-- For conflicts from now on.
UPDATE sources SET conflict_policy = %(policy)s WHERE name = %(source)s;

-- name: all_devices
-- Every device, for a snapshot.
SELECT id, source_id, retired_at IS NOT NULL FROM devices;

-- name: all_series
-- Every series, for a snapshot; the overrides in the order of devices.device.SENSOR_NUMBERS; last, whether it is out of service.
SELECT id, device_id, metric, sentinels, unit, low, high, suspect_low, suspect_high, rating, interval_s,
    step_floor, step_per_minute, stuck_after_s, retired_at IS NOT NULL
FROM series;

-- name: calibrations_in_force
-- What holds of all calibrations, in microseconds since 1970; NULL: from the beginning.
SELECT DISTINCT ON (series_id, valid_from) series_id,
    CASE WHEN isfinite(valid_from) THEN (extract(epoch FROM valid_from) * 1000000)::int8 END, scale, "offset"
FROM calibrations ORDER BY series_id, valid_from, id DESC;

-- name: all_declarations
-- What operators declared, in microseconds since 1970, in the order in which they did.
SELECT series_id, (extract(epoch FROM "from") * 1000000)::int8, (extract(epoch FROM "to") * 1000000)::int8, verdict
FROM declarations ORDER BY series_id, id;

-- name: metric_units
-- Names that a sensor may have, and the units that its values must become.
SELECT name, unit FROM metrics;

-- name: listen
-- Every change notifies this channel.
LISTEN registry;
