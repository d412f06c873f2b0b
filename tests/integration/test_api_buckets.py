"""/v1/query in every bucket, zone, fill and policy, against plain loops over the readings."""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citybeat.api.http.gate import EVERYTHING, Caller
from citybeat.api.series import plan
from citybeat.api.series.aggregates import allowed
from citybeat.api.series.fill import FILLED
from citybeat.api.series.plan import WIDTHS, Bucket
from citybeat.api.series.selecting import resolve
from citybeat.devices.catalogue import Kind, builtin
from citybeat.storage.reads import series
from citybeat.storage.reads.series import Policy
from citybeat.storage.registry.selection import Selection
from citybeat.storage.rollups import rollup
from citybeat.storage.rollups.levels import Level
from tests.integration.asking import KINDS, METRICS, generated, post, register
from tests.oracles_buckets import COLUMNS, same, slow, us, utc

EVERYBODY = Caller(id="", name="test", scopes=EVERYTHING, within=None)
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


@pytest.fixture
def city(connection):
    register(connection)


def test_there_is_a_metric_of_every_kind():
    assert [builtin()[metric].kind for metric in METRICS] == KINDS
    assert set(Kind) - set(KINDS) == {Kind.STATE}  # the catalogue has none; tests/unit/test_api_aggregates.py has


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.date().isoformat())
def test_against_a_loop_over_the_readings(api, city, fill, connection, day):
    """Every aggregate, bucket, fill, zone and policy, before and after quarter-hours are made; all aggregates at once, or some."""
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
        some=st.none() | st.integers(0, 1000),
    )
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(zone, bucket, fill, policy, start, length, some):
        since = day + timedelta(minutes=start)
        until = since + timedelta(minutes=length)
        possible = {
            metric: [each.value for each in allowed(Kind(kind)) if not (policy == "only_bad" and each == "increase")]
            for metric, kind in zip(METRICS, KINDS, strict=True)
        }
        asked = possible
        if some is not None:  # some of them: what is not asked for is not read
            chance = random.Random(some)
            asked = {metric: chance.sample(own, chance.randint(1, len(own))) for metric, own in possible.items()}
        answer = post(
            api,
            devices=["a"],
            **{"from": since.isoformat(), "to": until.isoformat()},
            bucket=bucket,
            tz=zone,
            fill=fill,
            flags=policy,
            **({} if some is None else {"aggregates": asked}),
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
            own = asked[each["metric"]]
            assert each["aggregates"] == own
            for i, time in zip(rows, sorted(wanted), strict=True):
                for name in [*own, "bad_count", "coverage"]:
                    assert same(columns[name][i], wanted[time][name], name, kind), (each["metric"], name, utc(time))
                for name in set(COLUMNS) - set(own):
                    assert columns.get(name, [None] * (i + 1))[i] is None
                if fill != "none":
                    shown = wanted[time]["filled"] and not FILLED.isdisjoint(own)
                    assert columns["filled"][i] == shown or kind == "direction"

    check()
    rollup.advance(connection, limit=10_000)
    assert connection.execute("SELECT count(*) FROM marks_15m").fetchone() == (0,)
    check()


@pytest.mark.parametrize("zone", ["UTC", "Australia/Lord_Howe", "Asia/Kathmandu"])
@pytest.mark.parametrize("bucket", list(WIDTHS))
def test_whoever_speaks_sql_hears_the_same(api, city, fill, connection, bucket, zone):
    """`merged_buckets`, on which `telemetry` stands, and storage/rollups/buckets.py: some quarter-hours marked, some not."""
    day = DAYS[5]
    stored = generated(8, day)
    fill(stored[::2], received_at=us(day))
    rollup.advance(connection, limit=10_000)
    fill(stored[1::2], received_at=us(day))
    width = WIDTHS[bucket]
    zone = "UTC" if bucket is Bucket.M1 else zone
    start, stop = day - timedelta(days=70), day + timedelta(days=70)
    span = series.Span(bucket=width.interval, length=width.length, zone=zone, start=start, stop=stop)
    level = plan.level_of(bucket, Policy.GOOD)

    async def ours():
        chosen = await resolve(api.app.state.service.pool, Selection(), EVERYBODY)
        return chosen, await series.rollups(api.app.state.service.pool, chosen.id, span, level=level, limit=10_000)

    chosen, found = api._runner.run(ours())
    names = ["series", "time", "end", "n", "n_bad", "vmin", "vmax", "vfirst", "vlast", "s1", "s2"]
    rows = connection.execute(
        "SELECT series_id, began, bucket_end(%(bucket)s::interval, %(zone)s, began), n, n_bad, vmin, vmax, vfirst, vlast, s1, s2"
        " FROM merged_buckets(%(bucket)s::interval, %(zone)s, bucket_start(%(bucket)s::interval, %(zone)s, %(start)s),"
        " %(stop)s::timestamptz + INTERVAL '40 days', %(series)s, %(quarters)s)"
        " WHERE began >= %(start)s AND began < %(stop)s ORDER BY 1, 2",
        {**span.parameters(), "series": chosen.id.tolist(), "quarters": level is Level.QUARTERS},
    ).fetchall()
    assert len(rows) == len(found) >= len(METRICS)
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        column = [us(value) for value in values] if name in {"time", "end"} else values
        np.testing.assert_allclose(getattr(found, name).astype(float), np.array(column, float), rtol=1e-9, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("bucket", list(WIDTHS))
def test_every_level_says_the_same(api, city, fill, bucket):
    """The same question to storage itself, at each level that can answer it."""
    day = DAYS[1]
    stored = generated(7, day)
    fill(stored[::2], received_at=us(day))
    fill(stored[1::2], received_at=us(day))
    pool = api.app.state.service.pool
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
        chosen = await resolve(pool, Selection(), EVERYBODY)
        made = [await series.rollups(pool, chosen.id, span, level=level, limit=10_000) for level in levels]
        return [*made, await series.from_raw(pool, chosen, span, policy=Policy.GOOD, limit=10_000)]

    first, *others = api._runner.run(everything())
    assert len(first) >= len(METRICS)
    for other in others:
        for name in series.Buckets.__dataclass_fields__:
            np.testing.assert_allclose(getattr(other, name), getattr(first, name), rtol=1e-9, atol=1e-6, err_msg=name)
