import json
import math
import string
from decimal import Decimal
from fractions import Fraction
from unittest.mock import patch

import cbor2
import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citybeat.devices.catalogue import builtin
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.units import conversion
from citybeat.devices.wire import names as names_of_readings
from citybeat.devices.wire import senml, senml_units
from citybeat.ingest.judging.decode import FORMATS, decode
from citybeat.ingest.judging.message import Message
from tests import oracles_senml as oracle

NOW = 1_767_225_600_000_000
LABELS = oracle.NUMBERS

# --- against the slow twin ---------------------------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=True, allow_infinity=True), st.integers(-9, 9))
odd = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.lists(st.integers(), max_size=2), st.just({}))
words = st.text("ab:/._- é\n", max_size=4)
names = st.one_of(st.sampled_from(["pm25", "temp", "env-7:temp", "a/b", "", ":", "x:", "urn:dev:1:t"]), words)
stems = st.one_of(st.sampled_from(["env-7:", "env-8:", "urn:dev:ow:1/", "", "temp", "env-7"]), words)
seconds = st.one_of(
    st.integers(-100, 100),
    st.sampled_from([1767225600, 1767225600.125, 2**28, 2**28 - 1, 268435456.5, 1.276020091305e9, 2**32, 2**32 + 1, 1e12, 1e300]),
    st.floats(-1e3, 2e9),
    st.integers(-(2**63), 2**63 - 1),
)
units = st.sampled_from(["Cel", "%RH", "", "W"])
plain_records = st.fixed_dictionaries(
    {"v": st.one_of(st.floats(-1e6, 1e6), st.integers(-99, 99))},
    optional={
        "n": names,
        "t": seconds,
        "u": units,
        "bn": stems,
        "bt": seconds,
        "bu": units,
        "bv": st.sampled_from([1, 0.5, -3]),
        "bver": st.sampled_from([10, 5, 26]),
        "ut": st.just(60),
    },
)
base_records = st.fixed_dictionaries({}, optional={"bn": stems, "bt": seconds, "bu": units, "bv": numbers, "bs": numbers})
odd_records = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.one_of(numbers, odd),
            "vb": st.one_of(st.booleans(), odd),
            "vs": st.just("x"),
            "vd": st.just("aGk"),
            "s": st.one_of(numbers, odd),
            "n": st.one_of(names, odd),
            "t": st.one_of(seconds, odd),
            "u": st.one_of(units, odd),
            "bn": st.one_of(stems, odd),
            "bt": st.one_of(seconds, odd),
            "bu": st.one_of(units, odd),
            "bv": st.one_of(numbers, odd),
            "bs": st.one_of(numbers, odd),
            "foo": odd,
            "foo_": odd,
            "bfoo": odd,
            "bfoo_": odd,
        },
    ),
    odd,
)
rare_records = st.fixed_dictionaries(
    {"bver": st.one_of(st.integers(-1, 30), st.just(10.0), odd)}, optional={"v": numbers, "n": names}
)
packs = st.one_of(
    st.lists(plain_records, min_size=1, max_size=8),
    st.lists(st.one_of(plain_records, plain_records, base_records, odd_records), max_size=8),
    st.lists(st.one_of(plain_records, plain_records, rare_records), max_size=8),
    odd,
)
payloads = st.one_of(
    packs.map(lambda pack: json.dumps(pack).encode()),
    st.sampled_from([b"", b"[", b"[]", b"{}", b"\xff", b"1],[2", b"[{}]", b'[{"bn":"a:"}]', b'[{"n":"a","v":1}] x']),
)


def numbered(pack):
    """A pack with the labels of CBOR."""
    if not isinstance(pack, list):
        return pack
    return [{LABELS.get(key, key): value for key, value in r.items()} if isinstance(r, dict) else r for r in pack]


