-- Overdue sensors, and the state of every sensor in service. By sensor, not by device: one of a device's sensors can fall silent alone.

CREATE OR REPLACE FUNCTION expected_interval(own float8, definition jsonb) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN make_interval(secs => coalesce(own, (definition ->> 'interval')::float8));
COMMENT ON FUNCTION expected_interval IS 'Time between two readings of a sensor, as it is registered, else as the catalogue says.';

CREATE OR REPLACE VIEW liveness AS
SELECT series_id, device, metric, domain, district, source, expected, last_at, last_value, good_at, good_value, due_at,
    now() > due_at AS stale,
    CASE WHEN now() > due_at THEN due_at END AS overdue_since
FROM (
    SELECT s.id AS series_id, s.device_id AS device, s.metric, d.domain, d.district, o.name AS source,
        expected_interval(s.interval_s, m.definition) AS expected,
        l.time AS last_at,
        l.value AS last_value,
        CASE WHEN isfinite(l.good_at) THEN l.good_at END AS good_at,
        CASE WHEN isfinite(l.good_at) THEN l.good_value END AS good_value,
        coalesce(l.time, s.created_at) + 3 * expected_interval(s.interval_s, m.definition) AS due_at
    FROM series s
    JOIN devices d ON d.id = s.device_id
    JOIN sources o ON o.id = d.source_id
    JOIN metrics m ON m.name = s.metric
    LEFT JOIN latest l ON l.series_id = s.id
    WHERE d.retired_at IS NULL AND s.retired_at IS NULL
) AS sensors;
COMMENT ON VIEW liveness IS
    'Sensors in service, and which of them are overdue (stale): three expected intervals after the newest reading, since one lost '
    'message and some jitter are no alarm, or after the registration if there is no reading.';

CREATE OR REPLACE VIEW sensor_board AS
SELECT l.series_id, l.device, d.name, l.metric, m.unit, l.domain, l.district, l.source, d.latitude, d.longitude, l.expected,
    l.last_at, n.received_at, l.last_value, n.flags, s.state, s.severity,
    -- The time that streams and the console show, once ingest has noticed the state.
    CASE WHEN o.state = s.state AND s.state <> 'ok' THEN o.since
        WHEN s.state IN ('silent', 'overdue') THEN l.due_at
        WHEN s.state IN ('stuck', 'bad') THEN n.time
    END AS since
FROM liveness l
JOIN devices d ON d.id = l.device
JOIN metrics m ON m.name = l.metric
LEFT JOIN latest n ON n.series_id = l.series_id
LEFT JOIN sensor_states o ON o.series_id = l.series_id
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN l.last_at IS NULL THEN 'silent'
        WHEN l.stale THEN 'overdue'
        WHEN n.flags & 256 <> 0 THEN 'ok'  -- MANUAL_GOOD wins
        WHEN n.flags & 4 <> 0 THEN 'stuck'
        WHEN n.flags & 131 <> 0 THEN 'bad'  -- RANGE, STEP, MANUAL_BAD
        ELSE 'ok'
    END AS state
) w
CROSS JOIN LATERAL (SELECT w.state, array_position(ARRAY['ok', 'bad', 'stuck', 'overdue', 'silent'], w.state) - 1 AS severity) s;
COMMENT ON VIEW sensor_board IS
    'Sensors in service with their state: ok, bad or stuck by the flags of the newest reading, overdue, or silent since '
    'registration; severity 0 to 4 in that order.';
