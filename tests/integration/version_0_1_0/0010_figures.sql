-- What a look at the whole costs must not grow with history: sums of the ledger, open quarantine, and numbers that never came.

CREATE TABLE ledger_totals (
    source_id int PRIMARY KEY REFERENCES sources,
    messages bigint NOT NULL DEFAULT 0,
    undecodable bigint NOT NULL DEFAULT 0,
    redelivered bigint NOT NULL DEFAULT 0,
    received bigint NOT NULL DEFAULT 0,
    stored bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    conflict bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    overflow bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);  -- written by every batch, as latest is
COMMENT ON TABLE ledger_totals IS 'Sums of ledger over all time, written by the statement that writes ledger.';
INSERT INTO ledger_totals
SELECT source_id, sum(messages), sum(undecodable), sum(redelivered), sum(received), sum(stored), sum(duplicate), sum(conflict),
    sum(missing), sum(quarantined), sum(overflow)
FROM ledger GROUP BY source_id;

CREATE INDEX quarantine_open ON quarantine (id) INCLUDE (reasons) WHERE resolved_at IS NULL;

-- A hole in `seen` is a message that never came, or one that is still under way. Those below `settled` are old: a higher number had
-- come a grace time before the newest message. `mark` becomes `settled` when the next mark is made.
ALTER TABLE seqs ADD COLUMN settled bigint, ADD COLUMN mark bigint, ADD COLUMN mark_at timestamptz;
UPDATE seqs SET mark = upper(seen), mark_at = last_at;
COMMENT ON COLUMN seqs.settled IS 'Exclusive; NULL: nothing is old enough yet.';
