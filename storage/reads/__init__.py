"""Queries of readings, rollups, states and streams."""
