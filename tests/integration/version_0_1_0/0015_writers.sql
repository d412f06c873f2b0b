-- Several processes write for one source: an ingest, the API, a replay. Each sees whether another was there since its own last time.

ALTER TABLE ledger_totals ADD COLUMN batch uuid;
COMMENT ON COLUMN ledger_totals.batch IS
    'The last transaction that changed what is known of this source''s series, written by it: whoever has the source''s lock and finds '
    'another one here than he remembers loads anew what he knows of their past.';

CREATE TABLE answers (
    id uuid PRIMARY KEY,
    digest bytea NOT NULL,
    answer jsonb NOT NULL,
    forget_at timestamptz NOT NULL
);
CREATE INDEX answers_forget ON answers (forget_at);
COMMENT ON TABLE answers IS
    'What became of readings that were posted under an id of the client, in the transaction that stored them: whoever asks again with the '
    'same id gets the same answer, and nothing is counted twice. digest: SHA-256 of what was posted.';
