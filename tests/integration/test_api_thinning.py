"""Plots of raw readings: what is kept are readings as they were stored, and nothing is left out without a word."""

import numpy as np
import pytest

from citybeat.api.http import models
from citybeat.api.series import plan
from citybeat.devices import flags as quality
from tests import oracles
from tests.integration.asking import DAY, T0, post, refused, register
from tests.oracles_buckets import MINUTE

SENSOR = {"device": "a", "metric": "temperature"}
RULES = ["lttb", "minmax"]


@pytest.fixture
def day(connection, fill):
    """A day of minutes of a, some of them bad, with one peak that is and one that is not; and three readings of b."""
    register(connection)
    rng = np.random.default_rng(5)
    values = np.round(20 + np.sin(np.arange(1440) / 200) + rng.normal(0, 0.2, 1440), 3)
    masks = np.where(rng.random(1440) < 0.02, 4, 0)
    values[700], masks[700] = 99.0, 1
    values[300], masks[300] = 35.0, 0
    rows = [
        ("a", "temperature", T0 + i * MINUTE, value, mask)
        for i, (value, mask) in enumerate(zip(values.tolist(), masks.tolist(), strict=True))
    ]
    fill([*rows, *[("b", "temperature", T0 + i * MINUTE, float(i), 0) for i in range(3)]], received_at=T0)
    return rows


def rows_of(columns):
    return list(zip(columns["time"], columns["value"], map(tuple, columns["flags"]), strict=True))


def as_shown(rows):
    return [(at // 1000, value, tuple(quality.names(mask))) for _, _, at, value, mask in rows]


@pytest.mark.parametrize("rule", RULES)
def test_one_series(api, day, rule):
    answer = api.get("/v1/series", **SENSOR, **DAY, bucket="raw", max_points=100, thin=rule)
    found = models.SeriesModel.model_validate(answer.json())
    kept, stored = rows_of(answer.json()["columns"]), as_shown(day)
    assert found.count == len(kept)
    assert 50 < len(kept) <= 100
    assert set(kept) <= set(stored)
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (stored[0], stored[-1])
    assert {stored[300], stored[700]} <= set(kept)  # both peaks, the bad one with its flag
    assert found.thinned.model_dump() == {
        "rule": rule,
        "readings": 1440,
        "bad_count": sum(oracles.is_bad(mask) for *_, mask in day),
    }


def test_lttb_unless_said_otherwise(api, day):
    asked = {**SENSOR, **DAY, "bucket": "raw", "max_points": 50}
    assert api.get("/v1/series", **asked).json() == api.get("/v1/series", **asked, thin="lttb").json()


@pytest.mark.parametrize("rule", RULES)
def test_a_policy_comes_first(api, day, rule):
    """Only good readings are thinned: the bad peak is none of them."""
    answer = api.get("/v1/series", **SENSOR, **DAY, bucket="raw", flags="good", max_points=100, thin=rule).json()
    good = [row for row in as_shown(day) if not row[2]]
    assert set(rows_of(answer["columns"])) <= set(good)
    assert answer["thinned"] == {"rule": rule, "readings": len(good), "bad_count": 0}


def test_nothing_left_out_nothing_said(api, day):
    for most in (1440, 5000):
        answer = api.get("/v1/series", **SENSOR, **DAY, bucket="raw", max_points=most).json()
        assert rows_of(answer["columns"]) == as_shown(day)
        assert answer["thinned"] is None
    assert api.get("/v1/series", **SENSOR, **DAY, bucket="1h").json()["thinned"] is None


@pytest.mark.parametrize("rule", RULES)
def test_each_of_several(api, day, rule):
    answer = post(api, devices=["b", "a"], metrics=["temperature"], bucket="raw", max_points=20, thin=rule, **DAY).json()
    assert [(each["device"], each["readings"]) for each in answer["series"]] == [("a", 1440), ("b", 3)]
    assert answer["series"][1]["count"] == 3
    assert answer["thinned"]["readings"] == 1443
    one = api.get("/v1/series", **SENSOR, **DAY, bucket="raw", max_points=20, thin=rule).json()
    of_a = [i for i, which in enumerate(answer["columns"]["series"]) if which == 0]
    assert [answer["columns"]["time"][i] for i in of_a] == one["columns"]["time"]
    assert len(of_a) == answer["series"][0]["count"] == one["count"] <= 20


def test_a_series_without_readings(api, day):
    answer = api.get("/v1/series", device="b", metric="LAeq", **DAY, bucket="raw", max_points=10).json()
    assert (answer["count"], answer["thinned"]) == (0, None)


def test_more_than_one_answer_may_have_is_thinned(start_api, database, day, monkeypatch):
    """The limit is on what is answered; what is read has one of its own."""
    api = start_api(database, max_points=1000)
    problem = refused(api.get("/v1/series", **SENSOR, **DAY, bucket="raw"), "too-many-points", "max_points")
    assert problem["max_points"] == 1000
    assert api.get("/v1/series", **SENSOR, **DAY, bucket="raw", max_points=1000).json()["count"] == 1000
    refused(api.get("/v1/series", **SENSOR, **DAY, bucket="raw", max_points=1001), "too-many-points", "lower max_points")
    monkeypatch.setattr(plan, "MAX_RAW", 1439)
    asked = {**SENSOR, **DAY, "bucket": "raw", "max_points": 10}
    assert refused(api.get("/v1/series", **asked), "range-too-long")["max_readings"] == 1439
    monkeypatch.setattr(plan, "MAX_RAW", 1440)
    assert api.get("/v1/series", **asked).json()["count"] == 10
