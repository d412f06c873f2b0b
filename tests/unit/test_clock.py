"""Conversions of time: exact over all that a datetime can be, and the only ones of the code."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices.clock import MAX_US, MIN_US, from_us, minute_of, rfc3339, to_us

ROOT = Path(__file__).parents[2]
DAY = 86_400_000_000
AWARE = st.builds(
    lambda us, minutes: from_us(us).astimezone(timezone(timedelta(minutes=minutes))),
    st.integers(MIN_US + 2 * DAY, MAX_US - 2 * DAY),
    st.integers(-1439, 1439),
)


@given(st.integers(MIN_US, MAX_US))
def test_there_and_back(us):
    assert to_us(from_us(us)) == us
    assert from_us(us).tzinfo is UTC


@given(AWARE)
def test_a_datetime_of_any_offset_keeps_its_microsecond(at):
    assert from_us(to_us(at)) == at
    assert datetime.fromisoformat(rfc3339(at)) == at
    assert rfc3339(at).endswith("Z")


@given(AWARE)
def test_a_minute_begins_at_or_before_what_lies_in_it(at):
    start = minute_of(at)
    assert start <= at < start + timedelta(minutes=1)
    assert to_us(start) % 60_000_000 == 0


@pytest.mark.parametrize("us", [MIN_US - 1, MAX_US + 1, 10**30, -(10**30)])
def test_beyond_the_calendar_nothing_is_converted(us):
    with pytest.raises(OverflowError):
        from_us(us)


def test_a_time_without_an_offset_is_refused():
    with pytest.raises(TypeError):
        to_us(datetime.fromisoformat("2026-01-01T00:00:00"))


def test_no_other_module_counts_from_1970():
    packages = ("api", "citybeat", "dashboards", "devices", "ingest", "simulator", "storage")
    found = [
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"datetime\(1970|fromtimestamp\(|\.timestamp\(\)|946_684_800", path.read_text("utf-8"))
    ]
    assert found == ["devices/clock.py"]
