import json
import math
import string
from unittest.mock import patch

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.wire import names as names_of_readings
from citybeat.devices.wire import reports as wire
from tests import oracles

NOW = 1_767_225_600_000_000

numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=True, allow_infinity=True), st.booleans(), st.none())
times = st.one_of(
    st.integers(0, 2_000_000_000_000),
    st.sampled_from(
        ["2026-01-01T00:00:00Z", "2026-01-01T07:00:00.123456+07:00", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "now"]
    ),
    st.none(),
    st.floats(allow_nan=False),
    st.integers(-(2**80), 2**80),
    st.booleans(),
)
names = st.one_of(st.text(string.ascii_letters, min_size=1, max_size=6), st.integers(), st.none())
plain_reports = st.fixed_dictionaries(
    {
        "values": st.dictionaries(
            st.text(string.ascii_lowercase, min_size=1, max_size=5), st.floats(-1e6, 1e6), min_size=1, max_size=4
        )
    },
    optional={"device": st.text(string.ascii_letters, min_size=1, max_size=6), "ts": st.integers(0, 2_000_000_000_000)},
)
odd_reports = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "values": st.one_of(st.dictionaries(st.text(max_size=4), numbers, max_size=3), numbers),
            "device": names,
            "ts": times,
        },
    ),
    numbers,
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)


@st.composite
def columns(draw):
    n = draw(st.integers(0, 5))
    length = st.just(n) if draw(st.booleans()) else st.integers(0, 5)

    def column(of):
        size = draw(length)
        return draw(st.lists(of, min_size=size, max_size=size))

    out = {"metric": draw(st.one_of(st.just("pm25"), names)) if draw(st.booleans()) else column(names), "value": column(numbers)}
    if draw(st.booleans()):
        out["device"] = draw(names) if draw(st.booleans()) else column(names)
    if draw(st.booleans()):
        out["ts"] = column(times) if draw(st.booleans()) else draw(times)
    return out


bodies = st.one_of(
    plain_reports,
    st.lists(plain_reports, max_size=6),
    odd_reports,
    st.lists(st.one_of(plain_reports, odd_reports), max_size=6),
    columns(),
)
enveloped = st.fixed_dictionaries(
    {"readings": bodies},
    optional={
        "seq": st.one_of(st.integers(-1, 2**64), st.text(max_size=2)),
        "boot": st.one_of(st.text(max_size=70), st.integers()),
    },
)
payloads = st.one_of(
    st.one_of(bodies, enveloped).map(lambda body: json.dumps(body).encode()),
    st.one_of(bodies, enveloped).map(lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=12),
    st.sampled_from(
        [b"", b" ", b"1],[2", b"1,2", b'{"a":[1', b"2]}", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"values":{"a":1}} x', b"NaN"]
    ),
)


def check(messages):
    """decode() says of many messages what the oracle says of each, whether it carries names as lists or as texts."""
    for many in (1, 16):
        with patch.object(names_of_readings, "_MANY", many):
            check_once(messages)


def check_once(messages):
    sources = [f"src-{i}" for i in range(len(messages))]
    received_at = np.array([NOW + i for i in range(len(messages))], np.int64)
    decoded = wire.decode(messages, sources, received_at)
    rows = list(
        zip(
            decoded.message.tolist(),
            decoded.index.tolist(),
            decoded.device,
            decoded.metric,
            decoded.time.tolist(),
            decoded.value.tolist(),
            decoded.flags.tolist(),
            strict=True,
        )
    )
    refused = {(r.message, r.index, r.reason.value) for r in decoded.refused}
    assert len(refused) == len(decoded.refused)
    expected_rows, expected_refused = [], set()
    for i, payload in enumerate(messages):
        readings, refusals, seq, boot = oracles.decode_message(payload, sources[i], NOW + i)
        expected_rows += [(i, *reading) for reading in readings]
        expected_refused |= {(i, index, reason) for index, reason in refusals}
        assert decoded.received[i] == len(readings) + sum(index is not None for index, _ in refusals)
        assert (decoded.seq[i], decoded.boot[i]) == (seq, boot)
    assert repr(rows) == repr(expected_rows)  # repr: NaN equals NaN, and -0.0 is not 0.0
    assert refused == expected_refused
    assert all("\n" not in r.detail and len(r.detail) < 400 for r in decoded.refused)


