-- The role that dashboards log in as. What it may read is said by citybeat's migrations (grant_reader, 0016), table by table.
-- Run by psql as a superuser, connected to the database; :reader_password is set by the caller. Repeatable.
SELECT 'CREATE ROLE grafana LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') \gexec
ALTER ROLE grafana PASSWORD :'reader_password';
ALTER ROLE grafana SET default_transaction_read_only = on;
-- A panel that is looked at by nobody any more does not hold the database up.
ALTER ROLE grafana SET statement_timeout = '30s';
