#!/bin/sh
# Run once by the container image, in /docker-entrypoint-initdb.d, when it has made the database.
set -eu
psql -v ON_ERROR_STOP=1 -v reader_password="$GRAFANA_DB_PASSWORD" \
     -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f /citybeat/postgres/roles.sql
