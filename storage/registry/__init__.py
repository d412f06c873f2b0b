"""Metrics, sources, devices, series and keys, and the selection of devices and series."""
