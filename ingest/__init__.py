"""MQTT to rows: gateway -> inbox -> decode -> resolve -> validate -> write -> downsample -> acknowledge.

The core (decode, resolve, validate, downsample) does no I/O and reads no clock; gateway, pipeline and worker are the shells.
"""
