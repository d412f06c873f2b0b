-- Legal limits, and sensors above them.

CREATE OR REPLACE VIEW metric_limits AS
SELECT DISTINCT ON (m.name, l.standard, l.span) m.name AS metric, l.standard, l.span, l.value, l.source, l.since
FROM metrics m CROSS JOIN LATERAL jsonb_to_recordset(m.definition -> 'limits')
    AS l(standard text, span text, value float8, source text, since date)
WHERE l.since <= current_date
ORDER BY m.name, l.standard, l.span, l.since DESC;
COMMENT ON VIEW metric_limits IS
    'Limits of the catalogue that are in force, in the metric''s unit. span: the time over which the mean is taken, 1h, 8h, 24h or '
    '1y.';

CREATE OR REPLACE FUNCTION over_limits(standard text, zone text, start timestamptz, stop timestamptz, districts text[], devices text[])
RETURNS TABLE (device text, metric text, span text, "limit" float8, periods int, above int, worst float8)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    since CONSTANT timestamptz := bucket_start(INTERVAL '1 hour', over_limits.zone, over_limits.start);
    until CONSTANT timestamptz := bucket_start(INTERVAL '1 hour', over_limits.zone, over_limits.stop - INTERVAL '1 microsecond')
        + INTERVAL '1 hour';
    ids CONSTANT int[] := ARRAY(
        SELECT t.series_id FROM telemetry_series t
        WHERE t.metric IN (SELECT l.metric FROM metric_limits l WHERE l.standard = over_limits.standard AND l.span <> '1y')
            AND (chosen(over_limits.districts) IS NULL OR t.district = ANY(chosen(over_limits.districts)))
            AND (chosen(over_limits.devices) IS NULL OR t.device = ANY(chosen(over_limits.devices)))
    );
BEGIN
    RETURN QUERY
    WITH hours AS MATERIALIZED (
        SELECT r.series_id, r.began, r.n, r.s1, telemetry_mean('gauge', r.n, r.s1, 0) AS mean
        FROM hourly_means(over_limits.zone, since, until, ids) r
    ), means AS (
        SELECT h.series_id, '1h' AS span, h.mean FROM hours h
        UNION ALL
        SELECT e.series_id, '8h', e.mean FROM (
            SELECT h.series_id, avg(h.mean) OVER eight AS mean, count(*) OVER eight AS n FROM hours h
            WINDOW eight AS (PARTITION BY h.series_id ORDER BY h.began RANGE BETWEEN INTERVAL '7 hours' PRECEDING AND CURRENT ROW)
        ) e WHERE e.n >= 6
        UNION ALL
        -- A mean of a day or of eight hours needs three quarters of its hours.
        SELECT h.series_id, '24h', telemetry_mean('gauge', sum(h.n)::int, sum(h.s1), 0) FROM hours h
        GROUP BY h.series_id, time_bucket(INTERVAL '1 day', h.began AT TIME ZONE over_limits.zone) HAVING count(*) >= 18
    )
    SELECT t.device, t.metric, l.span, l.value, count(m.mean)::int, count(m.mean) FILTER (WHERE m.mean > l.value)::int, max(m.mean)
    FROM telemetry_series t
    JOIN metric_limits l ON l.metric = t.metric AND l.standard = over_limits.standard AND l.span <> '1y'
    LEFT JOIN means m ON m.series_id = t.series_id AND m.span = l.span
    WHERE t.series_id = ANY(ids)
    GROUP BY t.device, t.metric, l.span, l.value
    ORDER BY 6 DESC, 7 DESC NULLS LAST, 1, 2, 3;
END $$;
COMMENT ON FUNCTION over_limits IS
    'Counts, for each sensor, of the means of hours, moving 8 hours and local days that were above the limits of a standard.';

CREATE OR REPLACE FUNCTION limits_now(standard text) RETURNS TABLE (device text, metric text, span text, ratio float8)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH hours AS MATERIALIZED (
        SELECT t.device, t.metric, t.mean, (extract(epoch FROM date_trunc('hour', now()) - t.time) / 3600)::int AS age
        FROM telemetry(INTERVAL '1 hour', 'UTC', date_trunc('hour', now()) - INTERVAL '24 hours', date_trunc('hour', now()), NULL,
            ARRAY(SELECT DISTINCT l.metric FROM metric_limits l WHERE l.standard = limits_now.standard)) t
        WHERE t.mean IS NOT NULL
    )
    SELECT h.device, h.metric, l.span, avg(h.mean) / l.value
    FROM hours h
    JOIN metric_limits l ON l.metric = h.metric AND l.standard = limits_now.standard
    JOIN (VALUES ('1h', 1, 1), ('8h', 8, 6), ('24h', 24, 18)) AS s(span, hours, least) ON s.span = l.span
    WHERE h.age <= s.hours AND l.value > 0
    GROUP BY h.device, h.metric, l.span, l.value, s.least
    HAVING count(*) >= s.least AND avg(h.mean) > 1e-100
    ORDER BY 1, 2, 3;
END;
COMMENT ON FUNCTION limits_now IS
    'Ratio of the means of the last full hour, 8 hours and 24 hours to the limits of a standard; a mean needs three quarters of '
    'its hours.';
