"""The outbox on a real database: complete and in order, and trimmed."""

import asyncio
import json
import threading
import time
from contextlib import closing, contextmanager
from datetime import timedelta
from uuid import uuid4

import numpy as np
import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import ConflictPolicy, Device, Sensor
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.batches import outbox
from citybeat.storage.batches.outbox import Bounds, OutboxRows
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db import source_locks
from citybeat.storage.db.connection import connect
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.reads import following
from citybeat.storage.reads.cursors import Cursor, Position
from citybeat.storage.registry import records

T0 = 1_767_225_600
ALL = Bounds(keep=timedelta(hours=1), bytes=10**9)


def told(*values):
    n = len(values)
    return OutboxRows(
        series=np.arange(1, n + 1, dtype=np.int32),
        time=np.full(n, T0 * 1_000_000),
        value=np.array(values, np.float64),
        code=np.zeros(n, np.int16),
    )


def values(page):
    return [row.told.value.tolist() for row in page.rows]


def come(ask, behind, wanted, **more):
    """The page behind a cursor, when it has these values: whoever commits during a look, in any database, can delay them."""
    deadline = time.monotonic() + 20
    while values(page := ask(following.page, behind, **more)) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert values(page) == wanted
    return page


def drop(connection, bounds, wanted):
    """Trim until so many rows are gone, for the same reason."""
    deadline, gone = time.monotonic() + 20, 0
    while (gone := gone + outbox.trim(connection, bounds)) < wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone == wanted


@pytest.fixture
def ask(database):
    """`ask(function, …)`: what an async function of a pool gives."""
    with asyncio.Runner() as runner:
        pool = ReadPool(database, min_size=1, max_size=2)
        runner.run(pool.open())
        yield lambda function, *arguments, **more: runner.run(function(pool, *arguments, **more))
        runner.run(pool.close())


@contextmanager
def writer(database):
    """A connection that has begun to write, and commits when `append` was called and the block ends."""
    with closing(connect(database, application="test writer")) as made, made.transaction():
        outbox.lock_writer(made)
        yield made


def number(connection):
    """Give the transaction its number, as its first row does."""
    return connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()[0]


def test_what_commits_last_with_the_lowest_number_is_not_passed(database, ask):
    start = ask(following.now)
    with writer(database) as early:
        first = number(early)
        with writer(database) as late:
            assert number(late) > first
            outbox.append(late.cursor(), outbox.READINGS, told(2.0))
        outbox.append(early.cursor(), outbox.READINGS, told(1.0))
        between = ask(following.page, start)
        assert values(between) == []
        assert ask(following.page, between.cursor).rows == []
    come(ask, between.cursor, [[1.0], [2.0]])
    come(ask, start, [[1.0], [2.0]])


def test_a_writer_that_has_no_number_yet_is_behind_the_frontier(database, ask):
    start = ask(following.now)
    with writer(database) as early:
        with writer(database) as late:
            outbox.append(late.cursor(), outbox.READINGS, told(2.0))
        page = come(ask, start, [[2.0]])
        outbox.append(early.cursor(), outbox.READINGS, told(1.0))
    come(ask, page.cursor, [[1.0]])


def test_what_others_do_for_long_holds_nothing_up(database, ask):
    with closing(connect(database, application="test other")) as other, other.transaction():
        number(other)
        start = ask(following.now)
        with writer(database) as made:
            outbox.append(made.cursor(), outbox.READINGS, told(1.0))
        come(ask, start, [[1.0]])


def test_a_snapshot_is_gone_on_from_exactly(database, connection, ask):
    """Rows that the snapshot saw do not come again, and all others come, whatever their numbers."""
    with writer(database) as early, closing(connect(database, application="test")) as reader:
        number(early)
        with writer(database) as seen:
            outbox.append(seen.cursor(), outbox.READINGS, told(2.0))
        text = reader.execute("SELECT stream_cursor()").fetchone()[0]
        outbox.append(early.cursor(), outbox.READINGS, told(1.0, 1.5))
        with writer(database) as late:
            outbox.append(late.cursor(), outbox.READINGS, told(3.0))
    cursor = Cursor.of_snapshot(text)
    page = come(ask, cursor, [[1.0, 1.5], [3.0]])
    # The same step by step.
    step = cursor.at(page.rows[0].position)
    come(ask, Cursor.parse(str(step)), [[3.0]])
    assert ask(following.page, step.at(page.rows[1].position)).rows == []


def test_what_was_dropped_is_known_to_be_missing(database, connection, ask):
    start = ask(following.now)
    for value in (1.0, 2.0, 3.0):
        with writer(database) as made:
            outbox.append(made.cursor(), outbox.READINGS, told(value))
    rows = come(ask, start, [[1.0], [2.0], [3.0]]).rows
    assert outbox.trim(connection, ALL) == 0
    drop(connection, Bounds(keep=timedelta(hours=1), bytes=2 * 22), 1)
    lost = ask(following.page, start)
    assert (lost.lost, lost.rows) == (True, ())
    assert not ask(following.page, lost.cursor).lost
    behind = Cursor(generation=start.generation, position=rows[0].position)
    come(ask, behind, [[2.0], [3.0]])
    connection.execute("UPDATE outbox SET at = at - interval '2 hours' WHERE id < %s", (rows[2].position.id,))
    drop(connection, ALL, 1)
    assert ask(following.page, behind).lost
    come(ask, Cursor(generation=start.generation, position=rows[1].position), [[3.0]])
    assert outbox.trim(connection, ALL) == 0
    assert not ask(following.page, Cursor(generation=start.generation, position=rows[1].position)).lost


