-- Exports: many readings or rollups by COPY. A row has arrays of a series and a part of the time, so that neither the server's
-- protocol nor the client has work for each reading. storage/db/packed_rows.py reads them.

-- name: series
-- Selects the series to export by id, which is their order within a slice of time. The limit is one more than allowed, to find out
-- that there are too many.
SELECT s.series_id, s.device, s.metric, s.unit, s.kind, s.expected_every, d.name, d.domain, d.district, d.latitude, d.longitude
FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
    %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s) s
JOIN devices d ON d.id = s.device
ORDER BY s.series_id LIMIT %(limit)s;

-- name: prepare
-- Sets the planner for the transaction. Groups come from the primary key, in order and at once; hashing would gather a whole slice
-- first. No parallel worker, since live work needs the cores. Memory for the sort of quarter-hours.
SELECT set_config('enable_hashagg', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
    set_config('jit', 'off', true), set_config('work_mem', '64MB', true);

-- name: chunks
-- Finds the periods that have rows, from the chunks of these tables.
SELECT DISTINCT c.range_start, c.range_end
FROM timescaledb_information.chunks c
WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = ANY(%(tables)s)
    AND c.range_start < %(stop)s AND c.range_end > %(start)s
ORDER BY c.range_start, c.range_end;

-- name: raw
-- Reads readings of a slice of time.
COPY (
    SELECT series_id, array_agg(time ORDER BY time), array_agg(value ORDER BY time), array_agg(flags ORDER BY time)
    FROM readings
    WHERE series_id = ANY(%(series)s) AND time >= %(start)s AND time < %(stop)s
    GROUP BY series_id, time_bucket(%(part)s, time)
    ORDER BY series_id, time_bucket(%(part)s, time)
) TO STDOUT (FORMAT BINARY);

-- name: minutes
-- Reads one-minute rollups of a slice of time.
COPY (
    SELECT series_id, array_agg(bucket ORDER BY bucket), array_agg(n ORDER BY bucket), array_agg(n_bad ORDER BY bucket),
        array_agg(vmin ORDER BY bucket), array_agg(vmax ORDER BY bucket), array_agg(vfirst ORDER BY bucket),
        array_agg(vlast ORDER BY bucket), array_agg(s1 ORDER BY bucket), array_agg(s2 ORDER BY bucket)
    FROM readings_1m
    WHERE series_id = ANY(%(series)s) AND bucket >= %(start)s AND bucket < %(stop)s
    GROUP BY series_id, time_bucket(%(part)s, bucket)
    ORDER BY series_id, time_bucket(%(part)s, bucket)
) TO STDOUT (FORMAT BINARY);

-- name: quarter_hours
-- Reads quarter-hours of a slice of time; those that are out of date are computed from the minutes.
COPY (
    SELECT series_id, array_agg(bucket ORDER BY bucket), array_agg(n ORDER BY bucket), array_agg(n_bad ORDER BY bucket),
        array_agg(vmin ORDER BY bucket), array_agg(vmax ORDER BY bucket), array_agg(vfirst ORDER BY bucket),
        array_agg(vlast ORDER BY bucket), array_agg(s1 ORDER BY bucket), array_agg(s2 ORDER BY bucket)
    FROM quarter_hours
    WHERE series_id = ANY(%(series)s) AND bucket >= %(start)s AND bucket < %(stop)s
    GROUP BY series_id, time_bucket(%(part)s, bucket)
    ORDER BY series_id, time_bucket(%(part)s, bucket)
) TO STDOUT (FORMAT BINARY);
