-- Which sensors are overdue: by sensor, not by device, since one of a device's sensors can fall silent alone.

CREATE FUNCTION expected_interval(own float8, definition jsonb) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN make_interval(secs => coalesce(own, (definition ->> 'interval')::float8));
COMMENT ON FUNCTION expected_interval IS 'How often a sensor is expected to report: as it is registered, else as the catalogue says.';

CREATE VIEW liveness AS
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
    WHERE d.retired_at IS NULL
) AS sensors;
COMMENT ON VIEW liveness IS
    'Sensors in service. A sensor is overdue three expected intervals after its newest reading (one lost message and some jitter are no '
    'alarm), or after its registration when it never reported.';
