"""/v1/export against what was stored; and, through the server process, what becomes of it when a client or the database goes."""

import json
import os
import re
import socket
import subprocess
import sys
import time as clock
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from citybeat import stack
from citybeat.devices.device import Device, Sensor
from citybeat.stack.process import free_port
from citybeat.storage.db.pgcopy import RowFormat
from citybeat.storage.registry import records
from citybeat.storage.rollups import rollup

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
HOUR = 3_600_000_000
ALL = {"from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"}
METRICS = ["temperature", "precipitation", "windDirection", "LAeq", "totalActiveEnergyImport"]
#: s. Machines are shared: long enough for the slowest.
PATIENCE = 60.0
#: Far more than what is under way between a database and a client that does not read.
ROWS = 2_500_000


@pytest.fixture
def city(connection):
    sensors = tuple(Sensor(metric=metric) for metric in METRICS)
    records.register(
        connection,
        [
            Device(id="env-1", source="gw-1", domain="environment", district="north", tags={"owner": "parks"}, sensors=sensors),
            Device(id="env-2", source="gw-1", domain="environment", district="south", sensors=sensors),
            Device(id="tra-1", source="gw-2", domain="traffic", district="north", sensors=(Sensor(metric="intensity"),)),
        ],
    )


def read(answer, form):
    assert answer.status_code == 200, answer.text
    source = pa.BufferReader(answer.content)
    if form == "csv":
        return pa.csv.read_csv(source)
    return pa.ipc.open_stream(source).read_all() if form == "arrow" else pa.parquet.read_table(source)


