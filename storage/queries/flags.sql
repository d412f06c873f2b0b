-- Flags of stored readings: declared by operators, or judged again.

-- name: find_series
-- Finds a series, with the source whose lock protects its readings.
SELECT s.id, d.source_id FROM series s JOIN devices d ON d.id = s.device_id WHERE s.device_id = %(device)s AND s.metric = %(metric)s;

-- name: add_declaration
-- Adds a declaration, which is kept for ever.
INSERT INTO declarations (series_id, "from", "to", verdict, "by", reason)
VALUES (%(series)s, %(start)s, %(end)s, %(verdict)s, %(by)s, %(reason)s);

-- name: declare
-- Sets the operator's bits in the flags of a slice, and leaves the other bits.
UPDATE readings SET flags = (flags & ~%(manual)s::int2) | %(flags)s::int2
WHERE series_id = %(series)s AND time >= %(start)s AND time < %(stop)s AND flags & %(manual)s::int2 <> %(flags)s;

-- name: slice_end
-- Finds the end of a slice with at most so many readings; NULL: the slice takes the rest.
SELECT time FROM readings WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s AND time < %(stop)s
ORDER BY time OFFSET %(rows)s LIMIT 1;

-- name: bounds
-- Finds the first and the last reading of a period.
SELECT min(time), max(time) FROM readings WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s AND time < %(stop)s;

-- name: read
-- Reads a slice of readings in the order in which they are judged.
SELECT series_id, (extract(epoch FROM time) * 1000000)::int8, value, flags FROM readings
WHERE series_id = ANY(%(series)s::int[]) AND time >= %(start)s AND time < %(stop)s ORDER BY series_id, time;

-- name: set
-- Sets the flags of readings, by key.
UPDATE readings r SET flags = n.flags
FROM (
    SELECT series_id, timestamptz 'epoch' + us * interval '1 microsecond' AS time, flags
    FROM unnest(%(series)s::int[], %(times)s::int8[], %(flags)s::int2[]) AS k(series_id, us, flags)
) n
WHERE r.series_id = n.series_id AND r.time = n.time AND r.time >= %(start)s AND r.time < %(stop)s;

-- name: series_of
-- Groups the series of these devices, or of all, by source.
SELECT d.source_id, array_agg(s.id ORDER BY s.id) FROM series s JOIN devices d ON d.id = s.device_id
WHERE %(devices)s::text[] IS NULL OR d.id = ANY(%(devices)s)
GROUP BY d.source_id ORDER BY d.source_id;
