"""Recorded files, replayed through MQTT as a user does it, against the same files read independently."""

import csv
import json
from collections import Counter
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import pytest

from citybeat.storage.accounts import ledger
from tests import oracles
from tests.acceptance import recorded
from tests.acceptance.conftest import Process, Town, wait_for

MAPS = Path(__file__).parents[1] / "maps"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not recorded.DATA.is_dir(), reason="the recorded data are not part of the checkout"),
]

NAB = [
    "TravelTime_387.csv",
    "TravelTime_451.csv",
    "occupancy_6005.csv",
    "occupancy_t4013.csv",
    "speed_6005.csv",
    "speed_7578.csv",
    "speed_t4013.csv",
]


@pytest.fixture(scope="module", autouse=True)
def catalogue(town):
    """The city's own metrics, for every command of this module."""
    env = {"CITYBEAT_CATALOGUE": str(MAPS / "airquality_catalogue.toml")}
    town.run("migrate", **env)
    return env


@pytest.fixture(scope="module")
def ingesting(town, catalogue):
    process: Process = town.start("ingest", "--stats", **catalogue)
    process.wait_ready()
    yield process
    assert process.stop() == 0


def replay(town: Town, catalogue, name, files):
    """Replay, wait until everything acknowledged is accounted for; the report, the ledger's totals, and what is stored."""
    done = town.run("simulate", "replay", *map(str, files), "--map", str(MAPS / f"{name}.yaml"), "--json", **catalogue)
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    sources = [each["source"] for each in report["sources"]]
    assert report["complete"]
    assert report["refused_messages"] == 0
    with town.database() as database:
        wait_for(
            lambda: ledger.totals(database, sources=sources).received >= report["readings"],
            lambda: (report, ledger.totals(database, sources=sources)),
        )
        totals = ledger.totals(database, sources=sources)
        assert totals.received == report["readings"] == report["readings_read"]
        assert totals.balanced
        rows = database.execute(
            """SELECT s.device_id, s.metric, (extract(epoch FROM r.time) * 1000000)::int8, r.value
               FROM readings r JOIN series s ON s.id = r.series_id JOIN devices d ON d.id = s.device_id
               JOIN sources o ON o.id = d.source_id WHERE o.name = ANY(%s)""",
            [sources],
        ).fetchall()
    return report, totals, {row[:3]: row[3] for row in rows}


def fates(readings):
    """First come, first stored: (stored by key, Counter of outcomes) by a plain loop."""
    stored, count = {}, Counter(stored=0, duplicate=0, conflict=0, missing=0, quarantined=0)
    for device, metric, at, value in readings:
        if at is None:
            continue  # a wall-clock time that does not exist: never sent
        if value is None:
            count["missing"] += 1
        elif (device, metric, at) not in stored:
            stored[device, metric, at] = value
            count["stored"] += 1
        else:
            count["duplicate" if stored[device, metric, at] == value else "conflict"] += 1
    return stored, count


def check(readings, totals, rows):
    stored, count = fates(readings)
    assert {name: getattr(totals, name) for name in count} == count
    assert rows == stored  # values equal exactly, times to the microsecond
    return count


def test_low_carbon_london(town, ingesting, catalogue):
    report, totals, rows = replay(town, catalogue, "lcl", [recorded.DATA / "energy/LCL_MAC000002.csv"])
    count = check(recorded.lcl(), totals, rows)
    assert report["rows"] == 24_158
    assert (count["stored"], count["duplicate"], count["missing"]) == (24_140, 17, 1)


def test_household_power(town, ingesting, catalogue):
    report, totals, rows = replay(
        town, catalogue, "household", [recorded.DATA / "energy/household_power_consumption_first1MiB.txt"]
    )
    count = check(recorded.household(), totals, rows)
    assert count["missing"] == 14  # two rows of '?'
    assert report["rejected_rows"] == 1
    (rejected,) = report["rejected"]
    assert rejected["line"] == 15_924  # the header, 15,922 rows, and the one that was cut off
    assert "household" in rejected["file"]


def test_uci_air_quality(town, ingesting, catalogue):
    report, totals, rows = replay(town, catalogue, "airquality", [recorded.DATA / "environment/AirQualityUCI.csv"])
    count = check(recorded.airquality(), totals, rows)
    assert count["missing"] == 1_683 + 8_443 + 1_639 + 1_642 + 9 * 366
    assert report["blank_rows"] == 114
    with town.database() as database:
        flagged = database.execute(
            """SELECT count(*) FROM readings r JOIN series s ON s.id = r.series_id
               WHERE s.device_id = 'uci-airquality' AND flags & 1 <> 0"""
        ).fetchone()
    assert flagged == (0,)  # nothing is RANGE by accident


