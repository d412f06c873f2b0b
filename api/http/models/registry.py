"""Answers about the registry: the catalogue, devices with their sensors, sources, and who changed what."""

from typing import Any, Final, Literal

from pydantic import Field

from citybeat.api.http.models.base import FLAGS, Model, PointModel, with_device_fields
from citybeat.devices.catalogue import Domain, Kind
from citybeat.devices.device import PLACE, DeviceField, FieldType

_RANGE = "; null: open"


class MetricModel(Model):
    """One metric of the catalogue."""

    name: str = Field(description="As in FIWARE's Smart Data Models.", examples=["temperature"])
    label: str = Field(description="What people read, in English.", examples=["Temperature"])
    label_vi: str = Field(description="The same in Vietnamese.", examples=["Nhiệt độ"])
    domain: Domain
    unit: str = Field(description="UCUM.", examples=["Cel"])
    kind: Kind = Field(description="Decides which aggregates make sense.")
    aggregates: list[str] = Field(description="What /v1/series can give of it.")
    low: float | None = Field(description="Plausible range" + _RANGE)
    high: float | None = Field(description="Plausible range" + _RANGE)
    suspect_low: float | None = Field(description="Usual range" + _RANGE)
    suspect_high: float | None = Field(description="Usual range" + _RANGE)
    interval_s: float = Field(description="Seconds between readings, as expected.")
    unece: str | None = Field(description="UN/CEFACT code of the unit, where there is one.")
    step_floor: float | None = Field(description="A larger change is a STEP; null: none is.")
    step_per_minute: float = Field(description="What that grows by, a minute.")
    stuck_after_s: float | None = Field(description="Seconds; one value for longer is STUCK; null: for ever.")
    may_repeat: list[float] = Field(description="Values that are never STUCK.")
    sentinels: list[float] = Field(description='Codes for "missing", beside the default ones that lie outside the plausible range.')
    source: str = Field(description="Where the bounds come from; devices/catalogue.toml explains the letters.")
    senml_unit: str | None = Field(description="What SenML calls the unit; null: it has no name for it.", examples=["Cel"])
    accepted_units: list[str] = Field(
        description="Units that a sensor may be registered to send, in UCUM: the common ones; docs/units.md says which others are."
    )


class CatalogueModel(Model):
    """The metrics that this citybeat knows."""

    metrics: list[MetricModel]


_ANNOTATIONS: Final = {FieldType.TEXT: str, FieldType.NUMBER: float | None, FieldType.TAGS: dict[str, str]}


def _required(about: DeviceField) -> tuple[Any, Any]:
    return _ANNOTATIONS[about.type], ...


@with_device_fields(_required)
class _DescribedModel(Model):
    id: str = Field(examples=["env-0007"])
    source: str = Field(description="The MQTT identity that it publishes through.")
    domain: str


class _KeptModel(Model):
    created_at: str
    updated_at: str
    retired_at: str | None = Field(description="Since when it is out of service; its history stays.")
    metrics: list[str] = Field(description="What its sensors measure.")


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
    age_s: float = Field(description="Seconds since; negative: ahead of our clock.")


class RegisteredModel(Model):
    """What a registration overrides; null: as the catalogue says."""

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
    unit: str | None = Field(description="What the sensor sends.")


class CalibrationModel(Model):
    """value * scale + offset, from `valid_from` until the next."""

    valid_from: str | None = Field(description="null: from the beginning.")
    scale: float
    offset: float
    by: str
    reason: str
    created_at: str
    in_force: bool = Field(description="Holds for a reading that is made now.")


class SenmlModel(Model):
    """What the sensor is called in a SenML pack."""

    n: str = Field(examples=["env-0007:temperature"])
    u: str | None = Field(
        description="Of the unit that it is registered to send; null: SenML has none, leave `u` out.", examples=["Cel"]
    )


class SensorModel(Model):
    """A sensor, with the bounds that its readings are judged by."""

    metric: str
    domain: str
    unit: str
    kind: Kind
    low: float | None = Field(description="Plausible range" + _RANGE)
    high: float | None = Field(description="Plausible range" + _RANGE)
    suspect_low: float | None = Field(description="Usual range" + _RANGE)
    suspect_high: float | None = Field(description="Usual range" + _RANGE)
    rating: float | None = Field(description="What the device is built for.")
    interval_s: float
    sentinels: list[float | None] = Field(description="Values that mean: no value.")
    registered: RegisteredModel
    calibrations: list[CalibrationModel] = Field(description="In the order in which they hold.")
    senml: SenmlModel
    retired_at: str | None = Field(description="Since when it is out of service, though its device may go on.")
    latest: NewestModel | None


class DeviceDetailModel(DeviceModel):
    """A device with its sensors."""

    sensors: list[SensorModel]


@with_device_fields(_required, without=PLACE)
class DevicePropertiesModel(_KeptModel):
    """A device without its place."""

    source: str
    domain: str


class DeviceFeatureModel(Model):
    """A device on the map."""

    type: Literal["Feature"]
    id: str = Field(description="Of the device.")
    geometry: "PointModel | None" = Field(description="null: the device's place is not registered.")
    properties: DevicePropertiesModel


class DeviceFeaturesModel(Model):
    """A page of devices, as GeoJSON."""

    type: Literal["FeatureCollection"]
    features: list[DeviceFeatureModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ChangeModel(Model):
    """Something that was changed."""

    at: str
    actor: str = Field(description="A key, or a user of a command.")
    subject: Literal["device", "sensor", "calibration", "declaration"]
    action: Literal["created", "changed", "retired", "restored", "deleted"]
    metric: str | None = Field(description="Of the sensor that it is about.")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class HistoryModel(Model):
    """A page of changes, the newest first."""

    changes: list[ChangeModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ImportedModel(Model):
    """What became of a file of devices."""

    devices: int
    sensors: int
    created: int = Field(description="Devices that were not there.")
    changed: int = Field(description="Devices that are different now.")
    unchanged: int
    dry_run: bool = Field(description="true: nothing was registered; this is what would be.")


class SourceModel(Model):
    """A source: an MQTT identity."""

    name: str
    conflict_policy: Literal["keep", "replace"]
    devices: int = Field(description="That publish through it, retired ones too.")
    status: str | None = Field(description="What it last said of itself: online, offline.")
    status_at: str | None
    created_at: str


class SourcesModel(Model):
    """A page of sources."""

    sources: list[SourceModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
