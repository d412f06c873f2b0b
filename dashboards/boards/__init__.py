"""The dashboards, one a module: each has `board(context)`, which returns Grafana's JSON."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from citybeat.dashboards.board import Context
from citybeat.dashboards.boards import city, energy, environment, ingest, quality, sensor, traffic

#: In the order in which people meet them.
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
    """Every dashboard, by its name."""
    return {name: make(context) for name, make in BOARDS.items()}
