"""/v1/query: whom it is about, what it refuses and why, and what it promises beside its numbers."""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from citybeat.api.http.gate import EVERYTHING, Caller
from citybeat.api.series import plan
from citybeat.api.series.fill import Fill
from citybeat.api.series.plan import Bucket
from citybeat.api.series.query import SeriesQuery, run
from citybeat.api.series.selecting import resolve
from citybeat.api.series.thin import Thin
from citybeat.devices.device import Device, Sensor
from citybeat.storage.db.connection import connect
from citybeat.storage.reads.series import Policy
from citybeat.storage.registry import records
from citybeat.storage.registry.selection import Restriction, Selection
from tests.integration.asking import DAY, METRICS, T0, generated, post, refused, register
from tests.oracles_buckets import HOUR, MINUTE, utc

EVERYBODY = Caller(id="", name="test", scopes=EVERYTHING, within=None)


@pytest.fixture
def city(connection):
    register(connection)


def test_a_selection_by_filters(api, connection, fill):
    places = {
        "a": {
            "district": "north",
            "domain": "environment",
            "latitude": 10.0,
            "longitude": 106.0,
            "tags": {"owner": "parks", "x": "1"},
        },
        "b": {"district": "south", "domain": "environment", "latitude": 10.01, "longitude": 106.0, "tags": {"owner": "roads"}},
        "c": {"district": "north", "domain": "traffic", "latitude": -17.0, "longitude": 179.9, "tags": {}},
        "d": {"district": "north", "domain": "energy"},
    }
    records.register(
        connection,
        [Device(id=name, source="gw", sensors=(Sensor(metric="temperature"),), **place) for name, place in places.items()],
    )
    fill([(name, "temperature", T0, 20.0, 0) for name in places], received_at=T0)
    records.register(connection, [Device(id="e", source="gw", domain="energy", sensors=(Sensor(metric="temperature"),))])
    records.retire(connection, "e")
    for chosen, url, names in [
        ({}, "", "abcd"),
        ({"include_retired": True}, "include_retired=true", "abcde"),
        ({"domain": "environment"}, "domain=environment", "ab"),
        ({"domain": ["traffic", "energy"]}, "domain=traffic&domain=energy", "cd"),
        ({"district": "north"}, "district=north", "acd"),
        ({"district": ["south", "east"]}, "district=south&district=east", "b"),
        ({"tags": {"owner": "parks"}}, "tag=owner:parks", "a"),
        ({"tags": {"owner": None}}, "tag=owner", "ab"),
        ({"tags": {"owner": "parks", "x": "2"}}, "tag=owner:parks&tag=x:2", ""),
        ({"tags": {"owner": "parks", "x": None}}, "tag=owner:parks&tag=x", "a"),
        ({"bbox": [105, 9, 107, 10.005]}, "bbox=105,9,107,10.005", "a"),
        ({"bbox": [179, -20, -179, 0]}, "bbox=179,-20,-179,0", "c"),
        ({"near": [10, 106, 0]}, "near=10,106,0", "a"),
        ({"near": [10, 106, 1113]}, "near=10,106,1113", "ab"),
        ({"near": [10, 106, 1111]}, "near=10,106,1111", "a"),
        ({"near": [-17, -179.9, 22_000]}, "near=-17,-179.9,22000", "c"),
        ({"domain": "environment", "district": "north"}, "domain=environment&district=north", "a"),
    ]:
        answer = post(api, devices=chosen, **DAY, bucket="1h")
        assert "".join(each["device"] for each in answer.json()["series"]) == names, chosen
        stored = [name for name in names if name != "e"]
        assert [each["id"] for each in api.ask("GET", f"/v1/devices?{url}")[0].json()["devices"]] == list(names), url
        for route in ("/v1/latest", "/v1/readings"):
            found = api.ask("GET", f"{route}?{url}")[0].json()
            assert "columns" in found, (found, url)
            assert found["columns"]["device"] == stored, (route, url)
    assert [each["device"] for each in post(api, devices=["e", "a"], **DAY).json()["series"]] == ["a", "e"]


def test_devices_that_do_not_exist_are_named(api, city):
    refused(post(api, devices=["a", "nobody", "x"], **DAY), "not-found", "'nobody', 'x'", status=404)


