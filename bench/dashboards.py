"""Every query of every dashboard with 10,000,000 readings behind it.

A year of a city of 66 devices (some 250 sensors), a reading each 13 minutes or so: 10,000,000 readings in raw, as many minutes, and
9,000,000 quarter-hours, the dearest shape for a panel over a year; 2,100,000 minutes of the ledger. Asked as Grafana asks, for an
hour, a week and a year, everything picked; the median of three, after one that warms up.
"""

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench import scene
from citybeat import stack
from citybeat.dashboards import alerts, boards
from citybeat.dashboards.board import Context
from citybeat.dashboards.texts import Texts
from citybeat.devices.catalogue import builtin
from citybeat.simulator.city import layout as cities
from citybeat.storage import migrate
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records
from tests.grafana import Query, Range, Raw, Value, interpolate, queries

READINGS = 10_000_000
DEVICES = 66
GATEWAYS = ("gw-01", "gw-02", "gw-03", "gw-04")
RANGES = {"1 h": timedelta(hours=1), "7 d": timedelta(days=7), "1 y": timedelta(days=365)}
#: ms. Longest time that a panel should take.
AIM = 200.0
ROUNDS = 3


def measure(home: Path) -> list[dict[str, Any]]:
    """Measure each query and range, in milliseconds, the slowest first."""
    settings = stack.StackSettings(home=home / "bench-dashboards", root=scene.root(), pg_port=0, mqtt_port=0)
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="bench")) as connection:
        migrate.migrate(connection, builtin(), chunk_days=scene.CHUNKS)
        if connection.execute("SELECT FROM readings LIMIT 1").fetchone() is None:
            _fill(connection)
        row = connection.execute(
            "SELECT max(time), min(device_id) FROM latest JOIN series s ON s.id = series_id WHERE metric = 'pm25'"
        )
        now, station = row.fetchone() or (datetime.now(UTC), "")
        context = Context(catalogue=builtin(), words=Texts("en"))
        asked = [query for name, made in boards.build(context).items() for query in queries(name, made)]
        asked += [Query(board="alert", place=rule.name, sql=rule.query, form="table") for rule in alerts.rules(context)]
        found = [_time(connection, query, length, now, station) for query in asked for length in RANGES]
    return sorted(found, key=lambda row: -row["ms"])


def _time(connection: Connection, query: Query, length: str, now: datetime, station: str) -> dict[str, Any]:
    everything = Raw("'__all'")
    values: dict[str, Value] = dict.fromkeys(("district", "device", "metric", "source"), everything)
    values |= {"aggregate": "usual", "zone": "Asia/Ho_Chi_Minh", "standard": "QCVN 05:2023"}
    if query.board == "sensor":
        values |= {"device": station, "metric": "pm25"}
    sql = interpolate(query.sql, Range(start=now - RANGES[length], stop=now), values).encode()
    took = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        rows = len(connection.execute(sql).fetchall())
        took.append(time.perf_counter() - began)
    return {"name": f"{query.board}: {query.place}", "range": length, "ms": 1000 * sorted(took[1:])[ROUNDS // 2], "rows": rows}


def _fill(connection: Connection) -> None:
    """Fill the database by SQL: every sensor at its own minutes, and rollups of them. Only the shape of the data matters."""
    records.register(connection, cities.build(devices=DEVICES, gateways=GATEWAYS, seed=1).devices)
    ids = np.array(sorted(records.load(connection, builtin()).series.values()))
    step = 365 * 86_400 * len(ids) / READINGS  # s
    connection.execute("SET synchronous_commit = off")
    for week in range(53):
        connection.execute(
            "INSERT INTO readings (time, received_at, value, series_id, flags)"
            " SELECT t, t + INTERVAL '2 s', 30 + 20 * sin(extract(epoch FROM t) / 13750 + s.id), s.id,"
            "     CASE WHEN (s.id + extract(epoch FROM t)::int8) %% 97 = 0 THEN 1 ELSE 0 END"
            " FROM series s, generate_series(date_trunc('minute', now()) - INTERVAL '365 days' + make_interval(weeks => %(week)s),"
            "     least(date_trunc('minute', now()) - INTERVAL '365 days' + make_interval(weeks => %(week)s + 1), now())"
            "     - INTERVAL '1 second', make_interval(secs => %(step)s)) AS t",
            {"week": week, "step": step},
        )
    merged = (
        "INSERT INTO {into} (bucket, first_at, last_at, vmin, vmax, vfirst, vlast, s1, s2, series_id, n, n_bad)"
        " SELECT time_bucket({length}, time), coalesce(min(time) FILTER (WHERE flags = 0), 'infinity'),"
        " coalesce(max(time) FILTER (WHERE flags = 0), '-infinity'), coalesce(min(value) FILTER (WHERE flags = 0), 'infinity'),"
        " coalesce(max(value) FILTER (WHERE flags = 0), '-infinity'), coalesce(first(value, time) FILTER (WHERE flags = 0), 0),"
        " coalesce(last(value, time) FILTER (WHERE flags = 0), 0), coalesce(sum(value) FILTER (WHERE flags = 0), 0),"
        " coalesce(sum(value * value) FILTER (WHERE flags = 0), 0), series_id, count(*) FILTER (WHERE flags = 0),"
        " count(*) FILTER (WHERE flags <> 0) FROM readings GROUP BY series_id, time_bucket({length}, time) ORDER BY series_id, 1"
    )
    connection.execute(merged.format(into="readings_1m", length="INTERVAL '1 minute'").encode())
    connection.execute(merged.format(into="readings_15m", length="INTERVAL '15 minutes'").encode())
    connection.execute(
        "INSERT INTO latest (series_id, time, received_at, value, flags, good_at, good_value, same_since)"
        " SELECT DISTINCT ON (series_id) series_id, time, received_at, value, flags, time, value, time FROM readings"
        " WHERE time > now() - INTERVAL '1 day' ORDER BY series_id, time DESC"
    )
    connection.execute(
        "INSERT INTO ledger SELECT m, s.id, 5, 0, 0, 5, 5, 0, 0, 0, 0, 0 FROM sources s,"
        " generate_series(date_trunc('minute', now()) - INTERVAL '365 days', now(), INTERVAL '1 minute') AS m WHERE s.name <> '?'"
    )
    connection.execute(
        "INSERT INTO ledger_totals (source_id, messages, received, stored)"
        " SELECT source_id, sum(messages), sum(received), sum(stored) FROM ledger GROUP BY 1"
    )
    for table in (
        "readings",
        "readings_1m",
        "readings_15m",
        "latest",
        "ledger",
        "ledger_totals",
        "series",
        "devices",
        "metrics",
        "sources",
    ):
        connection.execute(f"VACUUM ANALYZE {table}".encode())


def report(rows: list[dict[str, Any]], most: int = 15) -> None:
    """Print the slowest queries, and the number of queries within the aim."""
    print(f"{'dashboards, 10,000,000 readings':70} {'range':>6} {'ms':>8} {'rows':>8}")
    for row in rows[:most]:
        print(f"{row['name'][:70]:70} {row['range']:>6} {row['ms']:8.0f} {row['rows']:8,}")
    for length in RANGES:
        of_range = [row["ms"] for row in rows if row["range"] == length]
        kept = sum(ms <= AIM for ms in of_range)
        print(
            f"{length}: {kept} of {len(of_range)} queries within {AIM:.0f} ms, median {sorted(of_range)[len(of_range) // 2]:.0f} ms"
        )
