"""Parameters in, JSON out: times, cursors, flags, and what is not a number."""

import doctest
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import citybeat.api.http.answers
import citybeat.api.series.fill
import citybeat.api.series.plan
import citybeat.storage.db.packed
import citybeat.storage.registry.selection
from citybeat.api.http.answers import answer, flag_names, milliseconds
from citybeat.api.http.params import Instant, decode_cursor, encode_cursor
from citybeat.api.http.problems import Problem
from citybeat.devices import flags
from citybeat.devices.clock import rfc3339

INSTANT = TypeAdapter(Instant)


def test_examples():
    for module in (
        citybeat.api.http.answers,
        citybeat.api.series.fill,
        citybeat.api.series.plan,
        citybeat.storage.db.packed,
        citybeat.storage.registry.selection,
    ):
        assert doctest.testmod(module).failed == 0


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))  # noqa: DTZ001 - naive on purpose
def test_times_with_an_offset_are_read_and_written_exactly(naive, minutes):
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    read = INSTANT.validate_python(f"{naive.isoformat()}{offset}")
    assert read == naive.replace(tzinfo=UTC) - timedelta(minutes=minutes)
    assert INSTANT.validate_python(rfc3339(read)) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "1767225600",
        "2026-01-01T00:00Z",
        "2026-13-01T00:00:00Z",
        "٢٠٢٦-01-01T00:00:00Z",
        1,
        None,
    ],
)
def test_what_is_no_time(text):
    with pytest.raises(ValidationError):
        INSTANT.validate_python(text)


@given(st.lists(st.integers(0, 2**42 * 1000), min_size=1))  # until the year 2109
def test_a_column_of_times_is_exact_to_the_microsecond(times):
    column = orjson.loads(answer(milliseconds(np.array(times, np.int64))).body)
    assert [round(time * 1000) for time in column] == times
    if not any(time % 1000 for time in times):
        assert all(isinstance(time, int) for time in column)


@given(st.lists(st.integers(0, 511)))
def test_flags_against_a_loop(masks):
    assert flag_names(np.array(masks, np.int16)) == [flags.names(mask) for mask in masks]


def test_what_is_not_finite_is_null():
    assert answer({"x": np.array([np.nan, np.inf, -np.inf, 1.5]), "y": float("nan")}).body == b'{"x":[null,null,null,1.5],"y":null}'


@given(st.text(), st.integers(-(2**63), 2**63 - 1))
def test_cursors_come_back(text, number):
    if "\0" not in text and text.isprintable():
        assert decode_cursor(encode_cursor(text, number), str, int) == [text, number]


@given(st.text())
def test_other_cursors_are_refused(text):
    with pytest.raises(Problem):
        decode_cursor(text, str, str, str)
