-- What dashboards read: who may, how each sensor stands, values as charts want them, and VN_AQI.

-- The role -----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION grant_reader() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    made regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') THEN
        IF NOT (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            RETURN format('the role grafana is not there, and %I may not make it; let an administrator run CREATE ROLE grafana LOGIN, '
                'then run: citybeat dashboards reader', current_user);
        END IF;
        BEGIN
            CREATE ROLE grafana LOGIN;
            ALTER ROLE grafana SET default_transaction_read_only = on;
            ALTER ROLE grafana SET statement_timeout = '30s';
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made for another database of this server in this moment
        END;
    END IF;
    -- EXECUTE throughout: TimescaleDB 2.19 writes into the statement's tree when it grants on a hypertable, so that the second use of a
    -- plan that is kept, a function's or a prepared statement's, crashes the server.
    -- By name: what a later migration makes is not shown before it says so. Roles of older servers could read whatever was made.
    EXECUTE 'ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM grafana';
    FOR made IN
        SELECT c.oid::regclass FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v') AND c.relowner = current_user::regrole
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM grafana', made);
    END LOOP;
    EXECUTE 'GRANT SELECT ON metrics, sources, devices, series, readings, readings_1m, readings_15m, marks_15m, latest, ledger, '
        'ledger_totals, source_state, seqs, declarations, horizons, quarter_hours, telemetry_series, telemetry_1m, telemetry_15m, '
        'liveness, sensor_board, metric_limits TO grafana';
    -- Not the payloads: nobody knows what is in them.
    EXECUTE 'GRANT SELECT (id, received_at, source_id, reasons, readings, resolved_at) ON quarantine TO grafana';
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION grant_reader FROM PUBLIC;
COMMENT ON FUNCTION grant_reader IS
    'Makes the role grafana if that is allowed, and lets it read what dashboards show. NULL, or what an administrator has to do.';

-- How each sensor stands -----------------------------------------------------------------------------------------------------------

CREATE VIEW sensor_board AS
SELECT l.series_id, l.device, d.name, l.metric, m.unit, l.domain, l.district, l.source, d.latitude, d.longitude, l.expected,
    l.last_at, n.received_at, l.last_value, n.flags, s.state, s.severity,
    -- As streams and the console say, once ingest has noticed.
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
    'Sensors in service: ok, bad or stuck by the flags of the newest reading, overdue, or silent since registration; severity 0 to 4 in '
    'that order.';

-- Values as charts want them -------------------------------------------------------------------------------------------------------

CREATE FUNCTION chosen(picked text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN cardinality(picked) > 0 AND NOT '__all' = ANY(picked) THEN picked END;
COMMENT ON FUNCTION chosen IS 'What a variable of a dashboard holds; NULL: everything, since all or nothing is picked.';

CREATE FUNCTION chart_bucket(step_ms float8, start timestamptz, stop timestamptz) RETURNS interval
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
COMMENT ON FUNCTION chart_bucket IS 'The bucket for a chart of this range whose points are so many ms apart.';

CREATE FUNCTION chart(aggregate text, step_ms float8, zone text, start timestamptz, stop timestamptz, districts text[], devices text[],
    metrics text[], most int)
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
    'telemetry() for a chart: the bucket by the range, of each metric the first devices only. usual: the sum of an amount, the increase '
    'of a counter, the mean of all others. An aggregate that a kind does not have is NULL.';

CREATE FUNCTION zone_shift(zone text, since timestamptz, until timestamptz) RETURNS interval LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN count(DISTINCT o.shift) = 1 THEN min(o.shift) END
    FROM (
        SELECT t.at AT TIME ZONE zone_shift.zone - t.at AT TIME ZONE 'UTC' AS shift
        FROM generate_series(zone_shift.since, zone_shift.until + INTERVAL '7 days', INTERVAL '7 days') AS t(at)
    ) o;
END;
COMMENT ON FUNCTION zone_shift IS
    'What the zone''s clocks are ahead of UTC, if it is the same all the time; NULL: clocks are put forward or back in between. With it '
    'a bucket is an addition, which over millions of rows is a third of what a conversion costs.';

CREATE FUNCTION chart_quality(step_ms float8, zone text, start timestamptz, stop timestamptz, districts text[], devices text[],
    metrics text[])
RETURNS TABLE ("time" timestamptz, district text, received bigint, bad bigint, coverage float8)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    step CONSTANT interval := greatest(chart_bucket(chart_quality.step_ms, chart_quality.start, chart_quality.stop), INTERVAL '15 minutes');
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
    SELECT CASE WHEN shift IS NULL THEN bucket_start(step, chart_quality.zone, q.bucket) ELSE q.bucket END AS began, q.district, sum(q.received)::bigint, sum(q.bad)::bigint,
        least(sum(q.received) / nullif(max(e.a_second) * extract(epoch FROM step)::float8, 0), 1)
    FROM quarters q JOIN expected e ON e.district = q.district
    GROUP BY 1, 2 ORDER BY 1, 2;
END $$;
COMMENT ON FUNCTION chart_quality IS
    'Readings received and bad, and coverage, of each district, in quarter-hours or longer. Coverage expects of every sensor that it was '
    'there all the time.';

CREATE FUNCTION chart_raw(device text, metric text, start timestamptz, stop timestamptz)
RETURNS TABLE ("time" timestamptz, value float8, flags smallint)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    -- Beyond that there are more readings than pixels, and the rollup beside it says the same.
    IF chart_raw.stop - chart_raw.start <= INTERVAL '2 days' THEN
        RETURN QUERY
        SELECT r.time, r.value, r.flags FROM readings r
        WHERE r.series_id = (SELECT s.id FROM series s WHERE s.device_id = chart_raw.device AND s.metric = chart_raw.metric)
            AND r.time BETWEEN chart_raw.start AND chart_raw.stop
        ORDER BY r.time LIMIT 20000;
    END IF;
END $$;
COMMENT ON FUNCTION chart_raw IS 'Single readings of a sensor, for two days at most.';

-- VN_AQI: Decision 1459/QĐ-TCMT of 12 November 2019 --------------------------------------------------------------------------------

CREATE FUNCTION vn_aqi_index(pollutant text, c float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    steps CONSTANT float8[] := '{0,50,100,150,200,300,400,500}';
    bounds CONSTANT float8[] := CASE pollutant
        WHEN 'o3' THEN '{0,160,200,300,400,800,1000,1200}'
        WHEN 'o3_8h' THEN '{0,100,120,170,210,400}'
        WHEN 'co' THEN '{0,10000,30000,45000,60000,90000,120000,150000}'
        WHEN 'so2' THEN '{0,125,350,550,800,1600,2100,2630}'
        WHEN 'no2' THEN '{0,100,200,700,1200,2350,3100,3850}'
        WHEN 'pm10' THEN '{0,50,150,250,350,420,500,600}'
        WHEN 'pm25' THEN '{0,25,50,80,150,250,350,500}'
    END::float8[];
    i CONSTANT int := width_bucket(c, bounds);
BEGIN
    IF c < 1e-100 THEN  -- PostgreSQL raises an error where a product becomes 0
        RETURN 0;
    ELSIF i < cardinality(bounds) THEN
        RETURN steps[i] + (c - bounds[i]) * (steps[i + 1] - steps[i]) / (bounds[i + 1] - bounds[i]);
    ELSIF pollutant = 'o3_8h' THEN
        RETURN CASE WHEN c = bounds[i] THEN steps[i] END;  -- there is none above
    END IF;
    RETURN steps[8];
END $$;
COMMENT ON FUNCTION vn_aqi_index IS 'Sub-index of a concentration in ug/m3: o3 (1 h), o3_8h, co, so2, no2, pm10, pm25.';

CREATE FUNCTION vn_nowcast(hours float8[]) RETURNS float8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    n CONSTANT int := cardinality(hours);
    lowest CONSTANT float8 := (SELECT min(c) FROM unnest(hours) AS c);
    largest CONSTANT float8 := (SELECT max(c) FROM unnest(hours) AS c);
    w CONSTANT float8 := CASE WHEN largest < 1e-100 THEN 1 WHEN lowest < largest / 2 THEN 0.5 ELSE lowest / largest END;
    above float8 := 0;
    below float8 := 0;
    weight float8 := 1;
BEGIN
    IF (SELECT count(c) FROM unnest(hours[n - 2:n]) AS c) < 2 THEN
        RETURN NULL;
    END IF;
    FOR i IN REVERSE n..1 LOOP
        IF hours[i] IS NOT NULL THEN
            above := above + CASE WHEN hours[i] < 1e-100 THEN 0 ELSE weight * hours[i] END;
            below := below + weight;
        END IF;
        weight := weight * w;
    END LOOP;
    RETURN above / below;
END $$;
COMMENT ON FUNCTION vn_nowcast IS
    'Of 12 hourly means, the current hour last, NULL where there is none; NULL unless there are two of the last three.';

CREATE FUNCTION hourly_means(zone text, since timestamptz, until timestamptz, series int[])
RETURNS TABLE (series_id int, began timestamptz, n int, s1 float8)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    -- Whole hours of an offset move no hour. NULL where clocks shift: then as they stand at the start.
    shift CONSTANT interval := coalesce(zone_shift(hourly_means.zone, hourly_means.since, hourly_means.until),
        hourly_means.since AT TIME ZONE hourly_means.zone - hourly_means.since AT TIME ZONE 'UTC');
BEGIN
    RETURN QUERY
    SELECT q.series_id, time_bucket(INTERVAL '1 hour', q.bucket + shift) - shift, sum(q.n)::int, sum(q.s1)
    FROM quarter_hours q
    WHERE q.series_id = ANY(hourly_means.series) AND q.bucket >= hourly_means.since AND q.bucket < hourly_means.until AND q.n > 0
    GROUP BY 1, 2;
END $$;
COMMENT ON FUNCTION hourly_means IS 'Sums and counts of good readings by hours: of merged_buckets what means of the law need, at a third of its cost.';

CREATE FUNCTION vn_aqi_means(zone text, start timestamptz, stop timestamptz, devices text[])
RETURNS TABLE (device text, "time" timestamptz, pm25 float8, pm10 float8, no2 float8, so2 float8, co float8, o3 float8)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    since CONSTANT timestamptz := bucket_start(INTERVAL '1 hour', vn_aqi_means.zone, vn_aqi_means.start);
    until CONSTANT timestamptz := bucket_start(INTERVAL '1 hour', vn_aqi_means.zone, vn_aqi_means.stop - INTERVAL '1 microsecond')
        + INTERVAL '1 hour';
    ids CONSTANT int[] := ARRAY(
        SELECT t.series_id FROM telemetry_series t
        WHERE t.metric IN ('pm25', 'pm10', 'no2', 'so2', 'co', 'o3')
            AND (chosen(vn_aqi_means.devices) IS NULL OR t.device = ANY(chosen(vn_aqi_means.devices)))
            -- Without particles a station has no index.
            AND t.device IN (SELECT p.device_id FROM series p WHERE p.metric IN ('pm25', 'pm10'))
    );
BEGIN
    RETURN QUERY
    WITH means AS (
        SELECT s.device_id AS device, r.began, s.metric,
            -- The catalogue has CO in mg/m3, the index wants ug/m3.
            telemetry_mean('gauge', r.n, r.s1, 0) * CASE s.metric WHEN 'co' THEN 1000 ELSE 1 END AS c
        FROM hourly_means(vn_aqi_means.zone, since, until, ids) r JOIN series s ON s.id = r.series_id
    )
    SELECT m.device, m.began, max(c) FILTER (WHERE metric = 'pm25') AS pm25, max(c) FILTER (WHERE metric = 'pm10') AS pm10,
            max(c) FILTER (WHERE metric = 'no2') AS no2, max(c) FILTER (WHERE metric = 'so2') AS so2,
            max(c) FILTER (WHERE metric = 'co') AS co, max(c) FILTER (WHERE metric = 'o3') AS o3
    FROM means m GROUP BY 1, 2;
END $$;
COMMENT ON FUNCTION vn_aqi_means IS 'Hourly means of good data, ug/m3, of stations that measure particles.';

CREATE FUNCTION vn_aqi_hours(zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, aqi int)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH means AS MATERIALIZED (
        SELECT * FROM vn_aqi_means(vn_aqi_hours.zone, vn_aqi_hours.start - INTERVAL '11 hours', vn_aqi_hours.stop, vn_aqi_hours.devices)
    )
    SELECT i.time, i.device, floor(greatest(i.pm25, i.pm10, vn_aqi_index('no2', i.no2), vn_aqi_index('so2', i.so2),
        vn_aqi_index('co', i.co), vn_aqi_index('o3', i.o3)) + 0.5)::int
    FROM (
        SELECT g.time, g.device, m.no2, m.so2, m.co, m.o3,
            vn_aqi_index('pm25', vn_nowcast(array_agg(m.pm25) OVER half_day)) AS pm25,
            vn_aqi_index('pm10', vn_nowcast(array_agg(m.pm10) OVER half_day)) AS pm10
        -- Hours without data too, so that twelve rows are twelve hours.
        FROM (
            SELECT d.device, h.time
            FROM (SELECT p.device, min(p.time) AS since, max(p.time) AS until FROM means p GROUP BY p.device) d
            CROSS JOIN LATERAL generate_series(d.since, d.until, INTERVAL '1 hour') AS h(time)
        ) g
        LEFT JOIN means m ON m.device = g.device AND m.time = g.time
        WINDOW half_day AS (PARTITION BY g.device ORDER BY g.time ROWS 11 PRECEDING)
    ) i
    WHERE (i.pm25 IS NOT NULL OR i.pm10 IS NOT NULL)
        AND i.time >= bucket_start(INTERVAL '1 hour', vn_aqi_hours.zone, vn_aqi_hours.start)
    ORDER BY i.time, i.device;
END;
COMMENT ON FUNCTION vn_aqi_hours IS 'VN_AQI of each hour, stamped at its start, and station; PM10 or PM2.5 is mandatory.';

CREATE FUNCTION vn_aqi_days(zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, aqi int)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT local_instant(d.day, vn_aqi_days.zone), d.device, floor(greatest(vn_aqi_index('pm25', d.pm25), vn_aqi_index('pm10', d.pm10), vn_aqi_index('no2', d.no2),
        vn_aqi_index('so2', d.so2), vn_aqi_index('co', d.co), vn_aqi_index('o3', d.o3), vn_aqi_index('o3_8h', d.o3_8h)) + 0.5)::int
    FROM (
        SELECT time_bucket(INTERVAL '1 day', m.time AT TIME ZONE vn_aqi_days.zone) AS day, m.device, avg(m.pm25) AS pm25, avg(m.pm10) AS pm10,
            max(m.no2) AS no2, max(m.so2) AS so2, max(m.co) AS co, max(m.o3) AS o3, max(m.o3_8h) AS o3_8h
        FROM (
            SELECT h.*, CASE WHEN count(h.o3) OVER eight >= 6 THEN avg(h.o3) OVER eight END AS o3_8h  -- three quarters of them
            FROM vn_aqi_means(vn_aqi_days.zone,
                bucket_start(INTERVAL '1 day', vn_aqi_days.zone, vn_aqi_days.start) - INTERVAL '7 hours',
                bucket_end(INTERVAL '1 day', vn_aqi_days.zone,
                    bucket_start(INTERVAL '1 day', vn_aqi_days.zone, vn_aqi_days.stop - INTERVAL '1 microsecond')),
                vn_aqi_days.devices) h
            WINDOW eight AS (PARTITION BY h.device ORDER BY h.time RANGE BETWEEN INTERVAL '7 hours' PRECEDING AND CURRENT ROW)
        ) m
        GROUP BY 1, 2
    ) d
    WHERE (d.pm25 IS NOT NULL OR d.pm10 IS NOT NULL)
        AND local_instant(d.day, vn_aqi_days.zone) >= bucket_start(INTERVAL '1 day', vn_aqi_days.zone, vn_aqi_days.start)
    ORDER BY d.day, d.device;
END;
COMMENT ON FUNCTION vn_aqi_days IS 'VN_AQI of each local day and station; the running day from what there is of it.';

CREATE FUNCTION vn_aqi(zone text, start timestamptz, stop timestamptz, districts text[], devices text[])
RETURNS TABLE ("time" timestamptz, device text, aqi int)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    stations CONSTANT text[] := ARRAY(
        SELECT d.id FROM devices d
        WHERE (chosen(vn_aqi.districts) IS NULL OR d.district = ANY(chosen(vn_aqi.districts)))
            AND (chosen(vn_aqi.devices) IS NULL OR d.id = ANY(chosen(vn_aqi.devices)))
            AND EXISTS (SELECT FROM series s WHERE s.device_id = d.id AND s.metric IN ('pm25', 'pm10'))
        UNION ALL SELECT ''  -- never empty, which would be all
    );
BEGIN
    IF vn_aqi.stop - vn_aqi.start <= INTERVAL '31 days' THEN
        RETURN QUERY SELECT h.* FROM vn_aqi_hours(vn_aqi.zone, vn_aqi.start, vn_aqi.stop, stations) h;
    ELSE
        RETURN QUERY SELECT d.* FROM vn_aqi_days(vn_aqi.zone, vn_aqi.start, vn_aqi.stop, stations) d;
    END IF;
END $$;
COMMENT ON FUNCTION vn_aqi IS 'By hours up to a month, by days beyond.';

-- Limits of the law -----------------------------------------------------------------------------------------------------------------

CREATE VIEW metric_limits AS
SELECT DISTINCT ON (m.name, l.standard, l.span) m.name AS metric, l.standard, l.span, l.value, l.source, l.since
FROM metrics m CROSS JOIN LATERAL jsonb_to_recordset(m.definition -> 'limits')
    AS l(standard text, span text, value float8, source text, since date)
WHERE l.since <= current_date
ORDER BY m.name, l.standard, l.span, l.since DESC;
COMMENT ON VIEW metric_limits IS
    'The catalogue''s limits that are in force, in the metric''s unit. span: over which the mean is taken, 1h, 8h, 24h or 1y.';

CREATE FUNCTION over_limits(standard text, zone text, start timestamptz, stop timestamptz, districts text[], devices text[])
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
        -- Three quarters of a day, or of eight hours, else the mean says nothing of it.
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
COMMENT ON FUNCTION over_limits IS 'How often the means of each sensor''s hours, moving 8 hours and local days were above the limits of a standard.';

CREATE FUNCTION limits_now(standard text) RETURNS TABLE (device text, metric text, span text, ratio float8)
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
    'Means of the last full hour, 8 hours and 24 hours over the limits of a standard; three quarters of the hours have to be there.';

-- Last, when everything is there.
DO $$
DECLARE
    left_to_do CONSTANT text := grant_reader();
BEGIN
    IF left_to_do IS NOT NULL THEN
        RAISE NOTICE '%', left_to_do;
    END IF;
END $$;
