"""Answers about the registry: the catalogue, devices with their sensors, sources, and the history of changes."""

from typing import Any, Final, Literal

from pydantic import Field

from citybeat.api.http.models.base import FLAGS, Model, PointModel, with_device_fields
from citybeat.devices.catalogue import Domain, Kind
from citybeat.devices.device import PLACE, DeviceField, FieldType

_RANGE = "; null: open"


class MetricModel(Model):
    """One metric of the catalogue."""

    name: str = Field(description="Name as in FIWARE's Smart Data Models.", examples=["temperature"])
    label: str = Field(description="Label for people, in English.", examples=["Temperature"])
    label_vi: str = Field(description="Label in Vietnamese.", examples=["Nhiệt độ"])
    domain: Domain
    unit: str = Field(description="UCUM.", examples=["Cel"])
    kind: Kind = Field(description="Kind of quantity; decides which aggregates make sense.")
    aggregates: list[str] = Field(description="Aggregates that /v1/series can compute.")
    low: float | None = Field(description="Plausible range" + _RANGE)
    high: float | None = Field(description="Plausible range" + _RANGE)
    suspect_low: float | None = Field(description="Usual range" + _RANGE)
    suspect_high: float | None = Field(description="Usual range" + _RANGE)
    interval_s: float = Field(description="Expected seconds between readings.")
    unece: str | None = Field(description="UN/CEFACT code of the unit, if it has one.")
    step_floor: float | None = Field(description="A larger change is flagged STEP; null: no change is.")
    step_per_minute: float = Field(description="Increase of `step_floor` per minute between readings.")
    stuck_after_s: float | None = Field(description="Seconds; a value that stays for longer is flagged STUCK; null: none is.")
    may_repeat: list[float] = Field(description="Values that are never flagged STUCK.")
    sentinels: list[float] = Field(
        description='Codes for "missing", in addition to the default ones, which are outside the plausible range.'
    )
    source: str = Field(description="Origin of the bounds; devices/catalogue.toml explains the letters.")
    senml_unit: str | None = Field(description="SenML's name of the unit; null: it has none.", examples=["Cel"])
    accepted_units: list[str] = Field(
        description="Common units that a sensor may be registered to send, in UCUM; docs/units.md says which others are possible."
    )


class CatalogueModel(Model):
    """The metrics of this installation."""

    metrics: list[MetricModel]


_ANNOTATIONS: Final = {FieldType.TEXT: str, FieldType.NUMBER: float | None, FieldType.TAGS: dict[str, str]}


def _required(about: DeviceField) -> tuple[Any, Any]:
    return _ANNOTATIONS[about.type], ...


@with_device_fields(_required)
class _DescribedModel(Model):
    id: str = Field(examples=["env-0007"])
    source: str = Field(description="The MQTT identity that publishes its readings.")
    domain: str


class _KeptModel(Model):
    created_at: str
    updated_at: str
    retired_at: str | None = Field(description="Time since which it is out of service; its history stays.")
    metrics: list[str] = Field(description="Metrics of its sensors.")


class DeviceModel(_KeptModel, _DescribedModel):
    """A registered device."""


class DevicesModel(Model):
    """A page of devices."""

    devices: list[DeviceModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class NewestModel(Model):
    """A sensor's newest reading, good or bad."""

    time: str
    value: float = Field(description="In the sensor's unit.")
    flags: list[str] = Field(description=FLAGS)
    age_s: float = Field(description="Seconds since its time; negative: it is ahead of the server's clock.")


class RegisteredModel(Model):
    """Members that a registration overrides; null: as in the catalogue."""

    low: float | None
    high: float | None
    suspect_low: float | None
    suspect_high: float | None
    rating: float | None
    interval: float | None
    step_floor: float | None
    step_per_minute: float | None
    stuck_after: float | None
    sentinels: list[float]
    unit: str | None = Field(description="Unit that the sensor sends.")


class CalibrationModel(Model):
    """The correction value * scale + offset, from `valid_from` until the next calibration."""

    valid_from: str | None = Field(description="null: from the beginning.")
    scale: float
    offset: float
    by: str
    reason: str
    created_at: str
    in_force: bool = Field(description="Whether it applies to a reading of the present moment.")


class SenmlModel(Model):
    """The name and unit of the sensor in a SenML pack."""

    n: str = Field(examples=["env-0007:temperature"])
    u: str | None = Field(
        description="Name of the unit that it is registered to send; null: SenML has none, leave `u` out.", examples=["Cel"]
    )


class SensorModel(Model):
    """A sensor, with the bounds that its readings are validated against."""

    metric: str
    domain: str
    unit: str
    kind: Kind
    low: float | None = Field(description="Plausible range" + _RANGE)
    high: float | None = Field(description="Plausible range" + _RANGE)
    suspect_low: float | None = Field(description="Usual range" + _RANGE)
    suspect_high: float | None = Field(description="Usual range" + _RANGE)
    rating: float | None = Field(description="Rated value of the device.")
    interval_s: float
    sentinels: list[float | None] = Field(description="Codes that mean that a value is missing.")
    registered: RegisteredModel
    calibrations: list[CalibrationModel] = Field(description="In the order in which they apply.")
    senml: SenmlModel
    retired_at: str | None = Field(description="Time since which it is out of service; its device may still be in service.")
    latest: NewestModel | None


class DeviceDetailModel(DeviceModel):
    """A device with its sensors."""

    sensors: list[SensorModel]


@with_device_fields(_required, without=PLACE)
class DevicePropertiesModel(_KeptModel):
    """A device without its id and place."""

    source: str
    domain: str


class DeviceFeatureModel(Model):
    """A device as a GeoJSON feature."""

    type: Literal["Feature"]
    id: str = Field(description="Id of the device.")
    geometry: "PointModel | None" = Field(description="null: the device's place is not registered.")
    properties: DevicePropertiesModel


class DeviceFeaturesModel(Model):
    """A page of devices, as GeoJSON."""

    type: Literal["FeatureCollection"]
    features: list[DeviceFeatureModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ChangeModel(Model):
    """One change."""

    at: str
    actor: str = Field(description="Key, or user of a command, that made it.")
    subject: Literal["device", "sensor", "calibration", "declaration"]
    action: Literal["created", "changed", "retired", "restored", "deleted"]
    metric: str | None = Field(description="Metric of the sensor that was changed.")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class HistoryModel(Model):
    """A page of changes, the newest first."""

    changes: list[ChangeModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ImportedModel(Model):
    """The result of an import."""

    devices: int
    sensors: int
    created: int = Field(description="Devices that are new.")
    changed: int = Field(description="Devices that existed and were changed.")
    unchanged: int
    dry_run: bool = Field(description="true: nothing was registered; the counts say what would be.")


class SourceModel(Model):
    """A source: an MQTT identity."""

    name: str
    conflict_policy: Literal["keep", "replace"]
    devices: int = Field(description="Devices that are registered to it, with retired ones.")
    status: str | None = Field(description="The status that it last reported: online or offline.")
    status_at: str | None
    created_at: str


class SourcesModel(Model):
    """A page of sources."""

    sources: list[SourceModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