cbor_payloads = st.one_of(
    packs.map(lambda pack: cbor2.dumps(numbered(pack))),
    packs.map(lambda pack: cbor2.dumps(numbered(pack)) + b"\x00"),
    packs.map(lambda pack: cbor2.dumps(numbered(pack))[:-1]),
    packs.map(cbor2.dumps),  # labels as words: not SenML
    st.lists(
        st.fixed_dictionaries(
            {0: st.just("d:x"), 2: st.decimals(allow_nan=False, allow_infinity=False, places=3)},
            optional={6: st.decimals(0, 2 * 10**9, places=6), -3: st.decimals(-10, 2 * 10**9, places=6)},
        ),
        max_size=4,
    ).map(cbor2.dumps),
    # No tags here: cbor2, which the twin reads with, makes objects of them.
    st.binary(max_size=12).filter(lambda payload: not any(0xC0 <= byte <= 0xDB for byte in payload)),
)


def check(messages, function, parse):
    """The function says of many messages what the twin says of each, whether it carries names as lists or as texts."""
    for many in (1, 16):
        with patch.object(names_of_readings, "_MANY", many):
            check_once(messages, function, parse)


def check_once(messages, function, parse):
    sources = [f"src-{i}" for i in range(len(messages))]
    decoded = function(messages, sources, np.array([NOW + i for i in range(len(messages))], np.int64))
    rows = list(
        zip(
            decoded.message.tolist(),
            decoded.index.tolist(),
            decoded.device,
            decoded.metric,
            decoded.time.tolist(),
            decoded.value.tolist(),
            decoded.flags.tolist(),
            decoded.unit or [""] * len(decoded.device),
            strict=True,
        )
    )
    refused = {(r.message, r.index, r.reason.value) for r in decoded.refused}
    assert len(refused) == len(decoded.refused)
    expected_rows, expected_refused = [], set()
    for i, payload in enumerate(messages):
        readings, refusals = oracle.decode_message(payload, sources[i], NOW + i, parse)
        expected_rows += [(i, *reading) for reading in readings]
        expected_refused |= {(i, index, reason) for index, reason in refusals}
        assert decoded.received[i] == len(readings) + sum(index is not None for index, _ in refusals)
    assert repr(rows) == repr(expected_rows)
    assert refused == expected_refused
    assert all("\n" not in r.detail and len(r.detail) < 400 for r in decoded.refused)
    assert decoded.seq.tolist() == [-1] * len(messages)
    assert decoded.boot == [""] * len(messages)


@given(st.lists(payloads, max_size=6))
@example([b'[{"bn":"a:","bt":1767225600,"n":"x","v":1},{"n":"y","t":-1,"v":2},{"bn":"b:","n":"x","v":3}]', b'[{"n":"z","v":4}]'])
@example([b'[{"n":"z","v":4}]', b'[{"n":"z","u":"W","v":4}]', b'[{"n":"z","v":4}]'])
@example([b'[{"n":"z","v":NaN}]', b'[{"n":"z","v":1e400},{"n":"z","v":null}]'])
@example([b'[{"bn":7,"n":"a","v":1},{"n":"b","v":2},{"bn":"d:","n":"c","v":3}]'])
@example([b'[{"n":"a","v":1,"bfoo_":1},{"n":"b","v":2}]'])
@example(
    [json.dumps([{"n": "a", "v": 1, **{f"x{i}": i for i in range(n)}}, {"n": "b", "v": 2}]).encode() for n in (1, 253, 254, 600)]
)
@example([b'[{"n":"a","v":-0.0}]', b'[{"n":"a","v":-0.0},{"n":"a","v":-0.0,"bv":0},{"n":"a","s":-0.0},{"n":"a","s":-0.0,"bs":0}]'])
def test_json_agrees_with_its_slow_twin(messages):
    check(messages, senml.decode, oracle.from_json)


@given(st.lists(cbor_payloads, max_size=6))
@example([cbor2.dumps([{0: "a:x", 2: 1}]), b"\x80", b"", b"\x9f\xa2\x00\x61\x78\x02\x01\xff", b"\x81\xa2\x00\x61\x78\x02\xf7"])
@example([cbor2.dumps([{-2: "a:", -1: 10, 0: "x", 2: Decimal("1.5"), 6: Decimal("1767225600.000001")}])])
@example([cbor2.dumps([[1, 2, 3]])])
@example([cbor2.dumps([{"bfoo_": None, "v": None}, {}]), cbor2.dumps([{"v": None, "bfoo_": None}, {}])])
def test_cbor_agrees_with_its_slow_twin(messages):
    check(messages, senml.decode_cbor, oracle.from_cbor)


