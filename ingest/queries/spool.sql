-- The spool: SQLite, one file for each partition.

-- name: schema
-- Batches in order of arrival.
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused
    id BLOB NOT NULL,  -- of the batch, 16 bytes
    spooled_at REAL NOT NULL,  -- s since 1970 UTC
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL,  -- of payload
    body BLOB NOT NULL,  -- CBOR: for each message an array [topic, payload, received_at, redelivered]
    checksum INTEGER NOT NULL  -- CRC-32 of body
);

-- name: totals
-- Totals of an opened file.
SELECT count(*), coalesce(sum(messages), 0), coalesce(sum(bytes), 0), min(spooled_at) FROM batches;

-- name: append
-- Append a batch.
INSERT INTO batches (id, spooled_at, messages, bytes, body, checksum)
VALUES (:id, :spooled_at, :messages, :bytes, :body, :checksum);

-- name: first
-- The oldest batch after the removed ones.
SELECT number, id, body, checksum FROM batches WHERE number > :done ORDER BY number LIMIT 1;

-- name: remove
-- Remove committed batches.
DELETE FROM batches WHERE number <= :done;

-- name: oldest
-- Time at which the oldest remaining batch was spooled.
SELECT min(spooled_at) FROM batches WHERE number = :done + 1;
