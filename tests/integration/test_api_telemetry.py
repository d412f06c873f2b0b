"""/v1/latest and /v1/series against what was stored, and against plain loops over it."""

import cmath
import math
import statistics
import time as clock
from collections import defaultdict
from urllib.parse import quote

import numpy as np
import pytest

from citybeat.api.http import models
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
DAY = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
METRICS = ["temperature", "precipitation", "windDirection", "LAeq", "totalActiveEnergyImport"]


@pytest.fixture
def city(connection):
    sensors = tuple(Sensor(metric=metric) for metric in METRICS)
    records.register(
        connection,
        [
            Device(id="env-1", source="gw-1", domain="environment", district="north", sensors=sensors),
            Device(id="env-2", source="gw-1", domain="environment", district="south", sensors=sensors),
            Device(id="tra-1", source="gw-2", domain="traffic", district="north", sensors=(Sensor(metric="intensity"),)),
        ],
    )


def rows(answer):
    """A columnar answer as tuples, without the ages."""
    columns = answer.json()["columns"]
    columns.pop("age_s", None)
    columns.pop("stale", None)
    return list(zip(*columns.values(), strict=True))


def test_latest(api, city, fill):
    fill(
        [
            ("env-1", "temperature", T0, 20.0, 0),
            ("env-1", "temperature", T0 + 60_000_000, 99.0, 1 | 16),
            ("env-2", "temperature", T0 + 1000, 21.0, 0),
            ("env-2", "LAeq", T0, 60.0, 0),
            ("tra-1", "intensity", T0, 600.0, 8),
        ],
        received_at=T0,
    )
    expected = [
        ("env-1", "temperature", "Cel", T0 / 1000 + 60_000, 99.0, ["range", "late"]),
        ("env-2", "LAeq", "dB", T0 / 1000, 60.0, []),
        ("env-2", "temperature", "Cel", T0 / 1000 + 1, 21.0, []),
        ("tra-1", "intensity", "{vehicle}/h", T0 / 1000, 600.0, ["suspect"]),
    ]
    answer = api.get("/v1/latest")
    models.LatestModel.model_validate(answer.json())
    assert rows(answer) == expected
    assert all(isinstance(time, int) for time in answer.json()["columns"]["time"])
    assert answer.json()["columns"]["stale"] == [True] * 4
    age = answer.json()["columns"]["age_s"][1]
    assert age == pytest.approx(clock.time() - T0 / 1e6, abs=60)
    for parameters, which in [
        ({"domain": "traffic"}, [3]),
        ({"district": "north"}, [0, 3]),
        ({"device": ["env-1", "tra-1", "nobody"]}, [0, 3]),
        ({"metric": ["temperature"]}, [0, 2]),
        ({"metric": ["LAeq", "intensity"], "district": "south"}, [1]),
        ({"device": "nobody"}, []),
    ]:
        assert rows(api.get("/v1/latest", **parameters)) == [expected[i] for i in which], parameters
    seen, cursor = [], {}
    while cursor is not None:
        page = api.get("/v1/latest", limit=3, **cursor)
        seen += rows(page)
        assert page.json()["count"] == len(rows(page))
        cursor = {"cursor": page.json()["next_cursor"]} if page.json()["next_cursor"] else None
    assert seen == expected


def test_latest_leaves_out_retired_devices(api, city, fill, connection):
    fill([("env-1", "temperature", T0, 20.0, 0)], received_at=T0)
    records.retire(connection, "env-1")
    assert rows(api.get("/v1/latest")) == []
    assert len(rows(api.get("/v1/latest", include_retired=True))) == 1


def test_nothing_stored_is_an_empty_answer(api, city):
    for url in (
        "/v1/latest",
        "/v1/series?device=env-1&metric=LAeq&from=2026-01-01T00:00:00Z",
        "/v1/series?device=env-1&metric=LAeq&from=2026-01-01T00:00:00Z&bucket=raw",
    ):
        answer = api.get(url)
        assert answer.status_code == 200
        assert answer.json()["count"] == 0
        assert all(column == [] for column in answer.json()["columns"].values())


