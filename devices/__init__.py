"""The vocabulary of citybeat: metrics, devices, quality flags and batches of readings, and their forms on the wire.

Pure: nothing here does I/O, reads a clock or the environment, or imports another package of citybeat. Time and state are arguments.
"""
