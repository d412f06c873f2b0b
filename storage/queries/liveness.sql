-- Overdue sensors.

-- name: overdue
-- Lists sensors in service that are overdue, those that have been silent longest first.
SELECT device, metric, source, expected, last_at, good_at, overdue_since FROM liveness
WHERE stale AND (%(source)s::text IS NULL OR source = %(source)s) AND (%(domain)s::text IS NULL OR domain = %(domain)s)
ORDER BY overdue_since, device, metric LIMIT %(limit)s;

-- name: sensors
-- Reads a page of a selection's sensors in service, packed, in order of device and metric; the cursor is the last pair of the page
-- before.
SELECT array_agg(device), array_agg(metric), array_agg(source), string_agg(float8send(every), ''), array_agg(last_us),
    array_agg(good_us), string_agg(timestamptz_send(due_at), ''), string_agg(int4send(stale::int), '')
FROM (
    SELECT l.device, l.metric, l.source, extract(epoch FROM l.expected)::float8 AS every,
        (extract(epoch FROM l.last_at) * 1000000)::int8 AS last_us, (extract(epoch FROM l.good_at) * 1000000)::int8 AS good_us,
        l.due_at, l.stale
    FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
        %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], false) s
    JOIN liveness l ON l.series_id = s.series_id
    WHERE (%(stale)s::bool IS NULL OR l.stale = %(stale)s)
        AND (%(after_device)s::text IS NULL OR (l.device, l.metric) > (%(after_device)s, %(after_metric)s))
    ORDER BY l.device, l.metric LIMIT %(limit)s
) AS page;

-- name: moment
-- Reads the start of the transaction, which is the time that the view compares with.
SELECT now();
