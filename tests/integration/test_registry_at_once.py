"""Changes of the registry beside each other and beside batches, and changes of very many devices."""

import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Calibration, Device, Sensor
from citybeat.devices.flags import Verdict
from citybeat.storage.batches import flagging
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import TransientError, connect
from citybeat.storage.registry import changes, records
from citybeat.storage.rollups import rollup

#: s. A change of ten thousand devices takes some five on a machine that is busy otherwise; planned badly, minutes.
MANY_IN = 60.0


def device(number=1, source="gw-1", **said):
    sensors = tuple(Sensor(metric=metric) for metric in ("pm25", "temperature"))
    return Device(**{"id": f"env-{number}", "source": source, "domain": "environment", "sensors": sensors} | said)


def source_of(connection, name="env-1"):
    return connection.execute(
        "SELECT s.name FROM devices d JOIN sources s ON s.id = d.source_id WHERE d.id = %s", (name,)
    ).fetchone()[0]


@pytest.fixture
def changed(database):
    """`changed(work)`: a thread that does this with a connection of its own, and the server's process for it."""

    class Change(threading.Thread):
        def __init__(self, work):
            super().__init__(daemon=True)
            self.connection = connect(database, application="test change")
            self.pid = self.connection.info.backend_pid
            self.failed = None
            self.work = work
            self.start()

        def run(self):
            try:
                with closing(self.connection):
                    self.work(self.connection)
            except Exception as exc:
                self.failed = exc

        def waits(self, connection):
            """Wait until it waits for a lock."""
            deadline = time.monotonic() + 20
            while True:
                row = connection.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (self.pid,)).fetchone()
                if row == ("Lock",):
                    return
                assert self.is_alive(), f"it did not wait: {self.failed}"
                assert time.monotonic() < deadline

        def done(self):
            self.join(30)
            assert not self.is_alive()
            assert self.failed is None

    return Change


def patched(connection):
    changes.update(connection, "env-1", "test", change=lambda there: replace(there, source="gw-2"))


def registered(connection):
    records.register(connection, [device(source="gw-2")])


@pytest.mark.parametrize("held", ["gw-1", "gw-2"])
@pytest.mark.parametrize("move", [patched, registered])
def test_a_device_moves_when_no_batch_of_either_source_is_under_way(connection, database, changed, move, held):
    records.register(connection, [device(), device(2, "gw-2")])
    known = records.load(connection, {}).sources
    with closing(BatchWriter(database, quarantine_quota=1)) as store:
        with store.batch(uuid4(), [known[held]]):
            # This batch has seen the registry's version: until it ends, its source owns what it writes.
            moving = changed(move)
            moving.waits(connection)
            assert source_of(connection) == "gw-1"
        moving.done()
    assert source_of(connection) == "gw-2"


def declared(connection):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    said = {"device": "env-1", "metric": "pm25", "verdict": Verdict.BAD, "by": "test", "reason": "dust"}
    kind = records.load(connection, builtin()).kind
    flagging.declare(connection, flagging.Declaration(start=start, end=start + timedelta(days=1), **said), kind)


def rebuilt(connection):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rollup.rebuild(connection, start, start + timedelta(days=1))


@pytest.mark.parametrize("work", [declared, rebuilt])
def test_what_is_stored_is_changed_under_the_lock_of_the_source_that_a_device_has(connection, database, changed, fill, work):
    records.register(connection, [device(), device(2, "gw-2")])
    fill([("env-1", "pm25", 1_767_225_600_000_000, 5.0, 0)], received_at=1_767_225_600_000_000)
    known = records.load(connection, {}).sources
    with closing(BatchWriter(database, quarantine_quota=1)) as store:
        with store.batch(uuid4(), [known["gw-1"]]):
            moving = changed(patched)
            moving.waits(connection)
            # It looks up the source before it waits for its lock, behind the device that moves.
            working = changed(work)
            working.waits(connection)
        moving.done()
    working.join(30)
    assert isinstance(working.failed, TransientError)
    assert "moved" in str(working.failed)
    work(connection)


