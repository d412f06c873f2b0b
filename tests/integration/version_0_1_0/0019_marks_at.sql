-- When a quarter-hour was marked: while it is being filled it is left to rest, and recomputed once for many batches (storage/rollup.py).
ALTER TABLE marks_15m ADD COLUMN at timestamptz NOT NULL DEFAULT now();
