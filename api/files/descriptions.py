"""Devices as clients describe them: bodies of requests, and entries of files. What they must be stands in `devices/device.py`."""

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

#: Tags of one device.
_MOST_TAGS: Final = 50

#: In one form of Unicode, so that a district is the same one whichever system it was typed on.
_Words = Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$"), AfterValidator(partial(unicodedata.normalize, "NFC"))]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Id = Annotated[str, Field(pattern=f"^{DEVICE_ID.pattern}$", examples=["env-0007"])]
SourceName = Annotated[str, Field(pattern=f"^{SOURCE_NAME.pattern}$", examples=["gw-3"]), AfterValidator(check_source)]
Metric = Annotated[Text, Field(description="A metric of the catalogue.", examples=["temperature"])]
Tags = Annotated[dict[Text, _Words], Field(max_length=_MOST_TAGS)]

_CATALOGUE: Final = "; as the catalogue says, unless given."


class Fault(NamedTuple):
    """Something that is wrong with a description."""

    loc: tuple[str | int, ...]  # names of members and numbers of entries that lead there
    message: str


def sensor_faults(sensors: Any, catalogue: Catalogue) -> list[Fault]:
    """Members of a device's sensors that the catalogue does not allow, and why.

    Parameters
    ----------
    sensors : anything
        A list of objects, as a client gave it; what else it may be is somebody else's to refuse.
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
    """What to say of a metric that the catalogue lacks."""
    near = _near(metric, tuple(catalogue))
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; /v1/catalogue lists them"
    return f"there is no metric {metric!r} in the catalogue{meant}"


@lru_cache(maxsize=1024)  # it takes 0.2 ms, and a file has a typo on every line
def _near(metric: str, names: tuple[str, ...]) -> list[str]:
    return difflib.get_close_matches(metric, names, n=3)


class CalibrationBody(Parameters):
    """What a sensor's values are corrected by: value * scale + offset."""

    scale: Number = Field(1.0, description="Not 0; below 0: mounted the wrong way round.")
    offset: Number = Field(0.0, description="In the metric's unit.")
    valid_from: Instant | None = Field(
        None,
        description="For readings of this time and later, until the next one. Unless given: for all, if nothing is stored yet;"
        " else from now.",
        examples=["2026-03-01T08:00:00+07:00"],
    )
    by: _Words = Field("", description="Who calibrated.")
    reason: _Words = Field("", description="Why, or which certificate.")

    def calibration(self) -> Calibration:
        """As the registry has it.

        Raises
        ------
        DeviceError
        """
        return Calibration(scale=self.scale, offset=self.offset, valid_from=self.valid_from, by=self.by, reason=self.reason)


class OverridesBody(Parameters):
    """What is registered of a sensor."""

    low: Number | None = Field(None, description="Plausible range, in the metric's unit" + _CATALOGUE)
    high: Number | None = Field(None, description="Plausible range, in the metric's unit" + _CATALOGUE)
    suspect_low: Number | None = Field(None, description="Usual range, in the metric's unit" + _CATALOGUE)
    suspect_high: Number | None = Field(None, description="Usual range, in the metric's unit" + _CATALOGUE)
    rating: Number | None = Field(None, description="What the device is built for.")
    interval: Annotated[Number, Field(gt=0, le=LONGEST)] | None = Field(None, description="Seconds between readings" + _CATALOGUE)
    step_floor: Annotated[Number, Field(ge=0)] | None = Field(None, description="A larger change is a STEP" + _CATALOGUE)
    step_per_minute: Annotated[Number, Field(ge=0)] | None = Field(None, description="And as much more a minute" + _CATALOGUE)
    stuck_after: Annotated[Number, Field(ge=0, le=LONGEST)] | None = Field(
        None, description="Seconds; one value for longer is STUCK" + _CATALOGUE
    )
    sentinels: list[Number] = Field(
        [], max_length=100, description='Codes for "missing", as they are sent, beside the default ones.'
    )
    unit: Text | None = Field(None, description="What it sends, in UCUM; the metric's own unit, unless given.", examples=["[degF]"])

    def sensor(self, metric: str) -> Sensor:
        """As the registry has it.

        Raises
        ------
        DeviceError
        """
        numbers = {name: getattr(self, name) for name in SENSOR_NUMBERS}
        return Sensor(metric=metric, sentinels=tuple(self.sentinels), unit=self.unit, **numbers)


class SensorBody(OverridesBody):
    """A sensor of a device."""

    metric: Metric
    calibration: CalibrationBody | None = Field(None, description="Added to those that it has.")

    def described(self) -> Sensor:
        """As the registry has it.

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
    source: SourceName = Field(description="The MQTT identity that it publishes through.")
    domain: Domain
    sensors: list[SensorBody] = Field([], max_length=1000)

    def checked(self, catalogue: Catalogue) -> tuple[Device | None, list[Fault]]:
        """As the registry has it; or None, and everything that keeps it from being a device."""
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
    """What is to be different of a device (JSON Merge Patch, RFC 7396): what is left out stays, null removes.

    What is not given has a default that nobody sees.
    """

    domain: Domain = Field(default_factory=lambda: Domain.ENVIRONMENT)
    source: SourceName = Field(default_factory=str, description="Stored readings stay; new ones are taken from this source only.")
    tags: Annotated[dict[Text, _Words | None], Field(max_length=2 * _MOST_TAGS)] | None = Field(
        None,
        description="Merged with those that there are; a tag that is null is removed; null removes all.",
        examples=[{"owner": "roads"}],
    )
    retired: bool = Field(default_factory=bool, strict=True, description="true: out of service; false: back in service.")

    def applied(self, device: Device) -> Device:
        """The device as it is to be.

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
    """What is to be different of a source."""

    conflict_policy: ConflictPolicy = Field(
        description="What becomes of another value for a time that is stored: the first stays, or the last replaces it."
    )
