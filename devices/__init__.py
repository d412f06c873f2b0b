"""The vocabulary: what a metric, a device, a quality flag and a batch of readings are, and how they look on the wire.

Pure: nothing here does I/O, reads a clock or the environment, or imports another room. Time and state are arguments.
"""
