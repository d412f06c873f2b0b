"""Exports through the API's process, against a bare COPY (FORMAT BINARY) of the same rows: `python -m bench.export`.

5,000,000 readings of 5,000 series; the bare COPY's client takes the rows and does nothing with them. Both are asked in turn, so
that they share the machine's moods; the ratio is the median of the pairs.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import stack
from bench import workload
from devices.catalogue import builtin
from stack.process import free_port
from storage import migrate, registry
from storage.database import Connection, connect
from storage.pgcopy import RowFormat

SERIES = 5_000
ROWS = 5_000_000
START = 1_767_225_600_000_000
FORMAT = RowFormat(time="timestamptz", received_at="timestamptz", value="float8", series_id="int4", flags="int2")
BARE = "COPY (SELECT series_id, time, value, flags FROM readings) TO STDOUT (FORMAT BINARY)"
AIMS = {"arrow": 0.7, "parquet": 0.7, "csv": 0.3}


def measure(home: Path, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows a second of each form, the ratio, and the process's peak of memory."""
    settings = stack.StackSettings(home=home / "bench-export", root=home / "root", pg_port=0, mqtt_port=0)
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="bench")) as connection:
        migrate.migrate(connection, builtin(), chunk_days={"readings": 7.0, "readings_1m": 30.0, "readings_15m": 365.0})
        if connection.execute("SELECT FROM readings LIMIT 1").fetchone() is None:
            _fill(connection)
        port = free_port()
        env = {
            **os.environ,
            "CITYBEAT_HOME": str(settings.home),
            "CITYBEAT_DATABASE_URL": servers.database_url,
            "CITYBEAT_MQTT_URL": servers.mqtt_url,
            "CITYBEAT_API_PORT": str(port),
            "CITYBEAT_API_ANONYMOUS": "read",
        }
        process = stack.spawn([sys.executable, "-m", "citybeat", "api"], env=env, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            _ready(url)
            return [_compare(connection, url, form, process.pid, rounds) for form in AIMS]
        finally:
            process.terminate()
            process.wait(30)


def _fill(connection: Connection) -> None:
    """As live traffic leaves it: batches in order of arrival, sorted by series within."""
    registry.register(connection, workload.devices(SERIES // len(workload.METRICS)))
    ids = np.array(sorted(registry.load(connection, builtin()).series.values()), np.int32)
    rng = np.random.default_rng(1)
    times, batch = ROWS // SERIES, 20
    for first in range(0, times, batch):
        at = np.tile(START + np.arange(first, first + batch) * 300_000_000 + 123_000, len(ids))
        rows = FORMAT.encode(
            time=at,
            received_at=at,
            value=np.round(rng.normal(20.0, 5.0, len(at)), 2),
            series_id=np.repeat(ids, batch),
            flags=np.where(rng.random(len(at)) < 0.02, 1, 0),
        )
        with connection.cursor().copy(
            "COPY readings (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.write(rows)
    connection.execute("VACUUM ANALYZE readings")


def _ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the API does not answer")
        time.sleep(0.05)


def _bare(connection: Connection) -> float:
    began = time.perf_counter()
    with connection.cursor().copy(BARE) as copy:
        size = sum(len(message) for message in copy)
    assert size > 22 * ROWS
    return time.perf_counter() - began


def _ours(url: str, form: str) -> float:
    began = time.perf_counter()
    parameters = {"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "format": form}
    with httpx.stream("GET", f"{url}/v1/export", params=parameters, timeout=600) as answer:
        answer.raise_for_status()
        size = sum(len(part) for part in answer.iter_raw(1_048_576))
    assert size > ROWS
    return time.perf_counter() - began


def _compare(connection: Connection, url: str, form: str, pid: int, rounds: int) -> dict[str, Any]:
    pairs = [(_ours(url, form), _bare(connection)) for _ in range(rounds + 1)][1:]  # the first round warms up
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
    assert peak
    ours, bare = (sorted(column)[rounds // 2] for column in zip(*pairs, strict=True))
    return {
        "name": f"export, {form}",
        "ours_per_s": ROWS / ours,
        "limit_per_s": ROWS / bare,
        "ratio": sorted(b / o for o, b in pairs)[rounds // 2],
        "limit": f"a bare COPY BINARY, drained (aim: {AIMS[form]})",
        "peak_rss_mb": int(peak[1]) / 1024,  # of the process since its start
    }


if __name__ == "__main__":
    for row in measure(Path(os.environ.get("CITYBEAT_HOME", ".citybeat"))):
        print(json.dumps(row))
