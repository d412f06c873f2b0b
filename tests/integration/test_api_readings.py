"""/v1/readings, /v1/readings/nearest and /v1/latest as a map, against plain loops over what was stored."""

import time as clock
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citybeat.api.http import models
from citybeat.api.routes.readings import MAX_PAGE_SERIES
from citybeat.devices import flags as quality
from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records
from tests import oracles

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def city(connection):
    sensors = (Sensor(metric="LAeq"), Sensor(metric="temperature"))
    places = {"a": {"latitude": 10.5, "longitude": 106.25}, "b": {}}
    records.register(
        connection, [Device(id=name, source="gw", domain="environment", sensors=sensors, **place) for name, place in places.items()]
    )


def rfc(us):
    return (EPOCH + timedelta(microseconds=us)).isoformat()


def stored(seed, n=60):
    """(device, metric, us, value, flags), with times that several series share."""
    rng = np.random.default_rng(seed)
    return [
        (device, metric, T0 + int(t) * 500_000 + seed % 2, float(v), int(f))
        for device in "ab"
        for metric in ("LAeq", "temperature")
        for t, v, f in zip(
            rng.choice(150, n, replace=False), rng.normal(20, 5, n), rng.choice([0, 0, 1, 8, 2 | 256, 128, 16], n), strict=True
        )
    ]


def pages(api, limit, between=None, **asked):
    """All rows, page by page; `between` is done after the first."""
    seen, cursor = [], {}
    while cursor is not None:
        answer = api.get("/v1/readings", limit=limit, **asked, **cursor)
        assert answer.status_code == 200, answer.text
        models.ReadingsModel.model_validate(answer.json())
        columns = answer.json()["columns"]
        assert answer.json()["count"] == len(columns["time"]) <= limit
        seen += zip(columns["device"], columns["metric"], columns["time"], columns["value"], columns["flags"], strict=True)
        cursor = {"cursor": answer.json()["next_cursor"]} if answer.json()["next_cursor"] else None
        if between:
            between()
            between = None
    return seen


def shown(rows):
    return [(device, metric, us / 1000, value, quality.names(flags)) for device, metric, us, value, flags in rows]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 10_000])
def test_pages_in_order_of_time(api, city, fill, order, limit):
    rows = stored(1)
    fill(rows, received_at=T0)
    # Series ids are in the order in which sensors were registered.
    expected = sorted(rows, key=lambda row: (row[2], row[:2]), reverse=order == "desc")
    assert pages(api, limit, order=order) == shown(expected)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_every_filter_against_a_loop(api, city, fill, order):
    rows = stored(2)
    fill(rows, received_at=T0)
    start, stop = T0 + 10_000_000, T0 + 60_000_000
    for asked, chosen in [
        ({"device": "a"}, lambda r: r[0] == "a"),
        ({"metric": "LAeq"}, lambda r: r[1] == "LAeq"),
        ({"device": ["a", "b"], "metric": ["LAeq", "temperature"]}, lambda _: True),
        ({"from": rfc(start), "to": rfc(stop)}, lambda r: start <= r[2] < stop),
        ({"flags": "good"}, lambda r: not oracles.is_bad(r[4])),
        ({"flags": "only_bad"}, lambda r: oracles.is_bad(r[4])),
        ({"flag": "late"}, lambda r: r[4] & 16),
        ({"flag": ["suspect", "step"]}, lambda r: r[4] & (8 | 2)),
        ({"flag": "step", "flags": "only_bad"}, lambda _: False),
        ({"bbox": "106,10,107,11"}, lambda r: r[0] == "a"),
        ({"near": "0,0,1000"}, lambda _: False),
    ]:
        expected = [row for row in sorted(rows, key=lambda row: (row[2], row[:2]), reverse=order == "desc") if chosen(row)]
        assert pages(api, 25, order=order, **asked) == shown(expected), asked


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_stay_stable_while_readings_arrive(api, city, fill, order):
    rows = [("a", "LAeq", T0 + i * 1_000_000, float(i), 0) for i in range(20)]
    new = [("b", "LAeq", T0 + i * 1_000_000, -float(i), 0) for i in (0, 3, 11, 15)]
    fill(rows, received_at=T0)
    found = pages(api, 8, order=order, between=lambda: fill(new, received_at=T0))
    # What came behind the first page is there, what came before is not, and nothing is there twice.
    late = {"asc": new[2:], "desc": new[:3]}[order]
    assert found == shown(sorted(rows + late, key=lambda row: (row[2], row[0]), reverse=order == "desc"))


def test_cursors_of_something_else_are_refused(api, city, fill):
    fill(stored(1), received_at=T0)
    cursor = api.get("/v1/readings", limit=5).json()["next_cursor"]
    other = api.get("/v1/readings", limit=5, order="desc", cursor=cursor)
    assert other.status_code == 422
    assert "order" in other.json()["detail"]
    from citybeat.api.http.params import encode_cursor  # noqa: PLC0415

    for order in ("asc", "desc"):
        last = encode_cursor(order, 253_402_300_799_999_999, 1)
        assert api.get("/v1/readings", order=order, cursor=last).json()["count"] == (0 if order == "asc" else 240)
    for key in [("asc", 2**63, 1), ("asc", 0, 2**40), ("asc", 1), ("asc", "x", 1)]:
        answer = api.get("/v1/readings", cursor=encode_cursor(*key))
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["query", "cursor"]), key


