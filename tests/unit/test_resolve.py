"""Names to series against a plain loop, with messages that come again, and a registry that changes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices import catalogue
from citybeat.devices.device import Sensor
from citybeat.devices.errors import Reason
from citybeat.devices.registry.snapshot import SeriesRow, build
from citybeat.devices.wire import names, reports, senml
from citybeat.ingest.judging import resolve as module
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.resolve import resolve

CATALOGUE = catalogue.builtin()
METRICS = ("pm25", "temperature")
NOW = 1_767_225_600_000_000
SOURCES = {"?": 1, "gw-a": 2, "gw-b": 3}


def snapshot(rows, version=1):
    """A registry of (id, device, source, retired, metric)."""
    return build(
        version=version,
        sources=SOURCES,
        devices={row[1]: row[2] for row in rows} | {"bare": 2},
        rows=[
            SeriesRow(id=i, device=d, source=s, retired=r, metric=CATALOGUE[m], sensor=Sensor(metric=m)) for i, d, s, r, m in rows
        ],
    )


ROWS = [(1, "a", 2, False, "pm25"), (2, "a", 2, False, "temperature"), (3, "b", 3, False, "pm25"), (4, "old", 2, True, "pm25")]


def plain(rows, source, device, metric):
    """The series, and the reason if there is none."""
    found = [row for row in rows if (row[1], row[4]) == (device, metric)]
    owners = {row[1]: row[2] for row in rows} | {"bare": 2}
    if device not in owners:
        return 0, Reason.UNKNOWN_DEVICE
    if owners[device] != SOURCES[source]:
        return 0, Reason.SOURCE_MISMATCH
    if not found:
        return 0, Reason.UNKNOWN_METRIC
    number, _, _, retired, _ = found[0]
    return (0, Reason.RETIRED) if retired else (number, None)


def check(rows, registry, messages):
    """Results of `resolve` for messages of (source, channel, [(device, metric), ...])."""
    made = []
    for source, channel, readings in messages:
        device, metric = [list(column) for column in zip(*readings, strict=True)]
        if channel == "senml":
            payload = senml.encode(device, metric, None, [1.0] * len(device))
        elif channel == "columns":
            payload = json.dumps({"device": device, "metric": metric, "value": [1] * len(device)}).encode()
        else:
            payload = reports.encode([reports.encode_report(d, NOW, {m: 1.0}) for d, m in readings])
        made.append(Message(f"city/v1/{source}/{'senml' if channel == 'senml' else 'readings'}", payload, NOW, False, 1, 1, 1))
    decoded = decode(made, max_bytes=1_000_000).decoded
    series, refused = resolve(decoded, np.array([SOURCES[source] for source, _, _ in messages], np.int32), registry)
    expected = [
        (i, k, plain(rows, source, device, metric))
        for i, (source, _, readings) in enumerate(messages)
        for k, (device, metric) in enumerate(readings)
    ]
    assert series.tolist() == [number for _, _, (number, _) in expected]
    assert {(r.message, r.index, r.reason) for r in refused} == {(i, k, reason) for i, k, (_, reason) in expected if reason}


clean = st.tuples(st.sampled_from(["a", "b", "old", "bare", "nobody"]), st.sampled_from(METRICS))
odd = st.tuples(st.sampled_from(["a", "a\npm25", "\n", "", "b"]), st.sampled_from([*METRICS, "pm25\na", "x\ny", ""]))
messages = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["gw-a", "gw-b"]), st.sampled_from(["senml", "columns", "readings"]), st.lists(clean, min_size=1)
        ),
        st.tuples(st.sampled_from(["gw-a", "gw-b"]), st.sampled_from(["columns", "readings"]), st.lists(odd, min_size=1)),
    ),
    min_size=1,
    max_size=6,
)


@given(st.lists(messages, min_size=1, max_size=3), st.sampled_from([1, 4, 16]), st.sampled_from([2, 10_000]))
def test_agrees_with_a_plain_loop_however_often_a_message_comes(batches, many, kept):
    registry = snapshot(ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "_MANY", many)
        patch.setattr(module, "_KEPT", kept)
        for batch in [*batches, *batches, *batches]:
            check(ROWS, registry, batch)
            assert max(len(registry.known), len(registry.heard)) <= kept


MESSAGE = [("gw-a", "readings", [("a", "pm25"), ("a", "temperature"), ("b", "pm25"), ("nobody", "pm25")] * 8)]


def test_what_a_message_came_to_goes_with_the_snapshot():
    registry = snapshot(ROWS)
    check(ROWS, registry, MESSAGE * 2)
    assert len(registry.known) == 1
    moved = [
        (1, "a", 2, True, "pm25"),
        (2, "a", 3, False, "temperature"),
        (5, "b", 2, False, "pm25"),
        (6, "nobody", 2, False, "pm25"),
    ]
    check(moved, snapshot(moved, version=2), MESSAGE)
    check(ROWS, registry, MESSAGE)


def test_the_same_names_from_another_source():
    registry = snapshot(ROWS)
    for source in ("gw-a", "gw-b", "gw-a"):
        check(ROWS, registry, [(source, *MESSAGE[0][1:])])
    assert len(registry.known) == 1


def test_what_is_kept_is_bounded():
    registry = snapshot(ROWS)
    check(ROWS, registry, [("gw-a", "readings", [("a" * 200, "pm25")] * 100)] * 2)
    assert not registry.known  # too long
    messages = [("gw-a", "readings", [(f"d{i}", "pm25")] * 16) for i in range(50)]
    check(ROWS, registry, messages)
    assert not registry.known  # they may never come again
    check(ROWS, registry, messages)
    assert len(registry.known) == 50


def test_what_is_kept_cannot_be_written_to():
    registry = snapshot(ROWS)
    check(ROWS, registry, MESSAGE * 2)
    with pytest.raises(ValueError, match="read-only"):
        next(iter(registry.known.values()))[0] = 7