@pytest.mark.parametrize(
    ("body", "slug", "words"),
    [
        ({"metrics": ["temprature"]}, "invalid-parameter", ["temprature"]),
        ({"tz": "Europe/Nowhere"}, "invalid-parameter", ["tz", "Europe/Nowhere"]),
        ({"bucket": "2m"}, "invalid-parameter", ["bucket"]),
        ({"from": DAY["to"]}, "invalid-parameter", ["from"]),
        ({"bucket": "raw", "fill": "null"}, "invalid-parameter", ["fill"]),
        ({"bucket": "raw", "aggregates": ["mean"]}, "invalid-parameter", ["aggregates"]),
        ({"bucket": "1h", "max_points": 100}, "invalid-parameter", ["max_points", "bucket=raw"]),
        ({"bucket": "raw", "thin": "lttb"}, "invalid-parameter", ["thin", "max_points"]),
        ({"bucket": "raw", "max_points": 3}, "invalid-parameter", ["max_points"]),
        ({"bucket": "raw", "max_points": 100, "thin": "mean"}, "invalid-parameter", ["thin"]),
        ({"aggregates": ["sum"]}, "aggregate-without-meaning", ["sum", "LAeq", "level"]),
        ({"aggregates": {"temperature": ["sum"]}}, "aggregate-without-meaning", ["sum", "temperature", "gauge"]),
        ({"aggregates": {"o3": ["mean"]}}, "invalid-parameter", ["o3"]),
        (
            {"aggregates": {"totalActiveEnergyImport": ["increase"]}, "flags": "only_bad"},
            "aggregate-without-meaning",
            ["increase"],
        ),
        ({"devices": {"near": [1, 2, -3]}}, "invalid-parameter", ["near"]),
        ({"devices": {"bbox": [1, 3, 2, 2]}}, "invalid-parameter", ["bbox"]),
        ({"devices": []}, "invalid-parameter", ["devices"]),
        ({"fill": "null", "bucket": "1m", "from": "2000-01-01T00:00:00Z"}, "too-many-points", ["100000"]),
        ({"bucket": "1d", "from": "0001-01-01T00:00:00Z"}, "range-too-long", ["10 series", "5,000,000"]),
    ],
)
def test_what_is_refused(api, city, body, slug, words):
    problem = refused(post(api, **{"devices": ["a", "b"], **DAY, **body}), slug, *words)
    assert problem["errors"][0]["loc"][0] == "body"


