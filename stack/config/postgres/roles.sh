#!/bin/sh
# Run once by the container image, from /docker-entrypoint-initdb.d, after it has created the database.
set -eu
psql -v ON_ERROR_STOP=1 -v reader_password="$GRAFANA_DB_PASSWORD" \
     -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f /citybeat/postgres/roles.sql
