"""/v1/query and /v1/series in every bucket, zone, fill and policy, against plain loops over the readings."""

import math
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import models, plan
from api.aggregates import allowed
from api.fill import Fill
from api.gate import EVERYTHING, Caller
from api.plan import WIDTHS, Bucket
from api.query import Question, ask
from api.selecting import resolve
from devices.catalogue import Kind, builtin
from devices.device import Device, Sensor
from storage import registry, rollup, series
from storage.database import connect
from storage.selection import Restriction, Selection
from storage.series import Level, Policy
from tests import oracles

MINUTE, HOUR = 60_000_000, 3_600_000_000
EVERYBODY = Caller(id="", name="test", scopes=EVERYTHING, within=None)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
METRICS = ["temperature", "precipitation", "windDirection", "LAeq", "totalActiveEnergyImport"]
KINDS = ["gauge", "amount", "direction", "level", "counter"]
#: Whole hours, half hours, 45 minutes; DST of an hour, of half an hour, at midnight, and none.
ZONES = [
    "UTC",
    "Asia/Ho_Chi_Minh",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Australia/Lord_Howe",
    "America/Santiago",
]
#: Days in which some of them shift: Berlin, New York, Chatham and Lord Howe, Santiago; and one in which none does.
DAYS = [
    datetime(2026, 3, 29, tzinfo=UTC),
    datetime(2026, 10, 25, tzinfo=UTC),
    datetime(2026, 11, 1, tzinfo=UTC),
    datetime(2026, 4, 4, tzinfo=UTC),
    datetime(2026, 9, 26, tzinfo=UTC),
    datetime(2026, 10, 3, tzinfo=UTC),
    datetime(2026, 9, 6, tzinfo=UTC),
    datetime(2026, 7, 1, tzinfo=UTC),
]
COLUMNS = ["mean", "min", "max", "count", "sum", "first", "last", "increase", "stddev"]


def us(time):
    return (time - EPOCH) // timedelta(microseconds=1)


def utc(microseconds):
    return EPOCH + timedelta(microseconds=microseconds)


# --- the slow twin -------------------------------------------------------------------------------------------------------------


