"""Days: holidays against the moon itself, and what meters count against small steps."""

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pytest

from citybeat.simulator.city import almanac as almanacs
from citybeat.simulator.city import holidays, shapes
from citybeat.simulator.city.almanac import COUNTED_FROM, DAY, UTC_OFFSET, Almanac, between
from citybeat.simulator.city.holidays import DayKind
from tests import oracles_city as slow

SECOND = 1_000_000
KINDS = holidays.kinds(holidays.vietnam())
ALMANAC = Almanac.made(5, KINDS)


def number(day: date) -> int:
    return (day - holidays.FIRST).days


def test_tet_and_the_kings_day_are_those_of_the_moon():
    found = {}
    for year in holidays.LUNAR:
        months = slow.lunar_months(year)
        kings = months[3] + timedelta(days=9)
        found[year] = ((months[1].month, months[1].day), (kings.month, kings.day))
    assert found == holidays.LUNAR


def test_the_table_has_what_the_government_announced():
    known = {
        2020: date(2020, 1, 25),
        2021: date(2021, 2, 12),
        2023: date(2023, 1, 22),
        2024: date(2024, 2, 10),
        2025: date(2025, 1, 29),
    }
    assert {year: date(year, *holidays.LUNAR[year][0]) for year in known} == known
    assert [holidays.LUNAR[year][1] for year in (2020, 2021, 2023, 2024)] == [(4, 2), (4, 21), (4, 29), (4, 18)]
    assert list(holidays.LUNAR) == list(range(2015, 2041))


def test_kinds_of_days():
    def kind(*day: int) -> DayKind:
        return DayKind(KINDS[number(date(*day))])

    assert kind(2026, 2, 13) == DayKind.WORKING
    assert kind(2026, 2, 14) == DayKind.WEEKEND
    assert [kind(2026, 2, 16 + i) for i in range(6)] == [DayKind.TET] * 5 + [DayKind.WEEKEND]
    assert kind(2026, 9, 1) == kind(2026, 9, 2) == kind(2026, 1, 1) == DayKind.HOLIDAY
    # The Kings' day of 2026 is a Sunday, and made up for on Monday; that of 2023 on Saturday, with two holidays behind it.
    assert kind(2026, 4, 26) == kind(2026, 4, 27) == DayKind.HOLIDAY
    assert [kind(2023, 4, 29), kind(2023, 4, 30), kind(2023, 5, 1), kind(2023, 5, 2), kind(2023, 5, 3), kind(2023, 5, 4)] == [
        *[DayKind.HOLIDAY] * 5,
        DayKind.WORKING,
    ]
    assert len(KINDS) == number(holidays.LAST) + 1


def test_every_year_has_at_least_eleven_days_off_besides_weekends():
    for year in holidays.LUNAR:
        days = KINDS[number(date(year, 1, 1)) : number(date(year + 1, 1, 1))]
        weekdays = [date(year, 1, 1) + timedelta(days=i) for i in range(len(days))]
        off = sum(kind >= DayKind.HOLIDAY and day.weekday() < 5 for kind, day in zip(days.tolist(), weekdays, strict=True))
        assert off == 11, year


def test_a_citys_own_holidays_replace_vietnams():
    own = holidays.kinds({date(2026, 7, 14): DayKind.HOLIDAY, date(2150, 1, 1): DayKind.HOLIDAY})
    assert own[number(date(2026, 7, 14))] == DayKind.HOLIDAY
    assert (own >= DayKind.HOLIDAY).sum() == 1


@pytest.mark.parametrize(("name", "profile"), [("power", shapes.load), ("vehicles", shapes.traffic), ("water", shapes.water)])
@pytest.mark.parametrize("begin", [date(2015, 1, 5), date(2026, 2, 14), date(2026, 10, 15)])
def test_meters_add_up_what_flows(name: str, profile, begin: date):
    meter = getattr(ALMANAC, name)
    start = number(begin) * DAY - UTC_OFFSET

    def one(hour: float, kind: int) -> float:
        return float(profile(np.array([hour]), np.array([kind], np.int8))[0])

    for length in (11 * 60 + 7, 3 * 86_400 + 12_345):
        until = start + length * SECOND
        read = meter.at(ALMANAC, np.array([start, until]))
        assert read[1] - read[0] == pytest.approx(slow.flowed(ALMANAC, meter, one, start, until, 61 * SECOND), rel=2e-3, abs=2e-3)


def test_meters_never_go_back_and_begin_at_zero():
    start = COUNTED_FROM * DAY - UTC_OFFSET
    time = start + np.concatenate([np.arange(-5, 4000), np.arange(0, 5000) * 3600]).astype(np.int64) * SECOND
    time.sort()
    for meter in (ALMANAC.power, ALMANAC.vehicles, ALMANAC.water):
        read = meter.at(ALMANAC, time)
        assert (np.diff(read) >= 0).all()
        assert read[0] == read[time <= start].max() == 0
        # Across every midnight of a year, to the microsecond.
        midnights = (number(date(2026, 1, 1)) + np.arange(365)) * DAY - UTC_OFFSET
        assert np.abs(meter.at(ALMANAC, midnights) - meter.at(ALMANAC, midnights - 1)).max() < 1e-6


def test_days_before_and_after_the_table_do_not_end_the_world():
    far = np.array([-(10**17), 10**16], np.int64)
    day, part = ALMANAC.days(far)
    assert day.tolist() == [0, len(KINDS) - 1]
    assert part.tolist() == [0.0, 1.0]
    assert np.isfinite(ALMANAC.power.at(ALMANAC, far)).all()
    assert np.isfinite(between(ALMANAC.warm, day, part)).all()


def test_no_kind_of_day_begins_with_a_leap():
    kinds = np.array(list(DayKind), np.int8)
    for profile in (shapes.traffic, shapes.load, shapes.water, shapes.crowd, shapes.parked):
        at_midnight = [profile(np.full(len(kinds), hour), kinds) for hour in (0.0, 24.0 - 1e-9)]
        assert np.ptp(np.concatenate(at_midnight)) < 1e-6


def test_seasons_are_those_of_the_coast():
    by_month = {month: number(date(2025, month, 1)) for month in range(1, 13)}
    length = 27
    warm = {m: ALMANAC.warm[n : n + length].mean() for m, n in by_month.items()}
    wet = {m: ALMANAC.wet[n : n + length].mean() for m, n in by_month.items()}
    assert min(warm, key=warm.get) in {12, 1, 2}
    assert max(warm, key=warm.get) in {5, 6, 7, 8}
    assert min(wet[10], wet[11]) > 3 * max(wet[m] for m in (2, 3, 4))
    assert ALMANAC.wet.min() == 0
    assert ALMANAC.wet.max() <= 1


def test_the_season_goes_through_the_middles_of_months():
    day = np.array([number(date(2026, 1, 16)), number(date(2026, 1, 31)), number(date(2026, 2, 1))])
    months = np.arange(1.0, 13.0)
    found = almanacs._season(months, day)
    assert found[0] == pytest.approx(1.0, abs=0.02)
    assert found[1] == pytest.approx(1.5, abs=0.02)
    assert all(abs(a - b) < 0.04 for a, b in pairwise(found[1:]))
