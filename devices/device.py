"""Registered devices, their sensors and calibrations, and the rules for their names and values."""

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final

from citybeat.devices.catalogue import Domain
from citybeat.devices.errors import DeviceError
from citybeat.devices.units import MAX_LENGTH

#: Name of a source, which is its MQTT user name and a level of its topics.
SOURCE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Users of the broker that citybeat itself has; no source may have one of these names.
RESERVED_SOURCES: Final = frozenset({"provision", "ingest", "admin"})
#: Id of a device. A colon is allowed, since URNs (urn:dev:mac:…) are common ids; a slash is not, since it separates parts of URLs
#: and topics.
DEVICE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

#: s, ten years: the largest interval. A larger one is a mistake, and a much larger one would overflow times computed with it.
LONGEST: Final = 315_576_000


class ConflictPolicy(enum.StrEnum):
    """The choice between a stored value and another one of its source for that series and time. Quarantine keeps the loser."""

    KEEP = "keep"  # the first value stays
    REPLACE = "replace"  # the last value replaces it


def check_source(name: str) -> str:
    """Return a source's name if it is valid.

    Raises
    ------
    DeviceError
        It does not match `SOURCE_NAME`, or is reserved.
    """
    if not SOURCE_NAME.fullmatch(name):
        raise DeviceError(f"source {name!r}: a name must be a letter or digit, then letters, digits, '.', '_' or '-', at most 64")
    if name in RESERVED_SOURCES:
        raise DeviceError(f"source {name!r} is reserved; choose another name")
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A correction of a sensor's values: value * scale + offset, after the conversion of units and before any bound."""

    scale: float = 1.0  # below 0: mounted the wrong way round
    offset: float = 0.0  # unit of the metric
    #: It applies to readings from this time until the next calibration's. None: to every reading, if the sensor has no calibration
    #: and nothing is stored yet; otherwise from the time of registration.
    valid_from: datetime | None = None
    by: str = ""  # person or office that calibrated
    reason: str = ""  # reason, or name of the certificate

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise DeviceError("calibration: scale must be a finite number other than 0")
        if not math.isfinite(self.offset):
            raise DeviceError("calibration: offset must be a finite number")
        if self.valid_from is not None and self.valid_from.utcoffset() is None:
            raise DeviceError("calibration: valid_from needs an offset from UTC, such as 2026-03-01T08:00:00+07:00")


