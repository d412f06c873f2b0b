"""The dashboards, one in each module, whose `board(context)` returns Grafana's JSON."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from citybeat.dashboards.board import Context
from citybeat.dashboards.boards import city, energy, environment, ingest, quality, sensor, traffic

#: All dashboards, the most general first.
BOARDS: Final[Mapping[str, Callable[[Context], dict[str, Any]]]] = MappingProxyType(
    {
        "city": city.board,
        "traffic": traffic.board,
        "environment": environment.board,
        "energy": energy.board,
        "sensor": sensor.board,
        "quality": quality.board,
        "ingest": ingest.board,
    }
)


def build(context: Context) -> dict[str, dict[str, Any]]:
    """Build every dashboard, by name."""
    return {name: make(context) for name, make in BOARDS.items()}
