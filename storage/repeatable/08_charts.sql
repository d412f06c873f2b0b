-- Values as charts of dashboards need them.

CREATE OR REPLACE FUNCTION chosen(picked text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN cardinality(picked) > 0 AND NOT '__all' = ANY(picked) THEN picked END;
COMMENT ON FUNCTION chosen IS
    'Values picked in a variable of a dashboard; NULL, which means all of them, if everything or nothing is picked.';

CREATE OR REPLACE FUNCTION chart_bucket(step_ms float8, start timestamptz, stop timestamptz) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(min(length) FILTER (WHERE extract(epoch FROM length) * 1000 >= step_ms AND length >= shortest), INTERVAL '7 days')
    FROM unnest(ARRAY[INTERVAL '1 minute', INTERVAL '5 minutes', INTERVAL '15 minutes', INTERVAL '1 hour', INTERVAL '6 hours',
        INTERVAL '1 day', INTERVAL '7 days']) AS length,
        -- Minutes for two days at most, single quarter-hours for a month: a chart has a thousand pixels.
        (SELECT CASE
            WHEN stop - start <= INTERVAL '2 days' THEN INTERVAL '1 minute'
            WHEN stop - start <= INTERVAL '31 days' THEN INTERVAL '15 minutes'
            WHEN stop - start <= INTERVAL '100 days' THEN INTERVAL '1 hour'
            ELSE INTERVAL '1 day'
        END AS shortest) s
);
COMMENT ON FUNCTION chart_bucket IS 'Length of buckets for a chart of this range whose points are so many milliseconds apart.';

CREATE OR REPLACE FUNCTION chart(aggregate text, step_ms float8, zone text, start timestamptz, stop timestamptz, districts text[],
    devices text[], metrics text[], most int)
RETURNS TABLE ("time" timestamptz, device text, metric text, district text, value float8, vmin float8, vmax float8, n int, n_bad int,
    coverage float8)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    step CONSTANT interval := chart_bucket(chart.step_ms, chart.start, chart.stop);
    since CONSTANT timestamptz := bucket_start(step, chart.zone, chart.start);
    until CONSTANT timestamptz := bucket_end(step, chart.zone, bucket_start(step, chart.zone, chart.stop - INTERVAL '1 microsecond'));
    ids CONSTANT int[] := ARRAY(
        SELECT s.series_id FROM (
            SELECT t.series_id, row_number() OVER (PARTITION BY t.metric ORDER BY t.device) AS place
            FROM telemetry_series t
            WHERE (chosen(chart.districts) IS NULL OR t.district = ANY(chosen(chart.districts)))
                AND (chosen(chart.devices) IS NULL OR t.device = ANY(chosen(chart.devices)))
                AND (chosen(chart.metrics) IS NULL OR t.metric = ANY(chosen(chart.metrics)))
        ) s WHERE s.place <= chart.most
    );
BEGIN
    RETURN QUERY
    SELECT r.began, t.device, t.metric, t.district,
        CASE chart.aggregate
            WHEN 'usual' THEN CASE WHEN r.n > 0 AND t.kind IN ('amount', 'counter') THEN r.s1
                ELSE telemetry_mean(t.kind, r.n, r.s1, r.s2) END
            WHEN 'mean' THEN telemetry_mean(t.kind, r.n, r.s1, r.s2)
            WHEN 'min' THEN CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmin END
            WHEN 'max' THEN CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmax END
            WHEN 'last' THEN CASE WHEN r.n > 0 THEN r.vlast END
            WHEN 'stddev' THEN telemetry_stddev(t.kind, r.n, r.s1, r.s2)
        END,
        CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmin END,
        CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmax END,
        r.n, r.n_bad,
        telemetry_coverage(r.n + r.n_bad,
            CASE WHEN step <= INTERVAL '1 hour' THEN step ELSE bucket_end(step, chart.zone, r.began) - r.began END, t.expected_every)
    FROM merged_buckets(step, chart.zone, since, until, ids, extract(epoch FROM step) >= 900) r
    JOIN telemetry_series t ON t.series_id = r.series_id
    ORDER BY r.began, t.device, t.metric;
