-- The role that dashboards log in as. `citybeat migrate` grants it what dashboards show, table by table (grant_reader).
-- Run by psql as a superuser, connected to the database, any number of times; :reader_password is set by the caller.
SELECT 'CREATE ROLE grafana LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') \gexec
ALTER ROLE grafana PASSWORD :'reader_password';
ALTER ROLE grafana SET default_transaction_read_only = on;
-- A query of a panel that nobody looks at any more must not keep the database busy.
ALTER ROLE grafana SET statement_timeout = '30s';
