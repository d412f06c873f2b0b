-- Liveness of sensors.

-- name: overdue
-- Sensors in service that should have reported by now, those that are silent longest first.
SELECT device, metric, source, expected, last_at, good_at, overdue_since FROM liveness
WHERE stale AND (%(source)s::text IS NULL OR source = %(source)s) AND (%(domain)s::text IS NULL OR domain = %(domain)s)
ORDER BY overdue_since, device, metric LIMIT %(limit)s;
