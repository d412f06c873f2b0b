-- The registry under load: changes of many devices, and numbers of series.

-- A session plans the statements of a trigger once. The plan that a first change of one device gets, a loop in a loop, takes minutes for
-- ten thousand devices.
ALTER FUNCTION audit_devices() SET enable_nestloop = off;
ALTER FUNCTION audit_series() SET enable_nestloop = off;

-- Ingest's arrays are indexed by the ids of series. A sequence leaves a gap for every sensor that is found registered already, and for
-- every one of a file that is only tried; whoever adds series holds the registry's lock, and takes the numbers behind the last one.
ALTER TABLE series ALTER COLUMN id DROP IDENTITY;
COMMENT ON COLUMN series.id IS 'Without gaps, so that arrays by id are no longer than there are series.';
