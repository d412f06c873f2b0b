-- A column that was added has no statistics: the planner takes `retired_at IS NULL` for one row in two hundred, and loops over what it
-- should hash, until autovacuum comes by, which tables that hardly change see late or never.
ANALYZE series;