@pytest.mark.parametrize("function", [senml.decode, senml.decode_cbor])
@given(
    messages=st.lists(
        st.lists(
            st.fixed_dictionaries(
                {"n": st.sampled_from(["pm25", "temp", "a:b"]), "v": st.floats(-9, 9)},
                optional={
                    "t": st.integers(0, 9),
                    "u": units,
                    "bn": st.sampled_from(["a:", "b/", "c"]),
                    "bt": st.sampled_from([1767225600, 1767225600.25, -5]),
                    "bu": units,
                    "bv": st.integers(0, 9),
                    "bver": st.just(10),
                },
            ),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_plain_packs_stay_in_the_fast_path(messages, function):
    original = senml._slow
    try:
        senml._slow = lambda *_: pytest.fail("slow path")
        encoded = [orjson.dumps(m) if function is senml.decode else cbor2.dumps(numbered(m)) for m in messages]
        check(encoded, function, oracle.from_json if function is senml.decode else oracle.from_cbor)
    finally:
        senml._slow = original


# --- RFC 8428's examples ---------------------------------------------------------------------------------------------------

BOARD = "urn:dev:ow:10e2073a0108006"


def readings(pack, *, received_at=NOW):
    """(device, metric, seconds or None for "now", value, unit) of a pack without refusals, which says the same in CBOR."""
    decoded = senml.decode([pack if isinstance(pack, bytes) else orjson.dumps(pack)], ["src"], np.array([received_at]))
    if not isinstance(pack, bytes):
        again = senml.decode_cbor([cbor2.dumps(numbered(pack))], ["src"], np.array([received_at]))
        assert [again.device, again.metric, again.unit] == [decoded.device, decoded.metric, decoded.unit]
        assert [again.time.tolist(), again.value.tolist()] == [decoded.time.tolist(), decoded.value.tolist()]
        assert [r.index for r in again.refused] == [r.index for r in decoded.refused]
    assert decoded.refused == []
    times = [
        None if flag == Flag.CLOCK and at == received_at else at / 1e6 for at, flag in zip(decoded.time, decoded.flags, strict=True)
    ]
    found = zip(decoded.device, decoded.metric, times, decoded.value.tolist(), decoded.unit or [""] * len(times), strict=True)
    return list(found)


def test_5_1_1_a_single_data_point():
    pack = [{"n": "urn:dev:ow:10e2073a01080063", "u": "Cel", "v": 23.1}]
    assert readings(pack) == [("urn:dev:ow", "10e2073a01080063", None, 23.1, "Cel")]


def test_5_1_2_several_data_points_now():
    pack = [{"bn": BOARD + ":", "n": "voltage", "u": "V", "v": 120.1}, {"n": "current", "u": "A", "v": 1.2}]
    assert readings(pack) == [(BOARD, "voltage", None, 120.1, "V"), (BOARD, "current", None, 1.2, "A")]


CURRENTS = [(-5, 1.2), (-4, 1.3), (-3, 1.4), (-2, 1.5), (-1, 1.6)]
RESOLVED = [
    (BOARD, "voltage", 1276020076.001, 120.1, "V"),
    *((BOARD, "current", 1276020076.001 + t, v, "A") for t, v in CURRENTS),
    (BOARD, "current", 1276020076.001, 1.7, "A"),
]


def test_5_1_2_several_data_points_by_base_time():
    pack = [
        {"bn": BOARD + ":", "bt": 1.276020076001e09, "bu": "A", "bver": 5, "n": "voltage", "u": "V", "v": 120.1},
        *({"n": "current", "t": t, "v": v} for t, v in CURRENTS),
        {"n": "current", "v": 1.7},
    ]
    assert readings(pack) == RESOLVED


def test_5_1_3_times_relative_to_now():
    humidity = [21.2, 21.3, 21.4, 21.4, 21.5, 21.5, 21.5, 21.6, 21.7]
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063", "bt": 1.320067464e09, "bu": "%RH", "v": humidity[0]},
        *({"t": 10 * i, "v": v} for i, v in enumerate(humidity) if i),
    ]
    assert readings(pack) == [("urn:dev:ow", "10e2073a01080063", 1320067464.0 + 10 * i, v, "%RH") for i, v in enumerate(humidity)]


def test_5_1_4_several_measurements_of_one_name():
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063", "bt": 1.320067464e09, "bu": "%RH", "v": 20},
        {"u": "lon", "v": 24.30621},
        {"u": "lat", "v": 60.07965},
        {"t": 60, "v": 20.3},
        {"u": "%EL", "t": 150, "v": 98},
        {"t": 180, "v": 21.2},
    ]
    found = [(t - 1320067464, value, unit) for _, _, t, value, unit in readings(pack)]
    assert found == [
        (0, 20, "%RH"),
        (0, 24.30621, "lon"),
        (0, 60.07965, "lat"),
        (60, 20.3, "%RH"),
        (150, 98, "%EL"),
        (180, 21.2, "%RH"),
    ]


def test_5_1_5_resolved_records_say_the_same():
    pack = [{"n": f"{device}:{metric}", "t": t, "u": u, "v": v} for device, metric, t, v, u in RESOLVED]
    assert readings(pack) == RESOLVED


def test_5_1_6_several_data_types():
    pack = [
        {"bn": BOARD + ":", "n": "temp", "u": "Cel", "v": 23.1},
        {"n": "label", "vs": "Machine Room"},
        {"n": "open", "vb": False},
        {"n": "nfc-reader", "vd": "aGkgCg"},
    ]
    decoded = senml.decode([orjson.dumps(pack)], ["src"], np.array([NOW]))
    assert decoded.metric == ["temp", "open"]
    assert decoded.value.tolist() == [23.1, 0.0]
    assert decoded.index.tolist() == [0, 2]
    assert decoded.received.tolist() == [4]
    assert [(r.index, r.reason) for r in decoded.refused] == [(1, Reason.NOT_A_NUMBER), (3, Reason.NOT_A_NUMBER)]


def test_5_1_7_a_collection_of_resources():
    pack = [
        {"bn": "2001:db8::2/", "bt": 1.320078429e09, "n": "temperature", "u": "Cel", "v": 25.2},
        {"n": "humidity", "u": "%RH", "v": 30},
        {"bn": "2001:db8::1/", "n": "temperature", "u": "Cel", "v": 12.3},
        {"n": "humidity", "u": "%RH", "v": 67},
    ]
    assert readings(pack) == [
        ("2001:db8::2", "temperature", 1320078429, 25.2, "Cel"),
        ("2001:db8::2", "humidity", 1320078429, 30.0, "%RH"),
        ("2001:db8::1", "temperature", 1320078429, 12.3, "Cel"),
        ("2001:db8::1", "humidity", 1320078429, 67.0, "%RH"),
    ]


def test_5_1_8_setting_an_actuator():
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:"},
        {"n": "temp", "u": "Cel", "v": 23.1},
        {"n": "heat", "u": "/", "v": 1},
        {"n": "fan", "u": "/", "v": 0},
    ]
    found = [(metric, value, unit) for _, metric, _, value, unit in readings(pack)]
    assert found == [("temp", 23.1, "Cel"), ("heat", 1, "/"), ("fan", 0, "/")]


