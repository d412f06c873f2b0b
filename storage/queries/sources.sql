-- Locks of sources, and how far back their series may be changed.

-- name: lock_source
-- Takes the lock that a batch of the source takes.
SELECT pg_advisory_xact_lock(%(space)s, %(source)s);

-- name: horizon
-- Reads the time before which readings are gone, or go with the rest of their chunk; NULL: all are there.
SELECT nullif(since, '-infinity') FROM horizons WHERE level = 'raw';

-- name: mark
-- Tells other writers that what they remember of the source's series is no longer what is stored.
UPDATE ledger_totals SET batch = gen_random_uuid() WHERE source_id = %(source)s;

-- name: astray
-- Tells if any of these series is protected by the lock of another source.
SELECT EXISTS (
    SELECT FROM series s JOIN devices d ON d.id = s.device_id WHERE s.id = ANY(%(series)s) AND d.source_id <> %(source)s
);
