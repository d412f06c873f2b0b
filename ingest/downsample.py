"""The step's name in ingest. The formulas stand in `devices/aggregate.py`, since storage recomputes with the same ones."""

from devices.aggregate import downsample

__all__ = ["downsample"]
