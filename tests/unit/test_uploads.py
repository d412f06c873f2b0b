"""Files of readings: columns against a plain loop over lines."""

import csv
import io
import math
import re
from datetime import UTC

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.api.files import uploads
from citybeat.api.files.uploads import FileError, TooManyRowsError, csv_parts, parquet_parts
from citybeat.devices.errors import Reason
from citybeat.devices.wire import reports
from citybeat.devices.wire.decoded import Finding, moment, number

NOW = 1_767_225_600_000_000
MAX_US = 253_402_300_799_999_999  # the last moment of the year 9999
names = st.sampled_from(["env-1", "env-2", "ü", "a b", 'q"', "x,y", ""])
times = st.one_of(
    st.integers(-(10**13), 10**13).map(str),
    st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat()),
    st.sampled_from(
        [
            "2026-01-01T00:00:00Z",
            "2026-01-01 00:00:00.000001Z",
            "2026-01-01t07:00:00.5+07:00",
            "2026-02-30T00:00:00Z",
            "2026-01-01T00:00:00",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
            "1" * 30,
            "soon",
            "",
            " 5 ",
            "1.5",
        ]
    ),
)
values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**25), 10**25).map(str),
    st.sampled_from(["", "null", "NaN", "na", "inf", "1e999", "-1E-7", "0x1", "1,5", "true", " 2.5 ", "--1", "1e5", "007"]),
)
rows = st.lists(st.tuples(times, names, names, values), min_size=1, max_size=30)


def plain_value(text):
    """The meaning of a cell, or the reason why it has none."""
    text = text.strip()
    if text.lower() in {"", "null", "nan", "na"}:
        return math.nan
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text):
        return Reason.NOT_A_NUMBER
    return float(text) if math.isfinite(float(text)) else Reason.NOT_A_NUMBER


def plain_time(text):
    text = text.strip()
    try:
        return moment(int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else text)
    except Finding as finding:
        return finding.reason


def plainly(found):
    """By index: device, metric, time and value; or the reason of a refusal. Time is what is looked at second."""
    out = {}
    for i, (ts, device, metric, text) in enumerate(found):
        value, at = plain_value(text), plain_time(ts)
        out[i] = at if isinstance(at, Reason) else value if isinstance(value, Reason) else (device, metric, at, value)
    return out


def read(parts):
    out = {}
    for part in parts:
        decoded = reports.decode([part.payload], ["gw-1"], np.array([NOW]))
        for row, index in enumerate(decoded.index.tolist()):
            value = float(decoded.value[row])
            out[part.first + index] = (decoded.device[row], decoded.metric[row], int(decoded.time[row]), value)
        out |= {part.first + refusal.index: refusal.reason for refusal in decoded.refused}
    return out


def same(one, other):
    assert one.keys() == other.keys()
    for i, expected in other.items():
        if isinstance(expected, Reason):
            assert one[i] == expected, (i, one[i], expected)
        else:
            assert one[i][:3] == expected[:3]
            assert one[i][3] == expected[3] or (math.isnan(one[i][3]) and math.isnan(expected[3]))


