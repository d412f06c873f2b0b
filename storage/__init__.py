"""TimescaleDB: connections, the registry, batches, rollups, checks of the ledger, and reads.

Every statement stands in a named SQL file: `migrations/` is the schema, `queries/` has the rest. No other package imports psycopg.
"""
