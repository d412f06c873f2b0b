"""VN_AQI, slow and obvious, from the text of Decision 1459/QĐ-TCMT: what `09_vn_aqi.sql` says in SQL, said once more in Python."""

import math
from collections.abc import Mapping, Sequence

INDEX = (0, 50, 100, 150, 200, 300, 400, 500)
#: ug/m3 at each of them.
BOUNDS = {
    "o3": (0, 160, 200, 300, 400, 800, 1000, 1200),
    "o3_8h": (0, 100, 120, 170, 210, 400),
    "co": (0, 10_000, 30_000, 45_000, 60_000, 90_000, 120_000, 150_000),
    "so2": (0, 125, 350, 550, 800, 1600, 2100, 2630),
    "no2": (0, 100, 200, 700, 1200, 2350, 3100, 3850),
    "pm10": (0, 50, 150, 250, 350, 420, 500, 600),
    "pm25": (0, 25, 50, 80, 150, 250, 350, 500),
}
GASES = ("no2", "so2", "co", "o3")


def index(pollutant: str, c: float) -> float | None:
    """Linear between the rows of the table; 500 above the last, and none where ozone of eight hours has no row any more."""
    bounds = BOUNDS[pollutant]
    if c < 0:
        return 0.0
    for i in range(len(bounds) - 1):
        if c < bounds[i + 1]:
            share = (c - bounds[i]) / (bounds[i + 1] - bounds[i])
            return INDEX[i] + share * (INDEX[i + 1] - INDEX[i])
    if pollutant == "o3_8h":
        return 300.0 if c == 400 else None
    return 500.0


def nowcast(hours: Sequence[float | None]) -> float | None:
    """The NowCast of twelve hourly means, oldest first."""
    newest_first = list(reversed(hours))
    if sum(c is not None for c in newest_first[:3]) < 2:
        return None
    there = [c for c in newest_first if c is not None]
    w = max(min(there) / max(there), 0.5) if max(there) > 0 else 1.0
    above = sum(w**i * c for i, c in enumerate(newest_first) if c is not None)
    return above / sum(w**i for i, c in enumerate(newest_first) if c is not None)


def rounded(largest: float) -> int:
    """Halves up."""
    return math.floor(largest + 0.5)


def hour(means: Mapping[str, Sequence[float | None]]) -> float | None:
    """The index of the last hour, not rounded; `means`: twelve hourly means of each pollutant."""
    particles = [index(p, c) for p in ("pm25", "pm10") if (c := nowcast(means[p])) is not None]
    gases = [index(p, c) for p in GASES if (c := means[p][-1]) is not None]
    return max(particles + gases) if particles else None


def day(means: Mapping[str, Sequence[float | None]], before: Sequence[float | None]) -> float | None:
    """The index of a day, not rounded; `means`: its 24 hourly means; `before`: those of ozone in the seven hours before."""

    def there(values: Sequence[float | None]) -> list[float]:
        return [value for value in values if value is not None]

    found = [index(p, sum(there(means[p])) / len(there(means[p]))) for p in ("pm25", "pm10") if there(means[p])]
    if not found:
        return None
    found += [index(p, max(there(means[p]))) for p in GASES if there(means[p])]
    ozone = [*before, *means["o3"]]
    # An hour without ozone is no end of eight hours here: there is nothing to add to what the hour before said.
    eights = [there(ozone[i : i + 8]) for i in range(24)]
    longest = [sum(eight) / len(eight) for eight in eights if len(eight) >= 6]
    if longest and (of_eight := index("o3_8h", max(longest))) is not None:
        found.append(of_eight)
    return max(value for value in found if value is not None)
