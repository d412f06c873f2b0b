"""Every query of every panel, variable and annotation, as Grafana sends it, against a real database with a simulated city."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from citybeat.dashboards import alerts, boards
from citybeat.dashboards.board import Context
from citybeat.dashboards.boards import BOARDS
from citybeat.dashboards.texts import Texts
from citybeat.devices.catalogue import builtin
from citybeat.storage.db.connection import Connection, connect
from tests.grafana import Query, Range, Raw, Value, interpolate, queries, time_series
from tests.integration import dashboard_city
from tests.integration.dashboard_city import City

CONTEXT = Context(catalogue=builtin(), words=Texts("vi"))
QUERIES = [query for name, made in boards.build(CONTEXT).items() for query in queries(name, made)]
RANGES = {"1h": timedelta(hours=1), "7d": timedelta(days=7), "1y": timedelta(days=365)}
EVERYTHING = Raw("'__all'")


@pytest.fixture(scope="module")
def city(shared_database: str, fill_into: Any) -> Iterator[tuple[City, Connection]]:
    """The city, and a connection that may not read raw readings unless a test lets it."""
    with closing(connect(shared_database, application="test")) as connection:
        made = dashboard_city.fill(shared_database, connection, fill_into, dashboard_city.moment())
        connection.execute("ANALYZE")
        yield made, connection


def variables(city: City, which: str) -> dict[str, Value]:
    """Everything; one of each; or several, of which one would break out of a string."""
    picked: dict[str, dict[str, Value]] = {
        "everything": {"district": EVERYTHING, "device": EVERYTHING, "metric": EVERYTHING, "source": EVERYTHING},
        "one": {"district": "Thị Nại", "device": city.station, "metric": "pm25", "source": "gw-1"},
        "several": {
            "district": ["Thị Nại", "a'b"],
            "device": [city.station, "'); --"],
            "metric": ["pm25", "no2"],
            "source": ["gw-1", "x"],
        },
        "nothing": {"district": [], "device": [], "metric": [], "source": []},
    }
    more = {
        "everything": ("usual", "Asia/Ho_Chi_Minh"),
        "one": ("max", "UTC"),
        "several": ("stddev", "Asia/Ho_Chi_Minh"),
        "nothing": ("last", "UTC"),
    }
    aggregate, zone = more[which]
    return {**picked[which], "aggregate": aggregate, "zone": zone, "standard": "QCVN 05:2023"}


def of_sensor(query: Query, city: City, values: dict[str, Value]) -> dict[str, Value]:
    """The dashboard of a sensor has one device and one metric, always."""
    return {**values, "device": city.station, "metric": "pm25"} if query.board == "sensor" else values


def ask(connection: Connection, query: Query, span: Range, values: dict[str, Value]) -> tuple[list[str], list[Any]]:
    sql = interpolate(query.sql, span, values)
    assert "$" not in sql
    cursor = connection.execute(sql.encode())
    assert cursor.description is not None
    return [column.name for column in cursor.description], cursor.fetchall()


def check_shape(query: Query, columns: list[str], rows: list[Any]) -> None:
    if query.form == "time_series":
        time_series(columns, rows)
    elif query.form == "variable":
        assert columns == (["__value", "__text"] if "__value" in columns else columns[:1])
        assert all(isinstance(value, str) and value for row in rows for value in row)
    elif query.form == "annotation":
        assert {"time", "text"} <= set(columns)
        assert all(row[columns.index("text")] for row in rows)
    else:
        assert query.panel is not None
        titled = {
            o["matcher"]["options"]
            for o in query.panel["fieldConfig"]["overrides"]
            if any(p["id"] == "displayName" for p in o["properties"])
        }
        assert set(columns) == titled, "every column has a heading, and every heading a column"


@pytest.mark.parametrize("which", ["everything", "one", "several", "nothing"])
@pytest.mark.parametrize("length", RANGES)
@pytest.mark.parametrize("name", BOARDS)
def test_every_query_runs_and_returns_what_its_panel_shows(city, name, length, which):
    made, connection = city
    span = Range(start=made.now - RANGES[length], stop=made.now)
    for query in (query for query in QUERIES if query.board == name):
        columns, rows = ask(connection, query, span, of_sensor(query, made, variables(made, which)))
        check_shape(query, columns, rows)


@pytest.mark.parametrize("length", RANGES)
@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_of_a_city_that_works_is_empty(city, name, length):
    made, connection = city
    span = Range(start=made.now - RANGES[length], stop=made.now)
    empty = []
    for query in (query for query in QUERIES if query.board == name):
        _, rows = ask(connection, query, span, of_sensor(query, made, variables(made, "everything")))
        if not rows or all(value is None for row in rows for value in row):
            empty.append(query.place)
    raw = {
        place for place in empty if name == "sensor" and length != "1h" and (place.endswith((" B", " C")) or "bị gắn cờ" in place)
    }
    outage = {place for place in empty if place == "annotation Gián đoạn" and length == "1y"}
    assert set(empty) - raw - outage == set()


@pytest.mark.parametrize("name", BOARDS)
def test_a_year_never_touches_raw_readings(city, name):
    """Without the right to read them, whatever a function does inside; and as the plan says."""
    made, connection = city
    span = Range(start=made.now - RANGES["1y"], stop=made.now)
    # Not prepared: the second use of a kept plan that grants on a hypertable crashes TimescaleDB 2.19.
    connection.execute("REVOKE SELECT ON readings FROM CURRENT_USER", prepare=False)
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM readings LIMIT 1")
        for query in (query for query in QUERIES if query.board == name):
            values = of_sensor(query, made, variables(made, "everything"))
            ask(connection, query, span, values)
            plan = connection.execute(("EXPLAIN " + interpolate(query.sql, span, values)).encode()).fetchall()
            assert not re.search(r"Scan.* on (public\.)?(readings|_hyper_1_\d+_chunk)\b", "\n".join(row[0] for row in plan)), (
                query.place
            )
    finally:
        connection.execute("GRANT SELECT ON readings TO CURRENT_USER", prepare=False)


def test_an_hour_shows_single_readings(city):
    made, connection = city
    span = Range(start=made.now - RANGES["1h"], stop=made.now)
    raw = "SELECT * FROM chart_raw(%s, 'pm25', %s, %s)"
    rows = connection.execute(raw, (made.station, span.start, span.stop)).fetchall()
    assert len(rows) == 60
    assert connection.execute(raw, (made.station, made.now - RANGES["7d"], span.stop)).fetchall() == []


@pytest.mark.parametrize(
    ("length", "points", "bucket"),
    [("1h", 1_000, "1 minute"), ("7d", 1_000, "15 minutes"), ("7d", 100, "6 hours"), ("1y", 1_000, "1 day"), ("1y", 100, "7 days")],
)
def test_the_level_follows_the_range(city, length, points, bucket):
    made, connection = city
    span = Range(start=made.now - RANGES[length], stop=made.now, points=points)
    found = connection.execute("SELECT chart_bucket(%s, %s, %s) = %s::interval", (span.interval, span.start, span.stop, bucket))
    assert found.fetchone() == (True,)


def test_alerts_return_a_number_a_row_and_texts(city):
    made, connection = city
    found = {}
    for rule in alerts.rules(CONTEXT):
        query = Query(board="alert", place=rule.name, sql=rule.query, form="table")
        columns, rows = ask(connection, query, Range(start=made.now - RANGES["1h"], stop=made.now), {})
        numbers = [i for i in range(len(columns)) if all(isinstance(row[i], float) for row in rows)]
        assert len(numbers) == 1, columns
        assert all(isinstance(row[i], str) for row in rows for i in range(len(columns)) if i not in numbers)
        labels = [tuple(row[i] for i in range(len(columns)) if i not in numbers) for row in rows]
        assert rows
        assert len(set(labels)) == len(labels), "Grafana refuses two rows with the same labels"
        found[rule.name] = {label: row[numbers[0]] > rule.above for label, row in zip(labels, rows, strict=True)}
    assert any(found["overdue"].values())
    assert not any(found["ledger"].values())
    assert found["lag"] == {(): False}
    assert not any(found["quarantine"].values())
    connection.execute(
        "UPDATE ledger_totals SET stored = stored - 1 WHERE source_id = (SELECT id FROM sources WHERE name = 'gw-2')"
    )
    _, rows = ask(
        connection, Query(board="", place="", sql=alerts.rules(CONTEXT)[2].query, form=""), Range(start=made.now, stop=made.now), {}
    )
    assert [row for row in rows if row[1] > 0] == [("gw-2", 1.0)]
    connection.execute(
        "UPDATE ledger_totals SET stored = stored + 1 WHERE source_id = (SELECT id FROM sources WHERE name = 'gw-2')"
    )


def test_states_are_what_happened(city):
    made, connection = city
    worst = dict(connection.execute("SELECT device, max(severity) FROM sensor_board GROUP BY 1").fetchall())
    assert (worst[made.silent], worst[made.overdue], worst[made.stuck], worst[made.bad]) == (4, 3, 2, 1)
    assert set(worst.values()) == {0, 1, 2, 3, 4}
    only = "SELECT DISTINCT state FROM sensor_board WHERE device = %s"
    assert connection.execute(only, (made.silent,)).fetchall() == [("silent",)]


def test_a_chart_is_what_telemetry_says(city):
    made, connection = city
    start = made.now - timedelta(days=60)
    chart = connection.execute(
        "SELECT time, device, value, vmin, vmax, n, n_bad, coverage"
        " FROM chart('mean', 0, 'Asia/Ho_Chi_Minh', %s, %s, '{}', '{}', '{no2}', 99)",
        (start, made.now),
    ).fetchall()
    same = connection.execute(
        "SELECT time, device, mean, min, max, count, bad_count, coverage"
        " FROM telemetry('1 hour', 'Asia/Ho_Chi_Minh', %s, %s, NULL, '{no2}')"
        " ORDER BY time, device",
        (start, made.now),
    ).fetchall()
    assert chart == same
    assert len(chart) > 300


@pytest.mark.parametrize("zone", ["Asia/Ho_Chi_Minh", "America/New_York", "Asia/Kathmandu"])
def test_days_of_quality_are_local_where_clocks_shift_too(city, zone):
    made, connection = city
    start = made.now - timedelta(days=365)
    counted = connection.execute(
        "SELECT time, district, received, bad FROM chart_quality(0, %s, %s, %s, '{}', '{}', '{pm25,no2}')", (zone, start, made.now)
    ).fetchall()
    same = connection.execute(
        "SELECT time, district, sum(count + bad_count)::int8, sum(bad_count)::int8"
        " FROM telemetry('1 day', %s, %s, %s, NULL, '{pm25,no2}') GROUP BY 1, 2 ORDER BY 1, 2",
        (zone, start, made.now),
    ).fetchall()
    assert counted == same
    assert len({row[0] for row in counted}) == 366


@pytest.mark.parametrize("zone", ["Asia/Ho_Chi_Minh", "America/New_York", "Asia/Kathmandu"])
def test_hours_of_the_law_are_those_of_telemetry(city, zone):
    made, connection = city
    start = made.now - timedelta(days=7)
    ids = connection.execute("SELECT array_agg(id) FROM series WHERE metric = 'pm25'").fetchone()[0]
    begin, end = connection.execute(
        "SELECT bucket_start('1 hour', %(z)s, %(a)s), bucket_start('1 hour', %(z)s, %(b)s)", {"z": zone, "a": start, "b": made.now}
    ).fetchone()
    hours = connection.execute(
        "SELECT began, device_id, n, s1 / n FROM hourly_means(%s, %s, %s, %s) h JOIN series s ON s.id = h.series_id ORDER BY 1, 2",
        (zone, begin, end, ids),
    ).fetchall()
    same = connection.execute(
        "SELECT time, device, count, mean FROM telemetry('1 hour', %s, %s, %s, NULL, '{pm25}') WHERE count > 0 ORDER BY 1, 2",
        (zone, begin, end),
    ).fetchall()
    assert [row[:3] for row in hours] == [row[:3] for row in same]
    assert [row[3] for row in hours] == pytest.approx([row[3] for row in same])
    assert len(hours) > 100


def test_quality_is_what_telemetry_says(city):
    made, connection = city
    start = made.now - timedelta(days=7)
    counted = connection.execute(
        "SELECT sum(received), sum(bad) FROM chart_quality(0, 'UTC', %s, %s, '{}', '{}', '{pm25,no2}')", (start, made.now)
    ).fetchone()
    same = connection.execute(
        "SELECT sum(count + bad_count), sum(bad_count) FROM telemetry('15 minutes', 'UTC', %s, %s, NULL, '{pm25,no2}')",
        (start, made.now),
    ).fetchone()
    assert counted == same
    assert counted[1] > 0