def test_a_page_of_too_many_series_is_refused(api, connection):
    many = [
        Device(id=f"n{i}", source="gw", domain="energy", sensors=(Sensor(metric="temperature"),))
        for i in range(MAX_PAGE_SERIES + 1)
    ]
    records.register(connection, many)
    answer = api.get("/v1/readings")
    assert answer.status_code == 422
    assert answer.json()["max_series"] == MAX_PAGE_SERIES
    assert api.get("/v1/readings", device=[device.id for device in many[1:]]).status_code == 200
    assert api.get("/v1/readings/nearest", at=rfc(T0)).json()["count"] == 0


def test_nobody_is_not_found(api, city):
    for url in ("/v1/readings?", f"/v1/readings/nearest?at={rfc(T0).replace('+', '%2B')}&"):
        answer = api.ask("GET", f"{url}device=nobody&device=a")[0]
        assert answer.status_code == 404
        assert "'nobody'" in answer.json()["detail"]


def test_the_nearest_against_a_loop(api, city, fill):
    rows = stored(3, n=20)
    fill(rows, received_at=T0)

    @given(
        at=st.integers(-20, 170),
        policy=st.sampled_from(["good", "all", "only_bad"]),
        within=st.sampled_from([0, 1, 4.5, 30, 86_400]),
    )
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    def check(at, policy, within):
        # Half-seconds, so that often two are as near.
        us = T0 + at * 500_000 + 1
        answer = api.get("/v1/readings/nearest", at=rfc(us), within_s=within, flags=policy)
        models.NearestModel.model_validate(answer.json())
        expected = []
        for device in "ab":
            for metric in ("LAeq", "temperature"):
                candidates = [
                    row
                    for row in rows
                    if row[:2] == (device, metric)
                    and abs(row[2] - us) <= within * 1e6
                    and (policy == "all" or oracles.is_bad(row[4]) == (policy == "only_bad"))
                ]
                if candidates:
                    expected.append(min(candidates, key=lambda row: (abs(row[2] - us), row[2])))
        columns = answer.json()["columns"]
        found = list(zip(columns["device"], columns["metric"], columns["time"], columns["value"], columns["flags"], strict=True))
        assert found == shown(expected)
        assert columns["distance_s"] == [(row[2] - us) / 1e6 for row in expected]

    check()


def test_the_nearest_at_the_ends_of_time(api, city, fill):
    fill([("a", "LAeq", T0, 1.0, 0)], received_at=T0)
    for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        assert api.get("/v1/readings/nearest", at=at).json()["count"] == 0


def test_latest_as_a_map(api, city, fill):
    fill([("a", "LAeq", T0, 60.0, 1), ("a", "temperature", T0, 20.0, 0), ("b", "LAeq", T0, 61.0, 0)], received_at=T0)
    seen, cursor = [], ""
    while cursor is not None:
        answer = api.ask("GET", f"/v1/latest?limit=2{cursor}", headers={"accept": "application/geo+json, */*"})[0]
        assert answer.headers["content-type"] == "application/geo+json"
        assert answer.headers["vary"].startswith("Accept")
        models.LatestFeaturesModel.model_validate(answer.json())
        seen += answer.json()["features"]
        cursor = answer.json()["next_cursor"] and f"&cursor={answer.json()['next_cursor']}"
    for feature in seen:
        assert feature["properties"].pop("age_s") == pytest.approx(clock.time() - T0 / 1e6, abs=60)
    place = {"type": "Point", "coordinates": [106.25, 10.5]}
    rows = [("a", "LAeq", "dB", 60.0, ["range"]), ("a", "temperature", "Cel", 20.0, []), ("b", "LAeq", "dB", 61.0, [])]
    assert seen == [
        {
            "type": "Feature",
            "id": f"{device}/{metric}",
            "geometry": place if device == "a" else None,
            "properties": {
                "device": device,
                "metric": metric,
                "unit": unit,
                "time": T0 // 1000,
                "value": value,
                "flags": names,
                "stale": True,
            },
        }
        for device, metric, unit, value, names in rows
    ]
    assert api.get("/v1/latest").headers["content-type"] == "application/json"


def test_latest_of_those_that_are_overdue(api, city, fill):
    now = int(clock.time() * 1e6)
    fill([("a", "LAeq", now, 60.0, 0), ("b", "LAeq", now - 3_600_000_000, 61.0, 0)], received_at=now)
    for asked, devices in [({}, ["a", "b"]), ({"stale": True}, ["b"]), ({"stale": False}, ["a"])]:
        assert api.get("/v1/latest", **asked).json()["columns"]["device"] == devices, asked


def test_latest_of_thousands_of_sensors(api, connection, fill):
    names = [f"n{i:04}" for i in range(3000)]
    records.register(
        connection, [Device(id=name, source="gw", domain="energy", sensors=(Sensor(metric="temperature"),)) for name in names]
    )
    fill([(name, "temperature", T0, 20.0, 0) for name in names], received_at=T0)
    for headers in ({}, {"accept": "application/geo+json"}):
        answer = api.ask("GET", "/v1/latest?limit=10000", headers=headers)[0]
        body = orjson.loads(answer.content)
        assert names == (body["columns"]["device"] if "columns" in body else [f["properties"]["device"] for f in body["features"]])
        assert body["next_cursor"] is None
