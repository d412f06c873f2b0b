-- Changes of the registry, one device at a time, and their history.

-- name: act
-- Names, for the history, who makes the changes of this transaction.
SELECT set_config('citybeat.actor', %(actor)s, true);

-- name: act_always
-- Names, for the history, who makes the changes of this connection.
SELECT set_config('citybeat.actor', %(actor)s, false);

-- name: hold
-- Reads a device and locks it until the transaction ends.
SELECT s.name, d.domain, d.retired_at, {d.fields}
FROM devices d JOIN sources s ON s.id = d.source_id WHERE d.id = %(device)s FOR NO KEY UPDATE OF d;

-- name: tag
-- Counts the changes of a device, its sensors and calibrations, which make its ETag: each adds a row to the history, and none is
-- ever removed. A declaration about readings does not change the device.
SELECT count(*) FROM audit WHERE device = %(device)s AND subject <> 'declaration';

-- name: marks
-- Counts the changes of each of these devices that exists.
SELECT d.id, (SELECT count(*) FROM audit a WHERE a.device = d.id) FROM devices d WHERE d.id = ANY(%(devices)s);

-- name: update_device
-- Replaces the description of a device, unless nothing in it differs.
UPDATE devices AS d SET domain = %(domain)s, source_id = s.id, {fields = n},
    retired_at = CASE WHEN %(retired)s THEN coalesce(d.retired_at, now()) END, updated_at = now()
FROM jsonb_to_record(%(described)s) AS n({fields types}), sources s
WHERE d.id = %(device)s AND s.name = %(source)s AND (d.domain, d.source_id, d.retired_at IS NOT NULL, {d.fields})
    IS DISTINCT FROM (%(domain)s, s.id, %(retired)s, {n.fields});

-- name: has_sensor
-- Finds a device's sensor of this metric; true: it is out of service.
SELECT retired_at IS NOT NULL FROM series WHERE device_id = %(device)s AND metric = %(metric)s;

-- name: retire_sensor
-- Takes a sensor out of service; its history stays.
UPDATE series SET retired_at = now() WHERE device_id = %(device)s AND metric = %(metric)s AND retired_at IS NULL;

-- name: history
-- Reads a page of the changes of a device, the newest first. As text, since jsonb has numbers that no integer of a program holds.
SELECT number, at, actor, subject, action, metric, before::text, after::text
FROM (SELECT a.*, row_number() OVER (ORDER BY id) AS number FROM audit a WHERE device = %(device)s) AS numbered
WHERE %(before)s::int8 IS NULL OR number < %(before)s ORDER BY number DESC LIMIT %(limit)s;

-- name: calibrations
-- Reads every calibration of a device's sensors in the order in which they hold, and which of each sensor holds now.
SELECT s.metric, CASE WHEN isfinite(c.valid_from) THEN c.valid_from END, c.scale, c."offset", c."by", c.reason, c.created_at,
    c.id IS NOT DISTINCT FROM (
        SELECT o.id FROM calibrations o WHERE o.series_id = c.series_id AND o.valid_from <= now()
        ORDER BY o.valid_from DESC, o.id DESC LIMIT 1)
FROM calibrations c JOIN series s ON s.id = c.series_id
WHERE s.device_id = %(device)s ORDER BY s.metric, c.valid_from, c.id;

-- name: sources
-- Reads a page of sources in order of name.
SELECT s.name, s.conflict_policy, s.created_at, t.status, t.status_at, (SELECT count(*) FROM devices d WHERE d.source_id = s.id)
FROM sources s LEFT JOIN source_state t ON t.source_id = s.id
WHERE s.name <> '?' AND (%(sources)s::text[] IS NULL OR s.name = ANY(%(sources)s))
    AND (%(after)s::text IS NULL OR s.name > %(after)s)
ORDER BY s.name LIMIT %(limit)s;

-- name: described
-- Reads devices with their sensors as they were registered, in order of id and metric: a row for each sensor, and one for a device
-- without any.
SELECT d.id, src.name, d.domain, {d.fields}, s.metric, s.unit, s.low, s.high, s.suspect_low,
    s.suspect_high, s.rating, s.interval_s, s.step_floor, s.step_per_minute, s.stuck_after_s, s.sentinels
FROM selected_devices(%(devices)s::text[], %(domains)s::text[], %(districts)s::text[], %(tags)s::text[]::jsonb[],
    %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s) d
JOIN sources src ON src.id = d.source_id
LEFT JOIN series s ON s.device_id = d.id AND (s.retired_at IS NULL OR %(retired)s)
WHERE (%(source)s::text IS NULL OR src.name = %(source)s)
ORDER BY d.id, s.metric LIMIT %(limit)s;
