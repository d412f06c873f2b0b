"""TimescaleDB: tables, the write path and the read path. SQL stands in named files.

`migrations/` makes tables, `repeatable/` functions, views and descriptions, and `queries/` has the statements of each module.
`schema.sql` shows what the first two amount to; docs/migrations.md says how to change it.
"""
