"""The workloads that figures are quoted for are what docs/performance.md says, to the reading."""

from collections import Counter
from itertools import islice

import numpy as np
import orjson
import pytest

from bench import workload
from bench.workload import AGAIN, HELD, LIVE, MINUTE, SHAPES, SINGLES, City, Gateway, Traffic
from citybeat.devices.batch import NEVER
from citybeat.devices.catalogue import KIND_CODES, Kind, builtin
from citybeat.devices.flags import Flag
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import judge
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits

START = 1_767_225_600_000_000
SMALL = City(devices=400, gateways=2)


def traffic(shape, city=SMALL, **more):
    return Traffic(city=city, shape=shape, start=START, **more)


def sent(shape, blocks, **more):
    """Readings of the first gateway, in order: (place, time)."""
    gateway = Gateway(traffic(shape, **more), 0)
    return [[(place, gateway.time(place)) for place in gateway.places(block)] for block in range(blocks)]


def test_the_city_is_the_one_that_is_written_down():
    devices = City().registrations()
    metrics = [sensor.metric for device in devices for sensor in device.sensors]
    assert len(devices) == 10_000
    assert {len(device.sensors) for device in devices} == {6}
    assert sum(builtin()[metric].kind is Kind.COUNTER for metric in metrics) == 6_000
    assert set(Counter(device.source for device in devices).values()) == {1_000}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_of_a_hundred_readings_one_is_late_and_one_a_duplicate(shape):
    before, late, again = set(), 0, 0
    newest = {}
    seen = 3 * traffic(shape).held
    for block, readings in enumerate(sent(shape, seen)):
        found = Counter()
        for place, time in readings:
            series = place % SMALL.each
            if place in before:
                found["again"] += 1
            elif time < newest.get(series, NEVER):
                found["late"] += 1
                assert newest[series] - time >= HELD - shape.interval
            newest[series] = max(newest.get(series, NEVER), time)
            before.add(place)
        if block >= traffic(shape).held:  # before, there is nothing newer, or nothing to be sent again
            assert len(readings) == 100
            assert found == {"late": 1, "again": 1}
            late, again = late + 1, again + 1
    assert late == again == seen - traffic(shape).held


def test_a_duplicate_comes_a_minute_of_event_time_after_its_first():
    at = {}
    for block, readings in enumerate(sent(LIVE, 100)):
        for place, _ in readings:
            if place in at:
                assert (block - at[place]) * workload.NEW // SMALL.each * LIVE.interval >= AGAIN - LIVE.interval
                assert block - at[place] == traffic(LIVE).again
            at.setdefault(place, block)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_nothing_is_left_out(shape):
    """But for what is held back still, every series' reading of every sweep is sent once, beside duplicates."""
    held = traffic(shape).held
    places = Counter(place for readings in sent(shape, 2 * held) for place, _ in readings)
    gone = set(range(2 * held * workload.NEW)) - set(places)
    assert len(gone) == held
    assert max(places.values()) == 2


def test_live_readings_open_a_series_minute_each():
    opened = Counter()
    for readings in sent(LIVE, 200):
        opened.update({(place % SMALL.each, time // MINUTE) for place, time in readings})
    again = sum(len(readings) == 100 for readings in sent(LIVE, 200))
    assert sum(opened.values()) - len(opened) == again  # duplicates, and nothing else


@pytest.mark.parametrize("grouped", [False, True], ids=["a report each", "grouped"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_of_it_is_good(shape, grouped):
    """Decoded and judged in the order in which it is sent, nothing is refused, and nothing has a flag but LATE."""
    made = traffic(shape, grouped=grouped)
    registry = workload.registry(SMALL.registrations())
    history = History.empty(len(registry.owner))
    packets = list(islice(made, 40_000 if shape is SINGLES else 400))
    sources = SMALL.sources
    per = len(packets) // 8
    for first in range(0, len(packets), per):
        now = packets[first : first + per]
        messages = [
            Message(f"city/v1/{sources[p.gateway]}/readings", p.payload, START + 86_400_000_000, False, 1, 1, 1) for p in now
        ]
        read = decode(messages, max_bytes=1 << 22)
        ids = np.array([registry.sources[sources[p.gateway]] for p in now], np.int32)
        prepared = judge(read, ids, registry, Limits(), history)
        assert not prepared.refused
        assert read.decoded.received.tolist() == [packet.readings for packet in now]
        batch = prepared.judged.batch
        assert set(batch.flags.tolist()) == {int(Flag.LATE)}
        counters = registry.kind[batch.series] == KIND_CODES[Kind.COUNTER]
        rising = counters[1:] & (np.diff(batch.series) == 0) & (np.diff(batch.time) > 0)
        assert (np.diff(batch.value)[rising] > 0).all()
        history.advance(batch, prepared.same_since)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_numbers_have_no_gaps(shape):
    packets = list(islice(traffic(shape), 20_000 if shape is SINGLES else 300))
    for gateway in {packet.gateway for packet in packets}:
        seqs = [packet.seq for packet in packets if packet.gateway == gateway]
        assert seqs == list(range(len(seqs)))
    assert all(orjson.loads(packet.payload)["seq"] == packet.seq for packet in packets[::50])


def test_gateways_take_turns_but_for_catching_up():
    assert {packet.gateway for packet in islice(traffic(LIVE), 2)} == {0, 1}
    blocks = traffic(workload.CATCH_UP).blocks
    assert blocks == 360 * SMALL.each // 99
    gateways = [packet.gateway for packet in traffic(workload.CATCH_UP)]
    assert gateways == [0] * blocks + [1] * blocks
