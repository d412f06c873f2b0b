-- What Prometheus is shown. Each costs no more with a long history than with a short one: there is one row a source, or a LIMIT.

-- name: ledger
-- Sums of the ledger over all time, by source.
SELECT s.name, {t_counters}
FROM ledger_totals t JOIN sources s ON s.id = t.source_id ORDER BY s.name;

-- name: quarantine
-- Messages with something open in quarantine, by reason; of many the newest. One that has two reasons counts for both.
SELECT reason, count(*) FROM (
    SELECT reasons FROM quarantine WHERE resolved_at IS NULL ORDER BY id DESC LIMIT %(limit)s
) AS open CROSS JOIN LATERAL unnest(open.reasons) AS reason
GROUP BY reason ORDER BY reason;

-- name: lost
-- Message numbers that never came, by source: those below `settled`, and of a run that fell silent all below its last. Only runs that
-- were heard of lately, since every start of a device may begin a new one.
SELECT s.name, sum(
    greatest(least(upper(q.seen), n.below) - lower(q.seen), 0)
    - (SELECT coalesce(sum(least(upper(r), n.below) - lower(r)), 0) FROM unnest(q.seen) AS r WHERE lower(r) < n.below)
)::int8
FROM seqs q
JOIN sources s ON s.id = q.source_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN q.last_at < now() - %(grace)s THEN upper(q.seen) ELSE coalesce(q.settled, lower(q.seen)) END AS below
) n
WHERE q.last_at > now() - %(horizon)s AND NOT isempty(q.seen)
GROUP BY s.name ORDER BY s.name;

-- name: marks
-- Marks of quarter-hours that are to be recomputed; no more are counted than the limit.
SELECT count(*) FROM (SELECT FROM marks_15m LIMIT %(limit)s) AS counted;

-- name: sensors
-- Sensors in service by domain, and how many of them should have reported by now.
SELECT domain, count(*), count(*) FILTER (WHERE stale) FROM liveness GROUP BY domain ORDER BY domain;
