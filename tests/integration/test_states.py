"""States of sensors, as they are noticed: against a plain loop over newest readings; by housekeeping, within seconds."""

import time
from contextlib import closing
from datetime import timedelta

import numpy as np
import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.devices.flags import Flag
from citybeat.devices.states import STATES
from citybeat.ingest.writing.housekeeping import Housekeeper
from citybeat.storage.batches import outbox
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.db.connection import connect
from citybeat.storage.reads import states
from citybeat.storage.registry import records
from citybeat.storage.rollups.chunks import Sizing
from citybeat.storage.rollups.retention import Policy

INTERVAL = 60.0
FLAGS = [0, Flag.RANGE, Flag.STEP, Flag.STUCK, Flag.STUCK | Flag.STEP, Flag.SUSPECT | Flag.LATE, Flag.MANUAL_BAD]
FLAGS += [flag | Flag.MANUAL_GOOD for flag in FLAGS]


@pytest.fixture
def city(connection):
    records.register(
        connection,
        [
            Device(id=f"d-{i:02d}", source="gw", domain="environment", sensors=(Sensor(metric="temperature", interval=INTERVAL),))
            for i in range(2 * len(FLAGS) + 1)
        ],
    )
    return connection


def noticed(connection):
    query = "SELECT s.device_id, n.state FROM sensor_states n JOIN series s ON s.id = n.series_id ORDER BY 1"
    return dict(connection.execute(query).fetchall())


def told(connection):
    """Every change, in order: device, state, value."""
    names = dict(connection.execute("SELECT id, device_id FROM series").fetchall())
    found = []
    for data, rows in connection.execute("SELECT data, rows FROM outbox WHERE kind = 1 ORDER BY xact, id"):
        piece = outbox.decode(data, rows)
        for series, code, value in zip(piece.series.tolist(), piece.code.tolist(), piece.value.tolist(), strict=True):
            found.append((names[series], STATES[code], None if np.isnan(value) else value))
    return found


def expected(flags, age):
    """The state of a sensor by docs/stream.md."""
    if age > 3 * INTERVAL:
        return "overdue"
    if flags & Flag.MANUAL_GOOD:
        return "ok"
    if flags & Flag.STUCK:
        return "stuck"
    return "bad" if flags & (Flag.RANGE | Flag.STEP | Flag.MANUAL_BAD) else "ok"


def test_states_are_what_newest_readings_say(city, fill):
    now = time.time_ns() // 1000
    rows, want = [], {f"d-{2 * len(FLAGS):02d}": "silent"}
    for i, (flags, age) in enumerate((flags, age) for flags in FLAGS for age in (10, 200)):
        rows.append((f"d-{i:02d}", "temperature", now - age * 1_000_000, float(i), int(flags)))
        want[f"d-{i:02d}"] = expected(flags, age)
    assert states.watch(city) == len(want)
    assert set(noticed(city).values()) == {"silent"}
    fill(rows, received_at=now)
    assert states.watch(city) == len(rows)
    assert noticed(city) == want
    assert told(city)[len(want) :] == [(device, state, float(i)) for i, (device, state) in enumerate(sorted(want.items())[:-1])]
    assert states.watch(city) == 0
    assert records.retire(city, "d-00")
    assert states.watch(city) == 0
    assert "d-00" not in noticed(city)


def test_one_process_at_a_time_looks(city, database):
    with closing(connect(database, application="test")) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", (states._WATCHER,))
        assert states.watch(city) == 0
    assert states.watch(city) > 0


def test_housekeeping_notices_and_drops(city, database, fill):
    now = time.time_ns() // 1000
    fill([("d-00", "temperature", now, 20.0, 0)], received_at=now)
    housekeeper = Housekeeper(database, Policy(), Bounds(keep=timedelta(0), bytes=0), Sizing(longest={}))
    with closing(connect(database, application="test writer")) as made, made.transaction():
        outbox.lock_writer(made)
        outbox.append(made.cursor(), outbox.STATES_CHANGED, outbox.decode(bytes(22), 1))
    housekeeper.start()
    try:
        deadline = time.monotonic() + 30
        while noticed(city).get("d-00") != "ok" or city.execute("SELECT xact FROM outbox_floor").fetchone() == (0,):
            housekeeper.check()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        fill([("d-00", "temperature", now + 1_000_000, 999.0, int(Flag.RANGE))], received_at=now)
        while noticed(city)["d-00"] != "bad":
            housekeeper.check()
            assert time.monotonic() - began < 5
            time.sleep(0.05)
    finally:
        housekeeper.stop()
