"""Simulator: a city of seeded devices, recordings of real ones, and a load generator, which publish over MQTT as any gateway would.

Nothing here depends on the receiver. Signals, the city, schedules, faults, maps and recordings are pure: time, seed and bytes are
arguments. `run`, `replay.files`, `load.generator` and `load.link` are the shells that read the clock, files and sockets. Everything
is sent by `load.link`, with the packets of `devices.wire.mqtt`.
"""
