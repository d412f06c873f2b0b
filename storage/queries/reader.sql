-- The role that dashboards log in as.

-- name: grant
-- Makes the role and grants what dashboards read; NULL, or what an administrator has to do.
SELECT grant_reader();

-- name: password
-- Of the role; literals are all that this statement takes, so the password is quoted here.
SELECT format('ALTER ROLE grafana PASSWORD %%L', %(password)s::text);
