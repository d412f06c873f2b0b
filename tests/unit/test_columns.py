"""Columns of what a parser found, against a plain loop."""

import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citybeat.devices.wire.columns import NotPlainError, doubles, integers, text

numbers = st.one_of(st.floats(), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
things = st.one_of(
    numbers,
    st.booleans(),
    st.none(),
    st.sampled_from(["1", "", "nan", b"1", [], [1], {}, 2**63, -(2**63) - 1, 10**400, Decimal("0.1"), 1.5]),
)
columns = st.one_of(st.lists(numbers), st.lists(things, max_size=5), st.lists(st.integers(-2, 2)), st.lists(st.text()))


def outcome(function, column):
    try:
        found = function(column)
    except NotPlainError:
        return None
    return found if isinstance(found, str) else repr(found.tolist())


def as_double(item):
    assert type(item) in (int, float, bool, Decimal)
    return float(item)


def as_integer(item):
    assert type(item) is int
    assert -(2**63) <= item < 2**63
    return item


def as_text(item):
    assert type(item) is str
    return item


def expected(convert, column):
    try:
        return [convert(item) for item in column]
    except (AssertionError, OverflowError):
        return None


@given(columns)
@example([True, 2])
@example([1, 0, False])
@example([None])
@example([])
def test_a_column_is_taken_as_a_whole_or_not_at_all(column):
    for function, convert in ((doubles, as_double), (integers, as_integer)):
        want = expected(convert, column)
        assert outcome(function, column) == (None if want is None else repr(want))
    want = expected(as_text, column)
    assert outcome(text, column) == (None if want is None else "".join(want))


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324, 2**53 + 1])
def test_doubles_keep_what_python_makes_of_them(value):
    assert repr(doubles([value]).tolist()) == repr([float(value)])
