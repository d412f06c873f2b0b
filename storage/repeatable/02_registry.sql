-- Functions of the registry: its version, and the selection of devices, series and sources by a client's filters.

CREATE OR REPLACE FUNCTION registry_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry_version SET version = version + 1;
    NOTIFY registry;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION registry_changed IS
    'Raises the registry''s version and notifies listeners; a trigger of every table of the registry.';

CREATE OR REPLACE FUNCTION distance_m(latitude float8, longitude float8, to_latitude float8, to_longitude float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- PostgreSQL raises an error where a square becomes 0, so a tenth of a millimetre is no distance.
RETURN 2 * 6371008.8 * asin(sqrt(least(1,
    CASE WHEN abs(latitude - to_latitude) < 1e-9 THEN 0 ELSE power(sind((latitude - to_latitude) / 2), 2) END
    + cosd(latitude) * cosd(to_latitude)
    * CASE WHEN abs(longitude - to_longitude) < 1e-9 THEN 0 ELSE power(sind((longitude - to_longitude) / 2), 2) END)));
COMMENT ON FUNCTION distance_m IS
    'Distance in metres along a sphere of the Earth''s mean radius (haversine); within 0.6 % of the ellipsoid.';

CREATE OR REPLACE FUNCTION selected_devices(devices text[], domains text[], districts text[], tags jsonb[], tag_names text[],
    bbox float8[], near float8[], retired bool)
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
    'Devices that fit all given filters; storage/registry/selection.py (Selection) describes the parameters. A device without a place is in '
    'no box and near nothing.';

CREATE OR REPLACE FUNCTION selected_series(devices text[], metrics text[], domains text[], districts text[], tags jsonb[],
    tag_names text[], bbox float8[], near float8[], retired bool)
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
    WHERE (selected_series.metrics IS NULL OR s.metric = ANY(selected_series.metrics))
        AND (selected_series.retired OR s.retired_at IS NULL);
END;
COMMENT ON FUNCTION selected_series IS
    'Sensors of selected_devices. A sensor that is out of service is treated as one of a device that is.';

CREATE OR REPLACE FUNCTION visible_sources(domains text[], districts text[], tags jsonb[], tag_names text[]) RETURNS SETOF sources
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.* FROM sources s
    WHERE EXISTS (SELECT FROM devices d WHERE d.source_id = s.id)
        AND NOT EXISTS (
            SELECT FROM devices d
            WHERE d.source_id = s.id AND d.id NOT IN (
                SELECT v.id FROM selected_devices(NULL, visible_sources.domains, visible_sources.districts, visible_sources.tags,
                    visible_sources.tag_names, NULL, NULL, true) v));
END;
COMMENT ON FUNCTION visible_sources IS
    'Sources whose counts a restricted key may see: those of which every device, retired or not, is within the key''s restriction, '
    'since counts of a gateway include what it carries for others.';
