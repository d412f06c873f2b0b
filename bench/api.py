"""Questions about the 10,000,000 readings of `bench/city.py` over HTTP, against the same questions asked of the database directly.

A direct question is the one statement that a careful developer would write for the same columns, by psycopg, prepared, in binary
form, fetched whole; the answer over HTTP is read whole and not parsed. Both go over connections that are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from urllib.parse import urlencode

import orjson

from bench import table
from bench.city import DAYS, METRIC, SENSORS, START, City

#: An answer may take so many times the database's time, and so many seconds more.
TIMES, PLUS = 1.5, 0.003
ROUNDS = 41
_FROM = datetime.fromtimestamp(START / 1e6, UTC)
_LATEST = """
SELECT s.device_id, s.metric, m.unit, l.time, l.value, l.flags, extract(epoch FROM now() - l.time)::float8,
    now() > l.time + 3 * make_interval(secs => coalesce(s.interval_s, (m.definition ->> 'interval')::float8))
FROM latest l JOIN series s ON s.id = l.series_id JOIN metrics m ON m.name = s.metric JOIN devices d ON d.id = s.device_id
WHERE d.retired_at IS NULL
ORDER BY s.device_id, s.metric LIMIT 10001
"""
_MINUTES = """
SELECT bucket, CASE WHEN n > 0 THEN s1 / n END, CASE WHEN n > 0 THEN vmin END, CASE WHEN n > 0 THEN vmax END, n_bad,
    least((n + n_bad) * %(every)s::float8 / 60, 1)
FROM readings_1m
WHERE series_id = %(series)s AND bucket >= %(start)s AND bucket < %(stop)s
ORDER BY bucket
"""
_HOURS = """
SELECT series_id, time_bucket('1 hour', bucket) AS hour, sum(s1) / nullif(sum(n), 0), min(vmin), max(vmax), sum(n_bad)::int,
    least(sum(n + n_bad) * %(every)s::float8 / 3600, 1)
FROM readings_15m
WHERE series_id = ANY(%(series)s::int[]) AND bucket >= %(start)s AND bucket < %(stop)s
GROUP BY 1, 2 ORDER BY 1, 2
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    name: str
    rows: int  # that both have to return
    method: str
    path: str
    body: Mapping[str, Any] | None
    statement: str
    parameters: Mapping[str, Any]


def measure(city: City, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure each question: a row each, in milliseconds."""
    return [_compare(city, question, rounds) for question in _questions(city)]


def _questions(city: City) -> list[_Question]:
    day, week = _FROM + timedelta(days=2), _FROM + timedelta(days=DAYS)
    before = day - timedelta(days=1)
    some = {"bucket": "1m", "aggregates": ["mean", "min", "max"]}
    row = city.connection.execute("SELECT (definition ->> 'interval')::float8 FROM metrics WHERE name = %s", (METRIC,)).fetchone()
    assert row
    return [
        _Question(
            name=f"latest of {SENSORS:,} sensors",
            rows=SENSORS,
            method="GET",
            path=f"/v1/latest?limit={SENSORS}",
            body=None,
            statement=_LATEST,
            parameters={},
        ),
        _Question(
            name="one series, 24 h at 1m",
            rows=1440,
            method="GET",
            path="/v1/series?"
            + urlencode({"device": city.stations[50], "metric": METRIC, **_range(before, day), **some}, doseq=True),
            body=None,
            statement=_MINUTES,
            parameters={"series": city.quick[50], "start": before, "stop": day, "every": row[0]},
        ),
        _Question(
            name="100 series, 7 days at 1h from 15m",
            rows=len(city.quick) * DAYS * 24,
            method="POST",
            path="/v1/query",
            body={"devices": city.stations, "metrics": [METRIC], **_range(_FROM, week), **some, "bucket": "1h"},
            statement=_HOURS,
            parameters={"series": city.quick, "start": _FROM, "stop": week, "every": row[0]},
        ),
    ]


def _range(start: datetime, stop: datetime) -> dict[str, str]:
    return {"from": start.isoformat(), "to": stop.isoformat()}


def _compare(city: City, question: _Question, rounds: int) -> dict[str, Any]:
    cursor = city.connection.cursor(binary=True)
    answer = city.ask(question.method, question.path, question.body)
    assert orjson.loads(answer)["count"] == question.rows
    size = len(answer)

    def ours() -> None:
        got = city.ask(question.method, question.path, question.body)
        assert abs(len(got) - size) < size / 100  # ages grow

    def direct() -> None:
        assert len(cursor.execute(question.statement, question.parameters, prepare=True).fetchall()) == question.rows

    found = table.pairs(lambda: table.timed(ours), lambda: table.timed(direct), rounds)
    late = median([a - TIMES * b - PLUS for a, b in found]) > 0
    wrong = [f"it takes more than {TIMES} times the database's time and {PLUS * 1000:.0f} ms"] if late else []
    return table.row(question.name, found, "the same question asked of the database", bytes=size, wrong=wrong)
