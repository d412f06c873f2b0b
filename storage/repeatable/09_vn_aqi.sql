-- VN_AQI, the Vietnamese air quality index: Decision 1459/QĐ-TCMT of 12 November 2019.

CREATE OR REPLACE FUNCTION vn_aqi_index(pollutant text, c float8) RETURNS float8
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
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
        RETURN CASE WHEN c = bounds[i] THEN steps[i] END;  -- the decision has no index above
    END IF;
    RETURN steps[8];
END $$;
COMMENT ON FUNCTION vn_aqi_index IS 'Sub-index of a concentration in ug/m3. Pollutants: o3 (1 h), o3_8h, co, so2, no2, pm10, pm25.';

CREATE OR REPLACE FUNCTION vn_nowcast(hours float8[]) RETURNS float8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
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
    'NowCast concentration of 12 hourly means, the current hour last, NULL where there is none. NULL unless two of the last three '
    'are there.';

CREATE OR REPLACE FUNCTION hourly_means(zone text, since timestamptz, until timestamptz, series int[])
RETURNS TABLE (series_id int, began timestamptz, n int, s1 float8)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    -- An offset of whole hours moves no hour. zone_shift is NULL where clocks shift: then the offset at the start is taken.
    shift CONSTANT interval := coalesce(zone_shift(hourly_means.zone, hourly_means.since, hourly_means.until),
        hourly_means.since AT TIME ZONE hourly_means.zone - hourly_means.since AT TIME ZONE 'UTC');
BEGIN
    RETURN QUERY
    SELECT q.series_id, time_bucket(INTERVAL '1 hour', q.bucket + shift) - shift, sum(q.n)::int, sum(q.s1)
    FROM quarter_hours q
    WHERE q.series_id = ANY(hourly_means.series) AND q.bucket >= hourly_means.since AND q.bucket < hourly_means.until AND q.n > 0
    GROUP BY 1, 2;
END $$;
COMMENT ON FUNCTION hourly_means IS
    'Sums and counts of good readings by hour: the part of merged_buckets that hourly means need, at a third of its cost.';

CREATE OR REPLACE FUNCTION vn_aqi_means(zone text, start timestamptz, stop timestamptz, devices text[])
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
COMMENT ON FUNCTION vn_aqi_means IS 'Hourly means of good readings in ug/m3, of stations that measure particles.';

CREATE OR REPLACE FUNCTION vn_aqi_hours(zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL)
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
COMMENT ON FUNCTION vn_aqi_hours IS 'VN_AQI by hour, stamped at its start, and station; PM10 or PM2.5 is mandatory.';

CREATE OR REPLACE FUNCTION vn_aqi_days(zone text, start timestamptz, stop timestamptz, devices text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, device text, aqi int)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT local_instant(d.day, vn_aqi_days.zone), d.device, floor(greatest(vn_aqi_index('pm25', d.pm25), vn_aqi_index('pm10', d.pm10),
        vn_aqi_index('no2', d.no2), vn_aqi_index('so2', d.so2), vn_aqi_index('co', d.co), vn_aqi_index('o3', d.o3),
        vn_aqi_index('o3_8h', d.o3_8h)) + 0.5)::int
    FROM (
        SELECT time_bucket(INTERVAL '1 day', m.time AT TIME ZONE vn_aqi_days.zone) AS day, m.device, avg(m.pm25) AS pm25,
            avg(m.pm10) AS pm10, max(m.no2) AS no2, max(m.so2) AS so2, max(m.co) AS co, max(m.o3) AS o3, max(m.o3_8h) AS o3_8h
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
COMMENT ON FUNCTION vn_aqi_days IS 'VN_AQI by local day and station; that of the running day comes from its hours so far.';

CREATE OR REPLACE FUNCTION vn_aqi(zone text, start timestamptz, stop timestamptz, districts text[], devices text[])
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
        UNION ALL SELECT ''  -- an empty list would mean all stations
    );
BEGIN
    IF vn_aqi.stop - vn_aqi.start <= INTERVAL '31 days' THEN
        RETURN QUERY SELECT h.* FROM vn_aqi_hours(vn_aqi.zone, vn_aqi.start, vn_aqi.stop, stations) h;
    ELSE
        RETURN QUERY SELECT d.* FROM vn_aqi_days(vn_aqi.zone, vn_aqi.start, vn_aqi.stop, stations) d;
    END IF;
END $$;
COMMENT ON FUNCTION vn_aqi IS 'VN_AQI by station: hourly for a range of up to 31 days, else daily.';
