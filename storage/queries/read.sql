-- Reads of devices and of the ledger for the API. Packed results have the form that storage/db/packed.py reads.

-- name: devices
-- Reads a page of a selection's devices in order of id; the cursor is the last id of the page before.
SELECT d.created_at, d.updated_at, d.retired_at,
    ARRAY(SELECT metric FROM series WHERE device_id = d.id AND retired_at IS NULL ORDER BY metric), d.id, src.name, d.domain, {d.fields}
FROM selected_devices(%(devices)s::text[], %(domains)s::text[], %(districts)s::text[], %(tags)s::text[]::jsonb[],
    %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s) d
JOIN sources src ON src.id = d.source_id
WHERE (%(source)s::text IS NULL OR src.name = %(source)s)
    AND (%(after)s::text IS NULL OR d.id > %(after)s)
ORDER BY d.id LIMIT %(limit)s;

-- name: sensors
-- Reads the sensors of one device, each with its newest reading.
SELECT s.metric, m.domain, m.unit, m.kind, s.sentinels, s.unit, s.low, s.high, s.suspect_low, s.suspect_high, s.rating, s.interval_s,
    s.step_floor, s.step_per_minute, s.stuck_after_s, s.retired_at,
    l.time, l.value, l.flags, extract(epoch FROM now() - l.time)::float8
FROM series s JOIN metrics m ON m.name = s.metric LEFT JOIN latest l ON l.series_id = s.id
WHERE s.device_id = %(device)s
ORDER BY s.metric;

-- name: ledger_totals
-- Sums the ledger over a range of minutes.
SELECT {sums}
FROM ledger l JOIN sources src ON src.id = l.source_id
WHERE minute >= %(start)s AND minute < %(stop)s AND (%(sources)s::text[] IS NULL OR src.name = ANY(%(sources)s));

-- name: ledger
-- Reads a page of the ledger, packed, in order of minute and source; the cursor is the last pair of the page before.
SELECT array_agg(name), string_agg(timestamptz_send(minute), ''), {packed}
FROM (
    SELECT src.name, l.* FROM ledger l JOIN sources src ON src.id = l.source_id
    WHERE minute >= %(start)s AND minute < %(stop)s AND (%(sources)s::text[] IS NULL OR src.name = ANY(%(sources)s))
        AND (%(after_minute)s::timestamptz IS NULL OR (minute, src.name) > (%(after_minute)s, %(after_source)s))
    ORDER BY minute, src.name LIMIT %(limit)s
) AS page;

-- name: ledger_buckets
-- Reads a page of the ledger in longer buckets by the clocks of a zone. A page begins with the bucket in which the one before
-- ended.
SELECT array_agg(name), string_agg(timestamptz_send(began), ''), {packed}
FROM (
    SELECT src.name, b.*
    FROM (
        SELECT l.source_id, m.began, {sums}
        FROM (
            -- Once a minute, and not once a minute and source.
            SELECT minute, bucket_start(%(bucket)s::interval, %(zone)s, minute) AS began
            FROM (SELECT DISTINCT minute FROM ledger WHERE minute >= %(start)s AND minute < %(stop)s
                AND minute >= coalesce(%(after_minute)s::timestamptz, '-infinity')) AS seen
        ) m JOIN ledger l USING (minute)
        GROUP BY l.source_id, m.began
    ) b JOIN sources src ON src.id = b.source_id
    WHERE (%(sources)s::text[] IS NULL OR src.name = ANY(%(sources)s))
        AND (%(after_minute)s::timestamptz IS NULL OR (b.began, src.name) > (%(after_minute)s, %(after_source)s))
    ORDER BY b.began, src.name LIMIT %(limit)s
) AS page;