def test_what_is_under_way_is_never_below_the_floor(database, connection, ask):
    start = ask(following.now)
    with writer(database) as early:
        number(early)
        with writer(database) as late:
            outbox.append(late.cursor(), outbox.READINGS, told(2.0))
        assert outbox.trim(connection, Bounds(keep=timedelta(0), bytes=0)) == 0
        outbox.append(early.cursor(), outbox.READINGS, told(1.0))
    come(ask, start, [[1.0], [2.0]])
    drop(connection, Bounds(keep=timedelta(0), bytes=0), 2)


def test_a_snapshot_outlives_the_floor_if_it_misses_nothing_below(database, connection, ask):
    with closing(connect(database, application="test other")) as other, other.transaction():
        number(other)  # under way for ever, but no writer
        with writer(database) as made:
            outbox.append(made.cursor(), outbox.READINGS, told(1.0))
        drop(connection, Bounds(keep=timedelta(0), bytes=0), 1)
        cursor = Cursor.of_snapshot(connection.execute("SELECT stream_cursor()").fetchone()[0])
        with writer(database) as made:
            outbox.append(made.cursor(), outbox.READINGS, told(2.0))
        assert not come(ask, cursor, [[2.0]]).lost


def test_cursors_of_another_database_or_of_the_future_are_lost(ask, connection):
    now = ask(following.now)
    assert ask(following.page, Cursor(generation="00000000", position=now.position)).lost
    ahead = ask(following.page, Cursor(generation=now.generation, position=Position(now.position.xact + 10**6, 1)))
    assert ahead.lost
    assert not ask(following.page, ahead.cursor).lost


def test_what_was_restored_from_another_server_is_swept_away(database, connection, ask):
    """Numbers of its transactions are far ahead, and so is its floor."""
    start = ask(following.now)
    connection.execute("INSERT INTO outbox (xact, at, kind, rows, data) VALUES (900000000000, '2020-01-01', 0, 1, '')")
    connection.execute("UPDATE outbox_floor SET xact = 800000000000, id = 7")
    with writer(database) as made:
        outbox.append(made.cursor(), outbox.READINGS, told(1.0))
    come(ask, start, [[1.0]])
    drop(connection, ALL, 1)
    assert connection.execute("SELECT xact, id FROM outbox_floor").fetchone() == (0, 0)
    come(ask, start, [[1.0]])


def test_large_batches_come_in_pieces_and_pages(database, ask, monkeypatch):
    monkeypatch.setattr(outbox, "PIECE", 3)
    start = ask(following.now)
    with writer(database) as made:
        outbox.append(made.cursor(), outbox.READINGS, told(*map(float, range(10))))
    page = come(ask, start, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], readings=5)
    assert page.more
    page = come(ask, page.cursor, [[6.0, 7.0, 8.0], [9.0]], readings=5)
    assert ask(following.page, page.cursor).rows == []


def test_ingest_tells_what_it_stores_and_what_replaces_it_behind_that(database, connection, ask):
    records.register(connection, [Device(id="d", source="gw", domain="environment", sensors=(Sensor(metric="temperature"),))])
    records.set_conflict_policy(connection, "gw", ConflictPolicy.REPLACE)
    pipeline = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=1_000_000)
    start = ask(following.now)

    def send(*readings):
        body = [{"device": "d", "ts": (T0 + at) * 1000, "values": {"temperature": value}} for at, value in readings]
        messages = [Message("city/v1/gw/readings", json.dumps(body).encode(), (T0 + 100) * 1_000_000, False, 1, 1, 1)]
        assert pipeline.process(messages, lambda: True) is not None

    with closing(pipeline):
        send((0, 20.0), (1, 21.0))
        send((0, 20.0))  # a duplicate is nothing new
        send((0, 22.0), (2, 23.0), (2, 24.0))
    page = come(ask, start, [[20.0, 21.0], [23.0], [22.0, 24.0]])
    final = {}
    for row in page.rows:
        final |= dict(zip(row.told.time.tolist(), row.told.value.tolist(), strict=True))
    us = "(extract(epoch FROM time) * 1000000)::int8"
    assert final == dict(connection.execute(f"SELECT {us}, value FROM readings").fetchall())


def test_a_batch_has_no_number_while_it_waits_for_its_source(database, connection, ask):
    """So numbers of one source are in the order of its commits; and who waits holds no stream up."""
    start = ask(following.now)
    failures = []

    def wait():
        try:
            with closing(BatchWriter(database, quarantine_quota=1)) as store, store.batch(uuid4(), [7]) as transaction:
                outbox.append(transaction.connection.cursor(), outbox.READINGS, told(2.0))
        except Exception as exc:
            failures.append(exc)

    waiter = threading.Thread(target=wait)
    with writer(database) as holder:
        source_locks.lock(holder, 7)
        waiter.start()
        query = "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 1 AND objid = 7"
        deadline = time.monotonic() + 20
        while not (waiting := connection.execute(query).fetchall()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        query = "SELECT count(*) FROM pg_locks WHERE virtualtransaction = %s AND locktype = 'transactionid'"
        assert connection.execute(query, waiting[0]).fetchone() == (0,)
        with writer(database) as other:
            outbox.append(other.cursor(), outbox.READINGS, told(0.0))
        come(ask, start, [[0.0]])
        outbox.append(holder.cursor(), outbox.READINGS, told(1.0))
    waiter.join()
    assert not failures
    come(ask, start, [[0.0], [1.0], [2.0]])