def test_raw_is_exact_and_its_range_half_open(api, city, fill):
    stored = [(T0, 1.5, 0), (T0 + 1, -0.1, 9), (T0 + 3_600_000_000, 1e-300, 64), (T0 + 7_200_000_000, 4.0, 0)]
    fill([("env-1", "temperature", *row) for row in stored], received_at=T0)
    answer = api.get(
        "/v1/series",
        device="env-1",
        metric="temperature",
        bucket="raw",
        **{"from": "2026-01-01T07:00:00+07:00", "to": "2026-01-01T02:00:00Z"},
    )
    models.SeriesModel.model_validate(answer.json())
    assert answer.json()["from"] == "2026-01-01T00:00:00Z"
    found = [(round(time * 1000), value, names) for time, value, names in rows(answer)]
    assert found == [(T0, 1.5, []), (T0 + 1, -0.1, ["range", "suspect"]), (T0 + 3_600_000_000, 1e-300, ["clock"])]


def test_a_plus_that_the_url_made_a_space_is_understood(api, city, fill):
    fill([("env-1", "temperature", T0, 1.0, 0)], received_at=T0)
    for offset in ("+07:00", quote("+07:00"), "%2B07:00"):
        answer = api.get(f"/v1/series?device=env-1&metric=temperature&bucket=raw&from=2026-01-01T07:00:00{offset}")
        assert answer.json()["count"] == 1, offset


def test_the_ends_of_time_are_times(api, city):
    for start, stop, status in [
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", 200),
        ("0001-01-01T00:00:00+07:00", "2026-01-01T00:00:00Z", 422),
        ("2026-01-01T00:00:00Z", "9999-12-31T23:59:59-07:00", 422),
    ]:
        answer = api.get("/v1/series", device="env-1", metric="temperature", **{"from": start, "to": stop})
        assert answer.status_code == status


@pytest.mark.parametrize("seed", range(3))
def test_minutes_against_a_loop_over_the_readings(api, city, fill, seed):
    rng = np.random.default_rng(seed)
    stored = [
        ("env-1", metric, T0 + int(t), float(v), int(f))
        for metric in METRICS
        for t, v, f in zip(
            rng.choice(600_000_000, 80, replace=False),
            rng.uniform(0, 359, 80) if metric == "windDirection" else rng.uniform(0, 100, 80),
            rng.choice([0, 0, 0, 1, 8, 2 | 256, 128], 80),
            strict=True,
        )
    ]
    fill(stored[::2], received_at=T0)
    fill(stored[1::2], received_at=T0)
    for metric in METRICS:
        answer = api.get("/v1/series", device="env-1", metric=metric, **DAY)
        models.SeriesModel.model_validate(answer.json())
        expected = loop(metric, [row[2:] for row in stored if row[1] == metric])
        assert [time * 1000 for time in answer.json()["columns"]["time"]] == sorted(expected)
        for name, column in answer.json()["columns"].items():
            if name != "time":
                for bucket, value in zip(sorted(expected), column, strict=True):
                    wanted = expected[bucket][name]
                    assert value == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-6)), (metric, name)


