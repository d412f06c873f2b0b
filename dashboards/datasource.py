"""The database as Grafana sees it: through a role that may only read. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from citybeat.dashboards.panels import DATASOURCE

NAME: Final = "citybeat"
#: In files Grafana fills it in from its environment.
PASSWORD: Final = "$GRAFANA_DB_PASSWORD"  # noqa: S105  # the variable's name


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """Where Grafana finds it."""

    host: str = "timescaledb:5432"  # as Grafana's machine knows it; by default that of compose.yaml
    name: str = "citybeat"
    user: str = "grafana"
    sslmode: str = "disable"  # fit for the network between containers only


def definition(database: Database) -> dict[str, Any]:
    """All but the password, as Grafana has it both in files and in its API."""
    return {
        "name": NAME,
        "uid": DATASOURCE.uid,
        "type": DATASOURCE.type_val,
        "access": "proxy",
        "isDefault": True,
        "url": database.host,
        "user": database.user,
        "jsonData": {
            "database": database.name,
            "sslmode": database.sslmode,
            "postgresVersion": 1700,
            "timescaledb": True,  # $__timeGroup becomes time_bucket
            "maxOpenConns": 10,
            "maxIdleConns": 10,
            "connMaxLifetime": 14_400,  # s
        },
    }