@given(st.lists(payloads, max_size=8))
@example([b'{"a":[1', b'{"values":{"x":1}}', b"2]}", b"1,2"])
@example([b"1,2", b""])
@example([b'{"device":"","metric":"x","value":[1]}'])
@example([b'{"values":{"x":1}}', b"NaN", b'{"values":{"x":NaN}}'])
@example([b'{"ts":true,"values":{"x":1}}'])
def test_decode_agrees_with_its_slow_twin(messages):
    check(messages)


@given(st.lists(st.lists(plain_reports, min_size=1, max_size=5).map(orjson.dumps), min_size=1, max_size=5))
def test_plain_messages_stay_in_the_fast_path(messages):
    original = wire._slow
    try:
        wire._slow = lambda *_: pytest.fail("slow path")
        # A batch in which some reports have a time and others have none is what the slow path is for.
        plain = [m for m in messages if len({"ts" in report for report in json.loads(m)}) == 1]
        for message in plain:
            wire.decode([message], ["s"], np.array([NOW]))
    finally:
        wire._slow = original


def test_a_payload_cannot_swallow_its_neighbours():
    """Without a mark between them, these would parse as one array of three elements, the second of which is the attacker's."""
    victim = b'{"device":"d","values":{"x":1}}'
    messages = [b'{"a":[1', victim, b"2]},3,4"]
    decoded = wire.decode(messages, ["evil", "good", "evil"], np.array([NOW] * 3))
    assert decoded.device == ["d"]
    assert decoded.message.tolist() == [1]
    assert [(r.message, r.reason) for r in decoded.refused] == [(0, Reason.MALFORMED), (2, Reason.MALFORMED)]


