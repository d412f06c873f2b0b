-- The spool: SQLite, one file a lane. See ingest/transport/spool.py.

-- name: schema
-- Batches in order of arrival.
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    id BLOB NOT NULL,  -- of the batch, 16 bytes
    spooled_at REAL NOT NULL,  -- s since 1970 UTC
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL,  -- of payload
    body BLOB NOT NULL,  -- CBOR: an array of [topic, payload, received_at, redelivered] a message
    checksum INTEGER NOT NULL  -- CRC-32 of body
);

-- name: totals
-- What is in it, when it is opened.
SELECT count(*), coalesce(sum(messages), 0), coalesce(sum(bytes), 0), min(spooled_at) FROM batches;

-- name: append
-- One batch more.
INSERT INTO batches (id, spooled_at, messages, bytes, body, checksum)
VALUES (:id, :spooled_at, :messages, :bytes, :body, :checksum);

-- name: first
-- The oldest batch behind those that are removed.
SELECT number, id, body, checksum FROM batches WHERE number > :done ORDER BY number LIMIT 1;

-- name: remove
-- Batches that are committed.
DELETE FROM batches WHERE number <= :done;

-- name: oldest
-- When the next batch was spooled.
SELECT min(spooled_at) FROM batches WHERE number = :done + 1;