def test_aggregates_of_different_kinds(api, city, fill):
    fill([("a", metric, T0, 5.0, 0) for metric in METRICS], received_at=T0)
    aggregates = {"precipitation": ["sum"], "temperature": ["mean", "max"]}
    answer = post(api, devices=["a"], metrics=["precipitation", "temperature"], aggregates=aggregates, bucket="1d", **DAY)
    assert answer.json()["columns"] == {
        "series": [0, 1],
        "time": [T0 // 1000] * 2,
        "sum": [5.0, None],
        "mean": [None, 5.0],
        "max": [None, 5.0],
        "bad_count": [0, 0],
        "coverage": [pytest.approx(1800 / 86400)] * 2,
    }
    assert [each["aggregates"] for each in answer.json()["series"]] == [["sum"], ["mean", "max"]]


def test_limits_are_named(start_api, database, city, fill, monkeypatch):
    fill([("a", "temperature", T0 + i * MINUTE, 1.0, i % 2) for i in range(12)], received_at=T0)
    api = start_api(database, max_points=10)
    assert refused(post(api, devices=["a"], bucket="1m", **DAY), "too-many-points")["max_points"] == 10
    assert refused(post(api, devices=["a"], bucket="raw", **DAY), "too-many-points")["max_points"] == 10
    assert refused(post(api, devices=["a"], bucket="1h", fill="null", **DAY), "too-many-points")["max_points"] == 10
    monkeypatch.setattr(plan, "MAX_RAW", 11)
    assert refused(post(api, devices=["a"], bucket="1h", flags="all", **DAY), "range-too-long", "flags=good")["max_readings"] == 11
    monkeypatch.setattr(plan, "MAX_RAW", 12)
    assert post(api, devices=["a"], bucket="1h", flags="all", **DAY).json()["columns"]["count"] == [12]
    registry_of_many = [
        Device(id=f"n{i}", source="gw", domain="energy", sensors=(Sensor(metric="temperature"),))
        for i in range(plan.MAX_SERIES + 1)
    ]
    with closing(connect(database, application="test")) as connection:
        records.register(connection, registry_of_many)
    problem = refused(post(api, devices={"domain": "energy"}, **DAY), "too-many-series", "fewer")
    assert problem["max_series"] == plan.MAX_SERIES


def test_auto_says_which_bucket_it_took(api, city, fill):
    fill([("a", "temperature", T0, 1.0, 0)], received_at=T0)
    for days, points, bucket in [
        (1 / 24, 60, "1m"),
        (1, 1000, "5m"),
        (1, 288, "5m"),
        (1, 287, "10m"),
        (30, 100, "12h"),
        (3000, 3, "1mo"),
    ]:
        to = (utc(T0) + timedelta(days=days)).isoformat()
        answer = post(api, devices=["a"], metrics=["temperature"], bucket="auto", points=points, **{"from": DAY["from"], "to": to})
        assert answer.json()["bucket"] == bucket, (days, points)
        assert answer.json()["count"] == 1
    # Of many series, each gets less.
    assert plan.choose(86_400, 1000, budget=1000, max_points=100_000, minutes=True) is Bucket.M15


def test_what_retention_dropped_is_said(api, city, fill, connection):
    fill([("a", "temperature", T0, 1.0, 0)], received_at=T0)
    for level, since in [("raw", "2026-01-03"), ("1m", "2026-01-02"), ("15m", "2026-01-01")]:
        connection.execute("UPDATE horizons SET since = %s WHERE level = %s", (f"{since}T00:00Z", level))
    problem = refused(post(api, devices=["a"], bucket="5m", **DAY), "beyond-retention", "minutes", "2026-01-02", "multiple of 15m")
    assert (problem["level"], problem["since"]) == ("1m", "2026-01-02T00:00:00Z")
    problem = refused(post(api, devices=["a"], bucket="1d", flags="all", **DAY), "beyond-retention", "readings", "flags=good")
    assert (problem["level"], problem["since"]) == ("raw", "2026-01-03T00:00:00Z")
    refused(post(api, devices=["a"], bucket="1d", **{**DAY, "from": "2025-12-31T00:00:00Z"}), "beyond-retention", "quarter-hours")
    assert post(api, devices=["a"], bucket="15m", **DAY).json()["count"] == 1
    # An hour would be shown in minutes.
    answer = post(api, devices=["a"], bucket="auto", **{**DAY, "to": "2026-01-01T01:00:00Z"})
    assert (answer.json()["bucket"], answer.json()["count"]) == ("15m", 1)
    for url in ("/v1/readings", f"/v1/readings/nearest?at={DAY['from']}"):
        assert api.ask("GET", url)[0].json()["kept_from"] == "2026-01-03T00:00:00Z"


def test_one_series_is_the_same_question(api, city, fill):
    fill(generated(3, datetime(2026, 10, 25, tzinfo=UTC)), received_at=T0)
    asked = {"from": "2026-10-24T00:00:00Z", "to": "2026-10-27T00:00:00Z", "bucket": "1d", "tz": "Europe/Berlin", "fill": "linear"}
    for metric in METRICS:
        one = api.get("/v1/series", device="a", metric=metric, **asked).json()
        many = post(api, devices=["a"], metrics=[metric], **asked).json()
        assert one["columns"]["filled"]
        assert one["columns"] == {name: column for name, column in many["columns"].items() if name != "series"}


def test_a_counter_goes_on_from_before_the_range(api, city, fill):
    """Policy all hangs increases on the reading before the range, as rollups do."""
    meter = "totalActiveEnergyImport"
    fill([("a", meter, T0 - HOUR, 100.0, 0), ("a", meter, T0 - MINUTE, 110.0, 1), ("a", meter, T0, 130.0, 0)], received_at=T0)
    for policy, increase in [("good", 30.0), ("all", 20.0)]:
        answer = post(api, devices=["a"], metrics=[meter], bucket="1d", aggregates=["increase"], flags=policy, **DAY)
        assert answer.json()["columns"]["increase"] == [increase], policy


def test_raw_readings_of_several_series(api, city, fill):
    fill([(name, "temperature", T0 + i * MINUTE, float(i), i) for name in "ba" for i in range(3)], received_at=T0)
    answer = post(api, devices=["b", "a"], metrics=["temperature"], bucket="raw", **DAY)
    assert answer.json()["columns"] == {
        "series": [0, 0, 0, 1, 1, 1],
        "time": [T0 // 1000 + i * 60_000 for i in (0, 1, 2)] * 2,
        "value": [0.0, 1.0, 2.0] * 2,
        "flags": [[], ["range"], ["step"]] * 2,
    }
    answer = post(api, devices=["a"], metrics=["temperature"], bucket="raw", flags="only_bad", **DAY)
    assert answer.json()["columns"]["value"] == [1.0, 2.0]


def test_a_zone_that_only_python_knows_is_no_mistake_of_ours(api, city, monkeypatch):
    monkeypatch.setattr("citybeat.api.series.query._zones", lambda: frozenset({"Moon/Base"}))
    refused(post(api, devices=["a"], tz="Moon/Base", bucket="1d", **DAY), "invalid-parameter", "Moon/Base")


def test_a_question_can_be_asked_without_a_route(api, city):
    """A later route, or a restricted key, narrows the selection, then queries."""
    pool = api.app.state.service.pool
    question = SeriesQuery(
        start=utc(T0),
        stop=utc(T0 + HOUR),
        bucket=Bucket.H1,
        aggregates=None,
        zone="UTC",
        fill=Fill.NULL,
        policy=Policy.GOOD,
        points=100,
        keep=None,
        thin=Thin.LTTB,
        limit=1000,
        where="query",
    )

    async def go():
        chosen = await resolve(pool, Selection(), replace(EVERYBODY, within=Restriction(districts=["north"])))
        return chosen, await run(pool, chosen, question)

    chosen, found = api._runner.run(go())
    assert set(chosen.device) == {"a"}
    assert len(found.which) == len(METRICS)
    assert not any(found.columns["filled"])
