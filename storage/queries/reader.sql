-- The role that dashboards log in as.

-- name: grant
-- Makes the role and grants it what dashboards read; returns what an administrator has to do, or NULL.
SELECT grant_reader();

-- name: password
-- Builds the statement that sets the role's password. ALTER ROLE takes literals only, so the password is quoted here.
SELECT format('ALTER ROLE grafana PASSWORD %%L', %(password)s::text);