SECTION_6 = """
87 a7 21 78 1b 75 72 6e 3a 64 65 76 3a 6f 77 3a 31 30 65 32 30 37 33 61 30 31 30 38 30 30 36 3a 22 fb 41 d3 03 a1 5b 00 10 62
23 61 41 20 05 00 67 76 6f 6c 74 61 67 65 01 61 56 02 fb 40 5e 06 66 66 66 66 66 a3 00 67 63 75 72 72 65 6e 74 06 24 02 fb 3f
f3 33 33 33 33 33 33 a3 00 67 63 75 72 72 65 6e 74 06 23 02 fb 3f f4 cc cc cc cc cc cd a3 00 67 63 75 72 72 65 6e 74 06 22 02
fb 3f f6 66 66 66 66 66 66 a3 00 67 63 75 72 72 65 6e 74 06 21 02 f9 3e 00 a3 00 67 63 75 72 72 65 6e 74 06 20 02 fb 3f f9 99
99 99 99 99 9a a3 00 67 63 75 72 72 65 6e 74 06 00 02 fb 3f fb 33 33 33 33 33 33
"""


def test_6_cbor():
    decoded = senml.decode_cbor([bytes.fromhex(SECTION_6)], ["src"], np.array([NOW]))
    found = zip(decoded.device, decoded.metric, (decoded.time / 1e6).tolist(), decoded.value.tolist(), decoded.unit, strict=True)
    assert list(found) == RESOLVED
    assert not decoded.flags.any()