def test_what_does_not_move_waits_for_no_batch(connection, database):
    records.register(connection, [device()])
    known = records.load(connection, {}).sources
    with closing(BatchWriter(database, quarantine_quota=1)) as store, store.batch(uuid4(), [known["gw-1"]]):
        records.register(connection, [device(name="x"), device(2)])
        changes.update(connection, "env-1", "test", change=lambda there: replace(there, district="north"))
    assert connection.execute("SELECT name, district FROM devices WHERE id = 'env-1'").fetchone() == ("x", "north")


@pytest.mark.parametrize(
    "work",
    [
        lambda connection: changes.calibrate(connection, "env-1", "pm25", Calibration(scale=2.0), "test"),
        lambda connection: records.register(
            connection, [device(sensors=(Sensor(metric="pm25", calibration=Calibration(scale=2.0)),))]
        ),
    ],
)
def test_whether_anything_is_stored_is_decided_when_no_batch_is_under_way(connection, database, changed, work):
    records.register(connection, [device()])
    known = records.load(connection, {}).sources
    with closing(BatchWriter(database, quarantine_quota=1)) as store:
        with store.batch(uuid4(), [known["gw-1"]]) as batch:
            calibrating = changed(work)
            calibrating.waits(connection)
            batch.connection.execute(
                "INSERT INTO latest (series_id, time, received_at, value, flags, good_at, good_value, same_since) "
                "SELECT id, now(), now(), 1, 0, now(), 1, now() FROM series WHERE metric = 'pm25'"
            )
        calibrating.done()
    # Not of every reading: one had been stored as it came.
    assert connection.execute("SELECT isfinite(valid_from) FROM calibrations").fetchall() == [(True,)]


def test_changes_at_once_never_wait_for_each_other_in_a_ring(connection, changed):
    """A registration with a new source touches the registry's version first and devices then, a patch the other way round."""
    records.register(connection, [device()])
    rounds = range(40)
    start = threading.Barrier(2)

    def patch(own):
        start.wait()
        for i in rounds:
            changes.update(own, "env-1", "patch", change=lambda there, i=i: replace(there, name=f"patch {i}"))

    def register(own):
        start.wait()
        for i in rounds:
            records.register(own, [device(source=f"new-{i}", name=f"file {i}")])

    works = [changed(patch), changed(register)]
    for work in works:
        work.done()
    row = connection.execute("SELECT count(*) FROM audit WHERE device = 'env-1' AND subject = 'device'").fetchone()
    assert row == (1 + 2 * len(rounds),)


def test_numbers_of_series_have_no_gaps(connection):
    for _ in range(3):
        records.register(connection, [device(i) for i in range(20)])
    with changes.acting(connection, "test", keep=False):
        records.register(connection, [device(i) for i in range(20, 40)])
    records.register(connection, [device(99)])
    assert connection.execute("SELECT max(id), count(*) FROM series").fetchone() == (42, 42)


def test_a_change_of_very_many_devices_after_one_of_a_single(connection):
    """A plan that a session made for one device must do for ten thousand."""
    records.register(connection, [device(0)])
    records.register(connection, [device(0, name="x", sensors=(Sensor(metric="pm25", low=1.0),))])
    for name, low in (("", None), ("y", 2.0)):
        sensors = (Sensor(metric="pm25", low=low),)
        began = time.monotonic()
        records.register(connection, [device(i, f"gw-{i % 50}", name=name, sensors=sensors) for i in range(10_000)])
        assert time.monotonic() - began < MANY_IN
    counts = connection.execute("SELECT subject, action, count(*) FROM audit WHERE device <> 'env-0' GROUP BY 1, 2 ORDER BY 1, 2")
    assert counts.fetchall() == [
        ("device", "changed", 9_999),
        ("device", "created", 9_999),
        ("sensor", "changed", 9_999),
        ("sensor", "created", 9_999),
    ]
