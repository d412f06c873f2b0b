"""Devices as clients describe them: bodies of requests and entries of files. `devices/device.py` has the rules for devices."""

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, Field

from citybeat.api.http.answers import finite
from citybeat.api.http.models.base import with_device_fields
from citybeat.api.http.params import Instant, Parameters, Text
from citybeat.devices.catalogue import Catalogue, Domain
from citybeat.devices.device import (
    DEVICE_FIELDS,
    DEVICE_ID,
    LONGEST,
    SENSOR_NUMBERS,
    SOURCE_NAME,
    Calibration,
    ConflictPolicy,
    Device,
    DeviceField,
    FieldType,
    Sensor,
    check_source,
)
from citybeat.devices.errors import DeviceError
from citybeat.devices.units import UnitError, conversion

#: Most tags of one device.
_MOST_TAGS: Final = 50

#: Normalized to NFC, so that a district is the same whichever system it was typed on.
_Words = Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$"), AfterValidator(partial(unicodedata.normalize, "NFC"))]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Id = Annotated[str, Field(pattern=f"^{DEVICE_ID.pattern}$", examples=["env-0007"])]
SourceName = Annotated[str, Field(pattern=f"^{SOURCE_NAME.pattern}$", examples=["gw-3"]), AfterValidator(check_source)]
Metric = Annotated[Text, Field(description="A metric of the catalogue.", examples=["temperature"])]
Tags = Annotated[dict[Text, _Words], Field(max_length=_MOST_TAGS)]

_CATALOGUE: Final = "; that of the catalogue, unless given."


class Fault(NamedTuple):
    """One mistake in a description."""

    loc: tuple[str | int, ...]  # path of names of members and numbers of entries
    message: str


def sensor_faults(sensors: Any, catalogue: Catalogue) -> list[Fault]:
    """Mistakes in a device's sensors that only the catalogue shows.

    Parameters
    ----------
    sensors : anything
        A list of objects, as a client gave it; other types, and other mistakes, are refused elsewhere.
    catalogue : Catalogue
    """
    faults: list[Fault] = []
    seen: set[str] = set()
    for i, sensor in enumerate(sensors if isinstance(sensors, list) else []):
        metric, unit = (sensor.get("metric"), sensor.get("unit")) if isinstance(sensor, dict) else (None, None)
        if not isinstance(metric, str):
            continue
        if metric not in catalogue:
            faults.append(Fault(("sensors", i, "metric"), unknown_metric(metric, catalogue)))
            continue
        if metric in seen:
            faults.append(Fault(("sensors", i, "metric"), f"the device has a sensor {metric!r} already"))
        seen.add(metric)
        if isinstance(unit, str):
            try:
                conversion(unit, catalogue[metric].unit)
            except UnitError as exc:
                faults.append(Fault(("sensors", i, "unit"), str(exc)))
    return faults


def unknown_metric(metric: str, catalogue: Catalogue) -> str:
    """The message about a metric that is not in the catalogue."""
    near = _near(metric, tuple(catalogue))
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; /v1/catalogue lists them"
    return f"there is no metric {metric!r} in the catalogue{meant}"


@lru_cache(maxsize=1024)  # a search takes 0.2 ms, and a file can have the same typo on every line
def _near(metric: str, names: tuple[str, ...]) -> list[str]:
    return difflib.get_close_matches(metric, names, n=3)


class CalibrationBody(Parameters):
    """The correction of a sensor's values: value * scale + offset."""

    scale: Number = Field(1.0, description="Not 0. Negative if the sensor is mounted the wrong way round.")
    offset: Number = Field(0.0, description="In the metric's unit.")
    valid_from: Instant | None = Field(
        None,
        description="For readings of this time and later, until the next calibration. Unless given: for all readings, if none is"
        " stored yet; else from now on.",
        examples=["2026-03-01T08:00:00+07:00"],
    )
    by: _Words = Field("", description="Who calibrated.")
    reason: _Words = Field("", description="Why, or which certificate.")

    def calibration(self) -> Calibration:
        """The calibration as a value of the registry.

        Raises
        ------
        DeviceError
        """
        return Calibration(scale=self.scale, offset=self.offset, valid_from=self.valid_from, by=self.by, reason=self.reason)