# --- what the RFC leaves to us, and what is refused -----------------------------------------------------------------------------


def one(record, function=senml.decode):
    pack = [record] if isinstance(record, dict) else record
    payload = orjson.dumps(pack) if function is senml.decode else cbor2.dumps(numbered(pack))
    decoded = function([payload], ["src"], np.array([NOW]))
    if decoded.refused:
        return decoded.refused[0].reason
    return decoded.device[0], decoded.metric[0], decoded.time[0], decoded.value[0], decoded.flags[0]


def test_names():
    assert one({"n": "pm25", "v": 1})[:2] == ("src", "pm25")
    assert one({"n": "env-7:pm25", "v": 1})[:2] == ("env-7", "pm25")
    assert one({"n": "env-7/pm25", "v": 1})[:2] == ("env-7", "pm25")
    assert one({"n": "a/b:pm25", "v": 1})[:2] == ("a/b", "pm25")
    assert one({"bn": "a:b/pm", "n": "25", "v": 1})[:2] == ("a:b", "pm25")
    for name in ("", ":pm25", "env-7:", "-a", "a b", "è", "a\n", "a%"):
        assert one({"n": name, "v": 1}) is Reason.BAD_NAME, name


def test_times():
    assert one({"n": "x", "v": 1})[2::2] == (NOW, Flag.CLOCK)
    assert one({"n": "x", "t": 0, "v": 1})[2::2] == (NOW, Flag.CLOCK)
    assert one({"n": "x", "t": -1.5, "v": 1})[2::2] == (NOW - 1_500_000, Flag.CLOCK)
    assert one({"n": "x", "t": 2**28 - 1, "v": 1})[2::2] == (NOW + (2**28 - 1) * 10**6, Flag.CLOCK)
    assert one({"n": "x", "t": 2**28, "v": 1})[2::2] == (2**28 * 10**6, 0)
    assert one({"n": "x", "bt": 2**28, "t": -1, "v": 1})[2::2] == (NOW + (2**28 - 1) * 10**6, Flag.CLOCK)
    assert one({"n": "x", "t": 1.276020091305e09, "v": 1})[2::2] == (1276020091305000, 0)
    assert one({"n": "x", "t": 1767225600000, "v": 1}) is Reason.BAD_TIME  # milliseconds
    for wrong in ("2026-01-01T00:00:00Z", None, True, [1]):
        assert one({"n": "x", "t": wrong, "v": 1}) is Reason.BAD_TIME


@given(st.integers(2**28 * 10**6, 2**32 * 10**6 - 1))
@example(2**32 * 10**6 - 1)
@example(1_276_020_091_305_000)
def test_a_time_written_with_six_decimals_is_exact_until_2106(us):
    text = f"{us // 10**6}.{us % 10**6:06}"
    decoded = senml.decode(
        [b'[{"n":"x","v":1,"t":%s}]' % text.encode(), b'[{"n":"x","v":null,"t":%s}]' % text.encode()],
        ["s"] * 2,
        np.array([NOW] * 2),
    )
    assert decoded.time.tolist() == [us, us]  # fast path and slow path
    decimal = cbor2.dumps([{0: "x", 2: 1, 6: Decimal(text)}])
    assert senml.decode_cbor([decimal], ["s"], np.array([NOW])).time.tolist() == [us]