END $$;
COMMENT ON FUNCTION chart IS
    'Aggregates for a chart, of the first devices of each metric; the bucket follows from the range. usual: the sum of an amount, '
    'the increase of a counter, the mean of all others. An aggregate that a kind does not have is NULL.';

CREATE OR REPLACE FUNCTION chart_quality(step_ms float8, zone text, start timestamptz, stop timestamptz, districts text[], devices text[],
    metrics text[])
RETURNS TABLE ("time" timestamptz, district text, received bigint, bad bigint, coverage float8)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    step CONSTANT interval := greatest(chart_bucket(chart_quality.step_ms, chart_quality.start, chart_quality.stop),
        INTERVAL '15 minutes');
    since CONSTANT timestamptz := bucket_start(step, chart_quality.zone, chart_quality.start);
    until CONSTANT timestamptz := bucket_end(step, chart_quality.zone,
        bucket_start(step, chart_quality.zone, chart_quality.stop - INTERVAL '1 microsecond'));
    shift CONSTANT interval := zone_shift(chart_quality.zone, since, until);
BEGIN
    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT t.series_id, t.district, t.expected_every FROM telemetry_series t
        WHERE (chosen(chart_quality.districts) IS NULL OR t.district = ANY(chosen(chart_quality.districts)))
            AND (chosen(chart_quality.devices) IS NULL OR t.device = ANY(chosen(chart_quality.devices)))
            AND (chosen(chart_quality.metrics) IS NULL OR t.metric = ANY(chosen(chart_quality.metrics)))
    ), expected AS (
        SELECT w.district, sum(1 / nullif(w.expected_every, 0)) AS a_second FROM wanted w GROUP BY 1
    ), quarters AS (
        SELECT CASE WHEN shift IS NULL THEN q.bucket ELSE time_bucket(step, q.bucket + shift) - shift END AS bucket, w.district,
            sum(q.n + q.n_bad) AS received, sum(q.n_bad) AS bad
        FROM quarter_hours q JOIN wanted w ON w.series_id = q.series_id
        WHERE q.bucket >= since AND q.bucket < until GROUP BY 1, 2
    )
    SELECT CASE WHEN shift IS NULL THEN bucket_start(step, chart_quality.zone, q.bucket) ELSE q.bucket END AS began, q.district,
        sum(q.received)::bigint, sum(q.bad)::bigint,
        least(sum(q.received) / nullif(max(e.a_second) * extract(epoch FROM step)::float8, 0), 1)
    FROM quarters q JOIN expected e ON e.district = q.district
    GROUP BY 1, 2 ORDER BY 1, 2;
END $$;
COMMENT ON FUNCTION chart_quality IS
    'Readings received and bad, and coverage, by district, in buckets of a quarter-hour or longer. Coverage assumes that every '
    'sensor was in service all the time.';

CREATE OR REPLACE FUNCTION chart_raw(device text, metric text, start timestamptz, stop timestamptz)
RETURNS TABLE ("time" timestamptz, value float8, flags smallint)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    -- A longer range has more readings than pixels, and the chart of rollups beside it shows the same.
    IF chart_raw.stop - chart_raw.start <= INTERVAL '2 days' THEN
        RETURN QUERY
        SELECT r.time, r.value, r.flags FROM readings r
        WHERE r.series_id = (SELECT s.id FROM series s WHERE s.device_id = chart_raw.device AND s.metric = chart_raw.metric)
            AND r.time BETWEEN chart_raw.start AND chart_raw.stop
        ORDER BY r.time LIMIT 20000;
    END IF;
END $$;
COMMENT ON FUNCTION chart_raw IS 'Single readings of a sensor, if the range is two days or shorter.';
