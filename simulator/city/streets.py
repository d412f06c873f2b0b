"""Map of a city: districts, the roads that join and cross them, the stations that feed their houses.

Pure, and made of the list of districts and the seed: neither roads nor stations depend on how many devices there are. Trunk roads
join each district to those nearest to it; local streets cross it. A device at a road has a place on it, in km from its beginning,
so that what happens on a road is shared by those who stand near each other on it (`simulator.city.noise`'s law holds: square roots
are exact in IEEE 754 as well, but no angle is taken).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import Float64, Int64
from citybeat.simulator.city import noise


@dataclass(frozen=True, kw_only=True, slots=True)
class District:
    """A part of the city; devices stand around its centre."""

    name: str
    latitude: float  # degrees north
    longitude: float  # degrees east


#: Former wards of Quy Nhơn, with their approximate centres.
DISTRICTS: Final = (
    District(name="Nhơn Bình", latitude=13.807, longitude=109.206),
    District(name="Nhơn Phú", latitude=13.791, longitude=109.180),
    District(name="Đống Đa", latitude=13.790, longitude=109.218),
    District(name="Trần Quang Diệu", latitude=13.785, longitude=109.152),
    District(name="Hải Cảng", latitude=13.780, longitude=109.252),
    District(name="Quang Trung", latitude=13.764, longitude=109.199),
    District(name="Trần Phú", latitude=13.772, longitude=109.223),
    District(name="Thị Nại", latitude=13.782, longitude=109.231),
    District(name="Bùi Thị Xuân", latitude=13.729, longitude=109.165),
    District(name="Nguyễn Văn Cừ", latitude=13.757, longitude=109.215),
    District(name="Ghềnh Ráng", latitude=13.715, longitude=109.208),
    District(name="Ngô Mây", latitude=13.769, longitude=109.215),
)
#: Degrees that a device stands away from its district's centre, at most, north or east: about 700 m.
SPREAD: Final = 0.0065
#: Least number of trunk roads of a district: to so many of its nearest.
TRUNKS: Final = 2
#: Local streets of a district.
STREETS: Final = 3
#: Transformer stations of a district.
STATIONS: Final = 4
#: km a degree of latitude.
KM: Final = 110.57


@dataclass(frozen=True, kw_only=True, slots=True)
class Streets:
    """The roads of D districts as p pieces: a piece is the part of one road on which devices of one district stand."""

    roads: tuple[str, ...]  # names
    trunk: tuple[bool, ...]  # whether a road joins districts
    first: Int64  # (D + 1,) pieces of each district
    road: Int64  # (p,) which road
    start: Float64  # (p, 3) latitude, longitude, km from the road's beginning
    end: Float64  # (p, 3)


def lay_out(districts: Sequence[District], seed: int) -> Streets:
    """Lay out the roads of districts."""
    names: list[str] = []
    trunk: list[bool] = []
    pieces: list[list[tuple[int, tuple[float, ...], tuple[float, ...]]]] = [[] for _ in districts]
    for a, b in _neighbours(districts):
        here, there = districts[a], districts[b]
        across = max(abs(here.latitude - there.latitude), abs(here.longitude - there.longitude))
        reach = min(0.5, SPREAD / across) if across > 0 else 0.0
        length = km_between(here, there)
        for number, one, other, begin, sign in ((a, here, there, 0.0, 1.0), (b, there, here, length, -1.0)):
            start = (one.latitude, one.longitude, begin)
            goal = (other.latitude, other.longitude)
            end = (*(x + reach * (y - x) for x, y in zip(start, goal, strict=False)), begin + sign * reach * length)
            pieces[number].append((len(names), start, end))
        names.append(f"{here.name} – {there.name}")
        trunk.append(True)
    for number, district in enumerate(districts):
        for street in range(STREETS):
            u = noise.uniform(np.array([noise.key(seed, "street", number, street)], np.uint64), np.arange(3)).tolist()
            # Through a point near the centre, in a direction of the half circle: (1 - t^2, 2 t) / (1 + t^2), without an angle.
            t = 2.0 * u[2] - 1.0
            north, east = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
            latitude = district.latitude + SPREAD * 0.6 * (2.0 * u[0] - 1.0)
            longitude = district.longitude + SPREAD * 0.6 * (2.0 * u[1] - 1.0)
            half = SPREAD * 0.4
            start = (latitude - half * north, longitude - half * east, 0.0)
            end = (latitude + half * north, longitude + half * east, 2.0 * half * KM)
            pieces[number].append((len(names), start, end))
            names.append(f"{district.name} street {street + 1}")
            trunk.append(False)
    flat = [piece for of in pieces for piece in of]
    return Streets(
        roads=tuple(names),
        trunk=tuple(trunk),
        first=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        road=np.array([road for road, _, _ in flat], np.int64),
        start=np.array([start for _, start, _ in flat], np.float64).reshape(-1, 3),
        end=np.array([end for _, _, end in flat], np.float64).reshape(-1, 3),
    )


def km_between(a: District, b: District) -> float:
    """Return the distance of two districts' centres, accurate enough for a city."""
    north = (a.latitude - b.latitude) * KM
    east = (a.longitude - b.longitude) * KM * narrowing(a.latitude)
    return math.sqrt(north * north + east * east)


def narrowing(latitude: float) -> float:
    """Return the ratio of a degree of longitude to one of latitude: the cosine, by Bhāskara's formula, accurate to 0.002."""
    square = latitude * latitude
    return (32400.0 - 4.0 * square) / (32400.0 + square)


def _neighbours(districts: Sequence[District]) -> list[tuple[int, int]]:
    """Find the pairs of districts that a trunk road joins, the lower number first."""
    pairs: set[tuple[int, int]] = set()
    for a, district in enumerate(districts):
        others = [b for b in range(len(districts)) if b != a]
        others.sort(key=lambda b: (km_between(district, districts[b]), b))
        pairs |= {(min(a, b), max(a, b)) for b in others[:TRUNKS]}
    return sorted(pairs)


def places(streets: Streets, district: Int64, chance: Float64, along: Float64) -> tuple[Int64, Float64, Float64, Float64]:
    """Choose places at roads.

    Parameters
    ----------
    streets : Streets
    district : (n,) int64
    chance : (n,) float64
        In [0, 1): which of the district's pieces.
    along : (n,) float64
        In [0, 1): where on it.

    Returns
    -------
    road : (n,) int64
    latitude, longitude : (n,) float64
    km : (n,) float64
        From the road's beginning.
    """
    low = streets.first[district]
    piece = low + np.floor(chance * (streets.first[district + 1] - low)).astype(np.int64)
    place = streets.start[piece] + along[:, None] * (streets.end[piece] - streets.start[piece])
    return streets.road[piece], place[:, 0], place[:, 1], place[:, 2]