def test_values_and_sums():
    assert one({"n": "x", "v": 1, "bv": 2.5})[3] == 3.5
    assert one({"n": "x", "s": 1, "bs": 2})[3] == 3.0
    assert one({"n": "x", "s": 1, "v": 5, "bs": 2})[3] == 5.0
    assert one({"n": "x", "vb": True, "bv": 2})[3] == 1.0
    assert math.isnan(one({"n": "x", "v": None})[3])
    assert math.isnan(one({"n": "x", "v": math.nan}, senml.decode_cbor)[3])
    assert one({"n": "x", "v": math.inf}, senml.decode_cbor)[3] == math.inf  # for the caller to refuse, as in `wire`
    assert one({"n": "x"}) is Reason.BAD_REPORT
    assert one({"n": "x", "bs": 1}) is Reason.BAD_REPORT
    assert one({}) is Reason.BAD_NAME
    assert one({"n": "x", "v": 1, "vb": True}) is Reason.BAD_REPORT
    assert one({"n": "x", "v": "1"}) is Reason.NOT_A_NUMBER
    assert one({"n": "x", "vb": 1}) is Reason.NOT_A_NUMBER


@pytest.mark.parametrize("function", [senml.decode, senml.decode_cbor])
def test_versions_and_fields_that_must_be_understood(function):
    for version in (1, 5, 10, 26):
        assert one({"bver": version, "n": "x", "v": 1}, function)[3] == 1.0
    for version in (0, -1, 11, 42, 10.0, "10", True, None):
        pack = [{"n": "a", "v": 1}, {"bver": version, "n": "x", "v": 1}]
        payload = orjson.dumps(pack) if function is senml.decode else cbor2.dumps(numbered(pack))
        decoded = function([payload], ["src"], np.array([NOW]))
        assert [(r.index, r.reason) for r in decoded.refused] == [(None, Reason.WRONG_TYPE)]
        assert "version" in decoded.refused[0].detail
        assert decoded.received.tolist() == [0]
    assert one({"n": "x", "v": 1, "foo": {}}, function)[3] == 1.0
    assert one({"n": "x", "v": 1, "foo_": 1}, function) is Reason.BAD_REPORT
    pack = [{"n": "x", "v": 1}, {"n": "x", "v": 2, "bfoo_": 1}, {"n": "x", "v": 3}]
    payload = orjson.dumps(pack) if function is senml.decode else cbor2.dumps(numbered(pack))
    decoded = function([payload], ["src"], np.array([NOW]))
    assert [r.index for r in decoded.refused] == [1, 2]  # a base field holds for what follows


def test_a_pack_of_base_fields_only_is_empty():
    assert one([{"bn": "a:"}, {"bt": 1, "bfoo": 2, "foo": 3}]) is Reason.EMPTY


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\x81", Reason.MALFORMED),
        (b"\x80\x80", Reason.MALFORMED),
        (b"\x80", Reason.EMPTY),
        (b"\xa0", Reason.WRONG_TYPE),
        (b"\x81" * 100_000, Reason.MALFORMED),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", Reason.MALFORMED),
        (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", Reason.MALFORMED),
        (cbor2.dumps([{0: "x", 2: cbor2.CBORTag(0, "2026-01-01T00:00:00Z")}]), Reason.NOT_A_NUMBER),
        (cbor2.dumps([{0: "x", 2: cbor2.CBORTag(0, "never")}]), Reason.NOT_A_NUMBER),
        (cbor2.dumps([{0: "x", 2: cbor2.CBORTag(35, "(a+)+$")}]), Reason.NOT_A_NUMBER),
        (cbor2.dumps([{0: "x", 2: 2**1024}]), Reason.NOT_FINITE),
        (cbor2.dumps([{0: "x", 2: 1, 6: 2**70}]), Reason.BAD_TIME),
        (cbor2.dumps([{0: "x", 2: cbor2.undefined}]), Reason.NOT_A_NUMBER),
        (cbor2.dumps(cbor2.CBORTag(29, 0)), Reason.WRONG_TYPE),
        (cbor2.dumps([{"n": "x", "v": 1}]), Reason.BAD_REPORT),
        (cbor2.dumps([{0: b"x", 2: 1}]), Reason.BAD_NAME),
        (bytes.fromhex("81a20061780 2c4821b0de0b6b3a763ffff1bffffffffffffffff".replace(" ", "")), Reason.MALFORMED),
        (cbor2.dumps([{0: "x", 2: 1, (1, 2): 3} for _ in range(10_000)]), Reason.MALFORMED),  # deep and large
    ],
)
def test_cbor_that_is_no_pack(payload, reason):
    decoded = senml.decode_cbor([payload, cbor2.dumps([{0: "x", 2: 1}])], ["src"] * 2, np.array([NOW] * 2))
    assert {(r.message, r.reason) for r in decoded.refused} == {(0, reason)}
    assert decoded.message.tolist() == [1]


