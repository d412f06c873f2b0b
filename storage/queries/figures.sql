-- Figures for Prometheus. None costs more with a long history than with a short one: each reads one row a source, or up to a limit.

-- name: ledger
-- Reads the sums of the ledger over all time, by source.
SELECT s.name, {t_counters}
FROM ledger_totals t JOIN sources s ON s.id = t.source_id ORDER BY s.name;

-- name: quarantine
-- Counts open messages in quarantine by reason, of many the newest. A message with two reasons counts for both.
SELECT reason, count(*) FROM (
    SELECT reasons FROM quarantine WHERE resolved_at IS NULL ORDER BY id DESC LIMIT %(limit)s
) AS open CROSS JOIN LATERAL unnest(open.reasons) AS reason
GROUP BY reason ORDER BY reason;

-- name: lost
-- Counts message numbers that never came, by source: those below `settled`, and all below the last one in a run that fell silent.
-- Only runs that were heard of lately count, since every start of a device may begin a new one.
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
-- Counts marks of quarter-hours that have to be recomputed, up to a limit.
SELECT count(*) FROM (SELECT FROM marks_15m LIMIT %(limit)s) AS counted;

-- name: sensors
-- Counts sensors in service by domain, and those that are overdue.
SELECT domain, count(*), count(*) FILTER (WHERE stale) FROM liveness GROUP BY domain ORDER BY domain;
