"""Exports through the API's process, against a bare COPY (FORMAT BINARY) of the same rows: `python -m bench.export`.

Of the 10,000,000 readings of `bench/city.py`; the bare COPY's client takes the rows and does nothing with them. Both are asked in
turn, so that they share the machine's moods; the ratio is the median of the pairs.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx

from bench.city import City, served
from citybeat.storage.db.connection import Connection

BARE = "COPY (SELECT series_id, time, value, flags FROM readings) TO STDOUT (FORMAT BINARY)"
AIMS = {"arrow": 0.7, "parquet": 0.7, "csv": 0.3}


def measure(city: City, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows a second of each form, the ratio, and the process's peak of memory."""
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
    pairs = [(_ours(city.http, form, rows), _bare(city.connection, rows)) for _ in range(rounds + 1)][
        1:
    ]  # the first round warms up
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{city.pid}/status").read_text("utf-8"))
    assert peak
    ours, bare = (sorted(column)[rounds // 2] for column in zip(*pairs, strict=True))
    return {
        "name": f"export, {form}",
        "ours_per_s": rows / ours,
        "limit_per_s": rows / bare,
        "ratio": sorted(b / o for o, b in pairs)[rounds // 2],
        "limit": f"a bare COPY BINARY, drained (aim: {AIMS[form]})",
        "peak_rss_mb": int(peak[1]) / 1024,  # of the process since its start
    }


if __name__ == "__main__":
    with served(Path(os.environ.get("CITYBEAT_HOME", ".citybeat"))) as found:
        for measured in measure(found):
            print(json.dumps(measured))