def test_cbor_may_say_that_it_is_cbor():
    assert senml.decode_cbor([b"\xd9\xd9\xf7" + cbor2.dumps([{0: "x", 2: 1}])], ["s"], np.array([NOW])).value.tolist() == [1.0]


# --- encoding ---------------------------------------------------------------------------------------------------------------

ids = st.text(string.ascii_letters + string.digits, min_size=1, max_size=5)


@given(
    st.lists(
        st.tuples(
            st.one_of(ids, st.just(""), st.just("urn:dev:1")),
            ids,
            st.integers(2**28 * 10**6, 2**32 * 10**6 - 10**6),
            st.floats(allow_infinity=False),
            units,
        ),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
    st.booleans(),
)
def test_what_is_encoded_is_decoded(rows, binary, timed):
    device, metric, time, value, unit = map(list, zip(*rows, strict=True))
    payload = senml.encode(device, metric, time if timed else None, value, unit=unit, binary=binary)
    decoded = (senml.decode_cbor if binary else senml.decode)([payload], ["src"], np.array([NOW]))
    assert decoded.refused == []
    assert decoded.device == [name or "src" for name in device]
    assert decoded.metric == metric
    assert decoded.time.tolist() == (time if timed else [NOW] * len(rows))
    assert repr(decoded.value.tolist()) == repr(value)
    assert (decoded.unit or [""] * len(rows)) == unit
    assert set(decoded.flags.tolist()) == ({0} if timed else {Flag.CLOCK})


def test_encoding_uses_base_fields():
    payload = senml.encode(["a", "a", "b"], "temp", [NOW, NOW + 60_000_000, NOW], [1.0, 2.0, 3.0], unit="Cel")
    assert orjson.loads(payload) == [
        {"bn": "a:", "bt": 1767225600, "bu": "Cel", "n": "temp", "v": 1.0},
        {"n": "temp", "t": 60, "v": 2.0},
        {"bn": "b:", "n": "temp", "v": 3.0},
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("a", "x", [1], [1.0]),
        ("a", "x", None, []),
        ("a", "x", None, [math.inf]),
        ("a b", "x", None, [1.0]),
        ("a", "x:y", None, [1.0]),
        ("a", ["x"], None, [1.0, 2.0]),
    ],
)
def test_what_senml_cannot_say_is_not_encoded(arguments):
    with pytest.raises(ValueError):
        senml.encode(*arguments)


# --- units ------------------------------------------------------------------------------------------------------------------


def test_units_have_one_meaning():
    assert not senml_units.PRIMARY & senml_units.SECONDARY.keys()
    assert {unit.primary for unit in senml_units.SECONDARY.values()} <= senml_units.PRIMARY
    assert (senml_units.PRIMARY | senml_units.SECONDARY.keys()) - senml_units.UCUM.keys() == {"dBW", "dBm"}
    assert senml_units.UCUM.keys() <= senml_units.PRIMARY | senml_units.SECONDARY.keys()
    assert senml_units.SECONDARY["km/h"].scale == Fraction(1000, 3600)
    assert (senml_units.UCUM["%"], senml_units.UCUM["/100"], senml_units.UCUM["B"]) == ("1", "%", "By")


#: RFC 8798, table 2: secondary unit, primary unit, scale; the offset is 0 but for dBm.
RFC_8798 = """
ms s 1/1000, min s 60, h s 3600, MHz Hz 1e6, kW W 1000, kVA VA 1000, kvar var 1000, Ah C 3600, Wh J 3600, kWh J 3600000,
varh vars 3600, kvarh vars 3600000, kVAh VAs 3600000, Wh/km J/m 3.6, KiB B 1024, GB B 1e9, Mbit/s bit/s 1e6, B/s bit/s 8,
MB/s bit/s 8e6, mV V 1/1000, mA A 1/1000, dBm dBW 1, ug/m3 kg/m3 1e-9, mm/h m/s 1/3600000, m/h m/s 1/3600, ppm / 1e-6,
/100 / 1/100, /1000 / 1/1000, hPa Pa 100, mm m 1/1000, cm m 1/100, km m 1000, km/h m/s 10/36
"""