#: Numbers of a sensor that a registration may override or declare.
SENSOR_NUMBERS: Final = (
    "low",
    "high",
    "suspect_low",
    "suspect_high",
    "rating",
    "interval",
    "step_floor",
    "step_per_minute",
    "stuck_after",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
    """A sensor of a device: its metric, and values that override the catalogue's. None: the catalogue's applies."""

    metric: str  # a name of the catalogue
    low: float | None = None  # plausible range, unit of the metric
    high: float | None = None
    suspect_low: float | None = None
    suspect_high: float | None = None
    rating: float | None = None  # largest value that the device is built for; `Metric.plausible` describes its unit
    interval: float | None = None  # s between readings
    step_floor: float | None = None  # unit of the metric; applies for any interval
    step_per_minute: float | None = None  # unit of the metric, a minute
    stuck_after: float | None = None  # s
    sentinels: tuple[float, ...] = ()  # codes for "missing" as they are sent, in addition to the default ones
    unit: str | None = None  # unit of the values as sent, in UCUM or one of `units.SPELLINGS`
    calibration: Calibration | None = None  # to be added to the registered ones; None: nothing is added

    def __post_init__(self) -> None:
        for name in SENSOR_NUMBERS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise DeviceError(f"sensor {self.metric!r}: {name} must be a finite number; leave it out for the catalogue's")
        if self.interval is not None and not self.interval > 0:
            raise DeviceError(f"sensor {self.metric!r}: interval must be above 0 seconds")
        for name in ("interval", "stuck_after"):
            if (getattr(self, name) or 0) > LONGEST:
                raise DeviceError(f"sensor {self.metric!r}: {name} must be at most {LONGEST} seconds, ten years")
        for name in ("step_floor", "step_per_minute", "stuck_after"):
            if (getattr(self, name) or 0) < 0:
                raise DeviceError(f"sensor {self.metric!r}: {name} must not be below 0")
        if self.unit is not None and not (0 < len(self.unit) <= MAX_LENGTH and self.unit.isprintable()):
            raise DeviceError(
                f"sensor {self.metric!r}: unit must be 1 to {MAX_LENGTH} printable characters; leave it out for the metric's own"
            )


class FieldType(enum.StrEnum):
    """The types of a `DeviceField`; the values are names of PostgreSQL's types."""

    TEXT = "text"  # str; "" by default
    NUMBER = "float8"  # float or None; None by default
    TAGS = "jsonb"  # str by str, {} by default; there is one such field


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceField:
    """One field that describes a device, for everything that reads, writes or lists devices."""

    type: FieldType
    description: str  # for the API's documentation
    example: Any
    least: float = -math.inf  # of a number; inclusive
    most: float = math.inf  # of a number; inclusive


def _described(type_: FieldType, description: str, example: Any, **bounds: float) -> Any:
    about = DeviceField(type=type_, description=description, example=example, **bounds)
    if type_ is FieldType.TAGS:
        return field(default_factory=dict, metadata={"about": about})
    return field(default="" if type_ is FieldType.TEXT else None, metadata={"about": about})


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A thing in the city with sensors. Retired, never deleted, while it has history.

    The fields from `name` on describe the device and make up `DEVICE_FIELDS`, from which bodies and answers of the API, columns of
    files, SQL statements and options of `citybeat devices add` are derived. A new field is one line here, and a migration that adds
    the column.
    """

    id: str
    source: str  # the MQTT user that it publishes through
    domain: Domain
    sensors: tuple[Sensor, ...]
    name: str = _described(FieldType.TEXT, "Name for people.", "Riverside air station")
    latitude: float | None = _described(
        FieldType.NUMBER, "Degrees north, WGS 84; given with `longitude`, or not at all.", 10.7769, least=-90, most=90
    )
    longitude: float | None = _described(FieldType.NUMBER, "Degrees east, WGS 84.", 106.7009, least=-180, most=180)
    district: str = _described(FieldType.TEXT, "Part of the city.", "riverside")
    tags: Mapping[str, str] = _described(FieldType.TAGS, "Any other properties, by name.", {"owner": "environment office"})

    def __post_init__(self) -> None:
        if not DEVICE_ID.fullmatch(self.id):
            raise DeviceError(
                f"device {self.id!r}: an id must be a letter or digit, then letters, digits, '.', '_', ':' or '-', at most 128"
            )
        check_source(self.source)
        metrics = [sensor.metric for sensor in self.sensors]
        if len(set(metrics)) != len(metrics):
            raise DeviceError(f"device {self.id!r}: two sensors have the same metric")
        if (self.latitude is None) != (self.longitude is None):
            raise DeviceError(f"device {self.id!r}: latitude and longitude are given together or not at all")
        for name, about in DEVICE_FIELDS.items():
            value = getattr(self, name)
            if about.type is FieldType.NUMBER and value is not None and not about.least <= value <= about.most:
                raise DeviceError(f"device {self.id!r}: {name} {value} is not within {about.least:g} and {about.most:g}")

    def described(self) -> dict[str, Any]:
        """The fields of `DEVICE_FIELDS` by name."""
        return {name: getattr(self, name) for name in DEVICE_FIELDS}


#: The fields that describe a device, by name and in the order in which they are listed everywhere.
DEVICE_FIELDS: Final[Mapping[str, DeviceField]] = {
    each.name: each.metadata["about"] for each in fields(Device) if "about" in each.metadata
}
#: The fields of a GeoJSON feature's point: they are coordinates of its geometry, not properties.
PLACE: Final = ("latitude", "longitude")