def rows(table):
    columns = [column.to_pylist() for column in table.columns]
    # pyarrow makes nanoseconds of a CSV's times.
    columns[0] = table["time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("form", ["csv", "arrow", "parquet"])
def test_raw_readings_as_they_are_in_order(api, city, fill, form):
    stored = [
        ("env-1", "temperature", T0, 20.25, 0),
        ("env-1", "temperature", T0 + 1, -0.1, 9),
        ("env-1", "LAeq", T0 + HOUR, 1e-300, 64),
        ("env-2", "temperature", T0, 21.0, 0),
        ("tra-1", "intensity", T0 + 5, 600.0, 8),
        ("env-1", "temperature", T0 + 30 * 24 * HOUR, 22.0, 0),  # another chunk
        ("env-2", "temperature", T0 + 29 * 24 * HOUR, 23.0, 256),
    ]
    fill(stored, received_at=T0)
    by_time = lambda row: (row[0], row[1], row[2])  # noqa: E731

    def got(**parameters):
        answer = api.get("/v1/export", format=form, **{**ALL, **parameters})
        assert "content-encoding" not in answer.headers or answer.headers["content-encoding"] == "identity"
        return [(device, metric, time, *rest) for time, device, metric, *rest in rows(read(answer, form))]

    found = got()
    assert sorted(found, key=by_time) == sorted(stored, key=by_time)
    january = [row for row in found if row[2] < T0 + 24 * HOUR]
    assert found[: len(january)] == january  # slice by slice
    for key in {row[:2] for row in found}:
        times = [row[2] for row in found if row[:2] == key]
        assert times == sorted(times)
    runs = [row[:2] for i, row in enumerate(january) if i == 0 or january[i - 1][:2] != row[:2]]
    assert len(runs) == len(set(runs))  # series by series
    for parameters, which in [
        ({"domain": "traffic"}, [4]),
        ({"district": "north", "metric": ["temperature", "intensity"]}, [0, 1, 4, 5]),
        ({"device": ["env-2", "nobody"]}, [3, 6]),
        ({"device": "nobody"}, []),
        ({"metric": "windDirection"}, []),
        ({"to": "2026-01-01T00:00:00.000001Z"}, [0, 3]),
        ({"from": "2026-01-01T07:00:00.000001+07:00", "to": "2026-01-01T01:00:00Z"}, [1, 4]),
        ({"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"}, range(7)),
        ({"from": "2027-01-01T00:00:00Z", "to": "2028-01-01T00:00:00Z"}, []),
    ]:
        assert sorted(got(**parameters), key=by_time) == sorted([stored[i] for i in which], key=by_time), parameters


def test_it_takes_the_filters_that_every_route_takes(api, city, fill):
    fill([("env-1", "LAeq", T0, 50.0, 0), ("tra-1", "intensity", T0, 5.0, 0)], received_at=T0)

    def devices(**filters):
        return read(api.get("/v1/export", format="parquet", **ALL, **filters), "parquet").column("device").to_pylist()

    assert devices(tag="owner:parks") == ["env-1"]
    assert devices(tag="owner:nobody") == devices(bbox="1,2,3,4") == []
    assert sorted(devices(domain=["traffic", "environment"])) == ["env-1", "tra-1"]


def test_retired_devices_only_when_asked_for(api, city, fill, connection):
    fill([("env-1", "temperature", T0, 20.0, 0)], received_at=T0)
    records.retire(connection, "env-1")
    assert read(api.get("/v1/export", **ALL, format="arrow"), "arrow").num_rows == 0
    assert read(api.get("/v1/export", **ALL, format="arrow", include_retired=True), "arrow").num_rows == 1


def test_the_header_decides_unless_the_parameter_does(api, city, fill):
    fill([("env-1", "temperature", T0, 20.0, 0)], received_at=T0)
    url = f"/v1/export?from={ALL['from']}&to={ALL['to']}"
    arrow, parquet = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
    for headers, more, kind in [
        ({}, "", "text/csv"),
        ({"Accept": arrow}, "", arrow),
        ({"Accept": f"{parquet}, text/csv;q=0.5"}, "", parquet),
        ({"Accept": arrow}, "&format=parquet", parquet),
        ({"Accept": "application/json"}, "&format=csv", "text/csv"),
    ]:
        (answer,) = api.ask("GET", url + more, headers=headers)
        assert answer.headers["content-type"].split(";")[0] == kind
        assert re.fullmatch(
            r'attachment; filename="citybeat-raw-20260101T000000Z-20260301T000000Z\.\w+"', answer.headers["content-disposition"]
        )
        assert answer.headers["vary"] == "Accept"
    (answer,) = api.ask("GET", url, headers={"Accept": "application/json"})
    assert answer.status_code == 406
    assert answer.json()["type"] == "urn:citybeat:problem:not-acceptable"


def test_the_schema_names_query_and_version(api, city):
    schema = read(api.get("/v1/export", device="env-1", metric="LAeq", format="arrow", **ALL), "arrow").schema
    query = json.loads(schema.metadata[b"citybeat.query"])
    assert query == {"device": ["env-1"], "metric": ["LAeq"], "level": "raw", "include_retired": False, **ALL}
    assert schema.metadata[b"citybeat.version"].decode() == api.get("/healthz").json()["version"]
    assert schema.field("value").metadata == {b"unit": b"dB", b"kind": b"level"}
    assert schema.field("device").metadata[b"district"] == b"north"


def random_day(seed):
    rng = np.random.default_rng(seed)
    return [
        (device, metric, T0 + int(t), float(v), int(f))
        for device in ("env-1", "env-2")
        for metric in METRICS
        for t, v, f in zip(
            rng.choice(5 * HOUR, 60, replace=False),
            np.sort(rng.uniform(0, 359, 60)),
            rng.choice([0, 0, 0, 1, 8, 2 | 256, 128], 60),
            strict=True,
        )
    ]


def test_minutes_are_those_of_series(api, city, fill):
    fill(random_day(1), received_at=T0)
    table = read(api.get("/v1/export", level="1m", format="parquet", **ALL), "parquet")
    assert len({(row["device"], row["metric"]) for row in table.to_pylist()}) == 10
    for device in ("env-1", "env-2"):
        for metric in METRICS:
            expected = api.get("/v1/series", device=device, metric=metric, **ALL).json()["columns"]
            found = [row for row in table.to_pylist() if (row["device"], row["metric"]) == (device, metric)]
            assert [int(row["time"].timestamp() * 1000) for row in found] == expected.pop("time")
            for name in set(table.column_names) - {"time", "device", "metric"}:
                wanted = expected.pop(name, [None] * len(found))  # what the kind does not have is null
                assert [row[name] for row in found] == wanted, (metric, name)
            assert not set(expected) - {"coverage"}  # of a bucket's length: for a plot, not for a table
            assert all((row["increase"] is not None) == (metric == METRICS[-1] and row["count"] > 0) for row in found)


@pytest.mark.parametrize("form", ["csv", "arrow"])
def test_quarter_hours_never_depend_on_what_is_behind(api, city, fill, connection, form):
    """Marked, made, and some of them marked again: always what the minutes say."""
    readings = random_day(2)
    values = ("mean", "sum", "min", "max", "first", "last", "count", "bad_count", "stddev", "increase")
    names = ("time", "device", "metric", *values)

    def check():
        table = read(api.get("/v1/export", level="15m", format=form, **ALL), form)
        found = rows(table.select(names))
        expected = connection.execute(
            "SELECT (extract(epoch FROM time) * 1000000)::bigint, device, metric, mean, sum, min, max, first, last, count,"
            " bad_count, stddev, increase FROM telemetry_15m"
        ).fetchall()
        assert sorted(row[:3] for row in found) == sorted(row[:3] for row in expected)
        for ours, theirs in zip(sorted(found, key=lambda r: r[:3]), sorted(expected, key=lambda r: r[:3]), strict=True):
            for name, a, b in zip(names[3:], ours[3:], theirs[3:], strict=True):
                assert (a is None) == (b is None), (ours[:3], name)
                assert a is None or a == pytest.approx(b, rel=1e-9, abs=1e-6), (ours[:3], name)
        return sum(row[9] + row[10] for row in found)

    fill(readings[::2], received_at=T0)
    assert connection.execute("SELECT count(*) FROM readings_15m").fetchone() == (0,)
    assert check() == len(readings) / 2
    while rollup.advance(connection):
        pass
    assert check() == len(readings) / 2
    fill(readings[1::2], received_at=T0)
    assert connection.execute("SELECT count(*) > 0 FROM marks_15m").fetchone() == (True,)
    assert check() == len(readings)


def test_too_many_series_are_refused_and_as_many_as_allowed_are_not(start_api, database, city):
    for limit, status in [(10, 422), (11, 200)]:
        answer = start_api(database, max_export_series=limit).get("/v1/export", **ALL)
        assert answer.status_code == status
        if status == 422:
            assert answer.json()["type"] == "urn:citybeat:problem:too-many-series"
            assert answer.json()["max_series"] == limit
            assert "10 series" in answer.json()["detail"]


# --- through the server process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def big(connection):
    """Readings that no format makes small."""
    records.register(
        connection,
        [
            Device(id=f"env-{i}", source="gw", domain="environment", sensors=tuple(Sensor(metric=metric) for metric in METRICS))
            for i in range(20)
        ],
    )
    form = RowFormat(time="timestamptz", received_at="timestamptz", value="float8", series_id="int4", flags="int2")
    ids = np.array([row[0] for row in connection.execute("SELECT id FROM series ORDER BY id").fetchall()])
    each = ROWS // len(ids)
    times = np.tile(T0 + np.arange(each) * 60_000_000, len(ids))
    values = np.random.default_rng(1).normal(size=len(times))
    blocks = form.blocks(
        time=times, received_at=times, value=values, series_id=np.repeat(ids, each), flags=np.zeros(len(times), np.int16)
    )
    with connection.cursor().copy("COPY readings (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY)") as copy:
        for block in blocks:
            copy.write(block)
    return float(values.sum())


class Served:
    """`citybeat api`, asked over TCP."""

    def __init__(self, url, process):
        self.url = url
        self.process = process

    def peak(self):
        """MB of memory that the process has had at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    @contextmanager
    def client(self):
        # A small buffer, so that the server notices soon that nobody reads.
        transport = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)])
        with httpx.Client(transport=transport, base_url=self.url, timeout=PATIENCE) as client:
            yield client


@pytest.fixture
def served(database, servers, tmp_path):
    port = free_port()
    # As it is installed: pandas is here for tests of recipes alone, and pyarrow would import it, which takes 40 MB.
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "pandas.py").write_text("raise ImportError('pandas is no part of an installation')\n")
    env = {
        **os.environ,
        "CITYBEAT_HOME": str(tmp_path),
        "CITYBEAT_DATABASE_URL": database,
        "CITYBEAT_MQTT_URL": servers.mqtt_url,
        "CITYBEAT_API_PORT": str(port),
        "CITYBEAT_API_ANONYMOUS": "read",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path / "installed"), os.environ.get("PYTHONPATH", "")])),
    }
    with (tmp_path / "api.log").open("wb") as log:
        process = stack.spawn([sys.executable, "-m", "citybeat", "api"], env=env, stdout=log, stderr=subprocess.STDOUT)
    made = Served(f"http://127.0.0.1:{port}", process)
    try:
        until(lambda: process.poll() is not None or answers(made.url))
        yield made
    finally:
        process.terminate()
        process.wait(PATIENCE)


def answers(url):
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition):
    deadline = clock.monotonic() + PATIENCE
    while not condition():
        assert clock.monotonic() < deadline
        clock.sleep(0.02)


def exports(connection):
    """Exports that are under way, and how each stands: in a COPY, or between those of two slices of time."""
    return connection.execute(
        "SELECT pid, state, query_start, wait_event FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'citybeat export' AND xact_start IS NOT NULL ORDER BY pid"
    ).fetchall()


def until_stalled(connection, count):
    """Until so many exports stand still, since their clients do not read.

    Where one stands is chance: the rest of a slice may have room in the buffers on its way, and the next is not asked for.
    """
    seen, since = [], clock.monotonic()

    def still():
        nonlocal seen, since
        now = exports(connection)
        if now != seen or not all((row[3] or "").startswith("Client") for row in now):
            seen, since = now, clock.monotonic()
        return len(now) == count and clock.monotonic() - since > 0.5

    until(still)


@contextmanager
def stalled(client, connection, form="csv", count=1):
    """An export whose client has read its beginning, and no more."""
    with client.stream("GET", "/v1/export", params={**ALL, "format": form}) as answer:
        assert answer.status_code == 200
        parts = answer.iter_raw(1000)
        first = next(parts)
        until_stalled(connection, count)
        yield first, parts


def test_many_readings_in_bounded_memory(served, big):
    with served.client() as client:
        for form in ("csv", "arrow", "parquet"):
            table = read(client.get("/v1/export", params={**ALL, "format": form}), form)
            assert table.num_rows == ROWS
            assert np.sum(table["value"].to_numpy()) == pytest.approx(big, rel=1e-9)
    assert served.peak() < 300


def test_a_client_that_goes_away_stops_the_query(served, big, connection):
    with served.client() as client:
        for form in ("csv", "arrow", "parquet"):  # more often than there are places
            with stalled(client, connection, form):
                pass
            until(lambda: not exports(connection))
        until(lambda: client.get("/v1/export", params={**ALL, "device": "env-1"}).status_code == 200)
        assert read(client.get("/v1/export", params={**ALL, "format": form}), form).num_rows == ROWS


def test_an_error_in_the_middle_is_no_whole_file(served, big, connection):
    with served.client() as client:
        for form in ("csv", "arrow", "parquet"):
            with stalled(client, connection, form) as (first, parts):
                ((pid, *_),) = exports(connection)
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
                received = [first]
                with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                    received.extend(parts)
            body = b"".join(received)
            assert len(body) > 1000
            assert not body.endswith((b"\xff\xff\xff\xff\0\0\0\0", b"PAR1"))
        # And the service goes on.
        assert read(client.get("/v1/export", params={**ALL, "format": form}), form).num_rows == ROWS


def test_many_exports_leave_small_queries_their_connections(served, big, connection):
    with served.client() as client, stalled(client, connection), stalled(client, connection, count=2):
        answer = client.get("/v1/export", params=ALL)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:citybeat:problem:too-many-exports"
        assert answer.json()["max_exports"] == 2
        assert int(answer.headers["retry-after"]) > 0
        for _ in range(20):
            assert client.get("/v1/devices").status_code == 200