def test_secondary_units_are_those_of_the_rfc():
    rows = [row.split() for row in RFC_8798.split(",")]
    expected = {name: (primary, Fraction(scale), -30 if name == "dBm" else 0) for name, primary, scale in rows}
    assert {name: (unit.primary, unit.scale, unit.offset) for name, unit in senml_units.SECONDARY.items()} == expected


@pytest.mark.parametrize("name", sorted(senml_units.SECONDARY.keys() & senml_units.UCUM.keys()))
def test_ucum_codes_of_secondary_units_scale_as_the_registry_says(name):
    unit = senml_units.SECONDARY[name]
    converted = conversion(senml_units.UCUM[name], senml_units.UCUM[unit.primary])
    assert (converted.scale, converted.offset) == (float(unit.scale), float(unit.offset))


def test_the_catalogue_can_be_sent_in_units_of_senml():
    counted = {"{vehicle}/h", "{vehicle}", "mg/m3"}  # SenML has 1/s and count, and kg/m3 and ug/m3, to convert from
    assert {metric.unit for metric in builtin().values()} - counted <= set(senml_units.UCUM.values())


# --- channels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 16])  # names as texts, as lists
def test_rows_of_all_channels_are_in_order_of_arrival(many, monkeypatch):
    monkeypatch.setattr(names_of_readings, "_MANY", many)

    def message(channel, payload):
        return Message(f"city/v1/gw-1/{channel}", payload, NOW, False, 1, 1, 1)

    report = b'{"seq":7,"boot":"b","readings":{"device":"d","ts":1767225600000,"values":{"x":%d}}}'
    messages = [
        message("senml", b'[{"n":"d:x","t":1767225600,"v":0},{"n":"d:x","t":1767225600,"u":"W","v":1}]'),
        message("readings", report % 2),
        message("senml-cbor", cbor2.dumps([{0: "d:x", 2: "?"}, {0: "d:x", 2: 3}])),
        message("status", b"online"),
        message("senml", b'[{"n":"d:x","v":4}]'),
        message("readings", report.replace(b'"d"', b'"e"') % 5),
        message("senml", b"nope"),
        message("nope", b""),
        message("senml", b"[" + b" " * 200 + b"]"),
    ]
    read = decode(messages, max_bytes=150)
    decoded = read.decoded
    assert decoded.value.tolist() == [0, 1, 2, 3, 4, 5]
    assert decoded.message.tolist() == [0, 0, 1, 2, 4, 5]
    assert decoded.index.tolist() == [0, 1, 0, 1, 0, 0]
    assert decoded.unit == ["", "W", "", "", "", ""]
    assert decoded.device == ["d"] * 5 + ["e"]
    assert decoded.received.tolist() == [2, 1, 2, 0, 1, 1, 0, 0, 0]
    assert (decoded.seq.tolist()[1], decoded.boot[5]) == (7, "b")
    assert {(r.message, r.index, r.reason) for r in decoded.refused} == {
        (2, 0, Reason.NOT_A_NUMBER),
        (6, None, Reason.MALFORMED),
        (7, None, Reason.UNKNOWN_CHANNEL),
        (8, None, Reason.TOO_LARGE),
    }
    assert ", ".join([*FORMATS, "status"]) in next(r.detail for r in decoded.refused if r.message == 7)
    assert read.statuses == [(3, "online")]


def test_a_unit_is_called_by_a_name_that_is_read_as_it():
    named = {ucum: senml_units.name_of(ucum) for ucum in senml_units.UCUM.values()}
    assert {ucum: senml_units.UCUM[name] for ucum, name in named.items()} == {ucum: ucum for ucum in named}
    # Of several names the one that says nothing else: a percentage is not a humidity, and a second no battery's life.
    assert (named["1"], named["%"], named["s"], named["Cel"]) == ("/", "/100", "s", "Cel")
    assert senml_units.name_of("{vehicle}/h") is None
