-- Locks of sources, and how far back their series may be changed.

-- name: lock_source
-- As a batch of that source does.
SELECT pg_advisory_xact_lock(%(space)s, %(source)s);

-- name: horizon
-- Readings before it are gone, or go with the rest of their chunk; NULL: all are there.
SELECT nullif(since, '-infinity') FROM horizons WHERE level = 'raw';

-- name: mark
-- What writers remember of this source's series is no longer what is stored.
UPDATE ledger_totals SET batch = gen_random_uuid() WHERE source_id = %(source)s;

-- name: astray
-- Whether any of these series is guarded by another lock than this source's.
SELECT EXISTS (
    SELECT FROM series s JOIN devices d ON d.id = s.device_id WHERE s.id = ANY(%(series)s) AND d.source_id <> %(source)s
);