@given(rows, st.sampled_from([60, 400, 1_000_000]))
def test_csv_is_what_a_loop_over_its_lines_reads(listed, max_bytes):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["time", "device", "metric", "value"])
    writer.writerows([(ts, device.strip() or "d", metric.strip() or "m", value) for ts, device, metric, value in listed])
    body = text.getvalue().encode()
    try:
        parts = csv_parts(body, max_bytes=max_bytes)
    except FileError:
        assert max_bytes == 60  # one reading of that file does not fit
        return
    assert all(len(part.payload) <= max_bytes for part in parts)
    expected = [(ts, device.strip() or "d", metric.strip() or "m", value) for ts, device, metric, value in listed]
    same(read(parts), plainly(expected))


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**15), 9 * 10**15), names, st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
        ),
        min_size=1,
    ),
    st.sampled_from(["us", "ns", "ms"]),
    st.booleans(),
)
def test_parquet_is_what_is_in_it(listed, unit, words):
    at = [us // 1000 * 1000 if unit == "ms" else us for us, _, _ in listed]
    device = pa.array([name for _, name, _ in listed])
    table = {
        "time": pa.array(at, pa.timestamp("us", tz="Asia/Ho_Chi_Minh")).cast(pa.timestamp(unit, tz="UTC")),
        "device": device.dictionary_encode() if words else device,
        "metric": ["temperature"] * len(listed),
        "value": pa.array([value for _, _, value in listed], pa.float64()),
        "flags": pa.array([0] * len(listed), pa.int16()),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, row_group_size=7)
    found = read(parquet_parts(sink.getvalue(), max_bytes=1_000_000))
    expected = {
        i: (name, "temperature", us, math.nan if value is None else value)
        for i, ((_, name, value), us) in enumerate(zip(listed, at, strict=True))
    }
    same(found, expected)


def test_without_times_and_devices():
    (part,) = csv_parts(b"metric,value\npm25,1\npm25,2\n", max_bytes=1000)
    assert read([part]) == {0: ("gw-1", "pm25", NOW, 1.0), 1: ("gw-1", "pm25", NOW, 2.0)}


@pytest.mark.parametrize("kind", [pa.int32(), pa.float32(), pa.bool_(), pa.string(), pa.large_string(), pa.uint8()])
def test_types_of_values(kind):
    sink = io.BytesIO()
    one = pa.array([1, 0]).cast(pa.string()) if kind in (pa.string(), pa.large_string()) else pa.array([1, 0])
    pq.write_table(pa.table({"metric": ["a", "b"], "value": one.cast(kind)}), sink)
    (part,) = parquet_parts(sink.getvalue(), max_bytes=1000)
    assert orjson.loads(part.payload)["value"] == [1.0, 0.0]


def test_nulls_in_parquet_refuse_their_reading():
    sink = io.BytesIO()
    table = {"ts": pa.array([0, None, 0]), "device": ["a", "a", None], "metric": ["m"] * 3, "value": [1.0, 2.0, 3.0]}
    pq.write_table(pa.table(table), sink)
    assert read(parquet_parts(sink.getvalue(), max_bytes=1000)) == {
        0: ("a", "m", 0, 1.0),
        1: Reason.BAD_TIME,
        2: Reason.BAD_NAME,
    }


def test_what_json_has_not():
    sink = io.BytesIO()
    far = pa.array([MAX_US, MAX_US + 1_000_000_001, None, 1], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"time": far, "metric": ["m"] * 4, "value": [1.0, 2.0, 3.0, math.inf]}), sink)
    assert read(parquet_parts(sink.getvalue(), max_bytes=1000)) == {
        0: ("gw-1", "m", MAX_US, 1.0),
        1: Reason.BAD_TIME,
        2: Reason.BAD_TIME,
        3: Reason.NOT_A_NUMBER,
    }


def test_a_file_of_too_many_readings(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_ROWS", 3)
    assert len(csv_parts(b"metric,value\n" + b"a,1\n" * 3, max_bytes=1000)) == 1
    with pytest.raises(TooManyRowsError, match="4 readings, and may have 3"):
        csv_parts(b"metric,value\n" + b"a,1\n" * 4, max_bytes=1000)
    sink = io.BytesIO()
    pq.write_table(pa.table({"metric": ["a"] * 4, "value": [1.0] * 4}), sink)
    with pytest.raises(TooManyRowsError):
        parquet_parts(sink.getvalue(), max_bytes=1000)


def test_a_small_file_that_unpacks_to_much(monkeypatch):
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"metric": ["a" * 100_000 + str(i) for i in range(100)], "value": [1.0] * 100}), sink, compression="zstd"
    )
    assert len(sink.getvalue()) < 100_000
    monkeypatch.setattr(uploads, "_MAX_UNPACKED", 1_000_000)
    with pytest.raises(TooManyRowsError, match="unpacked"):
        parquet_parts(sink.getvalue(), max_bytes=1_000_000)


def test_numbers_agree_with_the_decoder():
    """A cell that the pattern lets through is one that JSON would read the same."""
    for text in ("1", "-1.5", "1e3", "0.1"):
        assert plain_value(text) == number(orjson.loads(text))
