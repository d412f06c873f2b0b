-- The role that dashboards log in as: it reads what citybeat's migrations make, and nothing else.
-- Run by psql as a superuser, connected to the database; :owner and :reader_password are set by the caller. Repeatable.
SELECT 'CREATE ROLE grafana LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') \gexec
ALTER ROLE grafana PASSWORD :'reader_password';
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE ON SCHEMAS TO grafana;
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT SELECT ON TABLES TO grafana;
