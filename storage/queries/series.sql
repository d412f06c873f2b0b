-- Series of a selection, and their readings. Packed results have the form that storage/db/packed.py reads.

-- name: select_series
-- Reads the series of a selection, packed, in order of device and metric.
SELECT string_agg(int4send(series_id), ''), array_agg(device), array_agg(metric), array_agg(unit), array_agg(kind),
    string_agg(float8send(expected_every), '')
FROM (
    SELECT * FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
        %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s)
    ORDER BY device, metric LIMIT %(limit)s
) AS found;

-- name: missing_devices
-- Finds requested names that are of no device of the selection.
SELECT ARRAY(
    SELECT DISTINCT name FROM unnest(%(devices)s::text[]) AS asked(name)
    WHERE name NOT IN (
        SELECT id FROM selected_devices(%(devices)s::text[], %(domains)s::text[], %(districts)s::text[], %(tags)s::text[]::jsonb[],
            %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s)
    )
    ORDER BY name
);

-- name: horizons
-- Reads the horizon of each level, in microseconds since 1970 UTC; NULL: nothing was dropped.
SELECT level, CASE WHEN isfinite(since) THEN (extract(epoch FROM since) * 1000000)::int8 END FROM horizons;

-- name: readings
-- Reads raw readings of series that a flags policy takes, packed, in order of series and time.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''),
    string_agg(int2send(flags), '')
FROM (
    SELECT series_id, time, value, flags FROM readings
    WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s AND time < %(stop)s
        AND CASE %(policy)s WHEN 'good' THEN (flags & %(bad)s::int2) = 0 OR (flags & %(good)s::int2) <> 0
            WHEN 'only_bad' THEN (flags & %(bad)s::int2) <> 0 AND (flags & %(good)s::int2) = 0 ELSE true END
    ORDER BY series_id, time LIMIT %(limit)s
) AS page;

-- name: placed_readings
-- Reads raw readings, each with the start and end of its bucket; packed, in order of series and time.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''),
    string_agg(int2send(flags), ''), string_agg(timestamptz_send(began), ''),
    string_agg(timestamptz_send(CASE WHEN %(bucket)s::interval <= INTERVAL '1 hour' THEN began + %(bucket)s::interval
        ELSE bucket_end(%(bucket)s::interval, %(zone)s::text, began) END), '')
FROM (
    SELECT series_id, time, value, flags, bucket_start(%(bucket)s::interval, %(zone)s::text, time) AS began
    FROM readings
    WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s
        AND time < CASE WHEN %(bucket)s::interval <= INTERVAL '1 hour' THEN %(stop)s::timestamptz + %(bucket)s::interval
            ELSE bucket_end(%(bucket)s::interval, %(zone)s::text,
                bucket_start(%(bucket)s::interval, %(zone)s::text, %(stop)s::timestamptz - INTERVAL '1 microsecond')) END
    ORDER BY series_id, time LIMIT %(limit)s
) AS page;

-- name: before
-- Reads the value of each series' newest reading before a time, which increases are computed from, packed; of readings that a flags
-- policy takes.
SELECT string_agg(int4send(id), ''), string_agg(float8send(value), '')
FROM (
    SELECT u.id, coalesce(r.value, c.value) AS value
    FROM unnest(%(series)s::int[]) AS u(id)
    LEFT JOIN LATERAL (
        SELECT value FROM readings
        WHERE series_id = u.id AND time < %(start)s
            AND CASE %(policy)s WHEN 'good' THEN (flags & %(bad)s::int2) = 0 OR (flags & %(good)s::int2) <> 0
                WHEN 'only_bad' THEN (flags & %(bad)s::int2) <> 0 AND (flags & %(good)s::int2) = 0 ELSE true END
        ORDER BY time DESC LIMIT 1
    ) AS r ON true
    LEFT JOIN carried_counters c ON c.series_id = u.id AND c.time < %(start)s
) AS found
WHERE value IS NOT NULL;

-- name: grid
-- Generates the starts and ends of the buckets that begin in [start, stop), packed; `step` is no longer than any of them.
SELECT string_agg(timestamptz_send(began), ''),
    string_agg(timestamptz_send(CASE WHEN %(bucket)s::interval <= INTERVAL '1 hour' THEN began + %(bucket)s::interval
        ELSE bucket_end(%(bucket)s::interval, %(zone)s::text, began) END), '')
FROM (
    SELECT began FROM (
        SELECT DISTINCT bucket_start(%(bucket)s::interval, %(zone)s::text, at) AS began
        FROM generate_series(%(start)s::timestamptz, %(stop)s::timestamptz + %(bucket)s::interval, %(step)s::interval) AS at
    ) AS every
    WHERE began >= %(start)s AND began < %(stop)s
    ORDER BY began LIMIT %(limit)s
) AS page;

-- name: latest
-- Reads a page of newest values of a selection, packed, in order of device and metric; the cursor is the last pair of the page
-- before.
SELECT now(), stream_cursor(), array_agg(device), array_agg(metric), array_agg(unit), array_agg(latitude) FILTER (WHERE %(places)s),
    array_agg(longitude) FILTER (WHERE %(places)s),
    string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''), string_agg(int2send(flags), ''),
    string_agg(int2send(stale::int::int2), '')
