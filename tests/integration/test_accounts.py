"""The accounts on a real database: they agree with what ingest does, and find every single thing that is wrong."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.devices.ledger import NAMES, Counts
from citybeat.devices.wire.decoded import Refused
from citybeat.storage.accounts import ledger
from citybeat.storage.batches.rows import Numbers, Quarantined, Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.registry import records

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
METRICS = ["temperature", "precipitation", "windDirection", "LAeq", "totalActiveEnergyImport"]


@pytest.fixture
def city(connection, fill):
    """One device with a sensor of each kind, 1,000 readings of each with all sorts of flags, in batches that overlap in time."""
    sensors = tuple(Sensor(metric=metric) for metric in METRICS)
    records.register(connection, [Device(id="env-1", source="gw-1", domain="environment", sensors=sensors)])
    rng = np.random.default_rng(7)
    rows = [
        ("env-1", metric, T0 + int(time), float(value), int(flags))
        for metric in METRICS
        for time, value, flags in zip(
            rng.choice(3_600_000_000, 1000, replace=False),
            rng.uniform(-30, 400, 1000),
            rng.choice([0, 0, 0, 1, 2, 4, 8, 16, 64, 128, 1 | 256, 128 | 256], 1000),
            strict=True,
        )
    ]
    rows.append(("env-1", "temperature", T0 + 7_200_000_000, 99.0, 1))  # a minute without a good reading
    rng.shuffle(rows)
    for part in range(3):
        fill([(d, m, int(t), float(v), int(f)) for d, m, t, v, f in rows[part::3]], received_at=T0 + part * 60_000_000)
    return connection


def test_totals(city, fill):
    before = ledger.totals(city)
    assert before == Counts(messages=3, received=5001, stored=5001)
    assert before.balanced
    fill([("env-1", "LAeq", T0 + 10**12, 50.0, 0)], received_at=T0)
    fill([("env-1", "LAeq", T0 + 10**12, 50.0, 0)], received_at=T0)
    assert ledger.totals(city) - before == Counts(messages=2, received=2, stored=1, duplicate=1)
    assert ledger.totals(city, sources=["gw-1"]) == ledger.totals(city)
    assert ledger.totals(city, sources=["nobody"]) == ledger.totals(city, sources=[]) == Counts()


def test_totals_of_nothing(connection):
    assert ledger.totals(connection) == Counts()
    assert ledger.discrepancies(connection) == []
    assert ledger.rollup_differences(connection) == []


def test_what_ingest_does_balances(city):
    assert ledger.discrepancies(city) == []
    assert ledger.rollup_differences(city) == []


def test_a_lost_reading_is_found(city):
    city.execute("DELETE FROM readings WHERE time = (SELECT min(time) FROM readings)")
    (found,) = ledger.discrepancies(city)
    assert found == "5000 rows in readings, but the ledger has 5001 as stored"


def test_a_reading_without_an_outcome_is_found(city):
    city.execute("UPDATE ledger SET received = received + 2 WHERE minute = (SELECT min(minute) FROM ledger)")
    found, totals = ledger.discrepancies(city)
    assert totals.endswith("of received readings they have 5003, those 5001")
    assert found == ("source gw-1: received 5003, but stored 5001 + duplicate 0 + conflict 0 + missing 0 + quarantined 0 = 5001")


def test_quarantine_is_accounted(database, city):
    source = records.ensure_sources(city, ["gw-1"])["gw-1"]
    refused = [
        Quarantined(
            received_at=T0, source=source, topic="t", payload=b"x" * size, refused=[Refused(0, "too_old", "")], readings=count
        )
        for size, count in [(10, 3), (1000, 4)]
    ]
    with closing(BatchWriter(database, quarantine_quota=100)) as store, store.batch(uuid4(), [source]) as transaction:
        overflow = transaction.quarantine(refused)
        transaction.add_ledger([Tally(minute=T0, source=source, received=7, quarantined=7)], overflow)
    assert ledger.totals(city).overflow == 4
    assert ledger.discrepancies(city) == []
    city.execute("UPDATE quarantine SET resolved_at = now()")
    (found,) = ledger.discrepancies(city)
    assert found == ("source gw-1: 0 readings in quarantine + 4 beyond the quota = 4, but the ledger has 7 as quarantined")


@pytest.mark.parametrize("metric", METRICS)
def test_every_column_is_compared(city, metric):
    for change, told in {
        "n = n + 1": "n is",
        "n_bad = n_bad + 1": "n_bad is",
        "vmin = vmin - 1e-9": "vmin is",
        "vmax = vmax + 1e-9": "vmax is",
        "first_at = first_at - interval '1 microsecond'": "first_at is",
        "vfirst = vfirst + 1e-9": "vfirst is",
        "last_at = last_at + interval '1 microsecond'": "last_at is",
        "vlast = vlast + 1e-9": "vlast is",
        "s1 = s1 * 1.000001 + 0.001": "s1 is",
        "s2 = s2 + 0.1": "s2 is",
        "s2 = 'NaN'": "s2 is",
        "s1 = 'infinity'": "s1 is",
    }.items():
        with city.transaction(force_rollback=True):
            which = "(SELECT s.id FROM series s WHERE metric = %s)"
            city.execute(f"UPDATE readings_1m SET {change} WHERE series_id = {which} AND bucket = '2026-01-01T00:05Z'", (metric,))
            (found,) = ledger.rollup_differences(city)
        assert told in found
        assert f"(env-1, {metric}), 2026-01-01T00:05Z: " in found


def test_rounding_is_no_difference(city):
    city.execute("UPDATE readings_1m SET s1 = s1 * (1 + 1e-12), s2 = s2 * (1 - 1e-12)")
    assert ledger.rollup_differences(city) == []


def test_rows_that_are_absent_or_unfounded(city):
    city.execute("DELETE FROM readings_1m WHERE bucket = '2026-01-01T00:05Z'")
    found = ledger.rollup_differences(city)
    assert len(found) == len(METRICS)
    assert all("is absent" in line for line in found)
    assert len(ledger.rollup_differences(city, limit=2)) == 2
    city.execute("DELETE FROM readings WHERE time_bucket('1 minute', time) = '2026-01-01T00:05Z'")
    assert without_increases(city) == []
    city.execute("DELETE FROM readings WHERE time_bucket('1 minute', time) = '2026-01-01T00:06Z'")
    assert len(without_increases(city)) == len(METRICS)
    assert all("has no readings" in line for line in without_increases(city))


def without_increases(city):
    """A counter's increase in the next minute hangs on a reading that is gone: that is a difference too, and not what is asked."""
    return [line for line in ledger.rollup_differences(city, limit=100) if ": s1 is " not in line]


