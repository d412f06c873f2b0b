"""The catalogue of metrics, read from `catalogue.toml` and from a city's own file with the same columns."""

import enum
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from citybeat.devices.errors import CatalogueError

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Domain(enum.StrEnum):
    """The parts of a city that citybeat's metrics belong to."""

    TRAFFIC = "traffic"
    ENVIRONMENT = "environment"
    ENERGY = "energy"


class Kind(enum.StrEnum):
    """The nature of a metric's values, which decides how they are aggregated."""

    GAUGE = "gauge"  # a quantity at an instant: arithmetic mean
    AMOUNT = "amount"  # a quantity per interval, stamped at its end: sum
    COUNTER = "counter"  # a running total: increase
    DIRECTION = "direction"  # degrees: circular mean
    LEVEL = "level"  # decibels: energetic mean
    STATE = "state"  # 0 or 1: share of samples at 1


#: Kinds as small integers, for arrays (int8).
KIND_CODES: Final[Mapping[Kind, int]] = {kind: code for code, kind in enumerate(Kind)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A value that the mean over some span should not exceed."""

    standard: str  # the set of limits that it belongs to
    span: str  # length of time of the mean: one of SPANS
    value: float  # unit of the metric
    source: str
    since: date  # day on which it came into force


#: Lengths of time for which limits exist.
SPANS: Final = ("1h", "8h", "24h", "1y")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One row of the catalogue; `catalogue.toml` explains the columns. Infinite: open or unlimited."""

    name: str  # FIWARE Smart Data Models spelling
    domain: Domain
    unit: str  # UCUM
    kind: Kind
    unece: str = ""  # UN/CEFACT code, where there is one
    low: float = -math.inf
    high: float = math.inf
    suspect_low: float = -math.inf
    suspect_high: float = math.inf
    rating_low: float | None = None  # times the rating
    rating_high: float | None = None  # times the rating
    rating_per_hour: bool = False
    range_per_interval: bool = False
    step_floor: float = math.inf  # unit of the metric
    step_per_minute: float = 0.0  # unit of the metric, a minute
    step_rating_per_hour: float = 0.0  # times the rating, an hour
    stuck_after: float = math.inf  # s
    may_repeat: tuple[float, ...] = ()  # values that are never stuck
    interval: float = 60.0  # s
    sentinels: tuple[float, ...] = ()  # codes for "missing", also within the plausible range
    source: str = ""  # origin of the bounds
    label: str = ""  # shown to people, in English; empty: the name
    label_vi: str = ""  # the same in Vietnamese
    decimals: float = 1.0  # digits to show after the decimal point
    color: str = "#8E8E8E"  # on dashboards
    limits: tuple[Limit, ...] = ()

    def plausible(self, *, rating: float | None = None, interval: float | None = None) -> tuple[float, float]:
        """The plausible range of a sensor with this rating and interval.

        Parameters
        ----------
        rating : float, optional
            In the metric's unit, or in the unit per hour if `rating_per_hour`. Without a rating, bounds that depend on it are open.
        interval : float, optional
            Seconds between readings. Default: the catalogue's.

        Returns
        -------
        tuple of float
            Lower and upper bound, both inclusive.

        Examples
        --------
        >>> builtin()["precipitation"].plausible(interval=600)
        (0.0, 500.0)
        >>> builtin()["activeEnergyPerInterval"].plausible(rating=10, interval=900)
        (0.0, 2.5)
        """
        seconds = self.interval if interval is None else interval
        low, high = self.low, self.high
        if self.range_per_interval:
            low, high = low * seconds / self.interval, high * seconds / self.interval
        if rating is not None:
            scale = rating * (seconds / 3600 if self.rating_per_hour else 1.0)
            low = max(low, -math.inf if self.rating_low is None else self.rating_low * scale)
            high = min(high, math.inf if self.rating_high is None else self.rating_high * scale)
        return low, high


Catalogue = Mapping[str, Metric]


def parse(text: str, *, origin: str) -> dict[str, Metric]:
    """Read metrics from TOML.

    Parameters
    ----------
    text : str
        One table for each metric, columns as in `catalogue.toml`.
    origin : str
        Name of the text's source, for error messages.

    Raises
    ------
    CatalogueError
        Not TOML, an unknown or missing column, a wrong type, a name that is not an identifier, or bounds that exclude each other.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise CatalogueError(f"{origin}: not TOML: {exc}") from exc
    return {name: _metric(name, row, origin) for name, row in tables.items()}


def builtin() -> Catalogue:
    """Return the catalogue that ships with citybeat."""
    return _BUILTIN


def extended(text: str, *, origin: str) -> Catalogue:
    """Return the shipped catalogue with a city's own metrics added; a metric of the same name replaces the shipped one.

    Raises
    ------
    CatalogueError
        See `parse`.
    """
    return MappingProxyType({**_BUILTIN, **parse(text, origin=origin)})


_COLUMNS: Final = {field.name: field.type for field in fields(Metric)}
_TEXT: Final = {"domain", "unit", "kind", "unece", "source", "label", "label_vi", "color"}
_COLOR: Final = re.compile(r"#[0-9A-Fa-f]{6}")
_LISTS: Final = {"sentinels", "may_repeat"}
_BOOL: Final = {"rating_per_hour", "range_per_interval"}


def _metric(name: str, row: Any, origin: str) -> Metric:
    where = f"{origin}: metric {name!r}"
    if not _NAME.fullmatch(name):
        raise CatalogueError(f"{where}: a name must be a letter, then letters, digits or _, at most 64 characters")
    if not isinstance(row, dict):
        raise CatalogueError(f"{where}: expected a table of columns")
    columns: dict[str, Any] = {"name": name}
    for column, value in row.items():
        if column not in _COLUMNS or column == "name":
            known = ", ".join(sorted(_COLUMNS.keys() - {"name"}))
            raise CatalogueError(f"{where}: unknown column {column!r}; known are {known}")
        columns[column] = _column(where, column, value)
    for column in ("domain", "unit", "kind"):
        if column not in columns:
            raise CatalogueError(f"{where}: column {column!r} is missing")
    metric = Metric(**columns)
    if not metric.low <= metric.high or not metric.suspect_low <= metric.suspect_high:
        raise CatalogueError(f"{where}: the low bound is above the high one")
    if not metric.interval > 0:
        raise CatalogueError(f"{where}: column 'interval' must be above 0 seconds")
    if metric.decimals not in range(10):
        raise CatalogueError(f"{where}: column 'decimals' must be an integer from 0 to 9")
    if not _COLOR.fullmatch(metric.color):
        raise CatalogueError(f"{where}: column 'color' must have the form #1F60C4")
    return metric


def _column(where: str, column: str, value: Any) -> Any:
    enums: dict[str, type[enum.StrEnum]] = {"domain": Domain, "kind": Kind}
    if column in enums:
        allowed = [member.value for member in enums[column]]
        if value not in allowed:
            raise CatalogueError(f"{where}: column {column!r} is {value!r}; expected one of {', '.join(allowed)}")
        return enums[column](value)
    if column in _TEXT:
        if not isinstance(value, str):
            raise CatalogueError(f"{where}: column {column!r} must be text")
        return value
    if column in _BOOL:
        if not isinstance(value, bool):
            raise CatalogueError(f"{where}: column {column!r} must be true or false")
        return value
    if column in _LISTS:
        if not isinstance(value, list) or not all(_is_number(item) for item in value):
            raise CatalogueError(f"{where}: column {column!r} must be a list of numbers")
        return tuple(float(item) for item in value)
    if column == "limits":
        if not isinstance(value, list):
            raise CatalogueError(f"{where}: column 'limits' must be a list of tables")
        return tuple(_limit(where, each) for each in value)
    if not _is_number(value) or math.isnan(value):
        raise CatalogueError(f"{where}: column {column!r} must be a number")
    return float(value)


def _limit(where: str, row: Any) -> Limit:
    columns = {field.name for field in fields(Limit)}
    if not isinstance(row, dict) or row.keys() != columns:
        raise CatalogueError(f"{where}: each entry of 'limits' must be a table of {', '.join(sorted(columns))}")
    if row["span"] not in SPANS:
        raise CatalogueError(f"{where}: the span of a limit is {row['span']!r}; expected one of {', '.join(SPANS)}")
    if not _is_number(row["value"]) or not isinstance(row["since"], date):
        raise CatalogueError(f"{where}: the value of a limit must be a number, and 'since' a date such as 2026-01-01")
    return Limit(**{**row, "value": float(row["value"]), "standard": str(row["standard"]), "source": str(row["source"])})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_BUILTIN: Final[Catalogue] = MappingProxyType(
    parse(files("citybeat.devices").joinpath("catalogue.toml").read_text("utf-8"), origin="catalogue.toml"),
)
