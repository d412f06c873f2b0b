"""Levels at which values are stored."""

import enum


class Level(enum.StrEnum):
    """A level, by its name in the table `horizons`."""

    RAW = "raw"  # readings
    MINUTES = "1m"
    QUARTERS = "15m"
