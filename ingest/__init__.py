"""MQTT to rows: gateway -> inbox -> decode -> resolve -> judge -> commit -> acknowledge; housekeeping and replays beside it.

The core (decode, resolve, convert, validate, history, judge) does no I/O and reads no clock; gateway, pipeline, worker are shells.
"""
