"""Grafana's treatment of a query of a PostgreSQL data source: variables and macros before it is sent, frames of its result.

As its macros.go and sql_engine.go have it, with TimescaleDB switched on. It shares no line with what makes the queries.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^\)]*)\)")
#: Grafana's own round lengths, ms, and how it writes them.
ROUND = {
    1_000: "1s", 5_000: "5s", 10_000: "10s", 15_000: "15s", 30_000: "30s", 60_000: "1m", 300_000: "5m", 600_000: "10m",
    900_000: "15m", 1_800_000: "30m", 3_600_000: "1h", 7_200_000: "2h", 10_800_000: "3h", 21_600_000: "6h", 43_200_000: "12h",
    86_400_000: "1d", 604_800_000: "1w",
}  # fmt: skip


class Raw(str):
    """A custom "all" value: inserted as it stands."""

    __slots__ = ()


#: What a variable holds.
Value = str | Raw | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of the time picker, on a panel of so many points."""

    start: datetime
    stop: datetime
    points: int = 1_000

    @property
    def interval(self) -> int:
        """ms between points, as Grafana rounds it."""
        wanted = (self.stop - self.start) / timedelta(milliseconds=1) / self.points
        return next((length for length in ROUND if length >= wanted), 604_800_000)


def interpolate(sql: str, span: Range, variables: Mapping[str, Value]) -> str:
    """The query with its variables, then its macros, filled in."""

    def variable(match: re.Match[str]) -> str:
        value = variables[match[1]]  # an unknown one is left as it stands, and is an error to the database
        if isinstance(value, Raw):
            return value
        several = [value] if isinstance(value, str) else value
        return ",".join("'" + each.replace("'", "''") + "'" for each in several)

    sql = re.sub(r"\$\{(\w+):sqlstring\}", variable, sql)
    sql = sql.replace("$__interval_ms", str(span.interval)).replace("$__interval", ROUND[span.interval])
    return MACRO.sub(lambda match: _macro(match[1], match[2].split(","), span), sql)


def _macro(name: str, arguments: Sequence[str], span: Range) -> str:
    start, stop = (f"'{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z'" for moment in (span.start, span.stop))
    if name == "__timeFrom":
        return start
    if name == "__timeTo":
        return stop
    if name == "__timeFilter":
        return f"{arguments[0]} BETWEEN {start} AND {stop}"
    raise AssertionError(f"unknown macro ${name}(")


def time_series(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[tuple[datetime, float | None]]]:
    """Series by their names, as the format time_series makes them of rows.

    Raises
    ------
    AssertionError
        Grafana would refuse the rows, or draw them in a wrong order.
    """
    assert columns.count("time") == 1, columns
    at = columns.index("time")
    times = [row[at] for row in rows]
    assert all(isinstance(time, datetime) for time in times)
    assert times == sorted(times)
    texts = [i for i in range(len(columns)) if any(isinstance(row[i], str) for row in rows)]
    values = [i for i in range(len(columns)) if i != at and i not in texts]
    assert values, "no column of numbers"
    found: dict[str, dict[datetime, float | None]] = {}
    for row in rows:
        assert all(row[i] is not None for i in texts), "a label is missing"
        labels = "·".join(row[i] for i in texts)
        for i in values:
            assert row[i] is None or isinstance(row[i], int | float) or hasattr(row[i], "as_tuple"), columns[i]
            series = found.setdefault(labels if texts else columns[i], {})
            assert row[at] not in series, f"{labels} has two values at {row[at]}"
            series[row[at]] = row[i]
    return {name: list(series.items()) for name, series in found.items()}


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query of a dashboard."""

    board: str
    place: str  # which panel, variable or annotation
    sql: str
    form: str  # time_series or table
    panel: Mapping[str, Any] | None = None  # of which it is a target
    ref: str = ""


def queries(board: str, made: Mapping[str, Any]) -> Iterator[Query]:
    """Every query to the database that a dashboard makes."""
    for panel in made["panels"]:
        for target in panel.get("targets", ()):
            if "rawSql" in target:
                yield Query(
                    board=board, place=f"{panel['title']} ({panel['id']}) {target['refId']}", sql=target["rawSql"],
                    form=target["format"], panel=panel, ref=target["refId"],
                )  # fmt: skip
    for variable in made["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(board=board, place=f"${variable['name']}", sql=variable["query"], form="variable")
    for annotation in made["annotations"].get("list", ()):
        yield Query(board=board, place=f"annotation {annotation['name']}", sql=annotation["target"]["rawSql"], form="annotation")
