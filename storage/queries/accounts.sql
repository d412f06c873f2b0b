-- The ledger: what was received, what became of it, and checks that it adds up.

-- name: totals
-- Sums the ledger over all time; the sums are kept, so that this costs the same whatever the history.
SELECT {sums}
FROM ledger_totals l JOIN sources s ON s.id = l.source_id
WHERE %(sources)s::text[] IS NULL OR s.name = ANY(%(sources)s);

-- name: unbalanced
-- Finds sources whose readings do not each have exactly one outcome.
SELECT s.name, l.received, {l_outcomes}
FROM (SELECT l.source_id, {sums} FROM ledger l GROUP BY l.source_id) l
JOIN sources s ON s.id = l.source_id
WHERE l.received <> {l_ended}
ORDER BY s.name;

-- name: stored
-- Counts the rows of readings and those that retention dropped, beside what the ledger has as stored.
SELECT (SELECT count(*) FROM readings), (SELECT coalesce(sum(rows), 0)::int8 FROM dropped_chunks WHERE level = 'raw'),
    (SELECT coalesce(sum(stored), 0)::int8 FROM ledger);

-- name: totals_astray
-- Finds sources whose sums over all time differ from what the ledger adds up to.
SELECT s.name, coalesce(t.received, 0), coalesce(l.received, 0)
FROM (SELECT l.source_id, {sums} FROM ledger l GROUP BY l.source_id) l
FULL JOIN ledger_totals t ON t.source_id = l.source_id
JOIN sources s ON s.id = coalesce(l.source_id, t.source_id)
WHERE ({t_counters}) IS DISTINCT FROM ({l_counters})
ORDER BY s.name;

-- name: minutes
-- Reads the ledger by minute of receipt and source, oldest first; of more rows than the limit the newest.
SELECT * FROM (
    SELECT l.minute, s.name, {l_counters}
    FROM ledger l JOIN sources s ON s.id = l.source_id
    WHERE l.minute >= %(start)s AND (%(sources)s::text[] IS NULL OR s.name = ANY(%(sources)s))
    ORDER BY l.minute DESC, s.name DESC LIMIT %(limit)s
) AS newest
ORDER BY minute, name;

-- name: source_exists
-- Tells a source that sent nothing from one that does not exist.
SELECT EXISTS (SELECT FROM sources WHERE name = %(source)s);

-- name: quarantined
-- Finds sources whose open quarantine and overflow differ from what the ledger has as quarantined.
SELECT s.name, coalesce(q.readings, 0), coalesce(l.overflow, 0), coalesce(l.quarantined, 0)
FROM sources s
LEFT JOIN (
    SELECT source_id, sum(quarantined)::int8 AS quarantined, sum(overflow)::int8 AS overflow FROM ledger GROUP BY source_id
) l ON l.source_id = s.id
LEFT JOIN (
    SELECT source_id, sum(readings)::int8 AS readings FROM quarantine WHERE resolved_at IS NULL GROUP BY source_id
) q ON q.source_id = s.id
WHERE coalesce(q.readings, 0) + coalesce(l.overflow, 0) <> coalesce(l.quarantined, 0)
ORDER BY s.name;

-- name: numbers
-- Counts, by source and boot, message numbers that came, and holes between the first and the last of them.
SELECT s.name, q.boot, n.seen, upper(q.seen) - lower(q.seen) - n.seen
FROM seqs q
JOIN sources s ON s.id = q.source_id
CROSS JOIN LATERAL (SELECT sum(upper(r) - lower(r))::int8 AS seen FROM unnest(q.seen) AS r) n
WHERE s.name = ANY(%(sources)s) AND NOT isempty(q.seen)
ORDER BY s.name, q.boot;

