"""Slow, obvious twins of the simulator's vectorised functions: one number at a time, plain Python, no NumPy."""

import math
from datetime import UTC, date, datetime, timedelta

MASK = 2**64 - 1
AXES = (0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
SECOND = 1_000_000
DAY = 86_400 * SECOND


def mix(key, step):
    golden, a, b = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
    z = (key + (step + 1) * golden) & MASK
    z = ((z ^ (z >> 30)) * a) & MASK
    z = ((z ^ (z >> 27)) * b) & MASK
    z = ((z ^ (z >> 31)) + key * a) & MASK
    z = ((z ^ (z >> 30)) * b) & MASK
    return z ^ (z >> 31)


def uniform(key, step):
    return (mix(key, step % 2**64) >> 11) * 2.0**-53


def ease(x):
    return x * x * (3.0 - 2.0 * x)


def between(a, b, x):
    return a + (b - a) * ease(x)


def smooth(key, time, period):
    knot, rest = divmod(time, period)
    salted = mix(key, period)
    return 2.0 * between(uniform(salted, knot), uniform(salted, knot + 1), rest / period) - 1.0


def lattice(key, place, time, period):
    """Interpolated along one axis after the other."""
    knot, rest = divmod(time, period)
    salted = mix(key, period)

    def value(step, axes):
        if not axes:
            return uniform(salted, step)
        (factor, x), *others = axes
        low = math.floor(x)
        return between(value(step + low * factor, others), value(step + (low + 1) * factor, others), x - low)

    axes = [(1, knot + rest / period), *zip(AXES, place, strict=False)]
    low = math.floor(axes[0][1]) if rest else knot
    a = value(low, axes[1:])
    b = value(low + 1, axes[1:])
    return 2.0 * between(a, b, rest / period) - 1.0


def rough(key, time):
    z = mix(key, time % 2**64)
    return (sum((z >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) / 65535 - 2.0) * math.sqrt(3)


def reports(period, phase, late, key, after, until):
    """(time, number) of a device's reports, by looking at far too many of them."""
    found = []
    for number in range((after - phase) // period - 3, (until - phase) // period + 3):
        at = phase + number * period + math.floor(uniform(key, number) * (late // 1000)) * 1000
        if after < at <= until:
            found.append((at, number))
    return found


def new_moon(k):
    """Julian date (dynamical) of the k-th new moon since January 2000: Meeus, Astronomical Algorithms, chapter 49, main terms."""
    t = k / 1236.85
    at = 2451550.09766 + 29.530588861 * k + 0.00015437 * t * t
    e = 1.0 - 0.002516 * t
    m = math.radians(2.5534 + 29.10535670 * k)
    moon = math.radians(201.5643 + 385.81693528 * k + 0.0107582 * t * t)
    f = math.radians(160.7108 + 390.67050284 * k - 0.0016118 * t * t)
    node = math.radians(124.7746 - 1.56375588 * k)
    at += -0.40720 * math.sin(moon) + 0.17241 * e * math.sin(m) + 0.01608 * math.sin(2 * moon) + 0.01039 * math.sin(2 * f)
    at += 0.00739 * e * math.sin(moon - m) - 0.00514 * e * math.sin(moon + m) + 0.00208 * e * e * math.sin(2 * m)
    at += -0.00111 * math.sin(moon - 2 * f) - 0.00057 * math.sin(moon + 2 * f) + 0.00056 * e * math.sin(2 * moon + m)
    at += -0.00042 * math.sin(3 * moon) + 0.00042 * e * math.sin(m + 2 * f) + 0.00038 * e * math.sin(m - 2 * f)
    at += -0.00024 * e * math.sin(2 * moon - m) - 0.00017 * math.sin(node)
    return at


def new_moon_days(first, last):
    """The days, at UTC+7, of the new moons of these years."""
    days = []
    for k in range(int((first - 2000) * 12.3685) - 1, int((last + 1 - 2000) * 12.3685) + 2):
        # The dynamical clock is some 70 s ahead of UTC in these years.
        moment = datetime(2000, 1, 1, 12, tzinfo=UTC) + timedelta(days=new_moon(k) - 2451545.0, seconds=-70) + timedelta(hours=7)
        days.append(moment.date())
    return days


def solar_longitude(day):
    """Degrees of the sun when a day begins at UTC+7, right to a hundredth or so."""
    t = ((day - date(2000, 1, 1)).days - 19 / 24) / 36525
    m = math.radians(357.52911 + 35999.05029 * t)
    centre = 1.914602 * math.sin(m) + 0.019993 * math.sin(2 * m) + 0.000289 * math.sin(3 * m)
    return (280.46646 + 36000.76983 * t + centre) % 360


def lunar_months(year):
    """First days of the months that a lunar year begins with, by number: the sun reaches 270 degrees in the eleventh month, and of
    thirteen months between two eleventh ones the first in which it reaches no multiple of 30 has no number."""
    moons = new_moon_days(year - 2, year + 1)
    eleventh = [
        i
        for i in range(len(moons) - 1)
        if solar_longitude(moons[i]) < 270 <= solar_longitude(moons[i + 1]) and moons[i + 1].year - moons[i].year <= 1
    ]
    begin = next(i for i in eleventh if moons[i].year == year - 1)
    leap = next(i for i in eleventh if i > begin) - begin == 13
    months, number = {}, 11
    for i in range(begin + 1, begin + 6):
        if leap and solar_longitude(moons[i]) // 30 == solar_longitude(moons[i + 1]) // 30:
            leap = False
            continue
        number = number % 12 + 1
        months[number] = moons[i]
    return months


def flowed(almanac, meter, profile, start, until, step):
    """Hours of full flow between two times, by small steps."""
    total = 0.0
    for at in range(start, until, step):
        local = at + step // 2 + 7 * 3600 * SECOND
        day, rest = divmod(local, DAY)
        factor = meter.factor[day] + (meter.factor[day + 1] - meter.factor[day]) * rest / DAY
        total += factor * profile(24 * rest / DAY, almanac.kind[day]) * step / (3600 * SECOND)
    return total
