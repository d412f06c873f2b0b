-- States of sensors.

-- name: lock_watcher
-- Lets one process at a time look for changed states; false: another one does.
SELECT pg_try_advisory_xact_lock(%(key)s);

-- name: change_states
-- Writes the states that changed, deletes those of sensors that are out of service, and returns what changed, packed.
WITH current AS MATERIALIZED (
    SELECT n.series_id, n.value,
        CASE WHEN n.time IS NULL THEN 'silent' WHEN now() > n.due_at THEN 'overdue' WHEN n.flags & %(manual_good)s::int2 <> 0 THEN 'ok'
            WHEN n.flags & %(stuck)s::int2 <> 0 THEN 'stuck' WHEN n.flags & %(bad)s::int2 <> 0 THEN 'bad' ELSE 'ok' END AS state,
        CASE WHEN n.time IS NULL THEN n.created_at WHEN now() > n.due_at THEN n.due_at ELSE n.time END AS since
    FROM (
        SELECT s.id AS series_id, s.created_at, l.time, l.value, l.flags,
            l.time + 3 * expected_interval(s.interval_s, m.definition) AS due_at
        FROM series s
        JOIN devices d ON d.id = s.device_id
        JOIN metrics m ON m.name = s.metric
        LEFT JOIN latest l ON l.series_id = s.id
        WHERE d.retired_at IS NULL AND s.retired_at IS NULL
    ) AS n
), changed AS MATERIALIZED (
    SELECT c.* FROM current c LEFT JOIN sensor_states o USING (series_id) WHERE o.state IS DISTINCT FROM c.state
), written AS (
    INSERT INTO sensor_states AS o (series_id, state, since)
    SELECT series_id, state, since FROM changed
    ON CONFLICT (series_id) DO UPDATE SET state = EXCLUDED.state, since = EXCLUDED.since, noticed_at = EXCLUDED.noticed_at
), gone AS (
    DELETE FROM sensor_states o WHERE NOT EXISTS (SELECT FROM current c WHERE c.series_id = o.series_id)
)
SELECT string_agg(int4send(series_id), ''), string_agg(timestamptz_send(since), ''),
    string_agg(float8send(coalesce(value, 'NaN')), ''), string_agg(int2send(array_position(%(states)s::text[], state)::int2), '')
FROM (SELECT * FROM changed ORDER BY series_id) AS ordered;

-- name: states
-- Reads a page of states of a selection, packed, in order of device and metric; the cursor is the last pair of the page before.
SELECT now(), stream_cursor(), array_agg(device), array_agg(metric), array_agg(state), string_agg(timestamptz_send(since), ''),
    string_agg(float8send(coalesce(value, 'NaN')), ''), array_agg(latitude), array_agg(longitude)
FROM (
    SELECT s.*, o.state, o.since, l.value
    FROM selected_series(%(devices)s::text[], %(metrics)s::text[], %(domains)s::text[], %(districts)s::text[],
        %(tags)s::text[]::jsonb[], %(tag_names)s::text[], %(bbox)s::float8[], %(near)s::float8[], %(retired)s) s
    JOIN sensor_states o ON o.series_id = s.series_id
    LEFT JOIN latest l ON l.series_id = s.series_id
    WHERE (%(after_device)s::text IS NULL OR (s.device, s.metric) > (%(after_device)s, %(after_metric)s))
        AND (%(states)s::text[] IS NULL OR o.state = ANY(%(states)s::text[]))
    ORDER BY s.device, s.metric LIMIT %(limit)s
) AS page;
