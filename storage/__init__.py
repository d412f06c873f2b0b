"""TimescaleDB: the only room that knows SQL and psycopg.

SQL stands in named files: `migrations/` is the schema, `queries/` the rest.
"""
