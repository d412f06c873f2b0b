"""Holidays of a city. Pure: dates in, kinds of days out.

Vietnam's are those of article 112 of the Labour Code of 2019 (in force since 2021): 1 January; five days at Tết, of which we take
the last of the old year and the first four of the new one; the Hùng Kings' day, the 10th of the 3rd lunar month; 30 April; 1 May;
2 September and a day beside it, for which we take 1 September. A holiday that falls on a weekend is made up for on the next
working day (article 111). Each year the government may shift days; who needs those names them in a scenario.
"""

import enum
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray


class DayKind(enum.IntEnum):
    """Kind of a day: how the city spends it."""

    WORKING = 0
    WEEKEND = 1
    HOLIDAY = 2
    TET = 3  # shops are shut, and the streets empty


#: First day of Tết, and the Hùng Kings' day: (month, day). Lunar months begin on the day of the new moon at 105 degrees east
#: (UTC+7), so that the dates of 2030 differ from the Chinese ones. Up to 2026 they are those that the government announced; those
#: to come were computed from the new moons (Meeus, Astronomical Algorithms), which a test does again.
LUNAR: Final = {
    2015: ((2, 19), (4, 28)),
    2016: ((2, 8), (4, 16)),
    2017: ((1, 28), (4, 6)),
    2018: ((2, 16), (4, 25)),
    2019: ((2, 5), (4, 14)),
    2020: ((1, 25), (4, 2)),
    2021: ((2, 12), (4, 21)),
    2022: ((2, 1), (4, 10)),
    2023: ((1, 22), (4, 29)),
    2024: ((2, 10), (4, 18)),
    2025: ((1, 29), (4, 7)),
    2026: ((2, 17), (4, 26)),
    2027: ((2, 6), (4, 16)),
    2028: ((1, 26), (4, 4)),
    2029: ((2, 13), (4, 23)),
    2030: ((2, 2), (4, 12)),
    2031: ((1, 23), (4, 1)),
    2032: ((2, 11), (4, 19)),
    2033: ((1, 31), (4, 9)),
    2034: ((2, 19), (4, 28)),
    2035: ((2, 8), (4, 17)),
    2036: ((1, 28), (4, 6)),
    2037: ((2, 15), (4, 24)),
    2038: ((2, 4), (4, 13)),
    2039: ((1, 24), (4, 3)),
    2040: ((2, 12), (4, 20)),
}
#: Range of days of `kinds`: days outside count as the first or the last of them.
FIRST: Final = date(1970, 1, 1)
LAST: Final = date(2100, 12, 31)
_DAY: Final = timedelta(days=1)


def vietnam() -> dict[date, DayKind]:
    """Vietnam's public holidays, substitute days included; those of the lunar calendar from 2015 to 2040."""
    days: dict[date, DayKind] = {}
    for year in range(FIRST.year, LAST.year + 1):
        for month, number in ((1, 1), (4, 30), (5, 1), (9, 1), (9, 2)):
            days[date(year, month, number)] = DayKind.HOLIDAY
        if year in LUNAR:
            tet, kings = (date(year, *found) for found in LUNAR[year])
            days[kings] = DayKind.HOLIDAY
            days.update({tet + i * _DAY: DayKind.TET for i in range(-1, 4)})
    for day in sorted(days):
        if day.weekday() >= 5:
            instead = day + _DAY
            while instead.weekday() >= 5 or instead in days:
                instead += _DAY
            days[instead] = DayKind.HOLIDAY
    return days


def listed(days: Iterable[date]) -> dict[date, DayKind]:
    """Make a calendar of these days, and no others."""
    return dict.fromkeys(days, DayKind.HOLIDAY)


def kinds(holidays: Mapping[date, DayKind]) -> NDArray[np.int8]:
    """Return the kind of each day from `FIRST` to `LAST`.

    Returns
    -------
    (days,) int8
        `DayKind`.
    """
    number = np.arange((LAST - FIRST).days + 1)
    out = np.where((number + FIRST.weekday()) % 7 >= 5, np.int8(DayKind.WEEKEND), np.int8(DayKind.WORKING))
    for day, kind in holidays.items():
        if FIRST <= day <= LAST:
            out[(day - FIRST).days] = kind
    return out
