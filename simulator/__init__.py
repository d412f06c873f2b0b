"""The city that sends: seeded signals of made-up devices, and recordings of real ones, over MQTT as any gateway would.

Nothing here knows who receives. Signals, the city, schedules, maps and recordings are pure: time, seed and bytes are arguments.
Only `publisher` speaks MQTT; `run` and `replay` are the shells that read the clock and files.
"""