def test_nab_traffic(town, ingesting, catalogue):
    files = [recorded.DATA / "traffic/nab_realTraffic" / name for name in NAB]
    _, totals, rows = replay(town, catalogue, "nab", files)
    count = check(recorded.nab(), totals, rows)
    assert count["conflict"] == 2
    with town.database() as database:
        losers = database.execute(
            """SELECT q.refused, q.readings FROM quarantine q JOIN sources s ON s.id = q.source_id
               WHERE s.name = 'replay-nab' AND 'conflict' = ANY(q.reasons)"""
        ).fetchall()
    details = [entry for refused, readings in losers for entry in refused if readings == 0]
    assert sorted(entry[2] for entry in details) == [
        "0.0894 came, 0.0256 is stored at that time",
        "99.779328 came, 106.216704 is stored at that time",
    ]


def test_fremont_bridge(town, ingesting, catalogue):
    report, totals, rows = replay(town, catalogue, "fremont", [recorded.DATA / "traffic/FremontBridge.csv"])
    readings = recorded.fremont()
    count = check(readings, totals, rows)
    with (recorded.DATA / "traffic/FremontBridge.csv").open(newline="") as file:
        dates = [datetime.strptime(row["Date"], "%m/%d/%Y %I:%M:%S %p") for row in csv.DictReader(file)]
    assert sum(at < newest for at, newest in zip(dates, accumulate(dates, max), strict=True)) == 54_744  # rows out of order
    assert report["times"]["nonexistent"] == sum(at is None for *_, at, _ in readings) // 2 == 7
    assert count["missing"] == 8  # four rows of blanks beside those in hours that do not exist


def test_aarhus(town, ingesting, catalogue):
    _, totals, rows = replay(town, catalogue, "aarhus", [recorded.DATA / "traffic/aarhus_trafficData158324.csv"])
    check(recorded.aarhus(), totals, rows)


@pytest.mark.parametrize("kind", ["sds011", "dht22"])
def test_aberdeen(town, ingesting, catalogue, kind):
    _, totals, rows = replay(town, catalogue, f"aberdeen_{kind}", recorded.aberdeen_files(kind))
    check(recorded.aberdeen(kind), totals, rows)
    query = """SELECT s.metric, (extract(epoch FROM r.time) * 1000000)::int8, r.value
               FROM readings r JOIN series s ON s.id = r.series_id JOIN devices d ON d.id = s.device_id
               JOIN sources o ON o.id = d.source_id WHERE o.name LIKE %s AND flags & %s <> 0"""
    with town.database() as database:
        found = {flag: database.execute(query, ["replay-aberdeen%", flag]).fetchall() for flag in (1, 2, 4)}
    if kind == "sds011":
        assert [value for _, _, value in found[2]] == [1999.9]  # the sensor's ceiling, between 683.67 and 513.33
    else:
        humidity = sorted((at, value) for _, metric, at, value in recorded.aberdeen(kind) if metric == "relativeHumidity")
        assert {(at, value) for metric, at, value in found[4]} == stuck(humidity, 18 * 3600, 148)
        assert {value for _, _, value in found[4]} == {0.999}
        assert len(found[4]) == 1_816
    assert found[1] == []


def stuck(readings, seconds, interval):
    """A plain loop: unchanged for longer than so many seconds, without a gap of more than ten intervals."""
    out, since, before = set(), None, None
    for at, value in readings:
        if before is None or value != before[1] or at - before[0] > 10 * interval * 1_000_000:
            since = at
        if at - since > seconds * 1_000_000:
            out.add((at, value))
        before = (at, value)
    return out


def test_every_rollup_is_what_a_slow_loop_makes_of_raw(town, ingesting, catalogue):
    """All files of this worker together; runs last in this module."""
    with town.database() as database:
        kinds = dict(database.execute("SELECT s.id, m.kind FROM series s JOIN metrics m ON m.name = s.metric"))
        raw = database.execute(
            "SELECT series_id, (extract(epoch FROM time) * 1000000)::int8, value, flags FROM readings"
        ).fetchall()
        rows = database.execute(
            """SELECT series_id, (extract(epoch FROM bucket) * 1000000)::int8, n, n_bad, vmin, vmax,
               CASE WHEN n > 0 THEN (extract(epoch FROM first_at) * 1000000)::int8 END, vfirst,
               CASE WHEN n > 0 THEN (extract(epoch FROM last_at) * 1000000)::int8 END, vlast, s1, s2 FROM readings_1m"""
        ).fetchall()
        assert ledger.rollup_differences(database) == []
        assert ledger.discrepancies(database) == []
    expected = oracles.downsample(raw, kinds)
    assert {row[:2] for row in rows} == expected.keys()
    for row in rows:
        want = expected[row[:2]]
        assert row[2:10] == tuple(want[c] for c in ("n", "n_bad", "vmin", "vmax", "first_at", "vfirst", "last_at", "vlast"))
        assert abs(row[10] - want["s1"]) <= 1e-9 * want["magnitude"]
        assert abs(row[11] - want["s2"]) <= 1e-9 * want["magnitude"]