def loop(metric, readings):
    """Aggregates of each minute, slow and obvious."""
    minutes = defaultdict(lambda: ([], []))
    for time, value, flags in sorted(readings):
        bad = bool(flags & (1 | 2 | 4 | 128)) and not flags & 256
        minutes[time // 60_000_000 * 60_000_000][bad].append(value)
    out, rise, last = {}, defaultdict(float), None
    for minute, (good, _) in minutes.items():
        for value in good:
            rise[minute] += 0 if last is None else value - last if value >= last else value
            last = value
    for minute, (good, bad) in minutes.items():
        row = {"count": len(good), "bad_count": len(bad), "mean": None, "stddev": None, "sum": None, "increase": None}
        row["coverage"] = min((len(good) + len(bad)) * builtin()[metric].interval / 60, 1)
        row |= dict.fromkeys(["min", "max", "first", "last"])
        if good:
            row |= {"min": min(good), "max": max(good), "first": good[0], "last": good[-1], "sum": math.fsum(good)}
            if metric == "totalActiveEnergyImport":
                row["increase"] = rise[minute]
            if metric == "windDirection":
                vector = sum(cmath.rect(1, math.radians(v)) for v in good) / len(good)
                row["mean"] = math.degrees(cmath.phase(vector)) % 360
                row["stddev"] = math.degrees(math.sqrt(-2 * math.log(abs(vector)))) if len(good) > 1 else None
            elif metric == "LAeq":
                row["mean"] = 10 * math.log10(statistics.fmean(10 ** (v / 10) for v in good))
            else:
                row["mean"] = statistics.fmean(good)
                row["stddev"] = statistics.stdev(good) if len(good) > 1 else None
        out[minute] = row
    return out


def test_only_the_aggregates_that_were_asked_for(api, city, fill):
    fill([("env-1", "temperature", T0, 1.0, 0), ("env-1", "temperature", T0 + 1, 2.0, 0)], received_at=T0)
    answer = api.get("/v1/series", device="env-1", metric="temperature", aggregates=["max", "mean"], **DAY)
    assert answer.json()["columns"] == {
        "time": [T0 // 1000],
        "max": [2.0],
        "mean": [1.5],
        "bad_count": [0],
        "coverage": [1.0],
    }


@pytest.mark.parametrize(
    ("metric", "aggregate"),
    [
        ("temperature", "sum"),
        ("totalActiveEnergyImport", "mean"),
        ("totalActiveEnergyImport", "sum"),
        ("windDirection", "min"),
        ("LAeq", "sum"),
        ("LAeq", "stddev"),
    ],
)
def test_an_aggregate_without_a_meaning_is_refused(api, city, metric, aggregate):
    answer = api.get("/v1/series", device="env-1", metric=metric, aggregates=["count", aggregate], **DAY)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:citybeat:problem:aggregate-without-meaning"
    assert aggregate in answer.json()["detail"]
    assert aggregate not in answer.json()["allowed"]


def test_too_many_points_are_refused_and_as_many_as_allowed_are_not(start_api, database, city, fill):
    fill([("env-1", "temperature", T0 + i * 60_000_000, 1.0, 0) for i in range(11)], received_at=T0)
    for points, status in [(10, 422), (11, 200)]:
        api = start_api(database, max_points=points)
        for bucket in ("raw", "1m"):
            answer = api.get("/v1/series", device="env-1", metric="temperature", bucket=bucket, **DAY)
            assert answer.status_code == status
            if status == 422:
                assert answer.json()["type"] == "urn:citybeat:problem:too-many-points"
                assert answer.json()["max_points"] == points
                assert "10 points" in answer.json()["detail"]


def test_infinite_aggregates_are_null_not_nan(api, connection, city):
    (series,) = connection.execute("SELECT id FROM series WHERE device_id = 'env-1' AND metric = 'temperature'").fetchone()
    connection.execute(
        "INSERT INTO readings_1m VALUES (%s, 'infinity', '-infinity', 'infinity', '-infinity', 0, 0, 0, 0, %s, 0, 3),"
        " (%s, %s, %s, 1, 1, 1, 1, 'infinity', 'NaN', %s, 2, 0)",
        ("2026-01-01T00:00Z", series, "2026-01-01T00:01Z", "2026-01-01T00:01Z", "2026-01-01T00:01Z", series),
    )
    answer = api.get("/v1/series", device="env-1", metric="temperature", **DAY)
    assert "NaN" not in answer.text
    assert "nfinity" not in answer.text
    assert answer.json()["columns"]["mean"] == [None, None]
    assert answer.json()["columns"]["bad_count"] == [3, 0]


def test_big_answers_are_compressed_for_who_can_read_that(api, city, fill):
    fill([("env-1", "temperature", T0 + i * 60_000_000, i / 7, 0) for i in range(500)], received_at=T0)
    big, small = api.ask("GET", "/v1/series?device=env-1&metric=temperature&from=2026-01-01T00:00:00Z", "/v1/latest")
    assert big.headers["content-encoding"] == "gzip"
    assert big.json()["count"] == 500
    assert "content-encoding" not in small.headers


def test_text_that_looks_like_sql_is_text(api, city, fill, connection):
    fill([("env-1", "temperature", T0, 1.0, 0)], received_at=T0)
    evil = "'; DROP TABLE latest; --"
    for url in ("/v1/devices", "/v1/latest"):
        assert api.get(url, district=evil).status_code == 200
    assert api.get("/v1/series", device=evil, metric=evil, **DAY).status_code == 404
    assert connection.execute("SELECT count(*) FROM latest").fetchone() == (1,)
    with pytest.raises(Exception, match="read-only"):
        _write(api)


def _write(api):
    async def attempt():
        async with api.app.state.service.pool.cursor() as cursor:
            await cursor.execute("DELETE FROM latest")

    api._runner.run(attempt())
