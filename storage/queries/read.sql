-- The read path: what the API asks. `packed` stands for the form that storage/packed.py reads.

-- name: devices
-- A page of devices, in order of id; the cursor is the last id of the page before.
SELECT d.id, d.name, d.domain, src.name, d.latitude, d.longitude, d.district, d.tags, d.created_at, d.updated_at, d.retired_at,
    ARRAY(SELECT metric FROM series WHERE device_id = d.id ORDER BY metric)
FROM devices d JOIN sources src ON src.id = d.source_id
WHERE (%(domain)s::text IS NULL OR d.domain = %(domain)s)
    AND (%(district)s::text IS NULL OR d.district = %(district)s)
    AND (%(source)s::text IS NULL OR src.name = %(source)s)
    AND (%(include_retired)s OR d.retired_at IS NULL)
    AND (%(after)s::text IS NULL OR d.id > %(after)s)
ORDER BY d.id LIMIT %(limit)s;

-- name: device
-- One device, retired or not.
SELECT d.id, d.name, d.domain, src.name, d.latitude, d.longitude, d.district, d.tags, d.created_at, d.updated_at, d.retired_at,
    ARRAY(SELECT metric FROM series WHERE device_id = d.id ORDER BY metric)
FROM devices d JOIN sources src ON src.id = d.source_id
WHERE d.id = %(device)s;

-- name: sensors
-- The sensors of one device, each with its newest reading.
SELECT s.metric, m.domain, m.unit, m.kind, s.low, s.high, s.suspect_low, s.suspect_high, s.rating, s.interval_s, s.sentinels,
    l.time, l.value, l.flags, extract(epoch FROM now() - l.time)::float8
FROM series s JOIN metrics m ON m.name = s.metric LEFT JOIN latest l ON l.series_id = s.id
WHERE s.device_id = %(device)s
ORDER BY s.metric;

-- name: latest
-- A page of newest values, packed, in order of device and metric; the cursor is the last pair of the page before.
SELECT now(), array_agg(device_id), array_agg(metric), array_agg(unit), string_agg(timestamptz_send(time), ''),
    string_agg(float8send(value), ''), string_agg(int2send(flags), ''), string_agg(int2send(stale::int::int2), '')
FROM (
    SELECT s.device_id, s.metric, m.unit, l.time, l.value, l.flags,
        now() > l.time + 3 * expected_interval(s.interval_s, m.definition) AS stale
    FROM series s
    JOIN devices d ON d.id = s.device_id
    JOIN metrics m ON m.name = s.metric
    JOIN latest l ON l.series_id = s.id
    WHERE (%(domain)s::text IS NULL OR d.domain = %(domain)s)
        AND (%(district)s::text IS NULL OR d.district = %(district)s)
        AND (%(devices)s::text[] IS NULL OR s.device_id = ANY(%(devices)s))
        AND (%(metrics)s::text[] IS NULL OR s.metric = ANY(%(metrics)s))
        AND (%(include_retired)s OR d.retired_at IS NULL)
        AND (%(after_device)s::text IS NULL OR (s.device_id, s.metric) > (%(after_device)s, %(after_metric)s))
    ORDER BY s.device_id, s.metric LIMIT %(limit)s
) AS page;

-- name: series
-- What is to be known of one series before its readings are asked for; no row: no such series.
SELECT s.id, s.device_id, s.metric, m.unit, m.kind FROM series s JOIN metrics m ON m.name = s.metric
WHERE s.device_id = %(device)s AND s.metric = %(metric)s;

-- name: device_exists
-- To tell an unknown device from a device without that sensor.
SELECT EXISTS (SELECT FROM devices WHERE id = %(device)s);

-- name: raw
-- Readings of one series, packed, in time order.
SELECT string_agg(timestamptz_send(time), '' ORDER BY time), string_agg(float8send(value), '' ORDER BY time),
    string_agg(int2send(flags), '' ORDER BY time)
FROM (
    SELECT time, value, flags FROM readings
    WHERE series_id = %(series)s AND time >= %(start)s AND time < %(stop)s
    ORDER BY time LIMIT %(limit)s
) AS page;

-- name: minutes
-- One-minute rollups of one series, packed, in time order.
SELECT string_agg(timestamptz_send(bucket), '' ORDER BY bucket), string_agg(int4send(n), '' ORDER BY bucket),
    string_agg(int4send(n_bad), '' ORDER BY bucket), string_agg(float8send(vmin), '' ORDER BY bucket),
    string_agg(float8send(vmax), '' ORDER BY bucket), string_agg(float8send(vfirst), '' ORDER BY bucket),
    string_agg(float8send(vlast), '' ORDER BY bucket), string_agg(float8send(s1), '' ORDER BY bucket),
    string_agg(float8send(s2), '' ORDER BY bucket)
FROM (
    SELECT bucket, n, n_bad, vmin, vmax, vfirst, vlast, s1, s2 FROM readings_1m
    WHERE series_id = %(series)s AND bucket >= %(start)s AND bucket < %(stop)s
    ORDER BY bucket LIMIT %(limit)s
) AS page;

-- name: ledger_totals
-- Sums over a range of minutes.
SELECT coalesce(sum(messages), 0)::int8, coalesce(sum(undecodable), 0)::int8, coalesce(sum(redelivered), 0)::int8,
    coalesce(sum(received), 0)::int8, coalesce(sum(stored), 0)::int8, coalesce(sum(duplicate), 0)::int8,
    coalesce(sum(conflict), 0)::int8, coalesce(sum(missing), 0)::int8, coalesce(sum(quarantined), 0)::int8,
    coalesce(sum(overflow), 0)::int8
FROM ledger l JOIN sources src ON src.id = l.source_id
WHERE minute >= %(start)s AND minute < %(stop)s AND (%(sources)s::text[] IS NULL OR src.name = ANY(%(sources)s));

-- name: ledger
-- A page of the ledger, packed, in order of minute and source; the cursor is the last pair of the page before.
SELECT array_agg(name), string_agg(timestamptz_send(minute), ''), string_agg(int8send(messages), ''),
    string_agg(int8send(undecodable), ''), string_agg(int8send(redelivered), ''), string_agg(int8send(received), ''),
    string_agg(int8send(stored), ''), string_agg(int8send(duplicate), ''), string_agg(int8send(conflict), ''),
    string_agg(int8send(missing), ''), string_agg(int8send(quarantined), ''), string_agg(int8send(overflow), '')
FROM (
    SELECT src.name, l.* FROM ledger l JOIN sources src ON src.id = l.source_id
    WHERE minute >= %(start)s AND minute < %(stop)s AND (%(sources)s::text[] IS NULL OR src.name = ANY(%(sources)s))
        AND (%(after_minute)s::timestamptz IS NULL OR (minute, src.name) > (%(after_minute)s, %(after_source)s))
    ORDER BY minute, src.name LIMIT %(limit)s
) AS page;
