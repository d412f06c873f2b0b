-- Whom a question is about, and buckets of any length as rollup rows: one text each, whoever asks.

CREATE FUNCTION distance_m(latitude float8, longitude float8, to_latitude float8, to_longitude float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- PostgreSQL raises an error where a square becomes 0, so a tenth of a millimetre is no distance.
RETURN 2 * 6371008.8 * asin(sqrt(least(1,
    CASE WHEN abs(latitude - to_latitude) < 1e-9 THEN 0 ELSE power(sind((latitude - to_latitude) / 2), 2) END
    + cosd(latitude) * cosd(to_latitude)
    * CASE WHEN abs(longitude - to_longitude) < 1e-9 THEN 0 ELSE power(sind((longitude - to_longitude) / 2), 2) END)));
COMMENT ON FUNCTION distance_m IS 'Metres along a sphere of the Earth''s mean radius (haversine); within 0.6 % of the ellipsoid.';

CREATE FUNCTION selected_devices(devices text[], domains text[], districts text[], tags jsonb[], tag_names text[], bbox float8[],
    near float8[], retired bool)
RETURNS SETOF devices LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT d.* FROM devices d
    WHERE (selected_devices.devices IS NULL OR d.id = ANY(selected_devices.devices))
        AND (selected_devices.domains IS NULL OR d.domain = ANY(selected_devices.domains))
        AND (selected_devices.districts IS NULL OR d.district = ANY(selected_devices.districts))
        AND (cardinality(selected_devices.tags) = 0 OR d.tags @> ALL(selected_devices.tags))
        AND (cardinality(selected_devices.tag_names) = 0 OR d.tags ?& selected_devices.tag_names)
        AND (selected_devices.bbox IS NULL OR (
            d.latitude BETWEEN selected_devices.bbox[2] AND selected_devices.bbox[4]
            AND CASE WHEN selected_devices.bbox[1] <= selected_devices.bbox[3]
                THEN d.longitude BETWEEN selected_devices.bbox[1] AND selected_devices.bbox[3]
                ELSE d.longitude >= selected_devices.bbox[1] OR d.longitude <= selected_devices.bbox[3]
            END))
        AND (selected_devices.near IS NULL OR distance_m(d.latitude, d.longitude, selected_devices.near[1], selected_devices.near[2])
            <= selected_devices.near[3])
        AND (selected_devices.retired OR d.retired_at IS NULL);
END;
COMMENT ON FUNCTION selected_devices IS
    'storage/selection.py: Selection says what each parameter is. A device without a place is in no box and near nothing.';

CREATE FUNCTION selected_series(devices text[], metrics text[], domains text[], districts text[], tags jsonb[], tag_names text[],
    bbox float8[], near float8[], retired bool)
RETURNS TABLE (series_id int, device text, metric text, unit text, kind text, expected_every float8, latitude float8,
    longitude float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.id, s.device_id, s.metric, m.unit, m.kind, coalesce(s.interval_s, (m.definition ->> 'interval')::float8),
        d.latitude, d.longitude
    FROM selected_devices(selected_series.devices, selected_series.domains, selected_series.districts, selected_series.tags,
        selected_series.tag_names, selected_series.bbox, selected_series.near, selected_series.retired) d
    JOIN series s ON s.device_id = d.id
    JOIN metrics m ON m.name = s.metric
    WHERE selected_series.metrics IS NULL OR s.metric = ANY(selected_series.metrics);
END;
COMMENT ON FUNCTION selected_series IS 'The sensors of selected_devices.';

-- What telemetry() did within itself until now.
CREATE FUNCTION merged_buckets(bucket interval, zone text, since timestamptz, until timestamptz, series int[], quarters bool)
RETURNS TABLE (series_id int, began timestamptz, n int, n_bad int, vmin float8, vmax float8, vfirst float8, vlast float8, s1 float8,
    s2 float8)
-- The best plan hangs on the range, and there is one plan a call. With the range in the plan, few chunks are left; leaving out some of
-- those for every marked quarter-hour anew would take longer than looking into them.
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET timescaledb.enable_runtime_exclusion = off
AS $$
#variable_conflict use_column
DECLARE
    short CONSTANT bool := merged_buckets.bucket <= INTERVAL '1 hour';
BEGIN
    RETURN QUERY
    WITH marked AS MATERIALIZED (
        SELECT DISTINCT u.series_id, m.bucket
        FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
        WHERE quarters AND m.bucket >= since AND m.bucket < until AND u.series_id = ANY(merged_buckets.series)
    ), parts AS (
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM readings_15m r
        WHERE quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(merged_buckets.series)
            AND NOT EXISTS (SELECT FROM marked k WHERE k.series_id = r.series_id AND k.bucket = r.bucket)
        UNION ALL
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM marked k CROSS JOIN LATERAL (
            SELECT r.* FROM readings_1m r
            WHERE r.series_id = k.series_id AND r.bucket >= k.bucket AND r.bucket < k.bucket + INTERVAL '15 minutes'
                AND r.bucket >= since AND r.bucket < until
            OFFSET 0  -- keeps the planner from joining with a scan of all minutes
        ) r
        UNION ALL
        SELECT r.series_id, r.bucket, r.n, r.n_bad, r.vmin, r.vmax, r.first_at, r.vfirst, r.last_at, r.vlast, r.s1, r.s2
        FROM readings_1m r
        WHERE NOT quarters AND r.bucket >= since AND r.bucket < until AND r.series_id = ANY(merged_buckets.series)
    ), placed AS (
        SELECT p.*, p.bucket AT TIME ZONE merged_buckets.zone AS wall FROM parts p OFFSET 0  -- one conversion a row
    ), merged AS (
        -- As bucket_start has it: a short bucket by its instant, for where clocks are put forward within one (the Chatham Islands) it
        -- shows two walls, and where they are put back one wall is two buckets; a long one by what clocks show alone.
        SELECT p.series_id,
            CASE WHEN short THEN p.bucket - (p.wall - time_bucket(merged_buckets.bucket, p.wall))
                ELSE time_bucket(merged_buckets.bucket, p.wall) AT TIME ZONE 'UTC'
            END AS place,
            sum(p.n)::int AS n, sum(p.n_bad)::int AS n_bad, min(p.vmin) AS vmin, max(p.vmax) AS vmax,
            first(p.vfirst, p.first_at) AS vfirst, last(p.vlast, p.last_at) AS vlast, sum(p.s1) AS s1, sum(p.s2) AS s2
        FROM placed p GROUP BY 1, 2
    )
    SELECT m.series_id,
        CASE WHEN short THEN m.place ELSE local_instant(m.place AT TIME ZONE 'UTC', merged_buckets.zone) END,
        m.n, m.n_bad, m.vmin, m.vmax, m.vfirst, m.vlast, m.s1, m.s2
    FROM merged m;
END $$;
COMMENT ON FUNCTION merged_buckets IS
    'Rollup rows of any bucket by the clocks of any zone, from quarter-hours or from minutes that begin in [since, until).';

CREATE OR REPLACE FUNCTION telemetry(bucket interval, zone text, start timestamptz, stop timestamptz,
    devices text[] DEFAULT NULL, metrics text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, metric text, unit text, domain text, district text, mean float8, sum float8,
    min float8, max float8, first float8, last float8, count int, bad_count int, stddev float8, increase float8, coverage float8)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    -- A month counts 30 days here and a year 365.25: multiples of a quarter-hour, as every one of them is.
    seconds CONSTANT float8 := extract(epoch FROM telemetry.bucket);
    since timestamptz;
    until timestamptz;
    ids int[];
BEGIN
    IF telemetry.bucket <= INTERVAL '0' OR seconds / 60 <> floor(seconds / 60) THEN
        RAISE EXCEPTION 'a bucket of % is no multiple of a minute', telemetry.bucket USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whole buckets, whatever the range: a value never hangs on where the range begins or ends.
    since := bucket_start(telemetry.bucket, telemetry.zone, telemetry.start);
    until := bucket_end(telemetry.bucket, telemetry.zone,
        bucket_start(telemetry.bucket, telemetry.zone, telemetry.stop - INTERVAL '1 microsecond'));
    ids := ARRAY(
        SELECT t.series_id FROM telemetry_series t
        WHERE (telemetry.devices IS NULL OR t.device = ANY(telemetry.devices))
            AND (telemetry.metrics IS NULL OR t.metric = ANY(telemetry.metrics))
    );
    RETURN QUERY
    SELECT r.began, t.device, t.metric, t.unit, t.domain, t.district,
        telemetry_mean(t.kind, r.n, r.s1, r.s2),
        CASE WHEN t.kind = 'amount' AND r.n > 0 THEN r.s1 END,
        CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmin END,
        CASE WHEN t.kind <> 'direction' AND r.n > 0 THEN r.vmax END,
        CASE WHEN r.n > 0 THEN r.vfirst END,
        CASE WHEN r.n > 0 THEN r.vlast END,
        r.n, r.n_bad,
        telemetry_stddev(t.kind, r.n, r.s1, r.s2),
        CASE WHEN t.kind = 'counter' AND r.n > 0 THEN r.s1 END,
        telemetry_coverage(r.n + r.n_bad,
            CASE WHEN telemetry.bucket <= INTERVAL '1 hour' THEN telemetry.bucket
                ELSE bucket_end(telemetry.bucket, telemetry.zone, r.began) - r.began END,
            t.expected_every)
    FROM merged_buckets(telemetry.bucket, telemetry.zone, since, until, ids, seconds / 900 = floor(seconds / 900)) r
    JOIN telemetry_series t ON t.series_id = r.series_id
    ORDER BY r.began, t.device, t.metric;
END $$;