def test_the_contract_by_example():
    messages = [
        b'{"device":"env-0007","ts":1767225600000,"values":{"pm25":12.3,"temperature":28.1}}',
        b'{"seq":1234,"boot":"a7","readings":[{"ts":"2026-01-01T07:00:00.000001+07:00","values":{"pm25":null}}]}',
        b'{"device":"d","metric":["a","b"],"ts":[1767225600000,1767225600001],"value":[true,2]}',
        b'{"values":{"x":1}}',
    ]
    decoded = wire.decode(messages, ["gw-1"] * 4, np.array([NOW + 5] * 4))
    assert decoded.device == ["env-0007", "env-0007", "gw-1", "d", "d", "gw-1"]
    assert decoded.metric == ["pm25", "temperature", "pm25", "a", "b", "x"]
    assert decoded.time.tolist() == [NOW, NOW, NOW + 1, NOW, NOW + 1000, NOW + 5]
    assert decoded.flags.tolist() == [0, 0, 0, 0, 0, Flag.CLOCK]
    assert math.isnan(decoded.value[2])
    assert decoded.value[[0, 1, 3, 4, 5]].tolist() == [12.3, 28.1, 1.0, 2.0, 1.0]
    assert (decoded.seq.tolist(), decoded.boot) == ([-1, 1234, -1, -1], ["", "a7", "", ""])
    assert decoded.refused == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"nope", Reason.MALFORMED),
        (b"\xff", Reason.INVALID_UTF8),
        (b'{"values":{"x":"\xc3("}}', Reason.INVALID_UTF8),
        (b"[]", Reason.EMPTY),
        (b'{"device":"d","metric":"x","value":[]}', Reason.EMPTY),
        (b"7", Reason.WRONG_TYPE),
        (b'{"ts":1}', Reason.WRONG_TYPE),
        (b'{"metric":"x","ts":[1],"value":[1,2]}', Reason.COLUMN_LENGTH),
        (b'{"seq":-1,"readings":[]}', Reason.BAD_ENVELOPE),
        (b'{"seq":1,"boot":7,"readings":[]}', Reason.BAD_ENVELOPE),
        (b"[" * 5000, Reason.MALFORMED),
        (b'{"values":{"x":' + b"9" * 5000 + b"NaN}}", Reason.MALFORMED),
    ],
)
def test_a_message_that_cannot_be_read_says_why(payload, reason):
    decoded = wire.decode([payload, b'{"values":{"x":1}}'], ["s", "s"], np.array([NOW, NOW]))
    assert [(r.message, r.index, r.reason) for r in decoded.refused] == [(0, None, reason)]
    assert decoded.received.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        ('{"values":{"x":"12.3"}}', Reason.NOT_A_NUMBER),
        ('{"values":{"x":{}}}', Reason.NOT_A_NUMBER),
        ('{"values":{"x":1' + "0" * 400 + "}}", Reason.NOT_FINITE),
        ('{"values":[1]}', Reason.BAD_REPORT),
        ('{"values":{}}', Reason.BAD_REPORT),
        ('{"value":1}', Reason.BAD_REPORT),
        ("3", Reason.BAD_REPORT),
        ('{"device":7,"values":{"x":1}}', Reason.BAD_NAME),
        ('{"device":null,"values":{"x":1}}', Reason.BAD_NAME),
        ('{"ts":"2026-01-01T00:00:00","values":{"x":1}}', Reason.BAD_TIME),
        ('{"ts":"2026-01-01","values":{"x":1}}', Reason.BAD_TIME),
        ('{"ts":1.5,"values":{"x":1}}', Reason.BAD_TIME),
        ('{"ts":null,"values":{"x":1}}', Reason.BAD_TIME),
        ('{"ts":1767225600000000,"values":{"x":1}}', Reason.BAD_TIME),
        ('{"ts":"2026-06-30T23:59:60Z","values":{"x":1}}', Reason.BAD_TIME),
    ],
)
def test_a_bad_reading_does_not_fail_its_message(reading, reason):
    payload = f'[{{"values":{{"a":1}}}},{reading},{{"values":{{"b":2}}}}]'.encode()
    decoded = wire.decode([payload], ["s"], np.array([NOW]))
    assert [(r.message, r.index, r.reason) for r in decoded.refused] == [(0, 1, reason)]
    assert decoded.metric == ["a", "b"]
    assert decoded.index.tolist() == [0, 2]
    assert decoded.received.tolist() == [3]


@given(
    st.lists(
        st.tuples(
            st.text(string.ascii_letters, min_size=1, max_size=5),
            st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
            st.dictionaries(
                st.text(string.ascii_letters, min_size=1, max_size=5),
                st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
                min_size=1,
                max_size=3,
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    st.one_of(st.none(), st.integers(0, wire.MAX_SEQ)),
)
def test_what_is_encoded_is_decoded(reports, seq):
    payload = wire.encode([wire.encode_report(*report) for report in reports], seq=seq, boot=None if seq is None else "b1")
    decoded = wire.decode([payload], ["s"], np.array([NOW]))
    expected = [
        (device, metric, at, math.nan if v is None else v) for device, at, values in reports for metric, v in values.items()
    ]
    got = list(zip(decoded.device, decoded.metric, decoded.time.tolist(), decoded.value.tolist(), strict=True))
    assert repr(got) == repr(expected)
    assert decoded.seq[0] == (-1 if seq is None else seq)


@given(st.lists(st.tuples(st.integers(0, 4_000_000_000_000_000), st.floats(allow_infinity=False)), min_size=1, max_size=20))
def test_columns_that_are_encoded_are_decoded(rows):
    time, value = [row[0] for row in rows], [row[1] for row in rows]
    decoded = wire.decode([wire.encode(wire.encode_columns("d", "m", time, value))], ["s"], np.array([NOW]))
    assert decoded.time.tolist() == time
    assert repr(decoded.value.tolist()) == repr(value)


def test_nothing_decodes_to_nothing():
    decoded = wire.decode([], [], np.empty(0, np.int64))
    assert (len(decoded.value), decoded.refused, decoded.device) == (0, [], [])
    assert decoded.time.dtype == np.int64
