"""Exports of the 10,000,000 readings of `bench/city.py` through the API's process, against a bare COPY BINARY of the same rows.

The bare COPY's client takes the rows and does nothing with them.
"""

import time
from typing import Any

import httpx

from bench import scene, table
from bench.city import City
from citybeat.storage.db.connection import Connection

BARE = "COPY (SELECT series_id, time, value, flags FROM readings) TO STDOUT (FORMAT BINARY)"
AIMS = {"arrow": 0.7, "parquet": 0.7, "csv": 0.3}


def measure(city: City, rounds: int = 5) -> list[dict[str, Any]]:
    """Measure each form: a row each, in readings a second, with the highest memory of the process."""
    row = city.connection.execute("SELECT count(*) FROM readings").fetchone()
    assert row
    return [_compare(city, form, row[0], rounds) for form in AIMS]


def _bare(connection: Connection, rows: int) -> float:
    began = time.perf_counter()
    with connection.cursor().copy(BARE) as copy:
        size = sum(len(message) for message in copy)
    assert size > 22 * rows
    return time.perf_counter() - began


def _ours(http: httpx.Client, form: str, rows: int) -> float:
    began = time.perf_counter()
    parameters = {"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "format": form}
    with http.stream("GET", "/v1/export", params=parameters) as answer:
        answer.raise_for_status()
        size = sum(len(part) for part in answer.iter_raw(1_048_576))
    assert size > rows
    return time.perf_counter() - began


def _compare(city: City, form: str, rows: int, rounds: int) -> dict[str, Any]:
    found = table.pairs(lambda: _ours(city.http, form, rows), lambda: _bare(city.connection, rows), rounds)
    peak = scene.peak(city.pid)  # of the process since its start
    return table.row(f"export, {form}", found, f"a bare COPY BINARY, drained (aim: {AIMS[form]})", count=rows, rss=peak)