FROM (
    SELECT s.*, l.time, l.value, l.flags, now() > l.time + 3 * make_interval(secs => s.expected_every) AS stale
    FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
        %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s) s
    JOIN latest l ON l.series_id = s.series_id
    WHERE (%(after_device)s::text IS NULL OR (s.device, s.metric) > (%(after_device)s, %(after_metric)s))
        AND (%(stale)s::bool IS NULL OR %(stale)s = (now() > l.time + 3 * make_interval(secs => s.expected_every)))
    ORDER BY s.device, s.metric LIMIT %(limit)s
) AS page;

-- name: readings_ascending
-- Reads a page of readings of series, packed, in order of time; the cursor is the last pair (time, series) of the page before. Each
-- series contributes a page at most, by its own key, so that no chunk is read whole.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''),
    string_agg(int2send(flags), '')
FROM (
    SELECT r.* FROM unnest(%(series)s::int[]) AS u(id) CROSS JOIN LATERAL (
        SELECT series_id, time, value, flags FROM readings
        WHERE series_id = u.id AND time >= %(start)s AND time < %(stop)s
            AND (%(after_time)s::timestamptz IS NULL OR (time, series_id) > (%(after_time)s, %(after_series)s::int))
            AND CASE %(policy)s WHEN 'good' THEN (flags & %(bad)s::int2) = 0 OR (flags & %(good)s::int2) <> 0
                WHEN 'only_bad' THEN (flags & %(bad)s::int2) <> 0 AND (flags & %(good)s::int2) = 0 ELSE true END
            AND (%(mask)s::int2 = 0 OR (flags & %(mask)s::int2) <> 0)
        ORDER BY time LIMIT %(limit)s
    ) AS r
    ORDER BY r.time, r.series_id LIMIT %(limit)s
) AS page;

-- name: readings_descending
-- Reads a page as readings_ascending does, from the newest on.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''),
    string_agg(int2send(flags), '')
FROM (
    SELECT r.* FROM unnest(%(series)s::int[]) AS u(id) CROSS JOIN LATERAL (
        SELECT series_id, time, value, flags FROM readings
        WHERE series_id = u.id AND time >= %(start)s AND time < %(stop)s
            AND (%(after_time)s::timestamptz IS NULL OR (time, series_id) < (%(after_time)s, %(after_series)s::int))
            AND CASE %(policy)s WHEN 'good' THEN (flags & %(bad)s::int2) = 0 OR (flags & %(good)s::int2) <> 0
                WHEN 'only_bad' THEN (flags & %(bad)s::int2) <> 0 AND (flags & %(good)s::int2) = 0 ELSE true END
            AND (%(mask)s::int2 = 0 OR (flags & %(mask)s::int2) <> 0)
        ORDER BY time DESC LIMIT %(limit)s
    ) AS r
    ORDER BY r.time DESC, r.series_id DESC LIMIT %(limit)s
) AS page;

-- name: nearest
-- Reads the reading of each series that is nearest to a time, packed, in order of series; of two as near, the earlier.
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(time), ''), string_agg(float8send(value), ''),
    string_agg(int2send(flags), '')
FROM (
    SELECT n.* FROM unnest(%(series)s::int[]) AS u(id) CROSS JOIN LATERAL (
        SELECT * FROM (
            (SELECT series_id, time, value, flags FROM readings
            WHERE series_id = u.id AND time <= %(at)s AND time >= %(start)s
                AND CASE %(policy)s WHEN 'good' THEN (flags & %(bad)s::int2) = 0 OR (flags & %(good)s::int2) <> 0
                    WHEN 'only_bad' THEN (flags & %(bad)s::int2) <> 0 AND (flags & %(good)s::int2) = 0 ELSE true END
            ORDER BY time DESC LIMIT 1)
            UNION ALL
            (SELECT series_id, time, value, flags FROM readings
            WHERE series_id = u.id AND time > %(at)s AND time <= %(stop)s
                AND CASE %(policy)s WHEN 'good' THEN (flags & %(bad)s::int2) = 0 OR (flags & %(good)s::int2) <> 0
                    WHEN 'only_bad' THEN (flags & %(bad)s::int2) <> 0 AND (flags & %(good)s::int2) = 0 ELSE true END
            ORDER BY time LIMIT 1)
        ) AS both_sides
        ORDER BY abs(extract(epoch FROM time - %(at)s)), time LIMIT 1
    ) AS n
    ORDER BY n.series_id
) AS page;

-- name: seen_sources
-- Lists those of the requested sources that a restricted key may see.
SELECT coalesce(array_agg(name ORDER BY name), '{}')
FROM visible_sources(%(domains)s::text[], %(districts)s::text[], %(tags)s::jsonb[], %(tag_names)s::text[])
WHERE %(wanted)s::text[] IS NULL OR name = ANY(%(wanted)s);

-- name: source_exists
-- Tells if a source exists.
SELECT EXISTS (SELECT FROM sources WHERE name = %(source)s);
