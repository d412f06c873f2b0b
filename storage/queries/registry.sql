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

-- name: put_devices
-- Register devices, or replace their descriptions; a retired one comes back into service. One statement, so one new version.
INSERT INTO devices AS d (id, name, domain, source_id, latitude, longitude, district, tags)
SELECT r.id, r.name, r.domain, s.id, r.latitude, r.longitude, r.district, r.tags
FROM jsonb_to_recordset(%(rows)s) AS r(
    id text, name text, domain text, source text, latitude float8, longitude float8, district text, tags jsonb)
JOIN sources s ON s.name = r.source
ON CONFLICT (id) DO UPDATE
SET name = EXCLUDED.name, domain = EXCLUDED.domain, source_id = EXCLUDED.source_id, latitude = EXCLUDED.latitude,
    longitude = EXCLUDED.longitude, district = EXCLUDED.district, tags = EXCLUDED.tags, updated_at = now(), retired_at = NULL
WHERE (d.name, d.domain, d.source_id, d.latitude, d.longitude, d.district, d.tags, d.retired_at)
    IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.domain, EXCLUDED.source_id, EXCLUDED.latitude, EXCLUDED.longitude,
                      EXCLUDED.district, EXCLUDED.tags, NULL::timestamptz);

-- name: put_series
-- Sensors of devices, with what they override.
INSERT INTO series AS s (device_id, metric, low, high, suspect_low, suspect_high, rating, interval_s, sentinels)
SELECT device, metric, low, high, suspect_low, suspect_high, rating, "interval", sentinels
FROM jsonb_to_recordset(%(rows)s) AS r(
    device text, metric text, low float8, high float8, suspect_low float8, suspect_high float8, rating float8, "interval" float8,
    sentinels float8[])
ON CONFLICT (device_id, metric) DO UPDATE
SET low = EXCLUDED.low, high = EXCLUDED.high, suspect_low = EXCLUDED.suspect_low, suspect_high = EXCLUDED.suspect_high,
    rating = EXCLUDED.rating, interval_s = EXCLUDED.interval_s, sentinels = EXCLUDED.sentinels
WHERE (s.low, s.high, s.suspect_low, s.suspect_high, s.rating, s.interval_s, s.sentinels)
    IS DISTINCT FROM (EXCLUDED.low, EXCLUDED.high, EXCLUDED.suspect_low, EXCLUDED.suspect_high,
                      EXCLUDED.rating, EXCLUDED.interval_s, EXCLUDED.sentinels);

-- name: retire_device
-- Out of service from now on; its history stays.
UPDATE devices SET retired_at = now(), updated_at = now() WHERE id = %(id)s AND retired_at IS NULL;

-- name: version
-- Grows with every change of the registry.
SELECT version FROM registry_version;

-- name: all_sources
-- Every source, for a snapshot.
SELECT name, id FROM sources;

-- name: all_devices
-- Every device, for a snapshot.
SELECT id, source_id, retired_at IS NOT NULL FROM devices;

-- name: all_series
-- Every series, for a snapshot.
SELECT id, device_id, metric, low, high, suspect_low, suspect_high, rating, interval_s, sentinels FROM series;

-- name: metric_names
-- Names that a sensor may have.
SELECT name FROM metrics;

-- name: listen
-- Every change notifies this channel.
LISTEN registry;