def test_extreme_values_do_not_stop_the_comparison(city, fill):
    values = [1.7e308, -1.7e308, 1e200, 5e-324, 0.0]
    for metric in METRICS:
        with np.errstate(over="ignore"):
            fill([("env-1", metric, T0 + 10**13 + i, value, 0) for i, value in enumerate(values)], received_at=T0)
    assert ledger.rollup_differences(city) == []


def test_numbers(database, city):
    sources = records.ensure_sources(city, ["gw-1", "gw-2"])
    numbered = [("gw-1", "a", seq) for seq in (5, 6, 9, 7)] + [("gw-1", "b", 0), ("gw-2", "", 3), ("gw-2", "", 1)]
    with closing(BatchWriter(database, quarantine_quota=1)) as store, store.batch(uuid4(), list(sources.values())) as transaction:
        transaction.add_seqs(
            Numbers(
                sources=[sources[name] for name, _, _ in numbered],
                boots=[boot for _, boot, _ in numbered],
                seqs=[seq for _, _, seq in numbered],
                received_at=[T0] * len(numbered),
            )
        )
    assert ledger.numbers(city, ["gw-1"]) == {("gw-1", "a"): (4, 1), ("gw-1", "b"): (1, 0)}
    assert ledger.numbers(city, ["gw-2", "nobody"]) == {("gw-2", ""): (2, 1)}
    assert ledger.numbers(city, []) == {}


@pytest.mark.parametrize("table", ["ledger", "ledger_totals"])
def test_the_tables_have_the_counters_of_the_list(connection, table):
    found = connection.execute("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", (table,)).fetchall()
    assert {name for (name,) in found} - {"minute", "source_id", "batch"} == set(NAMES)


def test_a_counter_more_is_a_line_in_the_list_and_a_migration(connection, database):
    for table in ("ledger", "ledger_totals"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN expired bigint NOT NULL DEFAULT 0")
    command = [sys.executable, "-m", "tests.integration.added_counter", database]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "totals": 6,
        "page": [6],
        "hours": [6],
        "score": 6,
        "metric": 6,
        "command": 1,
        "models": [True, True, True],
        "discrepancies": [],
    }