class OverridesBody(Parameters):
    """The registration of a sensor: what differs from the catalogue."""

    low: Number | None = Field(None, description="Plausible range, in the metric's unit" + _CATALOGUE)
    high: Number | None = Field(None, description="Plausible range, in the metric's unit" + _CATALOGUE)
    suspect_low: Number | None = Field(None, description="Usual range, in the metric's unit" + _CATALOGUE)
    suspect_high: Number | None = Field(None, description="Usual range, in the metric's unit" + _CATALOGUE)
    rating: Number | None = Field(None, description="Rated value of the device.")
    interval: Annotated[Number, Field(gt=0, le=LONGEST)] | None = Field(None, description="Seconds between readings" + _CATALOGUE)
    step_floor: Annotated[Number, Field(ge=0)] | None = Field(None, description="A larger change is flagged STEP" + _CATALOGUE)
    step_per_minute: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="Increase of `step_floor` per minute between readings" + _CATALOGUE
    )
    stuck_after: Annotated[Number, Field(ge=0, le=LONGEST)] | None = Field(
        None, description="Seconds; a value that stays for longer is flagged STUCK" + _CATALOGUE
    )
    sentinels: list[Number] = Field(
        [], max_length=100, description='Codes for "missing", as they are sent, in addition to the default ones.'
    )
    unit: Text | None = Field(
        None, description="Unit that the sensor sends, in UCUM; that of the metric, unless given.", examples=["[degF]"]
    )

    def sensor(self, metric: str) -> Sensor:
        """The sensor as a value of the registry.

        Raises
        ------
        DeviceError
        """
        numbers = {name: getattr(self, name) for name in SENSOR_NUMBERS}
        return Sensor(metric=metric, sentinels=tuple(self.sentinels), unit=self.unit, **numbers)


class SensorBody(OverridesBody):
    """A sensor of a device."""

    metric: Metric
    calibration: CalibrationBody | None = Field(None, description="Added to its existing calibrations.")

    def described(self) -> Sensor:
        """The sensor as a value of the registry.

        Raises
        ------
        DeviceError
        """
        numbers = {name: getattr(self, name) for name in SENSOR_NUMBERS}
        calibration = None if self.calibration is None else self.calibration.calibration()
        return Sensor(metric=self.metric, sentinels=tuple(self.sentinels), unit=self.unit, calibration=calibration, **numbers)


def _stated(about: DeviceField) -> tuple[Any, Any]:
    return {
        FieldType.TEXT: (_Words, ""),
        FieldType.NUMBER: (Annotated[Number, Field(ge=finite(about.least), le=finite(about.most))] | None, None),
        FieldType.TAGS: (Tags, {}),
    }[about.type]


def _patched(about: DeviceField) -> tuple[Any, Any]:
    return _stated(about)[0] | None, None


@with_device_fields(_stated)
class DeviceBody(Parameters):
    """A device with its sensors."""

    id: Id
    source: SourceName = Field(description="The MQTT identity that publishes its readings.")
    domain: Domain
    sensors: list[SensorBody] = Field([], max_length=1000)

    def checked(self, catalogue: Catalogue) -> tuple[Device | None, list[Fault]]:
        """The device as a value of the registry; or None, and all mistakes."""
        faults = sensor_faults([{"metric": sensor.metric, "unit": sensor.unit} for sensor in self.sensors], catalogue)
        sensors: dict[str, Sensor] = {}
        for i, sensor in enumerate(self.sensors):
            try:
                sensors.setdefault(sensor.metric, sensor.described())
            except DeviceError as exc:
                faults.append(Fault(("sensors", i), str(exc)))
        try:
            device = Device(
                id=self.id,
                source=self.source,
                domain=self.domain,
                sensors=tuple(sensors.values()),
                **{name: getattr(self, name) for name in DEVICE_FIELDS},
            )
        except DeviceError as exc:
            return None, [*faults, Fault((), str(exc))]
        return (None if faults else device), faults


@with_device_fields(_patched)
class DevicePatch(Parameters):
    """Changes of a device (JSON Merge Patch, RFC 7396): members that are left out stay, null removes.

    Defaults of members that are not given are never used.
    """

    domain: Domain = Field(default_factory=lambda: Domain.ENVIRONMENT)
    source: SourceName = Field(
        default_factory=str, description="Stored readings stay; new ones are accepted from this source only."
    )
    tags: Annotated[dict[Text, _Words | None], Field(max_length=2 * _MOST_TAGS)] | None = Field(
        None,
        description="Merged with the existing tags; a tag that is null is removed; null removes all.",
        examples=[{"owner": "roads"}],
    )
    retired: bool = Field(default_factory=bool, strict=True, description="true: out of service; false: back in service.")

    def applied(self, device: Device) -> Device:
        """The device with these changes.

        Raises
        ------
        DeviceError
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"retired", "tags"}}
        for name, about in DEVICE_FIELDS.items():
            if about.type is FieldType.TEXT and name in given:
                given[name] = given[name] or ""
        return replace(device, tags=self._tags(device.tags), **given)

    def _tags(self, there: Mapping[str, str]) -> dict[str, str]:
        if "tags" not in self.model_fields_set:
            return dict(there)
        if self.tags is None:
            return {}
        merged = {name: value for name, value in {**there, **self.tags}.items() if value is not None}
        if len(merged) > max(_MOST_TAGS, len(there)):
            raise DeviceError(f"tags: a device has {_MOST_TAGS} at most, these would be {len(merged)}; null removes one")
        return merged


class SourcePatch(Parameters):
    """Changes of a source."""

    conflict_policy: ConflictPolicy = Field(
        description="How a second value for the same time is resolved: the first is kept, or the last replaces it."
    )
