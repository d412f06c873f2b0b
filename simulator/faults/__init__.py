"""Faults that a scenario injects into a city, with labels: of values, clocks and messages; and the truth of every reading."""
