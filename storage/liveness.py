"""Which sensors fell silent."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from storage import sql
from storage.database import Connection, translated

_SQL: Final = sql.load("liveness")


@dataclass(frozen=True, kw_only=True, slots=True)
class Overdue:
    """A sensor in service that should have reported by now: three expected intervals after its newest reading."""

    device: str
    metric: str
    source: str
    expected: timedelta  # between readings
    last_at: datetime | None  # newest reading; None: it never reported
    good_at: datetime | None  # newest good reading
    overdue_since: datetime


def overdue(connection: Connection, *, source: str | None = None, domain: str | None = None, limit: int = 1000) -> list[Overdue]:
    """Sensors that are overdue, those that are silent longest first; None: of any source or domain."""
    with translated():
        rows = connection.execute(_SQL["overdue"], {"source": source, "domain": domain, "limit": limit}).fetchall()
    names = ("device", "metric", "source", "expected", "last_at", "good_at", "overdue_since")
    return [Overdue(**dict(zip(names, row, strict=True))) for row in rows]
