"""Grafana's data source: the database, through a role that may only read. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from citybeat.dashboards.panels import DATASOURCE

NAME: Final = "citybeat"
#: Placeholder in files, which Grafana replaces from its environment.
PASSWORD: Final = "$GRAFANA_DB_PASSWORD"  # noqa: S105  # the variable's name


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """Address of the database as Grafana reaches it."""

    host: str = "timescaledb:5432"  # HOST:PORT; the default is that of compose.yaml
    name: str = "citybeat"
    user: str = "grafana"
    sslmode: str = "disable"  # disable is safe only on the network between containers


def definition(database: Database) -> dict[str, Any]:
    """The data source without its password, in Grafana's format, which files and API share."""
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
