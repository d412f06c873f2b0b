"""Ingest: gateway -> inbox -> decode -> resolve -> judge -> commit -> acknowledge; beside it housekeeping and retries.

The core (decode, resolve, convert, validate, history, judge, the states of a partition) does no I/O and reads no clock; gateway,
pipeline, worker and the other modules are shells around it.
"""