-- name: rollup_differences
-- Finds rows of readings_1m and readings_15m that differ from what the readings give, kind by kind as in devices/batch.py
-- (Partials) and devices/aggregate.py. Quarter-hours that are marked are known to be out of date, and left out. Before raw's
-- horizon only minutes are left, and quarter-hours are compared with them; before the minutes' horizon there is nothing to compare.
-- e1 and e2 are the tolerances of sums: rounding grows with the sum of magnitudes, not with the sum itself. PostgreSQL, unlike
-- NumPy, refuses to compute an infinity or a zero from finite numbers: minutes with values beyond 1e150, whose squares exceed
-- float8, are left out of the comparison of sums, and values below 1e-150 count as 0 where they are multiplied.
WITH kinds AS (
    SELECT s.id AS series_id, m.kind FROM series s JOIN metrics m ON m.name = s.metric
), horizon AS (
    SELECT max(since) FILTER (WHERE level = 'raw') AS raw, max(since) FILTER (WHERE level = '1m') AS minutes FROM horizons
), judged AS (
    SELECT r.series_id, r.time, r.value, k.kind, (r.flags & %(bad)s) <> 0 AND (r.flags & %(good)s) = 0 AS bad,
        CASE WHEN abs(r.value) < 1e150 THEN r.value ELSE 'infinity' END AS v,
        CASE WHEN abs(r.value) > 1e-150 THEN r.value ELSE 0 END AS w,
        CASE WHEN r.value >= 1e150 THEN 'infinity' WHEN r.value <= -1e150 THEN '-infinity' ELSE r.value END AS total
    FROM (
        SELECT series_id, time, value, flags FROM readings
        UNION ALL SELECT series_id, time, value, 0 FROM carried_counters
    ) r JOIN kinds k ON k.series_id = r.series_id
), summed AS (
    SELECT series_id, time, value, bad,
        CASE kind
            WHEN 'direction' THEN sin(radians(w))
            WHEN 'level' THEN power(10::float8, least(greatest(w, -2000), 2000) / 10)
            ELSE v
        END AS x1,
        CASE kind
            WHEN 'direction' THEN cos(radians(w))
            WHEN 'gauge' THEN CASE WHEN v < 'infinity' THEN w * w ELSE v END
            WHEN 'amount' THEN CASE WHEN v < 'infinity' THEN w * w ELSE v END
            ELSE 0
        END AS x2
    FROM judged WHERE kind <> 'counter'
    UNION ALL
    SELECT series_id, time, value, bad,
        CASE WHEN bad OR before IS NULL THEN 0 WHEN total >= before THEN total - before ELSE greatest(total, 0) END,
        0
    FROM (
        SELECT *, lag(total) OVER (PARTITION BY series_id, bad ORDER BY time) AS before FROM judged WHERE kind = 'counter'
    ) AS counted
), minutes AS (
    SELECT series_id, time_bucket(INTERVAL '1 minute', time) AS bucket,
        (count(*) FILTER (WHERE NOT bad))::int AS n,
        (count(*) FILTER (WHERE bad))::int AS n_bad,
        coalesce(min(value) FILTER (WHERE NOT bad), 'infinity') AS vmin,
        coalesce(max(value) FILTER (WHERE NOT bad), '-infinity') AS vmax,
        coalesce(min(time) FILTER (WHERE NOT bad), 'infinity') AS first_at,
        coalesce(first(value, time) FILTER (WHERE NOT bad), 0) AS vfirst,
        coalesce(max(time) FILTER (WHERE NOT bad), '-infinity') AS last_at,
        coalesce(last(value, time) FILTER (WHERE NOT bad), 0) AS vlast,
        coalesce(sum(x1) FILTER (WHERE NOT bad), 0) AS s1,
        coalesce(sum(x2) FILTER (WHERE NOT bad), 0) AS s2,
        1e-9 * greatest(sum(abs(x1)) FILTER (WHERE NOT bad), 1e-140) AS e1,
        1e-9 * greatest(sum(abs(x2)) FILTER (WHERE NOT bad), 1e-140) AS e2
    FROM summed WHERE time >= (SELECT raw FROM horizon) GROUP BY 1, 2
), recomputed AS (
    SELECT 1 AS level, * FROM minutes
    UNION ALL
    SELECT 15, series_id, time_bucket(INTERVAL '15 minutes', bucket), sum(n)::int, sum(n_bad)::int, min(vmin), max(vmax),
        min(first_at), first(vfirst, first_at), max(last_at), last(vlast, last_at), sum(s1), sum(s2), sum(e1), sum(e2)
    FROM (
        SELECT * FROM minutes
        UNION ALL
        SELECT series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2,
            1e-9 * greatest(abs(s1), 1e-140), 1e-9 * greatest(abs(s2), 1e-140)
        FROM readings_1m WHERE bucket < (SELECT raw FROM horizon) AND bucket >= (SELECT minutes FROM horizon)
    ) AS known GROUP BY 2, 3
), stored AS (
    SELECT 1 AS level, series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2 FROM readings_1m
    WHERE bucket >= (SELECT raw FROM horizon)
    UNION ALL
    SELECT 15, series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2 FROM readings_15m
    WHERE bucket >= (SELECT minutes FROM horizon)
), compared AS (
    SELECT coalesce(a.level, b.level) AS level, coalesce(a.series_id, b.series_id) AS series_id, coalesce(a.bucket, b.bucket) AS bucket,
        a.series_id IS NULL AS unfounded, b.series_id IS NULL AS absent,
        CASE WHEN a.series_id IS NULL OR b.series_id IS NULL THEN ARRAY[]::text[] ELSE array_remove(ARRAY[
            CASE WHEN a.n <> b.n THEN format('n is %%s, not %%s', b.n, a.n) END,
            CASE WHEN a.n_bad <> b.n_bad THEN format('n_bad is %%s, not %%s', b.n_bad, a.n_bad) END,
            CASE WHEN a.vmin <> b.vmin THEN format('vmin is %%s, not %%s', b.vmin, a.vmin) END,
            CASE WHEN a.vmax <> b.vmax THEN format('vmax is %%s, not %%s', b.vmax, a.vmax) END,
            CASE WHEN a.first_at <> b.first_at THEN format('first_at is %%s, not %%s', b.first_at, a.first_at) END,
            CASE WHEN a.vfirst <> b.vfirst THEN format('vfirst is %%s, not %%s', b.vfirst, a.vfirst) END,
            CASE WHEN a.last_at <> b.last_at THEN format('last_at is %%s, not %%s', b.last_at, a.last_at) END,
            CASE WHEN a.vlast <> b.vlast THEN format('vlast is %%s, not %%s', b.vlast, a.vlast) END,
            CASE WHEN a.e1 < 'infinity' AND NOT (b.s1 BETWEEN a.s1 - a.e1 AND a.s1 + a.e1)
                THEN format('s1 is %%s, not %%s', b.s1, a.s1) END,
            CASE WHEN a.e2 < 'infinity' AND NOT (b.s2 BETWEEN a.s2 - a.e2 AND a.s2 + a.e2)
                THEN format('s2 is %%s, not %%s', b.s2, a.s2) END
        ], NULL) END AS found
    FROM recomputed a FULL JOIN stored b ON b.level = a.level AND b.series_id = a.series_id AND b.bucket = a.bucket
), marked AS (
    SELECT DISTINCT 15 AS level, u.series_id, m.bucket FROM marks_15m m CROSS JOIN LATERAL unnest(m.series) AS u(series_id)
)
SELECT CASE c.level WHEN 1 THEN 'readings_1m' ELSE 'readings_15m' END, c.series_id, s.device_id, s.metric, c.bucket, c.unfounded,
    c.absent, c.found
FROM compared c
LEFT JOIN series s ON s.id = c.series_id
LEFT JOIN marked m ON m.level = c.level AND m.series_id = c.series_id AND m.bucket = c.bucket
WHERE (c.unfounded OR c.absent OR cardinality(c.found) > 0) AND m.level IS NULL
ORDER BY c.level, c.series_id, c.bucket LIMIT %(limit)s;