def first_instant(wall, zone):
    """When clocks first show this; where they leave it out, the first instant after."""
    both = [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    shown = [at for at in both if at.astimezone(zone).replace(tzinfo=None) == wall]
    return min(shown) if shown else max(both)


def wall_start(wall, bucket):
    seconds = WIDTHS[bucket].seconds
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    if bucket is Bucket.MO1:
        return midnight.replace(day=1)
    if bucket is Bucket.W1:
        return midnight - timedelta(days=midnight.weekday())
    return wall - (wall - midnight) % timedelta(seconds=seconds)


def bucket_of(at, bucket, name):
    """Start and end, us, of the bucket that an instant lies in."""
    zone = ZoneInfo(name)
    wall = utc(at).astimezone(zone).replace(tzinfo=None)
    begun = wall_start(wall, bucket)
    if WIDTHS[bucket].seconds <= 3600:
        start = at - (wall - begun) // timedelta(microseconds=1)
        return start, start + int(WIDTHS[bucket].seconds * 1e6)
    after = begun + timedelta(seconds=WIDTHS[bucket].seconds)
    if bucket is Bucket.MO1:
        after = (begun + timedelta(days=32)).replace(day=1)
    return us(first_instant(begun, zone)), us(first_instant(after, zone))


def slow(readings, kind, every, start, stop, bucket, zone, fill, policy):
    """Rows by start of bucket, us: each column's value, bad_count, coverage, filled."""
    kept = [
        (at, value, 0 if policy == "all" or (policy == "only_bad" and oracles.is_bad(flags)) else flags if policy == "good" else 1)
        for at, value, flags in sorted(readings)
    ]
    truly_bad = {at: oracles.is_bad(flags) for at, _, flags in readings}
    buckets, previous = {}, None
    for at, value, flags in kept:
        begun, ended = bucket_of(at, bucket, zone)
        row = buckets.setdefault(begun, {"end": ended, "rows": [], "values": [], "received": 0, "bad": 0, "s1": 0.0, "s2": 0.0})
        row["received"] += 1
        row["bad"] += truly_bad[at]
        if oracles.is_bad(flags):
            continue
        x1, x2 = oracles.summands(value, kind, previous)
        previous = value
        row["values"].append(value)
        row["s1"] += x1
        row["s2"] += x2
    out = {}
    for begun, row in buckets.items():
        if not start <= begun < stop:
            continue
        values = row["values"]
        aggregate = {
            "n": len(values),
            "n_bad": row["bad"],
            "vmin": min(values, default=None),
            "vmax": max(values, default=None),
            "vfirst": values[0] if values else None,
            "vlast": values[-1] if values else None,
            "s1": row["s1"],
            "s2": row["s2"],
        }
        shown = oracles.aggregates(aggregate, kind)
        shown["coverage"] = min(row["received"] * every / ((row["end"] - begun) / 1e6), 1)
        out[begun] = shown | {"filled": False}
    if fill == "none":
        return out
    at = start
    while at < stop + 32 * 24 * HOUR:
        begun, _ = bucket_of(at, bucket, zone)
        if start <= begun < stop and begun not in out:
            out[begun] = {**dict.fromkeys(COLUMNS), "count": 0, "bad_count": 0, "coverage": 0.0, "filled": False}
        at += int(min(WIDTHS[bucket].seconds, 900) * 1e6)
        if at > stop + WIDTHS[bucket].seconds * 1.1e6:
            break
    times = sorted(out)
    for i, time in enumerate(times):
        if out[time]["count"] or fill == "null":
            continue
        before = next((t for t in reversed(times[:i]) if out[t]["count"]), None)
        behind = next((t for t in times[i:] if out[t]["count"]), None)
        for name in ("mean", "min", "max", "first", "last"):
            if before is None or out[before][name] is None:
                continue
            if fill == "previous":
                value = out[before][name]
            elif behind is None or out[behind][name] is None:
                continue
            else:
                rise = out[behind][name] - out[before][name]
                if kind == "direction":
                    rise = (rise + 180) % 360 - 180
                value = out[before][name] + rise * (time - before) / (behind - before)
                if kind == "direction":
                    value %= 360
            out[time][name] = value
            out[time]["filled"] = True
    return out


def same(found, wanted, name, kind):
    if wanted is None or found is None:
        # Directions that cancel out may do so on one side only.
        return found is wanted or (kind == "direction" and name in {"mean", "stddev"})
    if kind == "direction" and name == "mean":
        return abs((found - wanted + 180) % 360 - 180) < 1e-5
    return math.isclose(found, wanted, rel_tol=1e-7, abs_tol=1e-3 if name == "stddev" else 1e-7)


# --- the city ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def city(connection):
    registry.register(
        connection,
        [
            Device(id=name, source="gw", domain="environment", district=district, sensors=tuple(map(sensor, METRICS)))
            for name, district in [("a", "north"), ("b", "south")]
        ],
    )


def sensor(metric):
    return Sensor(metric=metric, interval=1800.0)


def test_there_is_a_metric_of_every_kind():
    assert [builtin()[metric].kind for metric in METRICS] == KINDS
    assert set(Kind) - set(KINDS) == {Kind.STATE}  # the catalogue has none; tests/unit/test_api_aggregates.py has


def post(api, **body):
    answer = api.ask("POST", "/v1/query", json=body)[0]
    if answer.status_code == 200:
        models.QueryModel.model_validate(answer.json())
    return answer


def refused(answer, slug, *words, status=422):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:citybeat:problem:{slug}"
    for word in words:
        assert word in answer.json()["detail"]
    return answer.json()


def generated(seed, day, n=60):
    """Readings of every metric around a day: (device, metric, us, value, flags)."""
    rng = np.random.default_rng(seed)
    rows = []
    for metric, kind in zip(METRICS, KINDS, strict=True):
        times = us(day) - 30 * HOUR + rng.choice(60 * 60 * 60, n, replace=False) * 1_000_000
        # Gathered in some places, so that there are gaps of many buckets between.
        times = np.unique(np.where(rng.random(n) < 0.5, times // (6 * HOUR) * (6 * HOUR) + times % (20 * MINUTE), times))
        values = rng.uniform(0, 359, len(times)) if kind == "direction" else rng.uniform(0, 90, len(times))
        if kind == "counter":
            values = np.cumsum(values) % 1500
        flags = rng.choice([0, 0, 0, 1, 8, 2 | 256, 128], len(times))
        rows += [("a", metric, *row) for row in zip(times.tolist(), values.tolist(), flags.tolist(), strict=True)]
    return rows


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.date().isoformat())
def test_against_a_loop_over_the_readings(api, city, fill, connection, day):
    """Every aggregate, bucket, fill, zone and policy, before and after quarter-hours are made."""
    stored = generated(us(day) % 1000, day)
    fill(stored[::2], received_at=us(day))
    fill(stored[1::2], received_at=us(day))
    of = {metric: [row[2:] for row in stored if row[1] == metric] for metric in METRICS}

    @given(
        zone=st.sampled_from(ZONES),
        bucket=st.sampled_from(list(WIDTHS)),
        fill=st.sampled_from(["none", "null", "previous", "linear"]),
        policy=st.sampled_from(["good", "good", "all", "only_bad"]),
        start=st.integers(-40 * 60, 20 * 60),
        length=st.integers(1, 60 * 60),
    )
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(zone, bucket, fill, policy, start, length):
        since = day + timedelta(minutes=start)
        until = since + timedelta(minutes=length)
        answer = post(
            api,
            devices=["a"],
            **{"from": since.isoformat(), "to": until.isoformat()},
            bucket=bucket,
            tz=zone,
            fill=fill,
            flags=policy,
        )
        assert answer.status_code == 200, answer.text
        columns = answer.json()["columns"]
        assert answer.json()["level"] == plan.level_of(bucket, Policy(policy))
        for number, each in enumerate(answer.json()["series"]):
            kind = each["kind"]
            rows = [i for i, which in enumerate(columns["series"]) if which == number]
            wanted = slow(
                of[each["metric"]], kind, 1800.0, us(since), us(until), bucket, "UTC" if bucket is Bucket.M1 else zone, fill, policy
            )
            assert [columns["time"][i] * 1000 for i in rows] == sorted(wanted), each["metric"]
            assert each["count"] == len(rows)
            possible = [name for name in allowed(Kind(kind)) if not (policy == "only_bad" and name == "increase")]
            assert each["aggregates"] == possible
            for i, time in zip(rows, sorted(wanted), strict=True):
                for name in [*possible, "bad_count", "coverage"]:
                    assert same(columns[name][i], wanted[time][name], name, kind), (each["metric"], name, utc(time))
                for name in set(COLUMNS) - set(possible):
                    assert columns.get(name, [None] * (i + 1))[i] is None
                if fill != "none":
                    assert columns["filled"][i] == wanted[time]["filled"] or kind == "direction"

    check()
    rollup.advance(connection, limit=10_000)
    assert connection.execute("SELECT count(*) FROM marks_15m").fetchone() == (0,)
    check()


@pytest.mark.parametrize("bucket", list(WIDTHS))
def test_every_level_says_the_same(api, city, fill, bucket):
    """The same question to storage itself, at each level that can answer it."""
    day = DAYS[1]
    stored = generated(7, day)
    fill(stored[::2], received_at=us(day))
    fill(stored[1::2], received_at=us(day))
    parts = api.app.state.service
    width = WIDTHS[bucket]
    span = series.Span(
        bucket=width.interval,
        length=width.length,
        zone="Europe/Berlin",
        start=day - timedelta(days=70),
        stop=day + timedelta(days=70),
    )
    levels = [Level.MINUTES] if plan.level_of(bucket, Policy.GOOD) is Level.MINUTES else [Level.MINUTES, Level.QUARTERS]

    async def everything():
        chosen = await resolve(parts, Selection(), EVERYBODY)
        made = [await series.rollups(parts.pool, chosen.id, span, level=level, limit=10_000) for level in levels]
        return [*made, await series.from_raw(parts.pool, chosen, span, policy=Policy.GOOD, limit=10_000)]

    first, *others = api._runner.run(everything())
    assert len(first) >= len(METRICS)
    for other in others:
        for name in series.Buckets.__dataclass_fields__:
            np.testing.assert_allclose(getattr(other, name), getattr(first, name), rtol=1e-9, atol=1e-6, err_msg=name)


# --- what else is promised -----------------------------------------------------------------------------------------------------

T0 = us(datetime(2026, 1, 1, tzinfo=UTC))
DAY = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}


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
    registry.register(
        connection,
        [Device(id=name, source="gw", sensors=(Sensor(metric="temperature"),), **place) for name, place in places.items()],
    )
    fill([(name, "temperature", T0, 20.0, 0) for name in places], received_at=T0)
    registry.register(connection, [Device(id="e", source="gw", domain="energy", sensors=(Sensor(metric="temperature"),))])
    registry.retire(connection, "e")
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
        registry.register(connection, registry_of_many)
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
    fill(generated(3, DAYS[1]), received_at=T0)
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
    monkeypatch.setattr("api.query._zones", lambda: frozenset({"Moon/Base"}))
    refused(post(api, devices=["a"], tz="Moon/Base", bucket="1d", **DAY), "invalid-parameter", "Moon/Base")


def test_a_question_can_be_asked_without_a_route(api, city):
    """What a later route, or a restricted key, does: narrow the selection, then ask."""
    parts = api.app.state.service
    question = Question(
        start=utc(T0),
        stop=utc(T0 + HOUR),
        bucket=Bucket.H1,
        aggregates=None,
        zone="UTC",
        fill=Fill.NULL,
        policy=Policy.GOOD,
        points=100,
        where="query",
    )

    async def go():
        chosen = await resolve(parts, Selection(), replace(EVERYBODY, within=Restriction(districts=["north"])))
        return chosen, await ask(parts, chosen, question)

    chosen, found = api._runner.run(go())
    assert set(chosen.device) == {"a"}
    assert len(found.which) == len(METRICS)
    assert not any(found.columns["filled"])
